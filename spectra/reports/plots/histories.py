"""Pictures of a run: alpha by step over all layers, and by role."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spectra.errors import printable
from spectra.naming import ROLES, role_of
from spectra.records import Vector
from spectra.reports.plots.style import BLUE, GREY, ORANGE, PINK, Format, new_axes, save, writing
from spectra.trajectories import History
from spectra.verdicts import OVER_TRAINED, UNDER_TRAINED

COLUMNS = 3


def plot_history(history: History, ax: Axes | None = None) -> Axes:
    """Draw alpha by step: typical, median and quantiles over the layers compared.

    Changes found are dashed lines, the first step of each kind of sign a dotted one.

    Parameters
    ----------
    history : History
    ax : Axes, optional
        Drawn into; a new figure when left out.

    Returns
    -------
    Axes
    """
    ax = ax if ax is not None else new_axes()
    ax.axhspan(OVER_TRAINED, UNDER_TRAINED, color=GREY, alpha=0.12, linewidth=0)
    if history.layers:
        _draw(history, "", ax)
    for change in history.change_points:
        if change.found and change.metric == "alpha" and not change.role:
            _mark(change.step, "changes its rate", ax, color=GREY, linestyle="--")
    for kind in dict.fromkeys(sign.kind for sign in history.signs):
        first = min(sign.step for sign in history.signs if sign.kind is kind)
        _mark(first, str(kind).replace("_", " "), ax, color=PINK, linestyle=":")
    ax.set(xlabel=history.unit, ylabel="alpha")
    ax.set_title(_label(history.address), fontsize=10, parse_math=False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8)
    return ax


def plot_roles(history: History) -> Sequence[Axes]:
    """Draw alpha by step in one small picture a role, all on one scale.

    Returns
    -------
    sequence of Axes
        One a role, in the order of a forward pass; none if no layers are compared.
    """
    roles = [role for role in ROLES if _alphas(history, role).size]
    if not roles:
        return ()
    n_columns = min(COLUMNS, len(roles))
    n_rows = math.ceil(len(roles) / n_columns)
    figure = Figure(figsize=(1 + 2.8 * n_columns, 0.8 + 2.2 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax, role in zip(grid, roles, strict=False):
        ax.axhspan(OVER_TRAINED, UNDER_TRAINED, color=GREY, alpha=0.12, linewidth=0)
        _draw(history, role, ax)
        ax.set_title(f"{ROLES[role]} ({_alphas(history, role).shape[1]})", fontsize=9)
    for ax in grid[len(roles) :]:
        ax.set_visible(False)
    figure.supxlabel(history.unit, fontsize=10)
    figure.supylabel("alpha", fontsize=10)
    return tuple(grid[: len(roles)])


def save_history_plots(history: History, folder: Path, *, suffix: Format = "png") -> Iterator[Path]:
    """Write the picture of a run and, if its layers have several roles, that by role."""
    with writing(folder):
        yield save(plot_history(history), folder / f"history.{suffix}")
        roles = plot_roles(history)
        if len(roles) > 1:
            yield save(roles[0], folder / f"roles.{suffix}")


def _mark(step: int, words: str, ax: Axes, *, color: str, linestyle: str) -> None:
    """Draw an upright line at a step, with words along it."""
    ax.axvline(step, color=color, linestyle=linestyle)
    ax.annotate(
        words,
        (step, 0.5),
        xycoords=ax.get_xaxis_transform(),
        xytext=(-3, 0),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="center",
        fontsize=8,
    )


def _draw(history: History, role: str, ax: Axes) -> None:
    alphas = _alphas(history, role)
    steps = np.array(history.steps, np.float64)
    for low, high, shade in ((0.1, 0.9, 0.15), (0.25, 0.75, 0.3)):
        ends = np.quantile(alphas, [low, high], axis=1)
        label = f"{high - low:.0%} of the layers" if alphas.shape[1] > 1 else None
        ax.fill_between(steps, *ends, color=BLUE, alpha=shade, linewidth=0, label=label)
    trajectory = history.trajectory("alpha", role)
    ax.plot(steps, trajectory.typical, "o-", color=BLUE, markersize=4, label="typical")
    ax.plot(steps, trajectory.median, ":", color=ORANGE, label="median")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))


def _alphas(history: History, role: str) -> Vector:
    """Return alpha by checkpoint and layer compared of a role; NaN where a checkpoint has none."""
    compared = set(history.layers)
    members = [
        i
        for i, layer in enumerate(history.reports[0].layers)
        if layer.name in compared and role in ("", role_of(layer.name, layer.kind))
    ]
    return np.array(
        [
            [float(report.layers[i].metrics.get("alpha", math.nan)) for i in members]
            for report in history.reports
        ]
    )


def _label(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 60 else f"{name[:20]}…{name[-39:]}"
