import numpy as np
import pytest
from scipy.linalg import subspace_angles

import spectra
from spectra.comparing.subspaces import directions_of, overlap


@pytest.mark.parametrize("shape", [(50, 30), (30, 50), (40, 40)])
def test_overlaps_are_squared_cosines_of_the_angles_between_singular_subspaces(rng, shape):
    base = rng.standard_t(3, shape)
    other = base + rng.standard_normal(shape)
    found = overlap(base[np.newaxis], other[np.newaxis], 5)
    (u, _, v), (u2, _, v2) = (np.linalg.svd(w, full_matrices=False) for w in (base, other))
    left = np.mean(np.cos(subspace_angles(u[:, :5], u2[:, :5])) ** 2)
    right = np.mean(np.cos(subspace_angles(v[:5].T, v2[:5].T)) ** 2)
    assert (found.left, found.right) == pytest.approx((left, right))
    assert (found.left_random, found.right_random) == (5 / shape[0], 5 / shape[1])


def test_unrelated_matrices_overlap_by_chance_alone(rng):
    found = [
        overlap(rng.standard_normal((1, 80, 60)), rng.standard_normal((1, 80, 60)), 6)
        for _ in range(40)
    ]
    assert np.mean([f.left for f in found]) == pytest.approx(6 / 80, abs=0.015)
    assert np.mean([f.excess for f in found]) == pytest.approx(0, abs=0.03)


def test_turning_one_side_loses_that_side_alone(rng):
    base = rng.standard_t(3, (60, 60))
    turn, _ = np.linalg.qr(rng.standard_normal((60, 60)))
    found = overlap(base[np.newaxis], (base @ turn)[np.newaxis], 4)
    assert found.left == pytest.approx(1)
    assert found.right < 0.3
    assert found.excess < 0.3


def test_slices_are_averaged(rng):
    base = rng.standard_normal((2, 30, 20))
    other = np.stack([base[0], rng.standard_normal((30, 20))])
    same, both = overlap(base[:1], other[:1], 3), overlap(base, other, 3)
    second = overlap(base[1:], other[1:], 3)
    assert both.left == pytest.approx((same.left + second.left) / 2)


def test_rank_limits_the_directions_and_what_is_none_has_none(rng):
    rank_one = np.outer(rng.standard_normal(30), rng.standard_normal(20))[np.newaxis]
    found = overlap(rank_one, 1e200 * rank_one, 5)
    assert (found.k, found.left) == (1, pytest.approx(1))
    assert overlap(rank_one, 0 * rank_one, 5) is None
    assert overlap(rank_one, rank_one + np.nan, 5) is None
    assert overlap(rank_one, rank_one, 0) is None


def test_as_many_directions_as_the_tail_holds_and_at_most_ten(rng):
    def layer(shape):
        return spectra.analyze({"w": rng.standard_t(3, shape)}, replicates=0).layers[0]

    wide = layer((300, 200))
    assert directions_of(wide) == min(10, wide.n_tail)
    assert directions_of(layer((60, 6))) == 3  # half of what there is
    kernel = layer((40, 30, 3, 3))
    assert directions_of(kernel) == min(10, -(-kernel.n_tail // 9))
