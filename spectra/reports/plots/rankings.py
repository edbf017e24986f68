"""Pictures of a ranking: the order with its intervals, and the metric against known scores."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from spectra.errors import printable
from spectra.ranking import Ranking
from spectra.reports.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    Format,
    finish,
    legend,
    new_axes,
    save,
    small_text,
    writing,
)

GROUP_STYLE = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PINK, "D"), (GREY, "v"))
MAX_MODELS = 40
LINE = 1.25  # from one line of text to the next, in its size


def plot_ranking(ranking: Ranking, ax: Axes | None = None) -> Axes:
    """Draw the models, best on top, each with the 95 % interval of its value.

    Parameters
    ----------
    ranking : Ranking
        At most its first 40 models are drawn.
    ax : Axes, optional
        Drawn into; a new figure when left out.

    Returns
    -------
    Axes
    """
    ax = ax if ax is not None else new_axes()
    models = ranking.models[:MAX_MODELS]
    rows = np.arange(len(models))[::-1]
    middle = _middle([model.value for model in models])
    for row, model in zip(rows, models, strict=True):
        filled = not model.is_set_aside
        if math.isfinite(model.value_low) and math.isfinite(model.value_high):
            ax.plot([model.value_low, model.value_high], [row, row], color=GREY, linewidth=1.5)
        ax.plot(model.value, row, "o", color=BLUE, markerfacecolor=BLUE if filled else "white")
        left = model.value < middle
        end = model.value_low if left else model.value_high
        ax.annotate(
            _label(model.name),
            (end if math.isfinite(end) else model.value, row),
            xytext=(0, 6),
            textcoords="offset points",
            ha="left" if left else "right",
            fontsize=small_text(ax),
            parse_math=False,
        )
    ax.set_yticks(rows, [str(model.rank) for model in models])
    values = [model.value for model in models]
    room = max(max(values) - min(values), 0.1 * abs(max(values, key=abs)), 1e-9)
    low = min(v for m in models for v in (m.value, max(m.value_low, min(values) - 2 * room)))
    high = max(v for m in models for v in (m.value, min(m.value_high, max(values) + 2 * room)))
    ax.set_xlim(low - 0.1 * room, high + 0.1 * room)
    ax.set(
        ylim=(-0.7, len(models) - 0.3),
        xlabel=f"{ranking.metric}, typical layer; lower is better",
    )
    ax.set_title("models, best first, with 95 % intervals")
    return finish(ax)


def plot_scores(ranking: Ranking, ax: Axes | None = None) -> Axes:
    """Draw the metric against the known scores, each model labelled, groups told apart.

    Parameters
    ----------
    ranking : Ranking
        With scores.
    ax : Axes, optional
        Drawn into; a new figure when left out.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the ranking has no scores.
    """
    scores = ranking.scores
    if scores is None:
        raise ValueError("the ranking has no scores to draw against")
    ax = ax if ax is not None else new_axes()
    groups = list(dict.fromkeys(scores.groups.values()))
    for model in ranking.models:
        colour, marker = GROUP_STYLE[groups.index(scores.groups[model.name]) % len(GROUP_STYLE)]
        ax.plot(model.value, scores.values[model.name], marker, color=colour)
    if 1 < len(groups) < len(ranking.models):
        for group, (colour, marker) in zip(groups, GROUP_STYLE, strict=False):
            label = (printable(group) or "no group").replace("$", r"\$")  # no mathematics
            ax.plot([], [], marker, color=colour, label=label)
        legend(ax, "best")
    ax.margins(0.1)
    _name_points(
        {_label(model.name): (model.value, scores.values[model.name]) for model in ranking.models},
        ax,
    )
    better = "higher" if scores.higher_is_better else "lower"
    ax.set_xlabel(f"{ranking.metric}, typical layer; lower is better")
    ax.set_ylabel(f"{printable(scores.label)}; {better} is better", parse_math=False)
    tau = scores.agreements[0].tau
    ax.set_title(f"Kendall's tau {tau:+.2f} over {len(ranking.models)} models")
    return finish(ax)


def save_ranking_plots(ranking: Ranking, folder: Path, *, suffix: Format = "png") -> Iterator[Path]:
    """Write the picture of a ranking and, with scores, of the scatter; yield each path."""
    with writing(folder):
        yield save(plot_ranking(ranking), folder / f"ranking.{suffix}")
        if ranking.scores is not None:
            yield save(plot_scores(ranking), folder / f"scores.{suffix}")


def _name_points(points: Mapping[str, tuple[float, float]], ax: Axes) -> None:
    """Write names beside points, from the top down, none over the one before."""
    middle = _middle([x for x, _ in points.values()])
    figure = ax.get_figure(root=True)
    to_points = 72 / (figure.dpi if figure else 72)
    last = math.inf
    for name, (x, y) in sorted(points.items(), key=lambda item: -item[1][1]):
        height = ax.transData.transform((x, y))[1] * to_points
        last = min(height - 3, last - LINE * small_text(ax))
        ax.annotate(
            name,
            (x, y),
            xytext=(-6 if x > middle else 6, last - height),
            textcoords="offset points",
            ha="right" if x > middle else "left",
            fontsize=small_text(ax),
            parse_math=False,
        )


def _middle(values: Sequence[float]) -> float:
    return (min(values) + max(values)) / 2


def _label(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 32 else f"{name[:18]}…{name[-13:]}"
