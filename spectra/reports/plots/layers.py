"""Pictures of one model: the density of a layer's eigenvalues, alpha by depth; all of them as files."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter

from spectra.errors import printable
from spectra.records import LayerReport, ModelReport, Status
from spectra.reports.densities import density_of, power_law_of
from spectra.reports.plots.erg import plot_erg
from spectra.reports.plots.style import (
    ALPHA_TICKS,
    BLUE,
    GREY,
    KIND_STYLE,
    ORANGE,
    PINK,
    Format,
    caption,
    finish,
    is_narrow,
    legend,
    new_axes,
    save,
    writing,
)
from spectra.verdicts import DOUBTS, OVER_TRAINED, UNDER_TRAINED

OVERVIEW = "alpha_by_depth"
ERG = "erg"


def plot_esd(layer: LayerReport, ax: Axes | None = None) -> Axes:
    """Draw a layer's eigenvalue density, log-log, with its power law, xmin and ERG cut.

    Parameters
    ----------
    layer : LayerReport
        With a spectrum; without a fit only the density is drawn.
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
    density = density_of(layer.spectrum)
    if density is not None:
        ax.stairs(density.heights, density.edges, fill=True, color=BLUE, alpha=0.35)
        seen = density.heights[density.heights > 0]
        ax.set_ylim(seen.min() / 3, seen.max() * 3)
    if layer.status is Status.OK:
        _draw_fit(layer, ax)
    ax.set(xscale="log", yscale="log", xlabel="eigenvalue λ of WᵀW", ylabel="density ρ(λ)")
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        if high > 10 * low:  # a decade has its own label; the others would only crowd it
            axis.set_minor_formatter(NullFormatter())
    ax.set_title(caption(layer, ax), parse_math=False)
    return finish(ax)


def _draw_fit(layer: LayerReport, ax: Axes) -> None:
    ax.plot(
        *power_law_of(layer),
        color=ORANGE,
        linewidth=2,
        label=f"power law, alpha = {layer['alpha']:.2f}, KS = {layer['ks']:.3f}",
    )
    ax.axvline(layer["xmin"], color=ORANGE, linestyle="--", label=f"xmin, {layer['n_tail']} above")
    ax.axvline(
        layer["erg_xmin"],
        color=PINK,
        linestyle=":",
        linewidth=2,
        label=f"ERG cut, {layer['n_erg']} above",
    )
    legend(ax, "lower left")


def plot_alpha_by_depth(report: ModelReport, ax: Axes | None = None) -> Axes:
    """Draw alpha against depth, by kind of layer, with the band from 2 to 6.

    Layers whose alpha is not judged (poor fit, few eigenvalues, noise) are hollow, those without an
    alpha are marked on the axis.
    """
    ax = ax if ax is not None else new_axes(width=9)
    ax.axhspan(OVER_TRAINED, UNDER_TRAINED, color=GREY, alpha=0.12, label="2 to 6")
    fitted = [(i, layer) for i, layer in enumerate(report.layers) if layer.status is Status.OK]
    for kind, (colour, marker) in KIND_STYLE.items():
        for solid in (True, False):
            chosen = [
                (i, layer)
                for i, layer in fitted
                if layer.kind == kind and solid is not bool(DOUBTS & set(layer.warnings))
            ]
            if not chosen:
                continue
            ax.errorbar(
                [i for i, _ in chosen],
                [layer["alpha"] for _, layer in chosen],
                yerr=[
                    [layer["alpha"] - layer["alpha_low"] for _, layer in chosen],
                    [layer["alpha_high"] - layer["alpha"] for _, layer in chosen],
                ],
                fmt=marker,
                color=colour,
                markerfacecolor=colour if solid else "white",
                elinewidth=0.9 if solid else 0.4,
                markersize=5,
                label=kind if solid else f"{kind}, not judged",
            )
    failed = [i for i, layer in enumerate(report.layers) if layer.status is not Status.OK]
    if failed:
        bottom = ax.get_xaxis_transform()
        ax.plot(failed, [0.02] * len(failed), "x", color=GREY, transform=bottom, label="no alpha")
    if fitted:
        mean = report.summary["alpha"]
        ax.axhline(mean, color=BLUE, linewidth=0.8, linestyle="--", label=f"mean {mean:.2f}")
        ax.set_yscale("log")  # intervals are symmetric in ln(alpha - 1), nearly so here
        top = max(layer["alpha_high"] for _, layer in fitted)
        ax.set_yticks([tick for tick in ALPHA_TICKS if tick <= max(top, 6)])
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="layer, in checkpoint order", ylabel="alpha with 95 % interval")
    ax.set_title(printable(Path(report.source.address).name), parse_math=False)
    narrow = is_narrow(ax)
    ax.set_ylim(top=ax.get_ylim()[1] * (2.2 if narrow else 1.4))  # room for the legend
    legend(ax, "upper left", ncols=2 if narrow else 4)
    return finish(ax)


def save_plots(report: ModelReport, folder: Path, *, suffix: Format = "png") -> Iterator[Path]:
    """Write two pictures of the model and one a layer, yielding each path as it is done."""
    with writing(folder):
        yield save(plot_alpha_by_depth(report), folder / f"{OVERVIEW}.{suffix}")
        yield save(plot_erg(report), folder / f"{ERG}.{suffix}")
        for layer in report.layers:
            if layer.spectrum is not None:
                yield save(plot_esd(layer), folder / f"{slug(layer.name)}.{suffix}")


def slug(name: str) -> str:
    """Return a file name for a layer: safe letters, at most 80, a hash where that loses something."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:80].strip(".")
    if safe == name and name not in ("", OVERVIEW, ERG):
        return safe
    return f"{safe}_{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
