"""Pictures of a whole model: pure functions of what is shown to an SVG string."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from spectra.naming import block_of
from spectra.records import Status, Verdict
from spectra.reports.concerns import badness
from spectra.reports.html import charts
from spectra.reports.html.blocks import blocks_of, by_depth, labels_of
from spectra.reports.html.charts import Axis
from spectra.reports.html.groups import Entry, has_band
from spectra.reports.html.marks import MARKS
from spectra.reports.html.markup import Markup, join, number, pixels, tag
from spectra.reports.html.texts import VERDICTS
from spectra.reports.names import shorten
from spectra.verdicts import OVER_TRAINED, POOR_FIT, UNDER_TRAINED

WIDTH = 920.0
CROWDED = 100  # with more layers than this, intervals are drawn thinner
NAMED_TICKS = 8  # so few layers are named on the axis
LETTER = 6.6  # pixels of a letter, nearly
LABELLED = 5  # so many outliers have their number beside them


def alpha_by_depth(entries: Sequence[Entry], mean: float) -> Markup:
    """Draw alpha in the order of depth with its intervals, by role, and the band from 2 to 6.

    Parameters
    ----------
    entries : sequence of Entry
        In checkpoint order, which is that of depth but for blocks sorted as words.
    mean : float
        Of the averaged layers; NaN draws none.
    """
    height, left, bottom = 350.0, 44.0, 300.0
    entries = [entries[place] for place in by_depth([entry.name for entry in entries])]
    y = _alpha_axis(entries, bottom, 28)
    x = Axis(-0.6, len(entries) - 0.4, left, WIDTH - 12)
    parts = [
        _band(x, y) if has_band(entries) else Markup(""),
        charts.frame(
            x,
            y,
            x_title="block" if has_blocks(entries) else "layer",
            y_title="alpha, with its 95 % interval",
            x_ticks=depth_ticks(entries, x),
            y_ticks=charts.spaced(charts.ALPHA_TICKS, y, 15),
        ),
    ]
    if y.holds(mean):
        parts.append(charts.line([(left, y.at(mean)), (x.end, y.at(mean))], "mean"))
    parts.append(_intervals(entries, x, y))
    for i, entry in enumerate(entries):
        if math.isfinite(entry.value("alpha")):
            parts.append(_entry_mark(entry, x.at(i), y.at(entry.value("alpha"))))
        else:
            parts.append(_failed_mark(entry, x.at(i), bottom - 6))
    parts.append(_numbers_of_outliers(entries, x, y))
    return charts.svg(
        WIDTH, height, *parts, label="alpha of every layer by depth; the table holds the numbers",
        class_="wide",
    )  # fmt: skip


def alpha_against_ks(entries: Sequence[Entry]) -> Markup:
    """Draw alpha against the distance of the tail from its power law."""
    width, height = 450.0, 340.0
    fitted = [e for e in entries if _finite(e, "alpha", "ks")]
    most = max([0.2, *(e.value("ks") for e in fitted)])
    x = Axis(0, min(most * 1.05, 1.0), 44, width - 14)
    y = _alpha_axis(entries, 288, 28, least_top=17)
    parts = [
        _band(x, y),
        charts.rectangle(x.at(POOR_FIT), y.end, x.end, y.start, "doubt"),
        charts.rectangle(x.at(0.11), y.at(8), x.at(0.13), y.at(15), "noise"),
        charts.frame(
            x, y, x_title="KS: distance of the tail from a power law", y_title="alpha",
            y_ticks=charts.spaced(charts.ALPHA_TICKS, y, 15),
        ),
        *(_entry_mark(e, x.at(e.value("ks")), y.at(e.value("alpha"))) for e in fitted),
        charts.text(x.at(POOR_FIT) + 5, y.start - 6, "poor fit: not judged", class_="halo"),
        charts.text(x.at(0.13) + 5, y.at(11), "random weights", class_="halo"),
    ]  # fmt: skip
    return charts.svg(width, height, *parts, label="alpha of every layer against its KS distance")


def erg_picture(entries: Sequence[Entry]) -> Markup:
    """Draw where the power law begins against where the ERG condition cuts, by alpha.

    The band is where noise of the layers' own shapes lies, if nulls were drawn (two standard
    deviations), else 1.2 to 3.1, what noise has over all shapes.
    """
    width, height = 450.0, 340.0
    fitted = [e for e in entries if _finite(e, "alpha", "delta_lambda_min")]
    gaps = [e.value("delta_lambda_min") for e in fitted]
    low, high = noise_band(entries)
    x = Axis(*_alpha_range(entries), 50, width - 14, "log")
    y = Axis(min([-1.0, *gaps]) * 1.2, max([high, *gaps]) * 1.6, 288, 28, "asinh")
    ideal = (x.at(2), y.at(0))
    parts = [
        charts.rectangle(x.start, y.at(low), x.end, y.at(high), "noise"),
        charts.frame(
            x, y, x_title="alpha", y_title="Δλmin: start of the tail above the ERG cut",
            x_ticks=[(v, f"{v:g}") for v in charts.spaced(charts.ALPHA_TICKS, x, 26)],
        ),
        charts.line([(x.start, y.at(0)), (x.end, y.at(0))], "zero"),
        charts.line([(x.at(2), y.start), (x.at(2), y.end)], "zero"),
        *(
            _entry_mark(e, x.at(e.value("alpha")), y.at(gap), ring=e.is_judged and abs(e.value("erg_z")) < 2)
            for e, gap in zip(fitted, gaps, strict=True)
        ),
        tag("circle", cx=ideal[0], cy=ideal[1], r=9, class_="ideal"),
        charts.text(ideal[0] + 12, ideal[1] + 26, "ideal of SETOL", class_="halo"),
        charts.text(x.start + 5, (y.at(low) + y.at(high)) / 2 + 4, "random weights", class_="halo"),
    ]  # fmt: skip
    label = "distance between the power law's start and the ERG cut, against alpha, of every layer"
    return charts.svg(width, height, *parts, label=label)


def noise_band(entries: Sequence[Entry]) -> tuple[float, float]:
    """Return between what values of delta_lambda_min noise lies: of these shapes, or of any."""
    ends = [
        (mean - 2 * sd, mean + 2 * sd)
        for entry in entries
        for mean, sd in [
            (entry.value("delta_lambda_min_null"), entry.value("delta_lambda_min_null_sd"))
        ]
        if math.isfinite(mean) and math.isfinite(sd)
    ]
    if not ends:
        return 1.2, 3.1
    return min(low for low, _ in ends), max(high for _, high in ends)


def verdict_bar(counts: Mapping[Verdict, int]) -> Markup:
    """Draw how many layers have which verdict, as parts of one bar."""
    total, parts, x = sum(counts.values()), [], 0.0
    for verdict, n in counts.items():
        width = WIDTH * n / total if total else 0.0
        if not n:
            continue
        words = f"{n} {VERDICTS[verdict][1]}"
        box = tag(
            "rect", tag("title", words), x=x + 1, y=0, width=max(width - 2, 1), height=30, rx=3
        )
        inside = charts.text(x + width / 2, 20, str(n), anchor="middle") if width > 20 else None
        parts.append(tag("g", box, inside, class_=f"bar v-{verdict}"))
        x += width
    says = ", ".join(f"{n} {VERDICTS[verdict][1]}" for verdict, n in counts.items() if n)
    return charts.svg(
        WIDTH,
        30,
        *parts,
        label=f"layers by verdict: {says}",
        class_="verdicts",
        preserveAspectRatio="none",
    )


def describe(entry: Entry) -> str:
    """Return a layer, or a stack of experts, in one line, for a pointer that rests on it."""
    name = shorten(entry.name, 80)
    if len(entry.members) > 1:
        low, high = entry.interval()
        return (
            f"{name}: {len(entry.members)} experts, median alpha {number(entry.value('alpha'))},"
            f" most from {number(low)} to {number(high)}"
        )
    head = f"#{entry.position + 1} {name}"
    if entry.layer.status is not Status.OK:
        return f"{head}: no alpha ({entry.layer.reason})"
    alpha, low, high = entry.value("alpha"), *entry.interval()
    interval = f" ({number(low)} to {number(high)})" if math.isfinite(low) else ""
    return f"{head}: alpha {number(alpha)}{interval}, {VERDICTS[entry.layer.verdict][1]}"


def _finite(entry: Entry, *metrics: str) -> bool:
    return all(math.isfinite(entry.value(metric)) for metric in metrics)


def _alpha_range(entries: Sequence[Entry], least_top: float = 8.0) -> tuple[float, float]:
    """Return an axis' ends that hold every alpha; intervals may reach further and are cut there."""
    values = [e.value("alpha") for e in entries if _finite(e, "alpha")]
    lows = [low for low, _ in (e.interval() for e in entries) if math.isfinite(low)]
    lowest = min([1.6, *(v * 0.93 for v in values), *lows])
    return max(lowest, 1.05), min(max([least_top, *(v * 1.15 for v in values)]), 120.0)


