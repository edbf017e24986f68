import json
import math
import time

import numpy as np
import pytest
import torch
from torch import nn

import spectra
from spectra.errors import CheckpointError, SelectionError
from spectra.records import Finding, Status
from spectra.training import AlarmKind, AlarmRules, Alarms
from spectra.training import history as histories
from spectra.training.monitor import IN_HAND, SpectralMonitor
from spectra.training.readings import Reading


def perceptron(seed=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 40))


def convolutional(seed=3):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def spectrally_normed(seed=3):
    torch.manual_seed(seed)
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 48))
    return nn.Sequential(normed, nn.ReLU(), nn.Linear(48, 40))


INPUTS = {perceptron: (8, 64), convolutional: (4, 3, 12, 12), spectrally_normed: (8, 64)}


def train(model, shape, *, steps=12, monitor=None, optimizer=None, first=1, before_step=None):
    """Take steps whose data and dropout come from torch's global generator."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss = model(torch.randn(*shape)).square().mean() + torch.rand(())
        loss.backward()
        optimizer.step()
        if monitor is not None:
            monitor.step()
        if before_step is not None:
            before_step(step)
    return model


@pytest.mark.parametrize("build", list(INPUTS))
@pytest.mark.parametrize("background", [False, True])
def test_training_with_the_monitor_gives_the_very_weights_of_training_without(build, background):
    plain = train(build(), INPUTS[build])
    after_plain = torch.rand(4), np.random.default_rng, torch.get_num_threads()

    watched = build()
    monitor = SpectralMonitor(
        watched,
        every=1,
        budget=None,
        watch=("weight", "update", "gradient"),
        background=background,
        traps=2,
    )
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global one is what we watch
    train(watched, INPUTS[build], monitor=monitor)
    monitor.close()

    assert monitor.history
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    for (name, a), (other, b) in zip(
        plain.state_dict().items(), watched.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b), name
    assert torch.equal(after_plain[0], torch.rand(4)), "the global generator moved"
    assert all(p.requires_grad for p in watched.parameters())
    assert watched.training


def test_a_reading_is_what_an_analysis_of_the_model_gives():
    model = convolutional()
    monitor = SpectralMonitor(model, budget=None, replicates=0)
    report = spectra.analyze(model, replicates=0)
    readings = monitor.step()
    assert [reading.layer for reading in readings] == [layer.name for layer in report.layers]
    for reading, layer in zip(readings, report.layers, strict=True):
        assert reading.status is layer.status
        assert set(reading.warnings) == set(layer.warnings)
        for metric in ("alpha", "ks", "stable_rank", "erg_gap"):
            assert reading[metric] == pytest.approx(layer[metric], nan_ok=True, abs=0), metric


def test_an_update_is_the_difference_to_the_weights_last_read():
    model = perceptron()
    monitor = SpectralMonitor(model, every=3, budget=None, watch="update", layers="0.*")
    before = None
    spans = []

    def check(step):
        nonlocal before
        if step % 3 and step > 1:
            return
        now = model[0].weight.detach().double().numpy().copy()
        for reading in monitor.history:
            if reading.step == step:
                largest = np.linalg.norm(now - before, 2) ** 2
                # differences of float32 numbers are taken in float32
                assert reading["lambda_max"] == pytest.approx(largest, rel=1e-5)
                spans.append(reading.span)
        before = now

    train(model, INPUTS[perceptron], monitor=monitor, before_step=check)
    assert spans == [2, 3, 3, 3]


def test_a_gradient_is_read_as_it_is_after_the_step_and_not_where_there_is_none():
    model = perceptron()
    monitor = SpectralMonitor(model, every=1, budget=None, watch="gradient")
    assert monitor.step() == ()
    train(model, INPUTS[perceptron], steps=1, monitor=monitor)
    largest = torch.linalg.matrix_norm(model[0].weight.grad.double(), 2) ** 2
    assert monitor.history[0]["lambda_max"] == pytest.approx(float(largest), rel=1e-9)


def test_frozen_layers_are_read_once_and_again_when_they_train():
    model = perceptron()
    model[0].weight.requires_grad_(False)
    monitor = SpectralMonitor(model, every=1, budget=None)
    assert len(monitor.step()) == 2
    assert [reading.layer for reading in monitor.step()] == ["3.weight"]
    model[0].weight.requires_grad_(True)
    assert len(monitor.step()) == 2


class Clock:
    """A clock that a test sets; a reading takes a tenth of a second on it."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    solved = SpectralMonitor._solved

    def slow(self, *arguments):
        clock.now += 0.1
        return solved(self, *arguments)

    monkeypatch.setattr(SpectralMonitor, "_solved", slow)
    return clock


