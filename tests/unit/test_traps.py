import math

import numpy as np
import pytest

from spectra.traps import traps


def shuffled_by_hand(stack, order):
    """Return the largest singular value over the slices, squared, of entries in another order."""
    rows = stack.reshape(-1)[order].reshape(stack.shape)
    return max(np.linalg.norm(matrix, 2) ** 2 for matrix in rows)


def test_the_size_is_the_largest_eigenvalue_over_the_edge_of_noise(rng):
    weights = rng.standard_normal((1, 40, 90)) + 0.7
    size = traps(weights, rng=np.random.default_rng(8))["trap_size"]
    largest = shuffled_by_hand(weights, np.random.default_rng(8).permutation(weights.size))
    edge = np.mean(weights**2) * (math.sqrt(40) + math.sqrt(90)) ** 2
    assert size == pytest.approx(largest / edge, rel=1e-9)


def test_the_slices_of_a_kernel_are_shuffled_together(rng):
    """One slice of another scale stands out of the others, and no longer once all are mixed."""
    weights = rng.standard_normal((9, 40, 30))
    weights[4] *= 1.5
    assert traps(weights, rng=rng)["n_traps"] == 0
    assert traps(weights + 0.4, rng=rng)["n_traps"] == 9


def test_scale_and_orientation_change_nothing(rng):
    weights = rng.standard_normal((1, 60, 60)) + 0.2
    plain, scaled = (traps(w, rng=np.random.default_rng(1)) for w in (weights, 2.0**-300 * weights))
    assert scaled == pytest.approx(plain)


def test_only_its_own_generator_is_drawn_from(rng):
    weights = rng.standard_normal((1, 30, 30))
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - that it stays as it is
    first = traps(weights, rng=np.random.default_rng(2), shuffles=3)
    assert first == traps(weights, rng=np.random.default_rng(2), shuffles=3)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_weights_without_a_spectrum_give_no_numbers(value, rng):
    found = traps(np.full((1, 30, 20), value), rng=rng)
    assert all(math.isnan(number) for number in found.values())


def test_what_is_no_stack_is_refused(rng):
    for wrong, shuffles in ((np.ones((3, 3)), 1), (np.ones((0, 3, 3)), 1), (np.ones((1, 3, 3)), 0)):
        with pytest.raises(ValueError, match="stack"):
            traps(wrong, rng=rng, shuffles=shuffles)
