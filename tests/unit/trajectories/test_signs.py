import dataclasses
import math

import pytest
from scipy import stats

from spectra.records import Finding, Status, Verdict
from spectra.trajectories.records import SignKind
from spectra.trajectories.signs import signs_of
from tests import made


def layer(name="a", alpha=3.0, half=0.2, *, verdict=None, **options):
    if verdict is None:
        verdict = Verdict.OVER_TRAINED if alpha < 2 else Verdict.WELL_TRAINED
    row = made.layer(name, alpha=alpha, alpha_low=alpha - half, alpha_high=alpha + half, **options)
    return dataclasses.replace(row, verdict=verdict)


def run(*checkpoints):
    """One report a list of layers, at steps 0, 10, 20, ..."""
    reports = [made.report(*rows) for rows in checkpoints]
    return signs_of(range(0, 10 * len(reports), 10), reports)


def kinds(signs):
    return [sign.kind for sign in signs]


def test_a_healthy_run_shows_nothing():
    assert run(*[[layer(alpha=4 - 0.1 * i)] for i in range(8)]) == ()
    assert signs_of([], []) == ()
    assert run([layer(alpha=1.5)]) == ()


def test_a_layer_that_sinks_below_the_band_is_told_from_where_its_interval_is_below():
    rows = [[layer("a", alpha), layer("b", 3)] for alpha in (3, 2.2, 1.9, 1.7, 1.5)]
    sunk = [sign for sign in run(*rows) if sign.kind is SignKind.LEFT_BAND]
    assert [(s.layer, s.step, s.n_checkpoints, s.value) for s in sunk] == [("a", 30, 2, 1.5)]
    # independent of the code: the quantile of a normal in ln(alpha - 1) with that upper end
    spread = (math.log(0.7) - math.log(0.5)) / 1.959964
    assert sunk[0].p_value == pytest.approx(stats.norm(0, spread).cdf(math.log(0.5)), rel=1e-5)


def test_what_comes_and_goes_or_was_always_there_is_no_sign():
    assert SignKind.LEFT_BAND not in kinds(run(*[[layer(alpha=a)] for a in (3, 1.5, 3)]))
    assert run(*[[layer(alpha=1.5)] for _ in range(5)]) == ()


def test_a_wide_interval_or_a_doubtful_fit_is_no_sign():
    wide = [[layer(alpha=a, half=0.6)] for a in (3, 1.5, 1.5)]
    assert SignKind.LEFT_BAND not in kinds(run(*wide))
    doubt = [[layer(alpha=3)], [layer(alpha=1.5, verdict=Verdict.NOT_JUDGED)]]
    assert run(*doubt) == ()


def test_more_layers_below_two_is_a_sign_of_the_model_with_the_chance_of_a_coin():
    names = "abcdefgh"
    rows = [[layer(n, 1.9 if i < k else 2.5) for i, n in enumerate(names)] for k in (1, 1, 4, 6)]
    (sign,) = [s for s in run(*rows) if s.kind is SignKind.OVER_TRAINED_RISING]
    assert (sign.layer, sign.step, sign.n_checkpoints, sign.value) == ("", 20, 2, 6 / 8)
    assert sign.p_value == pytest.approx(0.5**5)
    assert not run(*rows[::-1])


def test_embeddings_and_heads_are_in_no_share():
    rows = [
        [layer("a", a), layer("b", 3), layer("e", a, kind="embedding"), layer("h", a, kind="head")]
        for a in (3, 1.9, 1.5)
    ]
    (sign,) = [s for s in run(*rows) if s.kind is SignKind.OVER_TRAINED_RISING]
    assert (sign.step, sign.value) == (10, 0.5)
    only = [[layer("a", 3), layer("e", alpha, kind="embedding")] for alpha in (3, 1.9, 1.5)]
    assert SignKind.OVER_TRAINED_RISING not in kinds(run(*only))