def deep(n_layers=10):
    return nn.Sequential(*(nn.Linear(32, 32) for _ in range(n_layers)))


@pytest.mark.parametrize("budget", [0.01, 0.05])
def test_reading_stays_within_the_budget_and_goes_round_all_layers(clock, budget):
    monitor = SpectralMonitor(deep(), every=5, budget=budget)
    shares = []
    for _ in range(2000):
        clock.now += 0.2
        monitor.step()
        shares.append(monitor.overhead)
    # The first layer's cost is not known before it is read; after that none is misjudged.
    assert max(shares[200:]) <= budget * 1.05
    assert monitor.overhead >= 0.8 * budget, "what may be spent is spent"
    counts = dict.fromkeys(monitor.parameters, 0)
    for reading in monitor.history:
        counts[reading.layer] += 1
    assert max(counts.values()) - min(counts.values()) <= 1
    assert min(counts.values()) >= 3


def test_rounds_begin_no_sooner_than_every_so_many_steps(clock):
    monitor = SpectralMonitor(deep(2), every=50, budget=0.9)
    for _ in range(200):
        clock.now += 1.0
        monitor.step()
    assert sorted({reading.step for reading in monitor.history}) == [2, 3, 50, 100, 150, 200]


def test_a_resumed_run_goes_on_with_its_account(clock):
    model = deep(2)
    monitor = SpectralMonitor(model, every=1, budget=0.01)
    for _ in range(60):
        clock.now += 1.0
        monitor.step()
    saved, spent = monitor.state_dict(), monitor.overhead
    clock.now += 1000.0  # between the two nothing is trained
    again = SpectralMonitor(model, every=1, budget=0.01)
    again.load_state_dict(saved)
    assert again.overhead == spent > 0
    for _ in range(60):
        clock.now += 1.0
        again.step()
    assert 0.008 <= again.overhead <= 0.0105


def test_no_limit_reads_whole_rounds_at_once():
    monitor = SpectralMonitor(deep(4), every=4, budget=None)
    assert [len(monitor.step()) for _ in range(9)] == [4, 0, 0, 4, 0, 0, 0, 4, 0]


def test_measuring_at_once_is_not_held_against_the_budget(clock):
    monitor = SpectralMonitor(deep(3), budget=0.01)
    monitor.step()
    assert len(monitor.measure()) == 3
    assert monitor.overhead == 0


def test_a_layer_that_turns_into_nan_is_a_status_and_takes_no_other_with_it():
    model = perceptron()
    monitor = SpectralMonitor(model, every=1, budget=None)
    with torch.no_grad():
        model[0].weight[2, 3] = math.nan
    first, second = monitor.step()
    assert first.status is Status.NON_FINITE
    assert "1 NaN" in first.reason
    assert math.isnan(first["alpha"])
    assert second.status is Status.OK


@pytest.mark.parametrize("background", [False, True])
def test_a_run_killed_and_resumed_continues_its_history_without_a_gap_or_a_repeat(
    tmp_path, background
):
    def begin(path):
        model = perceptron()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = SpectralMonitor(
            model,
            every=4,
            budget=None,
            history=path,
            watch=("weight", "gradient"),
            background=background,
        )
        return model, optimizer, monitor

    def go(model, optimizer, monitor, first, last):
        for step in range(first, last + 1):
            torch.manual_seed(step)
            train(model, (8, 64), steps=1, monitor=monitor, optimizer=optimizer)
            monitor.flush()  # in the background, how long a round takes is left to chance

    model, optimizer, monitor = begin(tmp_path / "whole.jsonl")
    go(model, optimizer, monitor, 1, 30)
    monitor.close()

    path = tmp_path / "killed.jsonl"
    model, optimizer, monitor = begin(path)
    go(model, optimizer, monitor, 1, 14)
    saved = json.loads(json.dumps(monitor.state_dict()))
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    go(model, optimizer, monitor, 15, 23)  # lost with the process, but for the file
    killed = monitor
    with path.open("a") as file:
        file.write('{"step": 24, "layer": "0.we')  # killed while it wrote

    model, optimizer, monitor = begin(path)
    model.load_state_dict(weights)
    monitor.load_state_dict(saved)
    go(model, optimizer, monitor, 15, 30)
    monitor.close()
    killed.close()

    def without_cost(file):
        return [row | {"seconds": 0} for row in map(json.loads, file.read_text().splitlines())]

    assert without_cost(path) == without_cost(tmp_path / "whole.jsonl")