def _alpha_axis(
    entries: Sequence[Entry], start: float, end: float, *, least_top: float = 8.0
) -> Axis:
    return Axis(*_alpha_range(entries, least_top), start, end, "log")


def _band(x: Axis, y: Axis) -> Markup:
    return charts.rectangle(x.start, y.at(OVER_TRAINED), x.end, y.at(UNDER_TRAINED), "band")


def _entry_mark(entry: Entry, x: float, y: float, *, ring: bool = False) -> Markup:
    colour, shape = MARKS[entry.role]
    hollow = "" if entry.is_judged else " hollow"
    drawn = charts.mark(
        x,
        y,
        shape,
        f"r-{colour}{hollow}",
        says=describe(entry),
        href=entry.href,
    )
    around = tag("circle", cx=x, cy=y, r=8, class_="ring") if ring else None
    return join([around, drawn])


def _failed_mark(entry: Entry, x: float, y: float) -> Markup:
    return charts.mark(x, y, "cross", "r-grey stroke", says=describe(entry), href=entry.href)


def _intervals(entries: Sequence[Entry], x: Axis, y: Axis) -> Markup:
    """Draw the bars of all layers, those of judged ones darker."""
    dense = "dense" if len(entries) > CROWDED else ""
    paths: dict[bool, list[str]] = {True: [], False: []}
    for i, entry in enumerate(entries):
        low, high = entry.interval()
        if math.isfinite(low) and math.isfinite(high):
            top, foot = y.at(high), y.at(low)
            paths[entry.is_judged].append(f"M{pixels(x.at(i))} {pixels(top)}V{pixels(foot)}")
    return join(
        tag("path", d="".join(path), class_=f"interval {'' if judged else 'faint'} {dense}".strip())
        for judged, path in paths.items()
        if path
    )


