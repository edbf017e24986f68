import dataclasses
import json
import math

import numpy as np
import pytest

from spectra import conventions, engine, tails
from spectra.analysis import layer_report
from spectra.errors import CheckpointError, SelectionError
from spectra.records import Finding, Matrix, Spectrum, Status
from spectra.training import Alarm, AlarmKind, AlarmRules, Alarms, Reading
from spectra.traps import traps
from tests.reference.matrices import pareto, with_eigenvalues

CONFIRM = AlarmRules().confirm
SHAPES = [(1, 120, 60), (1, 80, 80), (9, 24, 16)]


def read(weights, step, layer="fc", of="weight", rng=None, kind="linear"):
    """Read a stack as a monitor does, through the real pipeline."""
    rng = np.random.default_rng(step) if rng is None else rng
    count, *sides = weights.shape
    matrix = Matrix(
        layer, layer, kind, weights.shape, "float64", weights.nbytes, max(sides), min(sides), count
    )
    outcome = engine.solve(matrix, weights)
    row = layer_report(matrix, outcome, conventions.HTSR, replicates=20, rng=rng)
    ok = row.status is Status.OK
    values = dict(row.metrics) if ok else {}
    if ok and of == "weight":
        values |= traps(weights, rng=rng)
    return Reading(
        step, layer, of, kind, row.N, row.M, row.n_eigenvalues,
        row.status, row.reason, values, row.warnings, row.verdict,
    )  # fmt: skip


def made(step, *, layer="fc", of="weight", status=Status.OK, warnings=(), kind="linear", **values):
    """Make a reading whose every number is chosen."""
    return Reading(
        step, layer, of, kind, 100, 100, 100, status, values=values, warnings=tuple(warnings)
    )


def with_alpha(step, alpha, half=0.15, **rest):
    return made(step, alpha=alpha, alpha_low=alpha - half, alpha_high=alpha + half, **rest)


def told(alarms, readings):
    return [alarm for reading in readings for alarm in alarms.observe(reading)]


def kinds(found):
    return [(alarm.kind, alarm.state) for alarm in found]


def noise(shape, rng):
    return rng.standard_normal(shape)


# What is wrong is raised within `confirm` readings.


def from_spectrum(eigenvalues, rng):
    return with_eigenvalues(eigenvalues, 2 * len(eigenvalues), rng)[np.newaxis]


def shifted(rng):
    return noise((1, 120, 60), rng) + 0.5


def with_one_huge_entry(rng):
    weights = noise((1, 120, 60), rng)
    weights[0, 3, 4] = 60
    return weights


def truncated(rng):
    values = np.linspace(1, 5, 60)
    values[:12] = 0
    return from_spectrum(values, rng)


def over_trained(rng):
    return from_spectrum(pareto(1.7, 400, rng), rng)


def not_finite(rng):
    weights = noise((1, 60, 60), rng)
    weights[0, 1, 2] = math.nan
    return weights


def zeros(rng):
    return np.zeros((1, 60, 60))


@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        (shifted, AlarmKind.CORRELATION_TRAP),
        (with_one_huge_entry, AlarmKind.CORRELATION_TRAP),
        (truncated, AlarmKind.RANK_COLLAPSE),
        (over_trained, AlarmKind.ALPHA_BELOW_BAND),
        (not_finite, AlarmKind.NON_FINITE),
        (zeros, AlarmKind.DEAD),
    ],
)
def test_what_is_wrong_is_told_once_and_its_end_once(weights, kind, rng):
    alarms, bad = Alarms(), weights(rng)
    found = told(alarms, [read(bad, step) for step in range(CONFIRM + 4)])
    assert kinds(found) == [(kind, "raised")]
    (alarm,) = found
    assert alarm.step - alarm.since == (0 if kind is AlarmKind.NON_FINITE else CONFIRM - 1)
    assert alarm.p <= 0.025
    assert [active.kind for active in alarms.active] == [kind]
    assert alarms.active[0].step == CONFIRM + 3
    # a layer that is well: an exponent of 3 whose directions are random
    good = from_spectrum(pareto(3.0, 400, rng), rng)
    over = told(alarms, [read(good, step) for step in range(100, 104)])
    assert kinds(over) == [(kind, "cleared")]
    assert alarms.active == ()


