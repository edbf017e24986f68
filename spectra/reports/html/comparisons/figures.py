"""Pictures of a comparison: pure functions of what is shown to an SVG string."""

import math
from collections.abc import Sequence

from spectra.comparing import LayerChange
from spectra.reports.html import charts
from spectra.reports.html.blocks import by_depth
from spectra.reports.html.charts import Axis
from spectra.reports.html.comparisons.texts import CHANGES
from spectra.reports.html.figures import WIDTH, depth_ticks, has_blocks
from spectra.reports.html.groups import Entry
from spectra.reports.html.marks import MARKS
from spectra.reports.html.markup import Markup, number, pixels, tag
from spectra.reports.names import shorten
from spectra.verdicts import OVER_TRAINED, UNDER_TRAINED

ROW = 22.0
NAMES = 285.0  # pixels of the names beside the dumbbells
MOST_DUMBBELLS = 40
SMALLEST = 1e-8  # of a size of ΔW on the axis

Placed = Sequence[tuple[int, LayerChange]]
"""Layers with their places in the comparison."""


def dumbbells(layers: Placed, *, banded: bool) -> Markup:
    """Draw alpha of the base and of the other model for every layer, in the order given."""
    foot = 30 + ROW * len(layers)
    values = [value for _, layer in layers for value in alphas(layer)]
    low, high = max(min([1.8, *values]) * 0.95, 1.02), min(max([6.5, *values]) * 1.06, 150.0)
    x = Axis(low, high, NAMES, WIDTH - 16, "log")
    y = Axis(-0.5, len(layers) - 0.5, 30, foot)
    parts = [
        charts.rectangle(x.at(OVER_TRAINED), y.start, x.at(UNDER_TRAINED), y.end, "band")
        if banded
        else Markup(""),
        charts.frame(
            x, y, x_title="alpha: hollow base, filled other",
            y_title="layer, a star where alpha moved beyond its interval", y_ticks=(),
            x_ticks=[(v, f"{v:g}") for v in charts.spaced(charts.ALPHA_TICKS, x, 26)],
        ),
    ]  # fmt: skip
    for row, (place, layer) in enumerate(layers):
        at, (before, after) = y.at(row), alphas(layer)
        colour, shape = MARKS[layer.role]
        star = " *" if layer.alpha_moved else ""
        name = f"{shorten(layer.name, 38)}{star}"
        strong = "strong" if layer.alpha_moved else None
        href = f"#layer-{place + 1}"
        parts += [
            charts.text(NAMES - 10, at + 4, name, anchor="end", class_=strong),
            charts.line([(x.at(before), at), (x.at(after), at)], "interval"),
            charts.mark(
                x.at(before), at, shape, f"r-{colour} hollow", says=describe(layer), href=href
            ),
            charts.mark(x.at(after), at, shape, f"r-{colour}", says=describe(layer), href=href),
        ]
    label = "alpha of every layer before and after; the table of layers holds the numbers"
    return charts.svg(WIDTH, foot + 42, *parts, label=label, class_="wide")


def size_by_depth(layers: Placed) -> Markup:
    """Draw the size of ΔW of every layer in the order of depth, by role; unchanged ones at the foot."""
    sizes = [layer.delta.norm for _, layer in layers if layer.delta is not None]
    known = [max(size, SMALLEST) for size in sizes if size > 0] or [0.01]
    y = Axis(min(known) / 1.6, max(known) * 1.6, 260, 28, "log")
    found = [
        (place, layer, y.at(layer.delta.norm) if layer.delta.norm > 0 else y.start - 6)
        for place, layer in layers
        if layer.delta is not None
    ]
    return _by_depth(
        layers, [(place, layer, at, layer.change == "identical") for place, layer, at in found], y,
        title="size of ΔW over that of W", label="size of the change of every layer by depth",
    )  # fmt: skip


def overlap_by_depth(layers: Placed) -> Markup:
    """Draw how much of the leading directions is kept, in the order of depth; ticks are chance."""
    y = Axis(0, 1.04, 260, 28)
    found = [
        (place, layer, y.at(min(layer.overlap.left, layer.overlap.right)), False)
        for place, layer in layers
        if layer.overlap is not None
    ]
    chance = {
        place: y.at(max(layer.overlap.left_random, layer.overlap.right_random))
        for place, layer in layers
        if layer.overlap is not None
    }
    return _by_depth(
        layers, found, y, chance=chance,
        title="overlap of leading directions, the smaller side",
        label="overlap of the leading directions of every layer by depth",
    )  # fmt: skip


def describe(layer: LayerChange) -> str:
    """Return a layer in one line, for a pointer that rests on it."""
    before, after = alphas(layer)
    size = "" if layer.delta is None else f", ΔW {brief(layer.delta.norm)} of W"
    return (
        f"{shorten(layer.name, 80)}: alpha {number(before)} to {number(after)}{size},"
        f" {CHANGES[layer.change][1]}"
    )


def alphas(layer: LayerChange) -> tuple[float, float]:
    """Return alpha of the base and of the other model."""
    return layer.base.metrics.get("alpha", math.nan), layer.other.metrics.get("alpha", math.nan)


def brief(value: float) -> str:
    """Return a size to two digits; a dash where there is none.

    Examples
    --------
    >>> brief(0.01234), brief(0.0), brief(math.nan)
    ('0.012', '0', '–')
    """
    return f"{value:.2g}" if math.isfinite(value) else "–"


def entries_of(layers: Placed) -> list[Entry]:
    """Return the layers of the base as entries, which is what legends and axes are made from."""
    return [Entry(layer.name, ((place, layer.base),)) for place, layer in layers]


def _by_depth(
    layers: Placed,
    found: Sequence[tuple[int, LayerChange, float, bool]],
    y: Axis,
    *,
    title: str,
    label: str,
    chance: dict[int, float] | None = None,
) -> Markup:
    """Draw marks at given heights in the order of depth; the last of each says if it is hollow."""
    order = by_depth([layer.name for _, layer in layers])
    columns = {layers[place][0]: i for i, place in enumerate(order)}
    entries = entries_of([layers[place] for place in order])
    x = Axis(-0.6, len(layers) - 0.4, 62, WIDTH - 12)
    parts = [
        charts.frame(
            x, y, x_title="block" if has_blocks(entries) else "layer", y_title=title,
            x_ticks=depth_ticks(entries, x),
        )
    ]  # fmt: skip
    ticks = [f"M{pixels(x.at(columns[i]) - 4)} {pixels(at)}h8" for i, at in (chance or {}).items()]
    parts.append(tag("path", d="".join(ticks), class_="interval") if ticks else Markup(""))
    for place, layer, at, hollow in found:
        colour, shape = MARKS[layer.role]
        class_ = f"r-{colour}{' hollow' if hollow else ''}"
        parts.append(
            charts.mark(x.at(columns[place]), at, shape, class_, says=describe(layer),
                        href=f"#layer-{place + 1}")
        )  # fmt: skip
    return charts.svg(
        WIDTH, 306, *parts, label=f"{label}; the table holds the numbers", class_="wide"
    )
