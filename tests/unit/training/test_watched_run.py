import inspect

import pytest
import torch
from torch import nn

from spectra.training import Alarms, SpectralMonitor
from spectra.training.adapters.watched_run import MonitorOptions, WatchedRun


def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(48, 40), nn.Linear(40, 32))


@pytest.mark.parametrize(
    ("begun", "saved", "drawn"), [(0, None, [1, 5, 10]), (7, True, [10]), (3, True, [5, 10])]
)
def test_layers_that_come_one_by_one_are_drawn_once_in_every_so_many_steps(
    begun, saved, drawn, monkeypatch
):
    run = WatchedRun(every=5, budget=None, replicates=0, history=False)
    run.begin(model(), None, 0, None, is_main=True)
    if saved:
        run.step(begun)
        state = run.state_dict()
        run.begin(model(), None, begun, state, is_main=True)
    reading = SpectralMonitor(model(), budget=None, replicates=0).step()[0]
    monkeypatch.setattr(run.monitor, "step", lambda step: (reading,))
    found = []
    for step in range(begun + 1, 13):
        run.step(step)
        if run.due():
            found.append(step)
    assert found == drawn
    assert run.finish(), "what came after the last is drawn at the end"
    assert run.finish() == {}


def test_options_are_those_of_the_monitor():
    taken = set(inspect.signature(SpectralMonitor).parameters)
    # A run gives the model and the file itself; processes are told apart by the monitor.
    assert taken - set(MonitorOptions.__annotations__) <= {"model", "history", "world"}
    assert set(MonitorOptions.__annotations__) <= taken


def test_a_state_is_taken_on_another_machine_where_its_history_is_not(tmp_path, caplog):
    run = WatchedRun(every=2, budget=None, replicates=0)
    run.begin(model(), tmp_path / "a", 0, None, is_main=True)
    run.step(2)
    state = run.state_dict()
    run.close()
    state["history"] = str(tmp_path / "nowhere")
    run.begin(model(), tmp_path / "b", 2, state, is_main=True)
    assert "a new one begins at step 2" in caplog.text
    assert run.monitor.history == ()
    run.close()


def test_alarms_of_one_run_do_not_stop_the_next():
    run = WatchedRun(history=False, every=1, budget=None, alarms=Alarms(stop_on=["non_finite"]))
    broken, sound = model(), model()
    with torch.no_grad():
        broken[0].weight.fill_(float("nan"))
    for trained, stops in ((broken, True), (sound, False)):
        run.begin(trained, None, 0, None, is_main=True)
        run.step(1)
        assert run.should_stop is stops
        saved = run.state_dict()
    run.begin(sound, None, 1, saved, is_main=True)
    assert run.monitor.alarms.state_dict() == saved["monitor"]["alarms"]
    run.close()


def test_a_run_that_goes_on_with_other_layers_is_not_stopped_for_it(tmp_path, caplog):
    run = WatchedRun(every=1, budget=None, replicates=0)
    run.begin(model(), tmp_path, 0, None, is_main=True)
    run.step(1)
    run.step(2)
    state = run.state_dict()
    run.close()
    run = WatchedRun(every=1, budget=None, replicates=0, layers="0.*")
    run.begin(model(), tmp_path, 2, state, is_main=True)
    run.step(3)
    assert "other layers are watched" in caplog.text
    read = [(reading.step, reading.layer) for reading in run.monitor.history]
    both = ("0.weight", "1.weight")
    assert read == [*((1, name) for name in both), *((2, name) for name in both), (3, "0.weight")]
    run.close()
