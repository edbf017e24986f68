"""The picture of one layer's spectrum: its density, the fitted power law, noise of its shape."""

import math

import numpy as np

from spectra.records import LayerReport, Status, Vector
from spectra.reports.densities import density_of, noise_of, power_law_of
from spectra.reports.html import charts
from spectra.reports.html.charts import Axis
from spectra.reports.html.marks import line_swatch
from spectra.reports.html.markup import Markup, number, pixels, tag
from spectra.reports.html.texts import NOTES, VERDICTS
from spectra.reports.names import shorten

WIDTH, HEIGHT = 340.0, 230.0
DECADES = 9.0  # of density at most
LEFT_OUT = 0.02
"""Share of eigenvalues that may lie left of the picture: near zero they would fill most of it."""
ROOM = 34.0  # pixels of a name
FIT = frozenset({"alpha", "xmin", "xmax", "n_tail"})
LEGEND = (
    ("bars", "density of the layer's eigenvalues"),
    ("law", "power law fitted to the tail"),
    ("noise-law", "random weights of the same shape and size"),
    ("xmin", "where the tail begins (xmin)"),
    ("erg", "ERG cut"),
)


def esd(layer: LayerReport) -> Markup:
    """Draw a layer's eigenvalue density, log-log, with its power law, xmin, ERG cut and noise.

    Parameters
    ----------
    layer : LayerReport
        With a spectrum; without a fit only the density and noise are drawn.

    Raises
    ------
    ValueError
        If the layer has no spectrum.
    """
    if layer.spectrum is None:
        raise ValueError(f"layer {layer.name!r} has no spectrum ({layer.status})")
    label = f"spectrum of {shorten(layer.name, 80)}"
    density = density_of(layer.spectrum, low=_left_end(layer))
    if density is None:
        return charts.svg(
            WIDTH, 60, charts.text(12, 34, "All of its eigenvalues are equal."), label=label
        )
    fitted = has_fit(layer)
    law_x, law_y = power_law_of(layer) if fitted else (density.edges[:0], density.edges[:0])
    noise_x, noise_y = noise_of(layer.spectrum)
    smallest = float(density.edges[0])  # the law of square noise goes on to zero
    x = Axis(
        max(min(smallest, float(noise_x[0])), smallest / 3),
        float(max(density.edges[-1], noise_x[-1])) * 1.1, 44, WIDTH - 8, "log",
    )  # fmt: skip
    seen = density.heights[density.heights > 0]
    top = float(max(seen.max(), noise_y.max()))
    foot = max(float(min([seen.min(), *law_y[-1:]])), top * 10**-DECADES)
    y = Axis(foot / 2, top * 2, 182, 26, "log")
    parts = [
        charts.frame(x, y, x_title="eigenvalue λ", y_title="density"),
        _bars(density.edges, density.heights, x, y),
        _curve(noise_x, noise_y, x, y, "noise-law"),
        _curve(law_x, law_y, x, y, "law"),
        *(_cuts(layer, x, y) if fitted else ()),
    ]
    return charts.svg(WIDTH, HEIGHT, *parts, label=label, class_="esd")


def esd_caption(layer: LayerReport) -> str:
    """Return a layer's numbers in a sentence, and what is noteworthy about it."""
    size = f"{layer.N} × {layer.M}" + (
        f", {layer.n_matrices} of them" if layer.n_matrices > 1 else ""
    )
    if layer.status is not Status.OK:
        return f"{size}: {layer.reason}."
    text = f"{size}: {VERDICTS[layer.verdict][1]}"
    if layer.metrics.keys() >= FIT:
        n_tail = number(layer["n_tail"], 0)
        text += f", alpha {number(layer['alpha'])}{_interval(layer)} from {n_tail} of"
        text += f" {layer.n_eigenvalues} eigenvalues"
    if "ks" in layer.metrics:
        text += f", KS {number(layer['ks'], 3)}"
    notes = ", ".join(NOTES[finding] for finding in layer.warnings)
    return f"{text}; {notes}." if notes else f"{text}."


def _interval(layer: LayerReport) -> str:
    low, high = (layer.metrics.get(key, math.nan) for key in ("alpha_low", "alpha_high"))
    return f" ({number(low)} to {number(high)})" if math.isfinite(low) else ""


def esd_legend(*, fitted: bool = True) -> list[tuple[Markup, str]]:
    """Return what the lines of every spectrum stand for; those of a fit only if any has one."""
    of_fit = ("law", "xmin", "erg")
    return [(line_swatch(name), words) for name, words in LEGEND if fitted or name not in of_fit]


def has_fit(layer: LayerReport) -> bool:
    """Tell whether a layer has a power law to draw."""
    return layer.status is Status.OK and layer.metrics.keys() >= FIT


def _bars(edges: Vector, heights: Vector, x: Axis, y: Axis) -> Markup:
    base = pixels(y.start)
    path, begun = [], False
    for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
        if height > 0 and right > x.low:
            top = pixels(y.at(float(height)))
            path.append(f"V{top}" if begun else f"M{pixels(x.at(float(left)))} {base}V{top}")
            path.append(f"H{pixels(x.at(float(right)))}")
            begun = True
        elif begun:
            path.append(f"V{base}z")
            begun = False
    path.append(f"V{base}z" if begun else "")
    return tag("path", d="".join(path), class_="bars")


def _left_end(layer: LayerReport) -> float:
    """Return where a picture begins: all but the smallest eigenvalues, and the cuts with room."""
    if layer.spectrum is None:
        return 0.0
    values = layer.spectrum.eigenvalues
    cuts = (layer.metrics.get(key, math.nan) for key in ("xmin", "erg_xmin"))
    low = float(np.quantile(values, LEFT_OUT))
    return min([low, *(cut / 3 for cut in cuts if math.isfinite(cut))])


def _curve(xs: Vector, ys: Vector, x: Axis, y: Axis, class_: str) -> Markup:
    """Draw a curve; where it falls below the picture it goes along its foot for one point."""
    points = [
        (x.at(float(a)), y.at(float(b)), b > y.low)
        for a, b in zip(xs, ys, strict=True)
        if x.holds(a)
    ]
    flags = [False, *(seen for *_, seen in points), False]
    kept = [
        (px, py)
        for i, (px, py, _) in enumerate(points)
        if any(flags[i : i + 3])  # itself or a neighbour is in the picture
    ]
    return charts.line(kept, class_)


def _cuts(layer: LayerReport, x: Axis, y: Axis) -> list[Markup]:
    """Draw where the tail begins and where the ERG condition cuts, with names that do not collide."""
    named = (("xmin", "xmin", "xmin"), ("ERG", "erg", "erg_xmin"))
    found = [(layer.metrics.get(key, math.nan), name, class_) for name, class_, key in named]
    found = sorted(cut for cut in found if x.holds(cut[0]))
    parts, row, last = [], 0, -math.inf
    for i, (value, name, class_) in enumerate(found):
        at = x.at(value)
        is_last = i == len(found) - 1
        before = at > x.start + ROOM and (not is_last or at > x.end - ROOM)
        if before and is_last and at - last < ROOM:
            row = 1  # both names stand before their lines, too near for one row
        last = at
        parts += [
            charts.line([(at, y.start), (at, y.end)], class_),
            charts.text(
                at + (-4 if before else 4), y.end + 9 + 13 * row, name,
                anchor="end" if before else None, class_=f"halo {class_}-name",
            ),
        ]  # fmt: skip
    return parts
