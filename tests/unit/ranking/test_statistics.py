import math

import numpy as np
import pytest
from scipy import stats

from spectra.ranking import statistics


def test_what_is_typical_ignores_a_quarter_on_either_side(rng):
    clean = rng.normal(3.0, 0.5, 40)
    spoiled = clean.copy()
    spoiled[np.argsort(clean)[-10:]] = 1e9
    spoiled[np.argsort(clean)[:10]] = -1e9
    assert statistics.typical(spoiled) == pytest.approx(statistics.typical(clean))
    assert statistics.typical(clean) == pytest.approx(np.sort(clean)[10:30].mean())
    assert statistics.typical(np.array([7.0])) == 7.0
    assert statistics.typical(np.array([1.0, 4.0, 7.0])) == 4.0


@pytest.mark.parametrize("n_layers", [2, 3, 10])
def test_intervals_hold_what_they_promise_even_for_few_layers(n_layers, rng):
    """Normal values, whose typical value is 0: of 400 intervals, 95 % should hold it.

    A plain bootstrap of 2 layers would hold it in a third of the cases, of 3 in two thirds.
    """
    held = 0
    for _ in range(400):
        table = rng.standard_normal((1, n_layers))
        drawn = statistics.replicates(table, "alpha_hat", rng, n=800)[:, 0]
        low, high = statistics.interval(drawn)
        held += low <= 0 <= high
    assert held / 400 > 0.92  # three standard errors below 0.95


def test_models_that_share_their_layers_ups_and_downs_are_told_apart_by_pairs(rng):
    layers = rng.normal(3.0, 1.0, 30)
    table = np.stack([layers, layers + 0.1 + 0.01 * rng.standard_normal(30)])
    together = statistics.replicates(table, "log_norm", rng)
    assert statistics.p_lower(together[:, 0], together[:, 1]) > 0.999
    apart = [statistics.replicates(table[i : i + 1], "log_norm", rng)[:, 0] for i in (0, 1)]
    assert 0.5 < statistics.p_lower(*apart) < 0.8


def test_equal_models_are_equal_and_one_layer_tells_nothing(rng):
    layers = rng.normal(3.0, 1.0, 12)
    drawn = statistics.replicates(np.stack([layers, layers]), "alpha", rng)
    assert statistics.p_lower(drawn[:, 0], drawn[:, 1]) == 0.5
    alone = statistics.replicates(np.array([[3.0], [2.0]]), "alpha", rng)
    assert np.isnan(alone).all()
    assert math.isnan(statistics.p_lower(alone[:, 0], alone[:, 1]))
    assert all(math.isnan(end) for end in statistics.interval(alone[:, 0]))


def test_an_exponent_stays_above_one(rng):
    drawn = statistics.replicates(np.array([[1.2, 9.0]]), "alpha", rng)
    assert drawn.min() >= 1.0
    assert np.isinf(drawn).sum() < drawn.size


def test_orders_agree_as_scipy_says(rng):
    x, y = rng.standard_normal((20, 7)), rng.standard_normal(7)
    x[:, 3] = x[:, 2]  # a tie
    taus = [stats.kendalltau(row, y).statistic for row in x]
    np.testing.assert_allclose(statistics.kendall(x, y), taus, atol=1e-12)
    rhos = [stats.spearmanr(row, y).statistic for row in x]
    np.testing.assert_allclose(statistics.spearman(x, y), rhos, atol=1e-12)
    rs = [stats.pearsonr(row, y).statistic for row in x]
    np.testing.assert_allclose(statistics.pearson(x, y), rs, atol=1e-12)
    tied = np.ones((1, 7))
    for correlation in (statistics.kendall, statistics.spearman, statistics.pearson):
        assert np.isnan(correlation(tied, y)).all()


def test_taus_in_pieces_are_the_taus(rng, monkeypatch):
    x, y = rng.standard_normal((20, 7)), rng.standard_normal(7)
    whole = statistics.kendall(x, y)
    monkeypatch.setattr(statistics, "CHUNK", 50)
    np.testing.assert_array_equal(statistics.kendall(x, y), whole)
