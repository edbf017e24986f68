"""Names beside marks, none over another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from spectra.reports.html import charts
from spectra.reports.html.markup import Markup, join

LETTER = 6.8  # pixels of a letter, nearly
LINE = 13.0
MARK = 6.0  # from the centre of a mark to its edge

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, slots=True)
class Point:
    """Where a mark is, in pixels, and its name."""

    x: float
    y: float
    name: str


def place_labels(points: Sequence[Point], within: Box) -> Markup:
    """Write the names of points beside their marks; one for which there is no room is left out.

    Parameters
    ----------
    points : sequence of Point
        The first ones are placed first.
    within : Box
        The field that no name leaves.
    """
    taken = [(p.x - MARK, p.y - MARK, p.x + MARK, p.y + MARK) for p in points]
    written = []
    for point in points:
        for anchor, x, y in _places(point):
            box = _box(point.name, anchor, x, y)
            if _inside(box, within) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                written.append(charts.text(x, y, point.name, anchor=anchor, class_="halo"))
                break
    return join(written)


def _places(point: Point) -> list[tuple[str, float, float]]:
    """Return where a name may stand, the usual place first: anchor, and pixels of its base line."""
    right, left = point.x + MARK + 3, point.x - MARK - 3
    beside = [
        (a, x, point.y + dy) for dy in (4, -7, 15) for a, x in (("start", right), ("end", left))
    ]
    return [*beside, ("middle", point.x, point.y - 9), ("middle", point.x, point.y + 18)]


def _box(name: str, anchor: str, x: float, y: float) -> Box:
    width = LETTER * len(name)
    left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return left, y - LINE + 3, left + width, y + 3


def _inside(box: Box, field: Box) -> bool:
    return box[0] >= field[0] and box[1] >= field[1] and box[2] <= field[2] and box[3] <= field[3]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
