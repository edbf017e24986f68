"""What is typical of a model's layers, how sure that is, and how two orders agree.

Layers hardly told from noise give alphas of 6 to 18 that rest on a dozen eigenvalues and rule a plain
mean. See docs/decisions/0023-ranking.md for the choice, and docs/validation.md for what it is worth.
"""

import math
from typing import Any

import numpy as np
from scipy import stats

from spectra.records import Vector

TRIMMED = 0.25
REPLICATES = 4000
SEEDS = 1.5
"""How much further models of one recipe and other seeds lie apart than their layers say.

What moves all layers of a model together cannot be seen in one model. Measured on trained networks:
docs/validation.md.
"""
CHUNK = 2**22  # numbers resampled at a time


def typical(values: Vector) -> Any:  # noqa: ANN401 - float or array
    """Return the mean of the middle half of the layers' values, along the last axis.

    A quarter of the layers on either side may be noise without ruling it, and of clean layers it
    wastes little: it orders models nearly as well as the mean, better than the median.

    Parameters
    ----------
    values : ndarray of shape (..., n_layers)

    Examples
    --------
    >>> float(typical(np.array([2.0, 3.0, 4.0, 18.0])))
    3.5
    """
    return stats.trim_mean(values, TRIMMED, axis=-1)


def replicates(
    table: Vector,
    metric: str,
    rng: np.random.Generator,
    *,
    spread: float = 1.0,
    n: int = REPLICATES,
) -> Vector:
    """Resample the layers of models of one architecture, the same layers for all of them.

    A bootstrap of few layers is too sure: its spread is that of n - 1 degrees of freedom, and has
    normal tails. Each replicate's distance from the estimate is therefore stretched so that for
    the mean of normal values it follows Student's t of n - 1 degrees of freedom.

    Parameters
    ----------
    table : ndarray of shape (n_models, n_layers)
    metric : str
    rng : numpy Generator
    spread : float, default: 1
        Factor on every replicate's distance from the estimate.
    n : int, default: 4000
        How many replicates.

    Returns
    -------
    ndarray of shape (n, n_models)
        NaN throughout if there is but one layer.
    """
    n_models, n_layers = table.shape
    if n_layers < 2:
        return np.full((n, n_models), math.nan)
    drawn = np.empty((n, n_models))
    step = max(1, CHUNK // table.size)
    for begin in range(0, n, step):
        chosen = rng.integers(n_layers, size=(min(step, n - begin), n_layers))
        for model, values in enumerate(table):
            drawn[begin : begin + step, model] = typical(values[chosen])
    stretch = spread * np.sqrt(n_layers / rng.chisquare(n_layers - 1, (n, 1)))
    # An exponent is stretched by its distance from 1, in logarithms: it stays above 1.
    estimate = typical(table)
    if metric != "alpha":
        return np.asarray(estimate + (drawn - estimate) * stretch)
    centre = np.log(estimate - 1.0)
    with np.errstate(over="ignore"):
        return np.asarray(1.0 + np.exp(centre + (np.log(drawn - 1.0) - centre) * stretch))


def p_lower(a: Vector, b: Vector) -> float:
    """Return how often the replicates of `a` lie below those of `b`; ties count half.

    Examples
    --------
    >>> p_lower(np.array([1.0, 2.0]), np.array([1.0, 3.0]))
    0.75
    """
    if np.isnan(a).any() or np.isnan(b).any():
        return math.nan
    return float(np.mean((a < b) + 0.5 * (a == b)))


def interval(values: Vector) -> tuple[float, float]:
    """Return the 2.5 and 97.5 % points of replicates, NaN if any is."""
    if not values.size or np.isnan(values).any():
        return math.nan, math.nan
    low, high = np.quantile(values, [0.025, 0.975], method="nearest")  # some are infinite
    return float(low), float(high)


def kendall(x: Vector, y: Vector) -> Vector:
    """Return Kendall's tau-b of `y` with each row of `x`.

    Parameters
    ----------
    x : ndarray of shape (n, n_models)
    y : ndarray of shape (n_models,)

    Returns
    -------
    ndarray of shape (n,)
        NaN where all of a row, or of `y`, are tied.

    Examples
    --------
    >>> kendall(np.array([[1.0, 2.0, 3.0]]), np.array([1.0, 3.0, 2.0])).round(4)
    array([0.3333])
    """
    i, j = np.triu_indices(y.size, 1)
    dy = np.sign(y[i] - y[j])
    untied = float(np.count_nonzero(dy))
    step = max(1, CHUNK // max(i.size, 1))
    taus = np.empty(len(x))
    with np.errstate(invalid="ignore"):  # infinite replicates; all tied
        for begin in range(0, len(x), step):
            rows = x[begin : begin + step]
            dx = np.sign(rows[:, i] - rows[:, j])
            pairs = np.sqrt(np.count_nonzero(dx, axis=1) * untied)
            taus[begin : begin + step] = (dx * dy).sum(axis=1) / pairs
    return taus


def pearson(x: Vector, y: Vector) -> Vector:
    """Return Pearson's correlation of `y` with each row of `x`, NaN where one has no spread."""
    with np.errstate(invalid="ignore", over="ignore"):
        dx = x - x.mean(axis=1, keepdims=True)
        dy = y - y.mean()
        spread = np.sqrt((dx * dx).sum(axis=1) * (dy * dy).sum())
        return np.asarray((dx * dy).sum(axis=1) / np.where(spread > 0, spread, math.nan))


def spearman(x: Vector, y: Vector) -> Vector:
    """Return Spearman's rank correlation of `y` with each row of `x`."""
    return pearson(stats.rankdata(x, axis=1), stats.rankdata(y))


def chance_of(x: Vector, y: Vector) -> float:
    """Return the two-sided p-value of Kendall's tau: exact for few models without ties."""
    return float(stats.kendalltau(x, y).pvalue)
