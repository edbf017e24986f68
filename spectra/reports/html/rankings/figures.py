"""Pictures of a ranking: pure functions of what is shown to an SVG string."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle

from spectra.ranking import Mark, RankedModel, Ranking
from spectra.records import LayerReport
from spectra.reports.html import charts
from spectra.reports.html.charts import Axis
from spectra.reports.html.groups import Entry
from spectra.reports.html.labels import Point, place_labels
from spectra.reports.html.marks import MARKS, line_swatch, swatch
from spectra.reports.html.markup import Markup, number, pixels, tag
from spectra.reports.names import shorten, shorten_middle, told_apart
from spectra.reports.ranking_cells import interval, places
from spectra.tails import WITH_BAND
from spectra.verdicts import OVER_TRAINED

WIDTH = 920.0
ROW = 30.0
NAMES = 325.0  # pixels of the names beside the order
MOST_DRAWN = 60  # models; the table has all
STYLES = (("blue", "circle"), ("orange", "square"), ("green", "up"), ("pink", "diamond"),
          ("brown", "hexagon"), ("sky", "down"), ("red", "star"))  # fmt: skip
"""Colour and shape of groups, told apart by either; after seven they begin again."""
ALONE = ("grey", "circle")


def order_picture(ranking: Ranking) -> Markup:
    """Draw the models, best on top, each with its value and interval."""
    models = ranking.models[:MOST_DRAWN]
    styles = _shared_groups(ranking)
    foot = 30 + ROW * len(models)
    x = Axis(*_span(models), NAMES, WIDTH - 16)
    y = Axis(-0.5, len(models) - 0.5, 30, foot)
    parts = []
    if _has_floor(ranking) and x.low < OVER_TRAINED:
        end = x.at(OVER_TRAINED)
        parts.append(charts.rectangle(x.start, y.start, end, y.end, "doubt"))
    grid = "".join(f"M{pixels(x.at(v))} {pixels(y.start)}V{pixels(foot)}" for v in charts.ticks(x))
    parts += [
        tag("path", d=grid, class_="grid"),
        charts.frame(
            x, y, x_title=f"{ranking.metric}, with its 95 % interval; lower is better",
            y_title="place, with its interval, and model", y_ticks=(),
        ),
    ]  # fmt: skip
    names = told_apart([model.name for model in models], 34)
    for row, (model, name) in enumerate(zip(models, names, strict=True)):
        at = y.at(row)
        if math.isfinite(model.value_low) and math.isfinite(model.value_high):
            ends = [(x.at(model.value_low), at), (x.at(model.value_high), at)]
            parts.append(charts.line(ends, "interval"))
        colour, shape = styles.get(model.group, ALONE if styles else STYLES[0])
        hollow = " hollow" if Mark.OVER_TRAINED in model.warnings else ""
        parts += [
            charts.text(0, at + 4, places(model)),
            charts.text(64, at + 4, name, class_="title"),
            charts.mark(x.at(model.value), at, shape, f"r-{colour}{hollow}", says=describe(model),
                        href=f"#model-{row + 1}"),
        ]  # fmt: skip
    label = f"models in the order of {ranking.metric}, best first; the table holds the numbers"
    return charts.svg(WIDTH, foot + 40, *parts, label=label, class_="wide")


def order_legend(ranking: Ranking) -> list[tuple[Markup, str]]:
    """Return what marks of `order_picture` stand for."""
    sizes = Counter(model.group for model in ranking.models)
    styles = _shared_groups(ranking)
    items = [
        (swatch(shape, f"r-{colour}"), f"group {group}: {sizes[group]} of the same layer shapes")
        for group, (colour, shape) in styles.items()
    ]
    if styles and len(styles) < len(sizes):
        items.append((swatch(ALONE[1], f"r-{ALONE[0]}"), "alone with its layer shapes"))
    if any(Mark.OVER_TRAINED in model.warnings for model in ranking.models):
        items.append(
            (swatch("circle", "r-grey hollow"), "hollow: over-trained, comes after others")
        )
    if _has_floor(ranking) and _span(ranking.models[:MOST_DRAWN])[0] < OVER_TRAINED:
        items.append((line_swatch("doubt"), "below 2 lower is not better"))
    return items


def scores_picture(ranking: Ranking, label: str) -> Markup:
    """Draw the metric of every model against its known score, groups told apart.

    Parameters
    ----------
    ranking : Ranking
        With scores.
    label : str
        What the scores are.
    """
    width, height = 450.0, 350.0
    if ranking.scores is None:
        return Markup("")
    values, groups = ranking.scores.values, ranking.scores.groups
    styles = styles_of([groups[model.name] for model in ranking.models])
    x = Axis(*_span(ranking.models), 56, width - 14)
    y = Axis(*_widened([values[model.name] for model in ranking.models]), height - 52, 28)
    points = []
    drawn = []
    names = told_apart([model.name for model in ranking.models], 20)
    for model, name in zip(ranking.models, names, strict=True):
        at = (x.at(model.value), y.at(values[model.name]))
        colour, shape = styles.get(groups[model.name], STYLES[0])
        if math.isfinite(model.value_low) and math.isfinite(model.value_high):
            ends = [(x.at(model.value_low), at[1]), (x.at(model.value_high), at[1])]
            drawn.append(charts.line(ends, "interval faint"))
        says = f"{describe(model)}; {label} {values[model.name]:g}"
        drawn.append(charts.mark(*at, shape, f"r-{colour}", says=says))
        points.append(Point(*at, name))
    better = "higher" if ranking.scores.higher_is_better else "lower"
    frame = charts.frame(
        x, y, x_title=f"{ranking.metric}; lower is better",
        y_title=f"{shorten(label, 40)}; {better} is better",
    )  # fmt: skip
    labels = place_labels(points, (x.start, y.end, x.end, y.start))
    return charts.svg(
        width, height, frame, *drawn, labels,
        label=f"{ranking.metric} of every model against {label}; the tables hold the numbers",
    )  # fmt: skip


def layers_picture(pairs: Sequence[tuple[Entry, LayerReport]], first: str, second: str) -> Markup:
    """Draw alpha of every layer in one model against the same layer in another.

    Parameters
    ----------
    pairs : sequence of (Entry, LayerReport)
        A layer of the first model, and the same of the second; both have an alpha.
    first, second : str
        What the models are called.
    """
    width, height = 450.0, 350.0
    alphas = [(entry.layer.alpha, other.alpha) for entry, other in pairs]
    values = [value for pair in alphas for value in pair]
    low, high = max(min(values) * 0.93, 1.02), min(max([4.0, *values]) * 1.08, 200.0)
    x, y = Axis(low, high, 50, width - 14, "log"), Axis(low, high, height - 52, 28, "log")
    parts = [
        charts.frame(
            x, y, x_title=f"alpha in {shorten_middle(second, 36)}",
            y_title=f"alpha in {shorten_middle(first, 36)}",
            x_ticks=[(v, f"{v:g}") for v in charts.spaced(charts.ALPHA_TICKS, x, 26)],
            y_ticks=charts.spaced(charts.ALPHA_TICKS, y, 15),
        ),
        charts.line([(x.start, y.start), (x.end, y.end)], "mean"),
    ]  # fmt: skip
    for (entry, other), (here, there) in zip(pairs, alphas, strict=True):
        colour, shape = MARKS[entry.role]
        judged = entry.is_judged and Entry(other.name, ((0, other),)).is_judged
        says = f"{shorten(entry.name, 80)}: {number(here)} against {number(there)}"
        parts.append(
            charts.mark(x.at(there), y.at(here), shape, f"r-{colour}{'' if judged else ' hollow'}",
                        says=says)
        )  # fmt: skip
    parts.append(
        charts.text(x.end - 6, y.start - 8, "lower in the first", anchor="end", class_="halo")
    )
    return charts.svg(
        width, height, *parts, label=f"alpha of every layer in {first} against {second}"
    )


def describe(model: RankedModel) -> str:
    """Return a model in one line, for a pointer that rests on it."""
    name = shorten_middle(model.name, 80)
    return f"{model.rank}: {name}, {number(model.value)} ({interval(model)})"


def shade(p: float) -> str:
    """Return the class of a cell that holds a probability: the surer, the darker, of two colours.

    Examples
    --------
    >>> shade(0.97), shade(0.5), shade(0.03), shade(math.nan)
    ('h2', '', 'h0', '')
    """
    for least, high, low in ((0.95, "h2", "h0"), (0.8, "h3", "h1"), (0.65, "h4", "h5")):
        if p >= least:
            return high
        if p <= 1 - least:
            return low
    return ""


def shade_legend() -> list[tuple[Markup, str]]:
    """Return what the colours of the probabilities stand for."""
    words = {
        "h2": ".95 and more: better", "h3": "from .80", "h4": "from .65",
        "h5": "to .35", "h1": "to .20", "h0": ".05 and less: worse",
    }  # fmt: skip
    box = {"width": 16, "height": 16}
    return [
        (tag("svg", tag("rect", class_=step, **box), viewBox="0 0 16 16", class_="swatch",
             aria_hidden="true"), text)
        for step, text in words.items()
    ]  # fmt: skip


def styles_of(groups: Sequence[str]) -> Mapping[str, tuple[str, str]]:
    """Return colour and shape of every group; none where groups tell nothing apart.

    Examples
    --------
    >>> styles_of(["A", "B", "A"])["B"], styles_of(["A", "B", "C"]), styles_of(["A", "A"])
    (('orange', 'square'), {}, {})
    """
    names = list(dict.fromkeys(groups))
    if len(names) in (1, len(groups)):
        return {}
    return {name: STYLES[i % len(STYLES)] for i, name in enumerate(names)}


def _shared_groups(ranking: Ranking) -> Mapping[str, tuple[str, str]]:
    """Return the style of every group of several models; none where all are of one group."""
    sizes = Counter(model.group for model in ranking.models)
    shared = [group for group, size in sizes.items() if size > 1]
    return dict(zip(shared, cycle(STYLES), strict=False)) if len(sizes) > 1 else {}


def _has_floor(ranking: Ranking) -> bool:
    """Tell whether there is an alpha below which lower is not better: not for all estimators."""
    return ranking.metric == "alpha" and ranking.options.get("estimator") in WITH_BAND


def _span(models: Sequence[RankedModel]) -> tuple[float, float]:
    """Return the ends of an axis for values; intervals that reach far beyond are cut there."""
    values = [model.value for model in models]
    low, high = _widened(values)
    room = 2 * (max(values) - min(values) or high - low)
    lows = [max(m.value_low, low - room) for m in models if math.isfinite(m.value_low)]
    highs = [min(m.value_high, high + room) for m in models if math.isfinite(m.value_high)]
    return _widened([*values, *lows, *highs])


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and the largest value with a tenth of room on either side."""
    low, high = min(values), max(values)
    room = max(high - low, 0.02 * abs(high), 1e-9)
    return low - 0.1 * room, high + 0.1 * room
