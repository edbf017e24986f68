"""The picture of one layer's spectrum: its density, the fitted power law, noise of its shape."""

import math

import numpy as np

from spectra.records import LayerReport, Status, Vector
from spectra.reports.densities import density_of, noise_of, power_law_of
from spectra.reports.html import charts
from spectra.reports.html.charts import Axis
from spectra.reports.html.figures import line_swatch
from spectra.reports.html.markup import Markup, number, pixels, shown, tag
from spectra.reports.html.texts import NOTES, VERDICTS

WIDTH, HEIGHT = 340.0, 230.0
DECADES = 8.0
"""Eigenvalues further below the largest lie left of the picture; the tail would be a sliver."""
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
    label = f"spectrum of {shown(layer.name, 80)}"
    density = density_of(layer.spectrum)
    noise_x, noise_y = noise_of(layer.spectrum)
    if density is None:
        return charts.svg(
            WIDTH, 60, charts.text(12, 34, "All of its eigenvalues are equal."), label=label
        )
    largest = float(max(density.edges[-1], noise_x[-1]))
    smallest = float(density.edges[0])  # the law of square noise goes on to zero
    low = max(min(smallest, float(noise_x[0])), smallest / 10, largest * 10**-DECADES)
    x = Axis(low, largest * 1.1, 44, WIDTH - 8, "log")
    seen = density.heights[density.heights > 0]
    y = Axis(float(seen.min()) / 2.5, float(max(seen.max(), noise_y.max())) * 2, 182, 26, "log")
    parts = [
        charts.frame(x, y, x_title="eigenvalue λ", y_title="density"),
        _bars(density.edges, density.heights, x, y),
        _curve(noise_x, noise_y, x, y, "noise-law"),
    ]
    if layer.status is Status.OK and {"alpha", "xmin", "xmax", "n_tail"} <= layer.metrics.keys():
        parts += [_curve(*power_law_of(layer), x, y, "law"), *_cuts(layer, x, y)]
    return charts.svg(WIDTH, HEIGHT, *parts, label=label, class_="esd")


def esd_caption(layer: LayerReport) -> str:
    """Return a layer's numbers in a sentence, and what is noteworthy about it."""
    size = f"{layer.N} × {layer.M}" + (
        f", {layer.n_matrices} of them" if layer.n_matrices > 1 else ""
    )
    if layer.status is not Status.OK:
        return f"{size}: {layer.reason}."
    value = {key: layer.metrics.get(key, math.nan) for key in
             ("alpha", "alpha_low", "alpha_high", "ks", "n_tail")}  # fmt: skip
    interval = ""
    if math.isfinite(value["alpha_low"]):
        interval = f" ({number(value['alpha_low'])} to {number(value['alpha_high'])})"
    text = (
        f"{size}: {VERDICTS[layer.verdict][1]}, alpha {number(value['alpha'])}{interval} from"
        f" {number(value['n_tail'], 0)} of {layer.n_eigenvalues} eigenvalues,"
        f" KS {number(value['ks'], 3)}"
    )
    notes = ", ".join(NOTES[finding] for finding in layer.warnings)
    return f"{text}; {notes}." if notes else f"{text}."


def esd_legend() -> list[tuple[Markup, str]]:
    """Return what the lines of every spectrum stand for."""
    return [(line_swatch(name), words) for name, words in LEGEND]


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


def _curve(xs: Vector, ys: Vector, x: Axis, y: Axis, class_: str) -> Markup:
    inside = (xs >= x.low) & (xs <= x.high) & (ys >= y.low) & (ys <= y.high)
    points = [(x.at(float(a)), y.at(float(b))) for a, b in zip(xs[inside], ys[inside], strict=True)]
    return charts.line(points, class_)


def _cuts(layer: LayerReport, x: Axis, y: Axis) -> list[Markup]:
    """Draw where the tail begins and where the ERG condition cuts, their names on outer sides."""
    found = [
        (x.at(value), name, class_)
        for name, class_, value in (
            ("xmin", "xmin", layer["xmin"]),
            ("ERG", "erg", layer.metrics.get("erg_xmin", math.nan)),
        )
        if np.isfinite(value) and x.holds(value)
    ]
    found.sort()
    parts = []
    for i, (at, name, class_) in enumerate(found):
        before = i == 0 and (len(found) > 1 or at > x.end - 40)
        parts += [
            charts.line([(at, y.start), (at, y.end)], class_),
            charts.text(
                at + (-4 if before else 4), y.end + 9, name,
                anchor="end" if before else None, class_=f"halo {class_}-name",
            ),
        ]  # fmt: skip
    return parts
