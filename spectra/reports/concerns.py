"""Which layers need a look, in what order, and for what reason."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spectra.records import Finding, LayerReport, Status, Verdict
from spectra.verdicts import DOUBTS, OVER_TRAINED, UNDER_TRAINED

BROKEN = frozenset(
    {
        Status.NON_FINITE,
        Status.ZERO,
        Status.OUT_OF_RANGE,
        Status.NOT_CONVERGED,
        Status.UNREADABLE,
    }
)
"""Statuses that say something is wrong with the weights; the others only say why there is no fit."""
OUTSIDE = (Verdict.OVER_TRAINED, Verdict.UNDER_TRAINED)
NOTED = frozenset({Finding.RANK_COLLAPSE, Finding.CORRELATION_TRAP})


@dataclass(frozen=True, slots=True)
class Concern:
    """A layer to look at, and its place in the report; `borderline` if the band is within reach.

    `borderline`: the interval of alpha reaches into the band from 2 to 6, so chance may explain it.
    """

    position: int
    layer: LayerReport
    borderline: bool = False


def badness(layer: LayerReport) -> tuple[int, bool, float]:
    """Order layers by how much they need a look: numbers outside 2-6 that can be believed first.

    Returns
    -------
    tuple of int, bool, float
        3 for those numbers, 2 and 1 for doubtful and missing ones, 0 for the others; whether the
        whole interval lies outside; and how far, in ln(alpha - 1), in which intervals are symmetric.
    """
    if layer.status is not Status.OK:
        return (1, False, 0.0)
    outside = _outside(layer.metrics.get("alpha", math.nan))
    if DOUBTS & set(layer.warnings):
        return (2 if layer.averaged else 1, False, outside)
    if not outside or not layer.averaged:
        return (0, False, outside)
    return (3, not _borderline(layer), outside)


def concerns(layers: Iterable[LayerReport]) -> tuple[Concern, ...]:
    """Return the layers to look at, the most pressing first.

    Broken weights come first, then layers that are surely outside the band from 2 to 6, then those
    like random weights, then those with a trap or a collapsed rank. Embeddings and heads, which sit
    on another scale, are named only if their weights are broken.
    """
    found = []
    for position, layer in enumerate(layers):
        rank = _rank(layer)
        if rank:
            group, is_sure, outside = badness(layer)
            key = (-rank, -group, not is_sure, -outside, position)
            found.append((key, Concern(position, layer, _borderline(layer))))
    return tuple(concern for _, concern in sorted(found, key=lambda pair: pair[0]))


def best(layers: Iterable[LayerReport]) -> tuple[tuple[int, LayerReport], ...]:
    """Return the well-trained layers with their places, the one nearest alpha = 2 first."""
    good = [
        (position, layer)
        for position, layer in enumerate(layers)
        if layer.verdict is Verdict.WELL_TRAINED
        and layer.averaged
        and not NOTED & {*layer.warnings}
    ]
    return tuple(sorted(good, key=lambda pair: pair[1].metrics.get("alpha", math.inf)))


def worst_first(layers: Iterable[LayerReport]) -> list[LayerReport]:
    """Return the layers, those that most need a look first, equals in checkpoint order."""
    return sorted(layers, key=badness, reverse=True)


def most_pressing(layers: Sequence[LayerReport], rows: int) -> Sequence[LayerReport]:
    """Return at most `rows` layers (0: all), those that most need a look, in checkpoint order."""
    if not rows or len(layers) <= rows:
        return layers
    kept = {id(layer) for layer in worst_first(layers)[:rows]}
    return [layer for layer in layers if id(layer) in kept]


def _outside(alpha: float) -> float:
    """Return how far alpha lies from the band, 0 within it."""
    if OVER_TRAINED <= alpha <= UNDER_TRAINED or math.isnan(alpha):
        return 0.0
    if alpha < OVER_TRAINED:
        return math.log((OVER_TRAINED - 1) / (alpha - 1)) if alpha > 1 else math.inf
    return math.log((alpha - 1) / (UNDER_TRAINED - 1))


def _rank(layer: LayerReport) -> int:
    if layer.status in BROKEN:
        return 4
    if not layer.averaged:
        return 0
    if layer.verdict in OUTSIDE:
        return 3
    if layer.verdict is Verdict.RANDOM_LIKE:
        return 2
    return 1 if NOTED & set(layer.warnings) else 0


def _borderline(layer: LayerReport) -> bool:
    low, high = (layer.metrics.get(end, math.nan) for end in ("alpha_low", "alpha_high"))
    return layer.verdict in OUTSIDE and low <= UNDER_TRAINED and high >= OVER_TRAINED
