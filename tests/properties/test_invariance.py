"""What must not change: under scaling, transposing, permuting, rotating, batching, ordering."""

import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import spectra
from spectra.engine import Machine, cpu, planning
from spectra.metrics import METRICS
from spectra.setol import erg_cut
from spectra.tails import fit_power_law
from tests.reference import setol as exact
from tests.reference import tails as plain
from tests.reference.engine import solve

SCALE_FREE = ("alpha", "ks", "n_tail", "n_erg", "erg_gap", "stable_rank", "entropy", "matrix_rank")

seeds = st.integers(0, 2**32 - 1)
sides = st.tuples(st.integers(20, 60), st.integers(20, 60))


def heavy(seed, shape):
    return np.random.default_rng(seed).standard_t(3, shape)


def layer(weights):
    return spectra.analyze({"w": weights}).layers[0]


@settings(deadline=None, max_examples=40)
@given(seeds, sides, st.integers(-40, 40))
def test_multiplying_by_a_power_of_two_changes_only_log_scale_quantities(seed, shape, power):
    weights = heavy(seed, shape)
    before, after = layer(weights), layer(weights * 2.0**power)
    for name in SCALE_FREE:  # exact: a power of two moves no bit of a mantissa
        assert after[name] == before[name], name
    factor = 4.0**power
    assert after.xmin == before.xmin * factor
    assert after.delta_lambda_min == pytest.approx(before.delta_lambda_min, rel=1e-12, abs=1e-12)
    shift = 2 * power * math.log10(2)
    assert after.log_norm == pytest.approx(before.log_norm + shift, abs=1e-10)
    assert after.alpha_hat == pytest.approx(before.alpha_hat + before.alpha * shift, abs=1e-8)


@settings(deadline=None, max_examples=40)
@given(seeds, sides, st.floats(1e-6, 1e6))
def test_multiplying_by_any_constant_changes_only_rounding(seed, shape, constant):
    weights = heavy(seed, shape)
    before, after = layer(weights), layer(weights * constant)
    assert after.ks == pytest.approx(before.ks, abs=1e-9)  # first: a near-tie may move xmin
    assume(after.n_tail == before.n_tail)
    for name in SCALE_FREE:
        assert after[name] == pytest.approx(before[name], rel=1e-8), name


@settings(deadline=None, max_examples=40)
@given(seeds, sides)
def test_transposing_permuting_and_rotating_change_nothing(seed, shape):
    draw = np.random.default_rng(seed)
    weights = heavy(seed, shape)
    rows, columns = draw.permutation(shape[0]), draw.permutation(shape[1])
    rotation, _ = np.linalg.qr(draw.standard_normal((shape[0], shape[0])))
    before = layer(weights)
    for other in (weights.T, weights[rows][:, columns], rotation @ weights):
        after = layer(other)
        assert after.ks == pytest.approx(before.ks, abs=1e-8)
        assert after.lambda_max == pytest.approx(before.lambda_max, rel=1e-11)
        assume(after.n_tail == before.n_tail)
        for name in SCALE_FREE:
            assert after[name] == pytest.approx(before[name], rel=1e-8), name


machines = st.builds(
    Machine,
    device=st.sampled_from(["cpu", "cpu:0"]),  # the second is torch's own CPU, as a device
    cores=st.integers(1, 5),
    device_memory=st.sampled_from([10**5, 10**9]),
)


@settings(deadline=None, max_examples=40)
@given(seeds, machines, machines, st.lists(sides, min_size=2, max_size=6), st.booleans())
def test_spectra_depend_on_neither_threads_nor_device_nor_batches_nor_order(
    seed, machine, other, shapes, two_stage
):
    arrays = {f"w{i}": heavy(seed + i, shape) for i, shape in enumerate(shapes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "BATCHED_BELOW", 0 if two_stage else 192)
        patch.setattr(planning, "CACHE_BYTES", 0 if two_stage else 2**25)
        patch.setattr(planning, "STREAM_BYTES", 10**4 if two_stage else 2**23)
        patch.setattr(cpu, "BATCHED_BELOW", 0 if two_stage else 192)
        there = solve(dict(reversed(arrays.items())), machine=other)
    here = solve(arrays, machine=machine)
    for name, found in here.items():
        difference = np.abs(found.eigenvalues - there[name].eigenvalues).max()
        assert difference <= 2 * found.error  # each route keeps the bound that it states


@settings(deadline=None, max_examples=60)
@given(seeds, sides)
def test_sums_and_bounds_hold(seed, shape):
    weights = heavy(seed, shape)
    found = layer(weights)
    assert 10**found.log_norm == pytest.approx(np.sum(weights**2), rel=1e-12)
    assert found.residual < 1e-12
    assert 1 <= found.stable_rank <= found.matrix_rank <= min(shape)
    assert 0 <= found.entropy <= 1 + 1e-12
    assert 0 < found.ks < 1
    assert found.xmin <= found.xmax == found.lambda_max
    assert 10 <= found.n_tail <= found.n_eigenvalues
    assert 1 <= found.n_erg <= found.n_eigenvalues
    assert set(found.metrics) == set(METRICS)


positive = st.floats(1e-12, 1e12, allow_nan=False)


@settings(deadline=None, max_examples=150)
@given(hnp.arrays(np.float64, st.integers(10, 120), elements=positive))
def test_the_fast_fit_is_the_plain_one_on_any_spectrum(values):
    x = np.sort(values)
    fit, slow = fit_power_law(x), plain.fit_power_law(x)
    if slow is None:
        assert fit.status == "fit_failed"
        return
    assert fit.ks == pytest.approx(slow[2], abs=1e-9)
    if fit.n_tail == slow[3]:  # a tie in the last bit may fall either way
        assert fit.alpha == pytest.approx(slow[0], rel=1e-7)
        assert fit.xmin == slow[1]


@settings(deadline=None, max_examples=100)
@given(hnp.arrays(np.float64, st.integers(2, 80), elements=positive))
def test_the_erg_cut_is_the_exact_product_on_any_spectrum(values):
    x = np.sort(values)
    found, (n_exact, _) = erg_cut(x), exact.erg_cut(x)
    if found.n_erg != n_exact:  # only where the exact product is one, but for rounding
        descending = x[::-1] / x.mean()
        sums = np.cumsum(np.log(descending))
        nearest = sums[min(found.n_erg, n_exact) - 1]
        assert abs(nearest) < 1e-10 * np.abs(np.log(descending)).sum() + 1e-12
    assert x[len(x) - found.n_erg] == found.erg_xmin