@pytest.mark.parametrize(("first", "after"), [(11, [11, 15, 20]), (10, [15, 20])])
def test_a_run_begun_again_without_a_state_keeps_the_readings_before_its_first_step(
    tmp_path, first, after
):
    path = tmp_path / "history.jsonl"
    model = perceptron()
    with SpectralMonitor(model, every=5, budget=None, history=path) as monitor:
        for _ in range(20):
            monitor.step()
    with SpectralMonitor(model, every=5, budget=None, history=path) as monitor:
        for step in range(first, 21):
            monitor.step(step)
    steps = [reading.step for reading in histories.load(path)]
    assert steps == [step for step in (1, 5, 10, *after) for _ in range(2)]
    # No state vouched for what was dropped: it is set aside, not lost.
    assert len(histories.load(tmp_path / "history.1.jsonl")) == 10


def test_a_state_and_a_history_of_different_runs_are_told_apart(tmp_path):
    model = perceptron()
    with SpectralMonitor(model, every=5, budget=None, history=tmp_path / "a.jsonl") as monitor:
        for _ in range(20):
            monitor.step()
        saved = monitor.state_dict()
    with (
        SpectralMonitor(model, history=tmp_path / "b.jsonl") as other,
        pytest.raises(CheckpointError, match="holds 0 readings, the saved state knows of 10"),
    ):
        other.load_state_dict(saved)
    saved["step"] = 7
    with (
        SpectralMonitor(model, history=tmp_path / "a.jsonl") as other,
        pytest.raises(CheckpointError, match="after step 7"),
    ):
        other.load_state_dict(saved)


def test_a_history_that_is_none_is_refused_with_its_line(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(CheckpointError, match="line 1"):
        SpectralMonitor(perceptron(), history=path)


def test_a_full_disk_costs_no_reading_once_there_is_room(tmp_path, monkeypatch, caplog):
    path = tmp_path / "history.jsonl"
    monitor = SpectralMonitor(perceptron(), every=1, budget=None, history=path)
    monitor.step()
    file = monitor._history._file

    class Full:
        def __getattr__(self, name):
            return getattr(file, name)

        def write(self, content):
            file.write(content[:20])
            raise OSError(28, "No space left on device")

    monitor._history._file = Full()
    monitor.step()
    assert "No space left" in caplog.text
    monitor._history._file = file
    monitor.step()
    monitor.close()
    assert [reading.step for reading in histories.load(path)] == [1, 1, 2, 2, 3, 3]


def test_names_are_free_of_wrappers_and_lead_to_the_optimizer_s_groups():
    model = perceptron()
    compiled = torch.compile(model, backend="eager")
    monitor = SpectralMonitor(compiled, budget=None)
    assert list(monitor.parameters) == ["0.weight", "3.weight"]
    assert monitor.parameters["0.weight"] is model[0].weight
    assert [reading.layer for reading in monitor.step()] == ["0.weight", "3.weight"]


def test_weights_are_read_as_they_are_at_each_step_under_a_parametrisation():
    model = spectrally_normed()
    monitor = SpectralMonitor(model, every=1, budget=None, layers="0.*")
    first = monitor.step()[0]["stable_rank"]
    train(model, INPUTS[spectrally_normed], steps=3)
    assert monitor.step()[0]["stable_rank"] != first


def test_the_same_step_said_twice_is_passed_over():
    monitor = SpectralMonitor(perceptron(), every=1, budget=None)
    assert len(monitor.step(5)) == 2
    assert monitor.step(5) == ()
    assert monitor.step(4) == ()
    assert monitor.state_dict()["step"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("alpa",)}, "alpa"),
        ({"watch": "weights"}, "weights"),
        ({"layers": "nothing*"}, "matches none"),
        ({"budget": 1.5}, "share of time"),
        ({"budget": "much"}, "share of time"),
        ({"every": 0}, "1 or more"),
        ({"every": 2.5}, "whole number"),
        ({"every": True}, "whole number"),
        ({"traps": -1}, "0 or more"),
        ({"watch": ()}, "give some of"),
        ({"alarms": True}, "Alarms"),
        ({"on_alarm": 5}, "function"),
        ({"estimator": "hil"}, "hil"),
    ],
)
def test_a_wrong_option_is_told_before_training(options, message):
    with pytest.raises(SelectionError, match=message):
        SpectralMonitor(perceptron(), **options)


