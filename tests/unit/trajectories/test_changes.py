import itertools

import numpy as np
import pytest

from spectra.trajectories.changes import best_splits


def split(values, rng, steps=None, **options):
    return best_splits(steps or range(len(values)), np.array([values], float), rng, **options)[0]


def test_a_steady_drift_is_no_change_and_neither_is_rest(rng):
    assert split([5 - 0.1 * i for i in range(30)], rng) is None
    assert split([2.0] * 30, rng) is None


def test_fewer_than_six_points_say_nothing(rng):
    assert split([9, 5, 1, 1, 1], rng) is None
    assert split([9, 5, 1, 1, 1, np.nan, np.nan], rng) is None
    assert split([9, 5, 1, 1, 1, 1], rng) is not None


def test_the_p_value_is_that_of_all_permutations(rng):
    values = np.cumsum([0, -1.3, -0.9, -1.1, 0.2, -0.1, 0.15])
    rates = np.diff(values)

    def statistic(x):
        m = len(x)
        return max(
            abs(np.mean(x[:k]) - np.mean(x[k:])) * np.sqrt(k * (m - k) / m) for k in range(2, m - 1)
        )

    every = [statistic(x) for x in itertools.permutations(rates)]
    exact = np.mean(np.array(every) >= statistic(rates) - 1e-12)
    found = split(values, rng)
    assert found.p_value == pytest.approx(exact, abs=0.01)
    assert found.position == 3
    assert found.rate_before == pytest.approx(-1.1)
    assert found.rate_after == pytest.approx(0.25 / 3)


def test_rates_are_per_step_whatever_the_spacing(rng):
    steps = [0, 10, 20, 30, 50, 100, 200, 400, 800]
    values = np.interp(steps, [0, 50, 800], [5, 3, 3])
    found = split(values, rng, steps)
    assert found.position == 4
    assert (found.rate_before, found.rate_after) == pytest.approx((-0.04, 0))
    assert found.p_value < 0.05


def test_scale_and_a_steady_drift_change_no_p_value():
    values = np.random.default_rng(2).normal(size=20).cumsum()
    one = split(values, np.random.default_rng(0))
    two = split(1e-6 * (values + 40 * np.arange(20)), np.random.default_rng(0))
    assert (one.position, one.p_value) == (two.position, two.p_value)


def test_no_more_than_one_random_walk_in_twenty_is_called_a_change():
    rng = np.random.default_rng(5)
    walks = rng.normal(-0.1, 0.1, (300, 15)).cumsum(axis=1)
    hits = sum(split(walk, rng, n=199).p_value <= 0.05 for walk in walks)
    assert hits <= 28  # 15 are expected; the chance of more is 0.1 %


def test_series_that_say_the_same_cost_each_other_nothing_and_others_do(rng):
    falls = np.interp(np.arange(14), [0, 6, 13], [5, 3, 3]) + 0.15 * rng.normal(size=14)
    alike = best_splits(range(14), np.array([falls, 2 * falls]), rng)
    assert alike[0].p_adjusted == alike[0].p_value == alike[1].p_value
    others = np.vstack([falls, rng.normal(size=(20, 14)).cumsum(axis=1)])
    several = best_splits(range(14), others, rng)
    assert all(found.p_adjusted >= found.p_value for found in several)
    assert several[0].p_adjusted > several[0].p_value
