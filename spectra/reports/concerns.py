"""Which layers need a look, and in what order."""

import math
from collections.abc import Sequence

from spectra.records import LayerReport, Status
from spectra.verdicts import DOUBTS, OVER_TRAINED, UNDER_TRAINED


def badness(layer: LayerReport) -> tuple[int, float]:
    """Order layers by how much they need a look: solid numbers outside 2-6 first, then doubts."""
    if layer.status is not Status.OK:
        return (1, 0.0)
    alpha = layer.metrics.get("alpha", math.nan)
    outside = 0.0 if math.isnan(alpha) else max(OVER_TRAINED - alpha, alpha - UNDER_TRAINED, 0.0)
    if DOUBTS & set(layer.warnings):
        return (2, outside) if layer.averaged else (1, outside)
    return (3, outside) if outside and layer.averaged else (0, outside)


def worst_first(layers: Sequence[LayerReport]) -> list[LayerReport]:
    """Return the layers, those that most need a look first, equals in checkpoint order."""
    return sorted(layers, key=badness, reverse=True)


def most_pressing(layers: Sequence[LayerReport], rows: int) -> Sequence[LayerReport]:
    """Return at most `rows` layers (0: all), those that most need a look, in checkpoint order."""
    if not rows or len(layers) <= rows:
        return layers
    kept = {id(layer) for layer in worst_first(layers)[:rows]}
    return [layer for layer in layers if id(layer) in kept]