def test_readings_survive_json_with_what_is_not_finite():
    reading = Reading(
        3, "ü.weight", "update", "linear", 8, 4, 4, status=Status.ZERO, values={"alpha": math.nan}
    )
    again = Reading.from_json(reading.to_json())
    assert math.isnan(again["alpha"])
    assert again.to_json() == reading.to_json()


def test_readings_make_a_table(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    monitor = SpectralMonitor(perceptron(), every=1, budget=None)
    monitor.step()
    table = histories.to_arrow(monitor.history)
    parquet.write_table(table, tmp_path / "history.parquet")
    again = parquet.read_table(tmp_path / "history.parquet").to_pylist()
    assert [row["alpha"] for row in again] == [r["alpha"] for r in monitor.history]


def test_frozen_layers_are_not_read_again_by_a_run_that_resumes(tmp_path):
    model = perceptron()
    model[0].weight.requires_grad_(False)
    monitor = SpectralMonitor(model, every=1, budget=None, history=tmp_path / "h.jsonl")
    monitor.step()
    saved = json.loads(json.dumps(monitor.state_dict()))
    monitor.close()
    again = SpectralMonitor(model, every=1, budget=None, history=tmp_path / "h.jsonl")
    again.load_state_dict(saved)
    assert [reading.layer for reading in again.step()] == ["3.weight"]
    again.close()


def trapped(shift):
    """Two layers of noise, the second with a mean of `shift` standard deviations."""
    torch.manual_seed(20260801)
    model = nn.Sequential(nn.Linear(150, 200), nn.Linear(150, 200))
    with torch.no_grad():
        for layer in model:
            nn.init.normal_(layer.weight)
        model[1].weight += shift
    return model


def test_traps_are_looked_for_as_everywhere_else():
    model = trapped(0.5)
    readings = SpectralMonitor(model, budget=None).step()
    found = [reading["n_traps"] for reading in readings]
    assert found == [0, 1]
    assert [Finding.CORRELATION_TRAP in reading.warnings for reading in readings] == [False, True]
    # A mean m of N × M entries is a direction of λ = N M m²; the edge of noise (√N + √M)².
    expected = 200 * 150 * 0.5**2 / (math.sqrt(200) + math.sqrt(150)) ** 2
    assert readings[1]["trap_size"] == pytest.approx(expected, rel=0.2)
    assert "n_traps" not in SpectralMonitor(model, budget=None, traps=0).step()[0].values


def test_alarms_of_a_run_need_the_margin_are_told_once_and_survive_a_resumed_run(caplog):
    # By (s² + N)(s² + M)/s², s² = N M m², a mean of 0.095 stands 8 % above the edge of noise: beyond
    # the 5 % that Gaussian entries reach at this level, but not twice as far.
    for shift, expected in ((0.095, 0), (0.5, 1)):
        model, alarms = trapped(shift), Alarms(AlarmRules(confirm=2))
        monitor = SpectralMonitor(model, every=1, budget=None, alarms=alarms, replicates=0)
        readings = [reading for _ in range(6) for reading in monitor.step()]
        if not expected:
            assert any(reading["n_traps"] for reading in readings), "it would be seen without"
        traps = [alarm for alarm in alarms.active if alarm.kind is AlarmKind.CORRELATION_TRAP]
        assert len(traps) == expected
    assert traps[0].layer == "1.weight"
    told = [record.getMessage() for record in caplog.records]
    (sentence,) = told
    assert sentence.startswith("1.weight: an eigenvalue survives shuffling the entries")
    assert "at 2 readings from the first on, to step 2" in sentence
    again = Alarms(AlarmRules(confirm=2))
    resumed = SpectralMonitor(model, every=1, budget=None, alarms=again, replicates=0)
    resumed.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    resumed.step()
    assert again.active[0].since == traps[0].since
    assert len(caplog.records) == 1


def test_a_layer_that_turns_into_nan_stops_a_run_that_asked_for_it():
    model, told = perceptron(), []
    alarms = Alarms(stop_on=["non_finite"])
    monitor = SpectralMonitor(model, every=1, budget=None, alarms=alarms, on_alarm=told.append)
    monitor.step()
    assert not alarms.should_stop
    with torch.no_grad():
        model[0].weight[0, 0] = math.inf
    monitor.step()
    assert alarms.should_stop
    assert [(alarm.kind, alarm.since) for alarm in told] == [(AlarmKind.NON_FINITE, 2)]


@pytest.mark.parametrize("state", [{}, {"foo": 1}, None, perceptron().state_dict()])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(CheckpointError, match="load what state_dict"):
        SpectralMonitor(perceptron(), budget=None).load_state_dict(state)


def test_the_state_of_another_model_is_refused_and_the_history_left_alone(tmp_path):
    path = tmp_path / "history.jsonl"
    monitor = SpectralMonitor(perceptron(), budget=None, history=path)
    monitor.step()
    monitor.close()
    before = path.read_bytes()
    other = SpectralMonitor(nn.Sequential(nn.Linear(40, 50)), budget=None, history=path)
    with pytest.raises(CheckpointError, match="other layers"):
        other.load_state_dict(monitor.state_dict())
    assert path.read_bytes() == before


@pytest.mark.parametrize("what", ["model.pt", perceptron().state_dict()])
def test_what_does_not_live_is_not_watched(what):
    with pytest.raises(SelectionError, match="live model"):
        SpectralMonitor(what)


def test_a_history_that_cannot_be_written_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "history.jsonl", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be written"):
            SpectralMonitor(perceptron(), history=path)


def test_after_closing_no_step_is_read():
    monitor = SpectralMonitor(perceptron(), every=1, budget=None)
    assert monitor.step()
    monitor.close()
    assert monitor.step() == ()


def test_a_metric_that_does_not_exist_is_no_number_of_a_reading():
    reading = Reading(9, "fc", "weight", "linear", 64, 48, 48, values={"alpha": 2.0})
    assert math.isnan(reading["stable_rank"])  # not asked for
    assert math.isnan(reading["trap_p"])
    with pytest.raises(SelectionError, match="alpha"):
        reading["alfa"]


def test_a_resumed_run_knows_what_layers_cost():
    monitor = SpectralMonitor(perceptron(), every=1, budget=None)
    monitor.step()
    again = SpectralMonitor(perceptron(), every=1, budget=None)
    again.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    assert again._schedule.measured == monitor._schedule.measured
    assert set(again._schedule.measured) == {0, 1}


def test_what_had_been_saved_for_is_asked_anew_after_going_back_to_a_state(clock):
    monitor = SpectralMonitor(deep(2), every=1, budget=0.01)
    saved = monitor.state_dict()
    for _ in range(205):
        clock.now += 1.0
        monitor.step()
    n_readings = len(monitor.history)
    monitor.load_state_dict(saved)
    for _ in range(205):
        clock.now += 1.0
        monitor.step()
    assert len(monitor.history) == n_readings > 10


def test_what_was_in_hand_is_no_part_of_the_state_that_is_gone_back_to():
    monitor = SpectralMonitor(perceptron(), every=5, budget=None, background=True)
    saved = monitor.state_dict()
    monitor.step(5)
    monitor.load_state_dict(saved)
    assert not monitor.flush()
    monitor.step(1)
    monitor.flush()
    assert [reading.step for reading in monitor.history] == [1, 1]


def test_frozen_layers_are_read_again_where_the_history_is_not_that_of_the_saved_run():
    model = perceptron()
    model[0].weight.requires_grad_(False)
    monitor = SpectralMonitor(model, every=1, budget=None)
    monitor.step()
    saved = monitor.state_dict() | {"n_readings": 0}
    again = SpectralMonitor(model, every=1, budget=None)
    again.load_state_dict(saved)
    assert [reading.layer for reading in again.step()] == ["0.weight", "3.weight"]


def test_between_a_step_and_a_measurement_at_it_there_is_no_update():
    monitor = SpectralMonitor(perceptron(), every=1, budget=None, watch=("weight", "update"))
    monitor.step()
    assert {reading.of for reading in monitor.measure()} == {"weight"}
    assert {reading.of for reading in monitor.step()} == {"weight", "update"}


def test_weights_that_stay_infinite_have_an_update_that_is_not_finite_and_warn_of_nothing():
    model = perceptron()
    monitor = SpectralMonitor(model, every=1, budget=None, watch="update")
    with torch.no_grad():
        model[0].weight[0, 0] = math.inf
    monitor.step()
    first, second = monitor.step()
    assert (first.status, second.status) == (Status.NON_FINITE, Status.ZERO)


def test_an_error_of_whoever_is_told_of_an_alarm_makes_no_reading_twice():
    def stop(alarm):
        raise KeyError(alarm.layer)

    model = perceptron()
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    monitor = SpectralMonitor(model, every=5, budget=None, alarms=Alarms(), on_alarm=stop)
    with pytest.raises(KeyError, match=r"0\.weight"):
        monitor.step()
    for _ in range(3):
        monitor.step()
    assert len(monitor.history) == 2


def test_what_is_measured_without_a_step_is_in_the_history_once(tmp_path):
    path = tmp_path / "history.jsonl"
    model = perceptron()
    for _ in range(2):
        with SpectralMonitor(model, budget=None, history=path) as monitor:
            monitor.measure()
        assert [reading.step for reading in histories.load(path)] == [0, 0]
    with SpectralMonitor(model, budget=None, history=path) as monitor:
        monitor.measure()
        monitor.step()
    assert [reading.step for reading in histories.load(path)] == [0, 0, 1, 1]
    with SpectralMonitor(model, budget=None, history=path):
        pass
    assert len(histories.load(path)) == 4
    assert len(histories.load(tmp_path / "history.1.jsonl")) == 2


def test_what_a_full_disk_kept_back_is_not_written_after_going_back_to_a_state(tmp_path):
    path = tmp_path / "history.jsonl"
    monitor = SpectralMonitor(perceptron(), every=1, budget=None, history=path)
    monitor.step()
    saved = monitor.state_dict()
    monitor._history._file.close()
    monitor._history._file = path.open("rb")  # as good as a full disk: no write succeeds
    monitor.step()
    monitor.load_state_dict(saved)
    monitor.step()
    monitor.close()
    assert [reading.step for reading in histories.load(path)] == [1, 1, 2, 2]


def test_the_background_holds_no_more_than_a_few_layers_however_much_may_be_spent(clock):
    monitor = SpectralMonitor(deep(12), every=1, budget=0.5, background=True)
    monitor.step()
    monitor.flush()
    most = 0
    for _ in range(10):
        clock.now += 1000.0
        monitor.step()
        most = max(most, len(monitor._pending))
        monitor.flush()
    monitor.close()
    assert most == IN_HAND
    assert len({reading.layer for reading in monitor.history}) == 12


@pytest.mark.parametrize("compiled", [False, True])
def test_parameters_that_take_the_place_of_others_are_those_that_are_read(compiled):
    model = perceptron()
    watched = torch.compile(model, backend="eager") if compiled else model
    monitor = SpectralMonitor(watched, every=1, budget=None, watch=("weight", "gradient"))
    monitor.step()
    doubled = {name: 2 * weight for name, weight in model.state_dict().items()}
    model.load_state_dict(doubled, assign=True)
    train(model, (8, 64), steps=1)
    told = spectra.analyze(model)
    readings = monitor.step()
    of_weights = [reading for reading in readings if reading.of == "weight"]
    assert [r["log_norm"] for r in of_weights] == [layer.log_norm for layer in told.layers]
    assert sum(reading.of == "gradient" for reading in readings) == 2
    model[0].weight = nn.Parameter(model[0].weight.detach(), requires_grad=False)
    for _ in range(2):
        read = [reading.layer for reading in monitor.step() if reading.of == "weight"]
    assert read == ["3.weight"], "frozen, and read before"


def test_a_layer_that_has_grown_has_no_update_until_it_is_read_again():
    model = perceptron()
    monitor = SpectralMonitor(model, every=1, budget=None, watch=("weight", "update"), layers="3")
    monitor.step()
    model[3] = nn.Linear(48, 72)
    (grown,) = monitor.step()
    assert (grown.of, grown.N, grown.M, grown.status) == ("weight", 72, 48, Status.OK)
    assert [reading.of for reading in monitor.step()] == ["weight", "update"]


def test_a_closed_monitor_can_still_be_measured_with_or_without_a_thread():
    monitor = SpectralMonitor(perceptron(), budget=None, background=True)
    monitor.step()
    monitor.close()
    assert len(monitor.measure()) == 2
