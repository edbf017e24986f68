"""The heat map of a model: what its layers do against where they are, coloured by alpha."""

import math
import statistics
from collections.abc import Mapping, Sequence

from spectra.naming import ROLES, Role, block_of, role_of
from spectra.records import LayerReport, Status
from spectra.reports.concerns import OUTSIDE
from spectra.reports.html import charts
from spectra.reports.html.blocks import blocks_of, labels_of
from spectra.reports.html.figures import LETTER, WIDTH, describe
from spectra.reports.html.groups import Entry
from spectra.reports.html.markup import Markup, number, tag
from spectra.verdicts import DOUBTS

ROW = 28.0
STEPS = ((1.5, "below 1.5"), (2, "1.5 to 2"), (3, "2 to 3"), (4, "3 to 4"), (6, "4 to 6"),
         (8, "6 to 8"), (math.inf, "above 8"))  # fmt: skip
"""Upper ends of the colours' ranges, and their words."""

Cells = Mapping[tuple[Role, str], Sequence[tuple[int, LayerReport]]]


def heat_map(layers: Sequence[LayerReport], hrefs: Mapping[int, str]) -> Markup | None:
    """Draw the median alpha of every role in every block.

    None where names show no two blocks, or there is no alpha. A cell is hollow if none of its layers is judged, has a corner if one of them lies outside the band
    from 2 to 6 and can be judged, and a cross if none has an alpha.

    Parameters
    ----------
    layers : sequence of LayerReport
    hrefs : mapping of int to str
        Where a click on a layer leads, by its place in `layers`.
    """
    cells: dict[tuple[Role, str], list[tuple[int, LayerReport]]] = {}
    for position, layer in enumerate(layers):
        key = (role_of(layer.name, layer.kind), block_of(layer.name))
        cells.setdefault(key, []).append((position, layer))
    blocks = blocks_of([layer.name for layer in layers])
    if len(blocks) < 2 or not any(math.isfinite(_alpha(layer)) for layer in layers):
        return None
    labels = labels_of(blocks)
    if any(not block for _, block in cells):
        blocks, labels = [*blocks, ""], [*labels, "others"]
    roles = [role for role in ROLES if any(found == role for found, _ in cells)]
    left = max(LETTER * len(ROLES[role]) for role in roles) + 12
    width = min(64.0, (WIDTH - left) / len(blocks))
    upright = all(LETTER * len(label) < width - 2 for label in labels)
    below = 18.0 if upright else LETTER * max(map(len, labels)) + 8
    foot = ROW * len(roles)
    parts: list[Markup] = [
        charts.text(left - 8, ROW * (row + 0.5) + 4, ROLES[role], anchor="end")
        for row, role in enumerate(roles)
    ]
    every = math.ceil(14 / width)
    for column, (block, label) in enumerate(zip(blocks, labels, strict=True)):
        x = left + width * column
        if column % every == 0:
            parts.append(_column_label(label, x + width / 2, foot + 14, upright=upright))
        for row, role in enumerate(roles):
            if (role, block) in cells:
                parts.append(_cell(cells[role, block], x, ROW * row, width, hrefs))
    return charts.svg(
        WIDTH, foot + below + 4, *parts,
        label="median alpha by role and block; the table holds the numbers of every layer",
        class_="wide heat",
    )  # fmt: skip


def heat_legend() -> list[tuple[Markup, str]]:
    """Return the colours with their ranges of alpha, and the signs on cells."""
    corner = tag("rect", width=16, height=16, class_="h3"), _corner(0, 0, 16)
    return [
        *colours(),
        (_swatch(_hollow("h3", 0, 0, 16, 16)), "hollow: not judged"),
        (_swatch(*corner), "corner: a layer in it is over- or under-trained"),
        (_swatch(charts.mark(8, 8, "cross", "r-grey stroke")), "no alpha"),
    ]


def colours() -> list[tuple[Markup, str]]:
    """Return the colours with their ranges of alpha."""
    return [
        (_swatch(tag("rect", width=16, height=16, class_=f"h{step}")), words)
        for step, (_, words) in enumerate(STEPS)
    ]


def step_of(alpha: float) -> int:
    """Return which colour an alpha has.

    Examples
    --------
    >>> step_of(1.2), step_of(2.0), step_of(6.0), step_of(99.0)
    (0, 2, 5, 6)
    """
    return sum(alpha >= end for end, _ in STEPS)


def _cell(
    found: Sequence[tuple[int, LayerReport]],
    x: float,
    y: float,
    width: float,
    hrefs: Mapping[int, str],
) -> Markup:
    fitted = [layer for _, layer in found if layer.status is Status.OK]
    alphas = [_alpha(layer) for layer in fitted if math.isfinite(_alpha(layer))]
    says = "; ".join(describe(Entry(layer.name, ((i, layer),))) for i, layer in found[:8])
    says += f"; and {len(found) - 8} more" if len(found) > 8 else ""
    size = {"x": x + 0.5, "y": y + 0.5, "width": width - 1, "height": ROW - 1}
    parts: list[Markup | None] = [tag("title", says)]
    if not alphas:
        parts += [
            tag("rect", class_="h-none", **size),
            charts.mark(x + width / 2, y + ROW / 2, "cross", "r-grey stroke"),
        ]
        return tag("g", parts)
    middle = statistics.median(alphas)
    hollow = all(DOUBTS & set(layer.warnings) for layer in fitted)
    step = f"h{step_of(middle)}"
    parts.append(_hollow(step, **size) if hollow else tag("rect", class_=step, **size))
    if any(layer.verdict in OUTSIDE and layer.averaged for layer in fitted):
        parts.append(_corner(x + 0.5, y + 0.5, min(width - 1, 10)))
    if width > 27:
        parts.append(
            charts.text(
                x + width / 2, y + ROW / 2 + 4, number(middle, 1), anchor="middle",
                class_=None if hollow else f"t{step_of(middle)}",
            )
        )  # fmt: skip
    return tag("a", parts, href=hrefs[found[0][0]], tabindex="-1")


def _alpha(layer: LayerReport) -> float:
    return layer.metrics.get("alpha", math.nan)


def _hollow(step: str, x: float, y: float, width: float, height: float) -> Markup:
    """Draw the outline of a cell in its colour."""
    inner = {"x": x + 1.5, "y": y + 1.5, "width": max(width - 3, 1), "height": height - 3}
    return tag("rect", class_=f"{step} hollow", **inner)


def _corner(x: float, y: float, size: float) -> Markup:
    return tag("path", d=f"M{x:.1f} {y:.1f}h{size:.1f}l-{size:.1f} {size:.1f}z", class_="corner")


def _swatch(*drawn: Markup) -> Markup:
    return tag("svg", *drawn, viewBox="0 0 16 16", class_="swatch", aria_hidden="true")


def _column_label(label: str, x: float, y: float, *, upright: bool) -> Markup:
    if upright:
        return charts.text(x, y, label, anchor="middle")
    turned = f"rotate(-90 {x:.1f} {y - 8:.1f})"
    return tag("text", label, x=x, y=y - 4, text_anchor="end", transform=turned)
