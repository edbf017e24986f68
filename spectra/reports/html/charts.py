"""Small parts of charts: axes with ticks, marks, lines and bands, as SVG strings."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from spectra.reports.html.markup import Attribute, Markup, join, pixels, tag

Scaling: TypeAlias = Literal["linear", "log", "asinh"]
Points: TypeAlias = Sequence[tuple[float, float]]

ALPHA_TICKS = (1.2, 1.5, 2, 3, 4, 6, 8, 10, 15, 20, 30, 50, 100)
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SHAPES: Mapping[str, str] = MappingProxyType(
    {
        "circle": "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
        "square": "m-3.6-3.6h7.2v7.2h-7.2z",
        "up": "m0-5l4.7 8.4h-9.4z",
        "down": "m0 5l4.7-8.4h-9.4z",
        "diamond": "m0-5.2l4.6 5.2-4.6 5.2-4.6-5.2z",
        "plus": "m-1.6-5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z",
        "star": "m0-5.6l1.4 3.8h4l-3.1 2.5 1.1 4-3.4-2.3-3.4 2.3 1.1-4-3.1-2.5h4z",
        "hexagon": "m-4.8 0l2.4-4.2h4.8l2.4 4.2-2.4 4.2h-4.8z",
        "cross": "m-3.5-3.5l7 7m0-7l-7 7",
    }
)
"""Outlines of marks, drawn from their centre."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values from `low` to `high` to pixels from `start` to `end`.

    On an ``asinh`` axis values beyond `bend` are spaced as on a logarithmic one, of either sign.
    """

    low: float
    high: float
    start: float
    end: float
    scaling: Scaling = "linear"
    bend: float = 1.0

    def at(self, value: float) -> float:
        """Return where a value lies, one beyond an end at that end."""
        low, high = self._bent(self.low), self._bent(self.high)
        share = (self._bent(min(max(value, self.low), self.high)) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Tell whether a value lies on the axis."""
        return self.low <= value <= self.high

    def _bent(self, value: float) -> float:
        if self.scaling == "log":
            return math.log(value)
        return math.asinh(value / self.bend) if self.scaling == "asinh" else value