def depth_ticks(entries: Sequence[Entry], x: Axis) -> list[tuple[float, str]]:
    """Return ticks of an axis of depth: the names of few layers, else blocks, else places."""
    if len(entries) <= NAMED_TICKS:
        room = int((x.end - x.start) / max(len(entries), 1) / 7)
        return [(i, shorten(entry.name, max(room, 6))) for i, entry in enumerate(entries)]
    if has_blocks(entries):
        blocks = blocks_of([entry.name for entry in entries])
        labels = dict(zip(blocks, labels_of(blocks), strict=True))
        first: dict[str, int] = {}
        for i, entry in enumerate(entries):
            first.setdefault(block_of(entry.name), i)
        kept = charts.spaced([first[block] for block in blocks], x, 8 + LETTER * _longest(labels))
        named = [(i, labels[block_of(entries[int(i)].name)]) for i in kept]
        return [(i, label) for i, label in named if x.at(i) + LETTER * len(label) / 2 < x.end + 12]
    counted = Axis(1, len(entries), x.start, x.end)
    indices = [v - 1 for v in (1.0, *charts.ticks(counted, 60)) if v == int(v) and v >= 1]
    kept = charts.spaced(indices, x, 30)
    return [(i, str(entries[int(i)].position + 1)) for i in kept]


def has_blocks(entries: Sequence[Entry]) -> bool:
    """Tell whether depth is counted in blocks: if there are several, and more layers than names fit."""
    blocks = {block_of(entry.name) for entry in entries} - {""}
    return len(blocks) > 2 and len(entries) > NAMED_TICKS


def _longest(labels: Mapping[str, str]) -> int:
    return max(map(len, labels.values()))


def _numbers_of_outliers(entries: Sequence[Entry], x: Axis, y: Axis) -> Markup:
    """Write the number of the layers that are surely outside the band beside them."""
    outside = [
        (badness(e.layer), i, e)
        for i, e in enumerate(entries)
        if e.layer.verdict in (Verdict.OVER_TRAINED, Verdict.UNDER_TRAINED)
        and e.layer.averaged
        and len(e.members) == 1
    ]
    placed: list[tuple[float, float]] = []
    parts = []
    for _, i, entry in sorted(outside, key=lambda found: found[0], reverse=True)[:LABELLED]:
        at = (x.at(i), y.at(entry.value("alpha")))
        if all(abs(at[0] - px) > 34 or abs(at[1] - py) > 14 for px, py in placed):
            placed.append(at)
            end = at[0] > x.end - 40
            parts.append(
                charts.text(
                    at[0] + (-8 if end else 8), at[1] + 4, f"#{entry.position + 1}",
                    anchor="end" if end else None, class_="halo strong",
                )
            )  # fmt: skip
    return join(parts)


def count_verdicts(verdicts: Sequence[Verdict]) -> dict[Verdict, int]:
    """Count verdicts, in the order they are listed."""
    found = Counter(verdicts)
    return {verdict: found[verdict] for verdict in VERDICTS}