def test_a_layer_in_the_band_raises_nothing(rng):
    good = from_spectrum(pareto(3.0, 400, rng), rng)
    assert told(Alarms(), [read(good, step) for step in range(5)]) == []


# False alarms.


@pytest.mark.slow
def test_noise_raises_no_more_than_is_claimed(rng):
    """200 redrawn layers of each shape; single readings, the strictest count there is."""
    rules = AlarmRules(confirm=1, warm_up=0, trap_margin=1)  # by the p-value alone
    shown = dict.fromkeys(AlarmKind, 0)
    for shape in SHAPES:
        for draw in range(200):
            alarms = Alarms(rules)
            for alarm in alarms.observe(read(noise(shape, rng), draw, rng=rng)):
                shown[alarm.kind] += 1
    total = 200 * len(SHAPES)
    traps_shown = shown.pop(AlarmKind.CORRELATION_TRAP)
    # binomial(600, 0.01) exceeds 12 with a chance of 0.01
    assert traps_shown <= 0.01 * total + 2.4 * math.sqrt(0.01 * total)
    assert not any(shown.values())


@pytest.mark.slow
def test_many_layers_of_noise_do_not_add_up(rng):
    """A trap in any of 40 layers in a round is as rare as one in a single layer would be."""
    rounds, layers, hits = 15, 40, 0
    alarms = Alarms(AlarmRules(confirm=1, trap_margin=1))
    told(alarms, [made(-1, layer=f"{i}", trap_p=1.0) for i in range(layers)])  # all are known
    for step in range(rounds):
        readings = [
            made(step, layer=f"{i}", **traps(noise((1, 60, 40), rng), rng=rng))
            for i in range(layers)
        ]
        hits += any(alarm.state == "raised" for alarm in told(alarms, readings))
    assert hits <= 2  # 0.15 expected; at 0.01 a layer it were 5


@pytest.mark.slow
def test_entries_of_heavier_tails_are_no_trap_thanks_to_the_margin(rng):
    """Laplace entries: by the p-value alone about one kernel in three, with the margin at most 3 %."""
    shape, shown = (9, 32, 32), {1: 0, 2: 0}
    for draw in range(100):
        weights = rng.laplace(size=shape)
        found = traps(weights, rng=rng)
        reading = Reading(draw, "conv", "weight", "conv2d", 32, 32, 288, values=found)
        for margin in shown:
            shown[margin] += len(Alarms(AlarmRules(1, trap_margin=margin)).observe(reading))
    assert shown[1] > 20
    assert shown[2] <= 8  # binomial(100, 0.03) exceeds it with a chance of 0.004


@pytest.mark.slow
@pytest.mark.parametrize(("edge", "most"), [(2.0, 0.025), (6.0, 0.05)])
def test_an_exponent_at_the_edge_is_beyond_it_as_rarely_as_is_claimed(edge, most, rng):
    n, draws = 300, 200
    hits = {AlarmKind.ALPHA_BELOW_BAND: 0, AlarmKind.ALPHA_ABOVE_BAND: 0}
    wrong = AlarmKind.ALPHA_BELOW_BAND if edge == 2 else AlarmKind.ALPHA_ABOVE_BAND
    for draw in range(draws):
        body = rng.random(int(0.6 * n))
        x = np.sort(np.concatenate([body, pareto(edge, n - body.size, rng)]))
        raw = Spectrum(x, n, n, 1, float(x.sum()), 0.0, "gram")
        spectrum = conventions.apply(raw, "linear", conventions.HTSR)
        fit = tails.fit_tail(spectrum, replicates=20, rng=rng)
        reading = made(draw, alpha=fit.alpha, alpha_low=fit.alpha_low, alpha_high=fit.alpha_high)
        for alarm in Alarms(AlarmRules(confirm=1, warm_up=0)).observe(reading):
            hits[alarm.kind] += 1
    assert hits[wrong] <= most * draws + 2.4 * math.sqrt(most * draws)