def test_weights_that_are_not_finite_count_at_once_and_the_rest_goes_on():
    bad = made.layer("a", status=Status.NON_FINITE)
    signs = run([layer("a"), layer("b")], [layer("a"), layer("b")], [bad, layer("b")])
    assert [(s.kind, s.layer, s.step) for s in signs] == [(SignKind.NON_FINITE, "a", 20)]
    everything = run([layer("a")], [bad], [bad])
    assert [(s.step, s.n_checkpoints) for s in everything] == [(10, 2)]


def test_a_rank_that_collapses_on_the_way_and_a_layer_that_becomes_zero():
    def thin(share):
        warnings = (Finding.RANK_COLLAPSE,) if share >= 0.1 else ()
        return layer("a", rank_loss=100 * share, warnings=warnings)

    (sign,) = run([thin(0)], [thin(0.05)], [thin(0.2)], [thin(0.5)])
    assert (sign.kind, sign.step, sign.value) == (SignKind.RANK_COLLAPSE, 20, 0.5)
    (sign,) = run([thin(0)], [made.layer("a", status=Status.ZERO)])
    assert (sign.step, sign.value) == (10, 1.0)
    assert run([thin(0.5)], [thin(0.5)]) == ()  # low rank from the start: made so


@pytest.mark.parametrize(
    ("status", "left"), [(Status.TOO_FEW_EIGENVALUES, 10), (Status.DEGENERATE, 1)]
)
def test_a_rank_that_collapses_so_far_that_nothing_can_be_fitted(status, left):
    gone = made.layer("a", status=status, rank_loss=100 - left)
    (sign,) = run([layer("a")], [layer("a", rank_loss=60)], [gone])
    assert (sign.kind, sign.step, sign.n_checkpoints) == (SignKind.RANK_COLLAPSE, 10, 2)
    assert sign.value == (100 - left) / 100
    equal = made.layer("a", status=Status.DEGENERATE, rank_loss=0)  # orthogonal: of full rank
    assert run([layer("a")], [equal]) == ()
    few = [made.layer("a", status=status, side=8, rank_loss=n) for n in (0, 7)]
    assert run(*[[row] for row in few]) == ()  # by its shape too small to say


def test_traps_need_evidence_and_must_appear():
    def row(n_traps):
        found = (Finding.CORRELATION_TRAP,) if n_traps else ()
        return made.with_evidence(layer(warnings=found), n_traps=n_traps, trap_p=0.001)

    (sign,) = run([row(0)], [row(0)], [row(2)])
    assert (sign.kind, sign.step, sign.value, sign.p_value) == (
        SignKind.CORRELATION_TRAP, 20, 2, 0.001
    )  # fmt: skip
    assert run([row(1)], [row(1)]) == ()
    assert run([layer()], [layer()], [row(1)]) == ()  # not looked for before: it may be old


def test_signs_come_in_the_order_of_their_steps():
    bad = made.layer("a", status=Status.NON_FINITE)
    names = [[layer("a"), layer("b", 3)], [layer("a"), layer("b", 1.5)], [bad, layer("b", 1.5)]]
    assert [sign.step for sign in run(*names)] == [10, 10, 20]


def noisy(name):
    return layer(name, 8.0, warnings=(Finding.RANDOM_LIKE,), verdict=Verdict.RANDOM_LIKE)


def test_a_network_that_turns_to_noise_is_told_from_where_it_does():
    learnt = [layer(str(i)) for i in range(8)]
    turned = [noisy(str(i)) for i in range(8)]
    (sign,) = run(turned, learnt, learnt, turned, turned)
    assert (sign.kind, sign.step, sign.n_checkpoints) == (SignKind.RANDOM_LIKE_RISING, 30, 2)
    assert sign.value == 1.0
    assert sign.p_value == pytest.approx(2**-8)


def test_a_layer_or_two_that_chance_makes_like_noise_are_no_sign():
    learnt = [layer(str(i)) for i in range(8)]
    assert run([noisy("0"), *learnt[1:]], learnt, [noisy("0"), noisy("1"), *learnt[2:]]) == ()
