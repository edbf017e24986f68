"""Where the rate of a short series changes: one split, and a permutation test that allows for drift.

Training moves a metric steadily, so two halves of a run always differ in level; that is no change. What
is asked is whether the *rate* changes. Under a steady drift with independent increments their order
says nothing, so shuffling them gives the exact distribution of any statistic of the order. See
docs/decisions/0026-histories.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spectra.records import Vector

FEWEST = 6
"""Checkpoints: with fewer, no order of the increments is rare enough to mention."""

PERMUTATIONS = 9999
SHORTEST = 2  # increments on either side of a split
CHUNK = 2**20  # numbers shuffled at a time


@dataclass(frozen=True, slots=True)
class Split:
    """The best split of a series: the position of its point, the rates, and the p-value."""

    position: int
    rate_before: float
    rate_after: float
    p_value: float


def best_split(
    steps: Sequence[int], values: Vector, rng: np.random.Generator, *, n: int = PERMUTATIONS
) -> Split | None:
    """Split a series in two where its rates differ most, and say how likely chance is to do as well.

    The statistic is the likelihood ratio of one shift in the mean of normal rates: the largest
    |mean before - mean after| √(k (m - k) / m) over splits of the m rates into k and m - k.

    Parameters
    ----------
    steps : sequence of int
        Strictly rising.
    values : ndarray of shape (n_points,)
        Points that are NaN are left out.
    rng : numpy Generator
    n : int, default: 9999
        Permutations of the rates.

    Returns
    -------
    Split or None
        None below 6 points, and for a series that does not move. ``position`` is that of the point
        from which the later rate holds.

    References
    ----------
    Hinkley, Biometrika 57 (1970) 1, for the statistic; the p-value is (1 + b) / (1 + n) with b the
    permutations that do as well (Phipson & Smyth, SAGMB 9 (2010) 39).

    Examples
    --------
    >>> falls_then_rests = np.array([9, 8, 7, 6, 5, 4, 4, 4, 4, 4, 4.0])
    >>> split = best_split(range(11), falls_then_rests, np.random.default_rng(0))
    >>> split.position, split.rate_before, split.rate_after, split.p_value < 0.05
    (5, -1.0, 0.0, True)
    """
    known = np.flatnonzero(np.isfinite(values))
    if known.size < FEWEST:
        return None
    rates = np.diff(values[known]) / np.diff(np.asarray(steps, np.float64)[known])
    spread = float(np.abs(rates - rates.mean()).max())
    if spread <= 1e-9 * float(np.abs(rates).max()):  # a straight line, up to rounding
        return None
    observed = _shifts(rates[None, :])[0]
    k = int(observed.argmax()) + SHORTEST
    least = float(observed.max()) * (1 - 1e-9)  # a permutation that does equally well counts
    as_well = 0
    step = max(1, CHUNK // rates.size)
    for begin in range(0, n, step):
        shuffled = rng.permuted(np.tile(rates, (min(step, n - begin), 1)), axis=1)
        as_well += int((_shifts(shuffled).max(axis=1) >= least).sum())
    return Split(
        int(known[k]), float(rates[:k].mean()), float(rates[k:].mean()), (1 + as_well) / (1 + n)
    )


def _shifts(rates: Vector) -> Vector:
    """Return the statistic at every split of every row."""
    m = rates.shape[1]
    k = np.arange(SHORTEST, m - SHORTEST + 1)
    sums = np.cumsum(rates, axis=1)
    before = sums[:, k - 1]
    after = sums[:, -1:] - before
    return np.asarray(np.abs(before / k - after / (m - k)) * np.sqrt(k * (m - k) / m))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for how many there are (Holm, Scand. J. Statist. 6 (1979) 65).

    Examples
    --------
    >>> holm([0.04, 0.01, 0.5])
    [0.08, 0.03, 0.5]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted
