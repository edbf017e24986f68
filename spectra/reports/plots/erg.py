"""Pictures of SETOL's conditions: alpha against the ERG cut over a model, the cut in one layer."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter

from spectra.errors import printable
from spectra.records import LayerReport, ModelReport, Status
from spectra.reports.plots.style import (
    ALPHA_TICKS,
    BLUE,
    GREY,
    KIND_STYLE,
    ORANGE,
    PINK,
    caption,
    finish,
    legend,
    new_axes,
)
from spectra.setol import unit_scale
from spectra.verdicts import DOUBTS

IDEAL = (2.0, 0.0)
"""alpha and delta_lambda_min of ideal learning (arXiv 2507.17912, section 3.2)."""


def plot_erg(report: ModelReport, ax: Axes | None = None) -> Axes:
    """Draw delta_lambda_min against alpha, a point a layer, with the point (2, 0) of ideal learning.

    As training proceeds, layers move towards it from the upper right (arXiv 2507.17912, section 6.3).
    Layers whose alpha is not judged are hollow. With the evidence of ``--metrics all`` the places
    where noise of the layers' shapes lies are marked: distances count from there.

    Parameters
    ----------
    report : ModelReport
        Layers without an alpha are left out.
    ax : Axes, optional
        Drawn into; a new figure when left out.

    Returns
    -------
    Axes
    """
    ax = ax if ax is not None else new_axes()
    fitted = [layer for layer in report.layers if layer.status is Status.OK]
    ax.axhline(IDEAL[1], color=GREY, linewidth=0.8)
    ax.axvline(IDEAL[0], color=GREY, linewidth=0.8)
    noise = [layer for layer in fitted if "delta_lambda_min_null" in layer.metrics]
    if noise:
        ax.plot(
            [layer["alpha_null"] for layer in noise],
            [layer["delta_lambda_min_null"] for layer in noise],
            "x",
            color=GREY,
            markersize=4,
            label="noise of the same shape",
        )
    for kind, (colour, marker) in KIND_STYLE.items():
        for solid in (True, False):
            chosen = [
                layer
                for layer in fitted
                if layer.kind == kind and solid is not bool(DOUBTS & set(layer.warnings))
            ]
            if chosen:
                ax.plot(
                    [layer["alpha"] for layer in chosen],
                    [layer["delta_lambda_min"] for layer in chosen],
                    marker,
                    color=colour,
                    markerfacecolor=colour if solid else "white",
                    markersize=5,
                    label=kind if solid else f"{kind}, not judged",
                )
    ax.plot(
        *IDEAL, "*", color=ORANGE, markeredgecolor="black", markersize=11, label="(2, 0): ideal"
    )
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    ax.set_xticks([tick for tick in ALPHA_TICKS if low <= tick <= high])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="alpha", ylabel="delta_lambda_min, unit: mean λ")
    ax.set_title(printable(Path(report.source.address).name), parse_math=False)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.3 * (high - low))  # room for the legend
    legend(ax, "upper left", ncols=2)
    return finish(ax)


def plot_erg_cut(layer: LayerReport, ax: Axes | None = None) -> Axes:
    """Draw how a layer's ERG cut is found: Σ ln λ̃ over its largest eigenvalues, down to zero.

    λ̃ are the eigenvalues in units of their mean. Where the sum comes back to zero is ``n_erg``; its
    height at ``n_tail`` is ``erg_log_det`` (arXiv 2507.17912, eq. detX).

    Parameters
    ----------
    layer : LayerReport
        With a spectrum; without a fit the power-law tail is not marked.
    ax : Axes, optional
        Drawn into; a new figure when left out.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the layer has no spectrum.
    """
    if layer.spectrum is None:
        raise ValueError(f"layer {layer.name!r} has no spectrum ({layer.status})")
    ax = ax if ax is not None else new_axes()
    descending = layer.spectrum.eigenvalues[::-1] * unit_scale(layer.spectrum)
    sums = np.cumsum(np.log(descending[descending > 0]))
    counts = np.arange(1, sums.size + 1)
    ax.plot(counts, sums, color=BLUE, linewidth=1.5)
    ax.axhline(0, color=GREY, linewidth=0.8)
    n_erg = int(layer["n_erg"])
    if layer.status is Status.OK:
        n_tail = int(layer["n_tail"])
        ax.axvline(n_tail, color=ORANGE, linestyle="--", label=f"power-law tail, {n_tail}")
        ax.plot(n_tail, layer["erg_log_det"], "o", color=ORANGE, markersize=5)
    ax.axvline(n_erg, color=PINK, linestyle=":", linewidth=2, label=f"ERG cut, {n_erg}")
    peak = max(float(sums.max()), 1e-6)
    ax.set_ylim(-0.6 * peak, 1.15 * peak)  # below, the sum falls by a hundred times its height
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set(xlabel="eigenvalues, from the largest", ylabel="Σ ln λ̃, λ̃ = λ / mean λ")
    ax.set_title(caption(layer, ax), parse_math=False)
    legend(ax, "lower left")
    return finish(ax)