def test_a_doubtful_alpha_neither_raises_nor_clears():
    doubt = {"warnings": [Finding.POOR_FIT]}
    alarms = Alarms()
    assert told(alarms, [with_alpha(step, 1.5, **doubt) for step in range(9)]) == []
    told(alarms, [with_alpha(step, 1.5) for step in range(10, 10 + CONFIRM)])
    assert told(alarms, [with_alpha(step, 3.0, **doubt) for step in range(20, 30)]) == []
    assert [alarm.kind for alarm in alarms.active] == [AlarmKind.ALPHA_BELOW_BAND]


def test_the_band_is_not_that_of_embeddings_heads_and_updates():
    for other in ({"kind": "embedding"}, {"kind": "head"}, {"of": "update"}, {"of": "gradient"}):
        assert told(Alarms(), [with_alpha(step, 1.2, **other) for step in range(5)]) == []


# Hysteresis.


def test_alpha_that_hovers_at_two_does_not_flap(rng):
    alphas = 2 + 0.12 * np.sin(np.arange(300) / 5) + rng.normal(0, 0.05, 300)
    assert np.count_nonzero(np.diff(alphas < 2)) > 30
    found = told(Alarms(), [with_alpha(step, alpha, 0.2) for step, alpha in enumerate(alphas)])
    assert len(found) <= 1
    # nor once the alarm is on: a reading or two beyond 2 end nothing
    alarms = Alarms()
    assert len(told(alarms, [with_alpha(step, 1.7) for step in range(CONFIRM)])) == 1
    hovering = [with_alpha(10 + i, 2.05 if i % 3 else 1.95) for i in range(100)]
    assert told(alarms, hovering) == []


def test_a_run_that_crosses_and_comes_back_is_told_twice():
    path = np.concatenate([np.linspace(3, 1.5, 20), np.linspace(1.5, 3, 20)])
    found = told(Alarms(), [with_alpha(step, alpha) for step, alpha in enumerate(path)])
    assert kinds(found) == [
        (AlarmKind.ALPHA_BELOW_BAND, "raised"),
        (AlarmKind.ALPHA_BELOW_BAND, "cleared"),
    ]
    first = int(np.argmax(path + 0.15 < 2))
    assert found[0].since == first
    assert found[0].step == first + CONFIRM - 1


def test_one_reading_that_does_not_show_it_breaks_the_run():
    readings = [with_alpha(step, 1.95 if step % CONFIRM == 0 else 1.5) for step in range(30)]
    assert told(Alarms(), readings) == []


def test_the_same_step_read_twice_confirms_nothing():
    assert told(Alarms(), [with_alpha(5, 1.5)] * 10) == []


# Above the band.


def test_above_the_band_counts_after_the_inside_or_a_warm_up():
    high = [with_alpha(step, 9, 1) for step in range(10, 20)]
    assert told(Alarms(), high) == []
    assert kinds(told(Alarms(), [with_alpha(0, 4), *high])) == [("alpha_above_band", "raised")]
    warm = told(Alarms(AlarmRules(warm_up=15)), high)
    assert [(alarm.kind, alarm.since) for alarm in warm] == [("alpha_above_band", 15)]


def test_an_interval_that_was_not_bootstrapped_is_taken_from_the_standard_error():
    def reading(step, stderr):
        return made(step, alpha=1.7, alpha_stderr=stderr)

    assert kinds(told(Alarms(), [reading(step, 0.07) for step in range(5)])) == [
        ("alpha_below_band", "raised")
    ]
    assert told(Alarms(), [reading(step, 0.2) for step in range(5)]) == []
    assert told(Alarms(), [made(step, alpha=1.7) for step in range(5)]) == []


