"""Pictures of a run: pure functions of what is shown to an SVG string."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from spectra.records import LayerReport
from spectra.reports.history_words import watched, when
from spectra.reports.html import charts
from spectra.reports.html.blocks import by_depth
from spectra.reports.html.charts import Axis
from spectra.reports.html.heat_map import step_of
from spectra.reports.html.markup import Markup, join, number, pixels, tag
from spectra.reports.names import shorten
from spectra.trajectories import History, Trajectory
from spectra.verdicts import OVER_TRAINED, UNDER_TRAINED

WIDTH = 920.0
MOST_ROWS = 150
MOST_COLUMNS = 60
NAMES = 250.0  # pixels of the names beside the heat map

Series = Sequence[tuple[float, float]]


def alpha_over_run(history: History, *, banded: bool) -> Markup:
    """Draw typical alpha by step, the spread of the layers, changes, signs; if `banded` 2 to 6."""
    height = 350.0
    x = _step_axis(history, 50, WIDTH - 16)
    low, high = _quantiles(history, 0.1), _quantiles(history, 0.9)
    points = history.checkpoints
    values = [v for p in points for v in (p.alpha, p.alpha_low, p.alpha_high)]
    y = _alpha_axis([*values, *low, *high], 296, 40)
    line = [(x.at(p.step), y.at(p.alpha)) for p in points if math.isfinite(p.alpha)]
    bars = [
        f"M{pixels(x.at(p.step))} {pixels(y.at(p.alpha_high))}V{pixels(y.at(p.alpha_low))}"
        for p in points
        if math.isfinite(p.alpha_low) and math.isfinite(p.alpha_high)
    ]
    parts = [
        _band(x, y) if banded else Markup(""),
        _area(x, y, history.steps, low, high),
        charts.frame(
            x, y, x_title=history.unit, y_title="alpha, typical over the layers",
            x_ticks=_step_ticks(history, x), y_ticks=charts.spaced(charts.ALPHA_TICKS, y, 15),
        ),
        _events(history, x, y),
        tag("path", d="".join(bars), class_="interval") if bars else Markup(""),
        charts.line(line, "course"),
        *(
            charts.mark(x.at(p.step), y.at(p.alpha), "circle", "r-blue",
                        says=f"{when(history, p.step)}: alpha {number(p.alpha)}"
                             f" ({number(p.alpha_low)} to {number(p.alpha_high)})",
                        href=f"#checkpoint-{i + 1}")
            for i, p in enumerate(points) if math.isfinite(p.alpha)
        ),
    ]  # fmt: skip
    return charts.svg(
        WIDTH, height, *parts, class_="wide",
        label=f"typical alpha by {history.unit}; the table of checkpoints holds the numbers",
    )  # fmt: skip


def small(history: History, found: Trajectory, title: str) -> Markup:
    """Draw one trajectory in a small picture."""
    known = [value for value in found.typical if math.isfinite(value)]
    return _small(history, found, title, Axis(*_widened(known), 150, 30))


def small_alpha(history: History, found: Trajectory, title: str, *, banded: bool) -> Markup:
    """Draw a trajectory of alpha in a small picture, if `banded` beside the band from 2 to 6."""
    y = _alpha_axis(found.typical, 150, 30)
    ticks = charts.spaced(charts.ALPHA_TICKS, y, 15)
    return _small(history, found, title, y, ticks=ticks, banded=banded)


def _small(
    history: History,
    found: Trajectory,
    title: str,
    y: Axis,
    *,
    ticks: Sequence[float] | None = None,
    banded: bool = False,
) -> Markup:
    width, height = 300.0, 200.0
    x = _step_axis(history, 44, width - 14)
    steps = zip(history.steps, found.typical, strict=True)
    line = [(x.at(step), y.at(value)) for step, value in steps if math.isfinite(value)]
    return charts.svg(
        width, height,
        _band(x, y) if banded else Markup(""),
        charts.frame(x, y, x_title=history.unit, y_title=title,
                     x_ticks=_step_ticks(history, x), y_ticks=ticks),
        charts.line(line, "course"),
        *(charts.mark(px, py, "circle", "r-blue") for px, py in line),
        label=f"{title} by {history.unit}", class_="esd",
    )  # fmt: skip


def _band(x: Axis, y: Axis) -> Markup:
    return charts.rectangle(x.start, y.at(OVER_TRAINED), x.end, y.at(UNDER_TRAINED), "band")


def heat_map(history: History, layers: Sequence[str], columns: Sequence[int]) -> Markup:
    """Draw alpha of layers (rows) at checkpoints (columns) in colours.

    Parameters
    ----------
    history : History
        With its reports.
    layers : sequence of str
        Names, in the order of depth.
    columns : sequence of int
        Places of the checkpoints.
    """
    row, top = (20.0 if len(layers) <= 60 else 15.0), 8.0
    foot = top + row * len(layers)
    width = (WIDTH - NAMES - 10) / len(columns)
    found = {place: {x.name: x for x in history.reports[place].layers} for place in columns}
    parts: list[Markup] = [
        charts.text(NAMES - 8, top + row * (i + 0.5) + 4, shorten(name, 34), anchor="end")
        for i, name in enumerate(layers)
    ]
    for column, place in enumerate(columns):
        step = history.checkpoints[place].step
        for i, name in enumerate(layers):
            layer = found[place].get(name)
            says = f"{shorten(name, 80)} at {when(history, step)}"
            at = (NAMES + width * column, top + row * i)
            parts.append(_cell(layer, says, *at, width, row))
    x = Axis(-0.5, len(columns) - 0.5, NAMES, WIDTH - 10)
    longest = max(len(f"{history.checkpoints[place].step:,}") for place in columns)
    kept = charts.spaced(range(len(columns)), x, 12 + 7 * longest)
    parts += [
        charts.text(
            x.at(i), foot + 16, f"{history.checkpoints[columns[int(i)]].step:,}", anchor="middle"
        )
        for i in kept
    ]
    parts.append(
        charts.text((x.start + x.end) / 2, foot + 34, history.unit, anchor="middle", class_="title")
    )
    return charts.svg(
        WIDTH, foot + 42, *parts, class_="wide heat",
        label=f"alpha of every layer at every {history.unit}; the block of data holds the numbers",
    )  # fmt: skip


def rows_of(history: History) -> list[str]:
    """Return the layers of the heat map in the order of depth: at most 150, evenly, that have an alpha."""
    names = [
        layer.name
        for layer in history.reports[0].layers
        if any(
            math.isfinite(_alpha(other))
            for report in history.reports
            for other in report.layers
            if other.name == layer.name
        )
    ] if len(history.reports[0].layers) <= MOST_ROWS else list(history.layers)  # fmt: skip
    ordered = [names[place] for place in by_depth(names)]
    return [ordered[i] for i in evenly(len(ordered), MOST_ROWS)]


def evenly(n: int, most: int) -> list[int]:
    """Return at most `most` of the places below `n`, evenly, with the first and the last.

    Examples
    --------
    >>> evenly(5, 3), evenly(2, 9)
    ([0, 2, 4], [0, 1])
    """
    if n <= most:
        return list(range(n))
    return sorted({round(i * (n - 1) / (most - 1)) for i in range(most)})


def _cell(
    layer: LayerReport | None, says: str, x: float, y: float, width: float, height: float
) -> Markup:
    alpha = _alpha(layer)
    size = {"x": x + 0.5, "y": y + 0.5, "width": max(width - 1, 1), "height": height - 1}
    if not math.isfinite(alpha):
        return tag("rect", tag("title", f"{says}: no alpha"), class_="h-none", **size)
    box = tag(
        "rect", tag("title", f"{says}: alpha {number(alpha)}"), class_=f"h{step_of(alpha)}", **size
    )
    if width < 30 or height < 18:
        return box
    words = charts.text(
        x + width / 2,
        y + height / 2 + 4,
        number(alpha, 1),
        anchor="middle",
        class_=f"t{step_of(alpha)}",
    )
    return join([box, words])


def _alpha(layer: LayerReport | None) -> float:
    return math.nan if layer is None else layer.metrics.get("alpha", math.nan)


def _quantiles(history: History, share: float) -> list[float]:
    """Return a quantile of alpha over the layers compared, one a checkpoint, NaN where there are none."""
    if len(history.reports) != len(history.checkpoints):
        return [math.nan] * len(history.checkpoints)
    compared = set(history.layers)
    found = []
    for report in history.reports:
        alphas = [_alpha(layer) for layer in report.layers if layer.name in compared]
        alphas = [alpha for alpha in alphas if math.isfinite(alpha)]
        found.append(float(np.quantile(alphas, share)) if alphas else math.nan)
    return found


def _area(
    x: Axis, y: Axis, steps: Sequence[int], low: Sequence[float], high: Sequence[float]
) -> Markup:
    """Fill what lies between two series, between neighbours that both have."""
    known = [math.isfinite(a) and math.isfinite(b) for a, b in zip(low, high, strict=True)]
    pieces = [
        f"M{pixels(x.at(steps[i]))} {pixels(y.at(low[i]))}L{pixels(x.at(steps[j]))} {pixels(y.at(low[j]))}"
        f"V{pixels(y.at(high[j]))}L{pixels(x.at(steps[i]))} {pixels(y.at(high[i]))}z"
        for i, j in pairwise(range(len(steps)))
        if known[i] and known[j]
    ]
    return tag("path", d="".join(pieces), class_="spread-area") if pieces else Markup("")


def _events(history: History, x: Axis, y: Axis) -> Markup:
    """Draw the steps at which a rate changes or a sign starts, each with its word where there is room."""
    words: dict[int, list[str]] = {}
    for change in history.change_points:
        if change.found:
            words.setdefault(change.step, []).append(f"change: {watched(change)}")
    for sign in history.signs:
        words.setdefault(sign.step, []).append("sign")
    parts, free = [], -math.inf
    for step, said in sorted(words.items()):
        at = x.at(step)
        kind = "erg" if "sign" in said else "xmin"
        parts.append(charts.line([(at, y.start), (at, y.end - 6)], kind))
        text = ", ".join(dict.fromkeys(said))
        room = 6.8 * len(text)
        start = min(at - 3, x.end - room)
        if start > free:
            parts.append(charts.text(start, y.end - 9, text, class_=f"halo {kind}-name"))
            free = start + room + 8
    return join(parts)


def _step_axis(history: History, start: float, end: float) -> Axis:
    first, last = history.steps[0], history.steps[-1]
    room = 0.02 * (last - first) or 1.0
    return Axis(first - room, last + room, start, end)


def _step_ticks(history: History, x: Axis) -> list[tuple[float, str]]:
    """Return whole steps within the run."""
    first, last = history.steps[0], history.steps[-1]
    wanted = 16 + 7 * len(f"{last:,}")
    steps: Sequence[float] = history.steps
    if len(steps) * wanted > x.end - x.start:
        steps = [v for v in charts.ticks(x, wanted) if v == int(v) and first <= v <= last]
    return [(v, f"{int(v):,}") for v in charts.spaced(steps, x, wanted)]


def _alpha_axis(values: Sequence[float], start: float, end: float) -> Axis:
    known = [value for value in values if math.isfinite(value)] or [2.0, 6.0]
    low, high = min([1.8, *known]), max([6.5, *known])
    return Axis(max(low * 0.95, 1.05), min(high * 1.08, 100.0), start, end, "log")


def _widened(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.1 * (high - low) or max(abs(high) * 0.05, 1e-6)
    return low - room, high + room