def ticks(axis: Axis, gap: float = 44) -> list[float]:
    """Return round values on an axis, at least `gap` pixels apart.

    Examples
    --------
    >>> ticks(Axis(0, 0.3, 0, 200))
    [0.0, 0.1, 0.2, 0.3]
    >>> ticks(Axis(0.02, 300, 0, 300, "log"))
    [0.1, 1.0, 10.0, 100.0]
    """
    if axis.scaling == "log":
        return _log_ticks(axis, gap)
    if axis.scaling == "asinh":
        ladder = [m * 10.0**e for e in range(-1, 9) for m in (1, 3) if m * 10.0**e >= axis.bend]
        return spaced([0.0, *ladder, *(-v for v in ladder)], axis, gap)
    most = max(1, int(abs(axis.end - axis.start) // gap))
    rough = (axis.high - axis.low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(axis.low / step - 1e-9)
    last = math.floor(axis.high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(axis: Axis, gap: float) -> list[float]:
    first = math.ceil(math.log10(axis.low) - 1e-9)
    last = math.floor(math.log10(axis.high) + 1e-9)
    if last - first < 1:  # hardly a decade: the steps within it
        steps = [m * 10.0**e for e in range(first - 1, last + 1) for m in (1, 2, 5)]
        return spaced(steps, axis, gap)
    room = abs(axis.at(10.0**last) - axis.at(10.0**first)) / (last - first)
    step = max(1, math.ceil(gap / room))
    return [10.0**e for e in range(first, last + 1) if e % step == 0]


def spaced(values: Iterable[float], axis: Axis, gap: float) -> list[float]:
    """Return those values on the axis that keep `gap` pixels from all those before them, ascending."""
    kept: list[float] = []
    for value in values:
        clear = all(abs(axis.at(value) - axis.at(other)) >= gap for other in kept)
        if axis.holds(value) and clear:
            kept.append(value)
    return sorted(kept)


def tick_text(value: float) -> str:
    """Return a tick's label.

    Examples
    --------
    >>> tick_text(0.05), tick_text(0.005), tick_text(1e-5), tick_text(100000), tick_text(-3)
    ('0.05', '5×10⁻³', '10⁻⁵', '10⁵', '−3')
    """
    if value == 0 or 0.01 <= abs(value) < 10_000:
        return f"{value:g}".replace("-", "−")
    power = math.floor(math.log10(abs(value)) + 1e-9)
    digits = abs(value) / 10.0**power
    sign = "−" if value < 0 else ""
    times = "" if abs(digits - 1) < 1e-9 else f"{digits:g}×"
    return f"{sign}{times}10{str(power).translate(SUPERSCRIPTS)}"


def frame(
    x: Axis,
    y: Axis,
    *,
    x_title: str,
    y_title: str,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    y_ticks: Sequence[float] | None = None,
) -> Markup:
    """Draw grid lines, tick labels and the titles of both axes; a title above stands for the y axis."""
    left, right = min(x.start, x.end), max(x.start, x.end)
    top, bottom = min(y.start, y.end), max(y.start, y.end)
    columns = x_ticks if x_ticks is not None else [(v, tick_text(v)) for v in ticks(x)]
    rows = [(v, tick_text(v)) for v in (y_ticks if y_ticks is not None else ticks(y, 26))]
    grid = [f"M{pixels(left)} {pixels(y.at(v))}H{pixels(right)}" for v, _ in rows]
    marks = [f"M{pixels(x.at(v))} {pixels(bottom)}v4" for v, _ in columns]
    base = f"M{pixels(left)} {pixels(bottom)}H{pixels(right)}"
    return join(
        [
            tag("path", d="".join(grid), class_="grid"),
            tag("path", d=base + "".join(marks), class_="axis"),
            [text(x.at(v), bottom + 17, label, anchor="middle") for v, label in columns],
            [text(left - 7, y.at(v) + 4, label, anchor="end") for v, label in rows],
            text((left + right) / 2, bottom + 35, x_title, anchor="middle", class_="title"),
            text(0, top - 16, y_title, class_="title"),
        ]
    )


def text(
    x: float, y: float, words: str, *, anchor: str | None = None, class_: str | None = None
) -> Markup:
    """Write words; `anchor` is the SVG word for which end of them `x` is."""
    return tag("text", words, x=x, y=y, text_anchor=anchor, class_=class_)


def line(points: Points, class_: str) -> Markup:
    """Draw straight lines through pixels."""
    if len(points) < 2:
        return Markup("")
    path = "L".join(f"{pixels(x)} {pixels(y)}" for x, y in points)
    return tag("path", d=f"M{path}", class_=class_)


def rectangle(x0: float, y0: float, x1: float, y1: float, class_: str) -> Markup:
    """Fill a rectangle between two corners."""
    left, top = min(x0, x1), min(y0, y1)
    return tag("rect", x=left, y=top, width=abs(x1 - x0), height=abs(y1 - y0), class_=class_)


def mark(
    x: float, y: float, shape: str, class_: str, *, says: str = "", href: str | None = None
) -> Markup:
    """Draw a mark; `says` shows when a pointer rests on it, and `href` is where a click leads."""
    drawn = tag(
        "path",
        tag("title", says) if says else None,
        d=f"M{pixels(x)} {pixels(y)}{SHAPES[shape]}",
        class_=f"mark {class_}",
    )
    return drawn if href is None else tag("a", drawn, href=href, tabindex="-1")


def svg(
    width: float,
    height: float,
    *children: Markup,
    label: str,
    class_: str = "",
    **attributes: Attribute,
) -> Markup:
    """Put drawn parts into one picture with a spoken label."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {pixels(width)} {pixels(height)}",
        role="img",
        aria_label=label,
        class_=f"chart {class_}".strip(),
        **attributes,
    )