# Traps.


def with_trap(step, p, **rest):
    return made(step, trap_p=p, n_traps=int(p < 0.01), trap_size=1.5, **rest)


def test_a_trap_that_appears_is_graver_than_one_that_was_always_there():
    (always,) = told(Alarms(), [with_trap(step, 1e-6) for step in range(5)])
    later = [with_trap(step, 0.4 if step < 3 else 1e-6) for step in range(8)]
    (appeared,) = told(Alarms(), later)
    assert (always.severity, appeared.severity) == ("notice", "warning")
    assert "from the first on" in always.text
    assert "from step 3" in appeared.text


def test_the_p_of_a_trap_allows_for_the_layers_and_is_the_largest_of_its_readings():
    alarms = Alarms()
    told(alarms, [with_trap(0, 0.5, layer=f"{i}") for i in range(9)])
    values = [1e-6, 9e-4, 1e-6]
    (alarm,) = told(alarms, [with_trap(i, p, layer="fc") for i, p in enumerate(values)])
    assert alarm.p == pytest.approx(10 * max(values))
    alarms = Alarms()
    told(alarms, [with_trap(0, 0.5, layer=f"{i}") for i in range(11)])
    assert told(alarms, [with_trap(i, p, layer="fc") for i, p in enumerate(values)]) == []


def test_a_trap_that_appears_beside_a_low_alpha_is_a_sign_of_its_own():
    low = {"alpha": 1.5, "alpha_low": 1.4, "alpha_high": 1.6}
    appears = [with_trap(step, 0.4 if step < 3 else 1e-6, **low) for step in range(8)]
    found = {alarm.kind: alarm for alarm in told(Alarms(), appears)}
    sign = found[AlarmKind.ANTI_GROKKING_SIGN]
    parts = found[AlarmKind.ALPHA_BELOW_BAND], found[AlarmKind.CORRELATION_TRAP]
    assert sign.p == max(part.p for part in parts)
    assert (sign.since, sign.step) == (3, 5)
    always = told(Alarms(), [with_trap(step, 1e-6, **low) for step in range(8)])
    assert AlarmKind.ANTI_GROKKING_SIGN not in [alarm.kind for alarm in always]


def test_a_trap_must_stand_clear_of_the_edge_of_noise():
    """At 100 × 100 the 1 % point of Gaussian entries is 1.06 edges: twice as far is 1.12."""
    for size, raised in ((1.08, 0), (1.2, 1)):
        readings = [made(step, trap_p=1e-5, trap_size=size) for step in range(5)]
        assert len(told(Alarms(), readings)) == raised


def test_a_trap_ends_where_noise_is_usual_and_not_where_it_is_in_doubt():
    alarms = Alarms()
    told(alarms, [with_trap(step, 1e-6) for step in range(5)])
    assert told(alarms, [with_trap(step, 0.02) for step in range(10, 20)]) == []
    interrupted = [with_trap(20 + i, 1e-6 if i % CONFIRM == 2 else 0.5) for i in range(12)]
    assert told(alarms, interrupted) == []
    assert len(told(alarms, [with_trap(step, 0.5) for step in range(40, 50)])) == 1
    (again,) = told(alarms, [with_trap(step, 1e-6) for step in range(50, 60)])
    assert again.severity == "warning"  # it was gone, so that it has appeared


def test_a_trap_that_comes_by_way_of_doubt_has_appeared():
    path = [0.5, 0.02, 1e-6, 1e-6, 1e-6]
    (alarm,) = told(Alarms(), [with_trap(step, p) for step, p in enumerate(path)])
    assert (alarm.severity, alarm.since) == ("warning", 2)


# Ranks.


def ranks(values, **rest):
    return [made(step, stable_rank=value, **rest) for step, value in enumerate(values)]


