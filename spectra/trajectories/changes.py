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
    """The best split of a series: the position of its point, the rates, and how likely chance is."""

    position: int
    rate_before: float
    rate_after: float
    p_value: float
    p_adjusted: float


def best_splits(
    steps: Sequence[int], table: Vector, rng: np.random.Generator, *, n: int = PERMUTATIONS
) -> list[Split | None]:
    """Split each series in two where its rates differ most; say how likely chance is to do as well.

    The statistic is the likelihood ratio of one shift in the mean of normal rates: the largest
    |mean before - mean after| √(k (m - k) / m) over splits of the m rates into k and m - k, in units
    of the rates' standard deviation. All series are shuffled alike, so that the p-values adjusted for
    their number know how alike they are.

    Parameters
    ----------
    steps : sequence of int
        Strictly rising.
    table : ndarray of shape (n_series, n_points)
        Points at which a series is NaN are left out of all.
    rng : numpy Generator
    n : int, default: 9999
        Permutations of the rates.

    Returns
    -------
    list of Split or None
        None below 6 points, and for a series whose rate never changes. ``position`` is that of the
        point from which the later rate holds; ``p_adjusted`` is the chance that any series does as
        well.

    References
    ----------
    Hinkley, Biometrika 57 (1970) 1, for the statistic; (1 + b) / (1 + n) with b the permutations that
    do as well, Phipson & Smyth, SAGMB 9 (2010) 39; Westfall & Young, Resampling-Based Multiple
    Testing (1993), for several series.

    Examples
    --------
    >>> falls_then_rests = np.array([[9, 8, 7, 6, 5, 4, 4, 4, 4, 4, 4.0]])
    >>> [split] = best_splits(range(11), falls_then_rests, np.random.default_rng(0))
    >>> split.position, split.rate_before, split.rate_after, split.p_value < 0.05
    (5, -1.0, 0.0, True)
    """
    known = np.flatnonzero(np.isfinite(table).all(axis=0))
    found: list[Split | None] = [None] * table.shape[0]
    if known.size < FEWEST:
        return found
    rates = np.diff(table[:, known]) / np.diff(np.asarray(steps, np.float64)[known])
    spread = rates.std(axis=1)
    moving = np.flatnonzero(
        spread > 1e-9 * np.abs(rates).max(axis=1)
    )  # others: lines, but for rounding
    if not moving.size:
        return found
    scaled = rates[moving] / spread[moving, None]
    observed = _shifts(scaled)
    least = observed.max(axis=-1) * (1 - 1e-9)  # a permutation that does equally well counts
    as_well, any_as_well = np.zeros(moving.size), np.zeros(moving.size)
    chunk = max(1, CHUNK // scaled.size)
    for begin in range(0, n, chunk):
        rows = np.tile(np.arange(rates.shape[1]), (min(chunk, n - begin), 1))
        best = _shifts(scaled[:, rng.permuted(rows, axis=1)]).max(axis=-1)
        as_well += (best >= least[:, None]).sum(axis=1)
        any_as_well += (best.max(axis=0) >= least[:, None]).sum(axis=1)
    for place, i in enumerate(moving):
        k = int(observed[place].argmax()) + SHORTEST
        found[i] = Split(
            int(known[k]),
            float(rates[i, :k].mean()),
            float(rates[i, k:].mean()),
            float((1 + as_well[place]) / (1 + n)),
            float((1 + any_as_well[place]) / (1 + n)),
        )
    return found


def _shifts(rates: Vector) -> Vector:
    """Return the statistic at every split, along the last axis."""
    m = rates.shape[-1]
    k = np.arange(SHORTEST, m - SHORTEST + 1)
    sums = np.cumsum(rates, axis=-1)
    before = sums[..., k - 1]
    after = sums[..., -1:] - before
    return np.asarray(np.abs(before / k - after / (m - k)) * np.sqrt(k * (m - k) / m))