@pytest.mark.parametrize("readings", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("end", [0.2, 0.1])
def test_learning_lowers_the_stable_rank_without_an_alarm(readings, end):
    """From noise of 784 × 300 to a fifth or a tenth of it, within so many readings."""
    falling = 115 * (end + (1 - end) * np.exp(-np.arange(80) / readings))
    assert told(Alarms(), ranks(falling)) == []


def test_a_stable_rank_that_falls_to_a_quarter_of_its_past_is_told_until_it_is_half_again():
    path = [20, 22, 19, 21, 20, 20] + [4] * 30 + [8] * 10 + [15] * 5
    found = told(Alarms(), ranks(path))
    assert kinds(found) == [("rank_collapse", "raised"), ("rank_collapse", "cleared")]
    assert found[0].since == 6
    assert found[1].step == 46 + CONFIRM - 1
    assert "from 20 to 4" in found[0].text


def test_a_slow_fall_is_measured_against_the_latest_past():
    assert told(Alarms(), ranks([115] * 30 + [115 * 0.9**i for i in range(40)])) == []


def test_lost_ranks_are_back_at_half_the_loss():
    losses = [0] + [12] * 5 + [8] * 10 + [4] * 5
    found = told(Alarms(), [made(step, rank_loss=loss) for step, loss in enumerate(losses)])
    assert [(alarm.state, alarm.step) for alarm in found] == [("raised", 3), ("cleared", 18)]


def test_a_layer_left_without_a_spectrum_has_collapsed_and_an_orthogonal_start_has_not():
    gone = [made(step, status=Status.TOO_FEW_EIGENVALUES) for step in range(5)]
    assert kinds(told(Alarms(), gone)) == [("rank_collapse", "raised")]
    equal = [made(step, status=Status.DEGENERATE) for step in range(5)]
    assert told(Alarms(), equal) == []
    after = [made(-1, stable_rank=5.0), *equal]
    assert kinds(told(Alarms(), after)) == [("rank_collapse", "raised")]
    small = [
        Reading(step, "fc", "weight", "linear", 9, 9, 9, Status.TOO_FEW_EIGENVALUES)
        for step in range(5)
    ]
    assert told(Alarms(), small) == []


def test_ranks_of_low_precision_are_not_held_against_a_layer():
    lost = {"rank_loss": 50, "warnings": [Finding.LOW_PRECISION]}
    assert told(Alarms(), [made(step, **lost) for step in range(9)]) == []


# Broken and dead.


def test_what_is_not_finite_is_told_at_once_and_stops_the_run_if_that_is_asked():
    broken = made(4, of="gradient", status=Status.NON_FINITE)
    asked, unasked = Alarms(stop_on=["non_finite"]), Alarms()
    (alarm,) = asked.observe(broken)
    unasked.observe(broken)
    assert (alarm.step, alarm.p, alarm.severity) == (4, 0.0, "warning")
    assert asked.should_stop
    assert not unasked.should_stop
    assert kinds(asked.observe(made(5, of="gradient"))) == [("non_finite", "cleared")]
    assert not asked.should_stop


@pytest.mark.parametrize("of", ["update", "gradient"])
def test_a_layer_whose_updates_are_zero_no_longer_trains(of):
    still = [made(step, of=of, status=Status.ZERO) for step in range(CONFIRM)]
    assert told(Alarms(), still[:-1]) == []
    (alarm,) = told(Alarms(), still)
    assert alarm.kind == "dead"
    assert alarm.text.startswith(f"{of} of fc")


def test_a_matrix_that_starts_at_zero_and_moves_is_not_dead():
    """LoRA's second factor, and the last layer of a residual branch."""
    readings = [made(0, status=Status.ZERO), *[made(step, stable_rank=3.0) for step in (1, 2, 3)]]
    assert told(Alarms(), readings) == []


@pytest.mark.parametrize("status", [Status.UNREADABLE, Status.OVER_BUDGET, Status.NOT_REACHED])
def test_what_was_not_looked_at_changes_nothing(status):
    alarms = Alarms()
    told(alarms, [made(step, status=Status.ZERO) for step in range(CONFIRM)])
    assert told(alarms, [made(step, status=status) for step in range(10, 20)]) == []
    assert [alarm.kind for alarm in alarms.active] == ["dead"]


# Layers at different steps, names, resuming, rules.


def test_layers_are_counted_apart_although_they_are_read_in_turn():
    turns = [
        with_alpha(step, 1.5 if layer == "b" else 3.0, layer=layer)
        for step, layer in enumerate("abc" * CONFIRM)
    ]
    (alarm,) = told(Alarms(), turns)
    assert (alarm.layer, alarm.since, alarm.step) == ("b", 1, 1 + 3 * (CONFIRM - 1))


def test_a_hostile_name_cannot_drive_the_terminal():
    (alarm,) = Alarms().observe(made(0, layer="a\x1b[31m\nb", status=Status.NON_FINITE))
    assert alarm.layer == "a\x1b[31m\nb"
    assert alarm.text.isprintable()


def history():
    low = {"alpha": 1.5, "alpha_low": 1.4, "alpha_high": 1.6, "stable_rank": 20.0}
    sunk = [with_trap(step, 0.4 if step < 3 else 1e-6, **low) for step in range(10)]
    back = [
        with_trap(step, 0.4, **(low | {"alpha": 3.0, "alpha_high": 3.5})) for step in (10, 11, 12)
    ]
    gone = [made(step, stable_rank=2.0) for step in range(13, 18)]
    return [*sunk, *back, *gone, made(18, status=Status.NON_FINITE)]


@pytest.mark.parametrize("cut", range(0, 19, 2))
def test_a_run_that_is_resumed_is_told_the_same(cut):
    readings, whole = history(), Alarms()
    expected = told(whole, readings)
    assert len({alarm.kind for alarm in expected}) >= 4
    first, second = Alarms(), Alarms()
    before = told(first, readings[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + told(second, readings[cut:]) == expected
    assert second.active == whole.active
    assert second.state_dict() == whole.state_dict()


def test_a_state_is_made_of_plain_values_alone():
    def types(value):
        if isinstance(value, dict):
            return {type(value)}.union(*map(types, value), *map(types, value.values()))
        if isinstance(value, list):
            return {type(value)}.union(*map(types, value))
        return {type(value)}

    alarms = Alarms()
    told(alarms, history())
    assert types(alarms.state_dict()) <= {dict, list, str, int, float, bool, type(None)}


@pytest.mark.parametrize("wrong", [{}, {"version": 2, "layers": []}, {"version": 1, "layers": [1]}])
def test_a_state_that_is_none_is_refused_and_changes_nothing(wrong):
    alarms = Alarms()
    alarms.observe(made(0, status=Status.NON_FINITE))
    with pytest.raises(CheckpointError, match="not a state"):
        alarms.load_state_dict(wrong)
    assert len(alarms.active) == 1


def test_alarms_come_back_from_their_lines():
    for alarm in told(Alarms(), history()):
        assert Alarm.from_json(alarm.to_json()) == alarm
        assert "\n" not in alarm.to_json()
    for line in ("", "[]", "{}", "null", alarm.to_json().replace("raised", "sung")):
        with pytest.raises(CheckpointError, match="no line of alarms"):
            Alarm.from_json(line)


def test_mistakes_are_told_by_name():
    with pytest.raises(SelectionError, match="did you mean non_finite"):
        Alarms(stop_on=["non_finit"])
    for wrong in (
        {"confirm": 0},
        {"trap_level": 1.5},
        {"trap_margin": 0.5},
        {"rank_fall": math.nan},
        {"alpha_low": 7.0},
    ):
        with pytest.raises(SelectionError, match=next(iter(wrong))):
            AlarmRules(**wrong)


def test_readings_without_the_numbers_say_nothing():
    bare = [made(step) for step in range(9)]
    assert told(Alarms(), bare) == []
    hollow = [dataclasses.replace(reading, values={"alpha": math.nan}) for reading in bare]
    assert told(Alarms(), hollow) == []
