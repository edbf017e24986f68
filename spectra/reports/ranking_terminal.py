"""A ranking on a terminal: a table that fits 80 columns, and what it says in words."""

import math
from collections import Counter

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spectra.errors import printable
from spectra.ranking import MARK_TEXT, Agreement, Mark, Ranking
from spectra.reports.names import shorten_middle
from spectra.reports.ranking_words import interval, places, probability, verdict
from spectra.reports.terminal import add_row, new_table, shorten

NAME_WIDTH = 36
MIN_NAME_WIDTH = 12
CODES = {
    Mark.OVER_TRAINED: "over",
    Mark.MOSTLY_RANDOM_LIKE: "noise",
    Mark.FEW_LAYERS: "few",
    Mark.MIXED_FORMATS: "format",
    Mark.LAYERS_FAILED: "failed",
    Mark.INCOMPLETE: "partial",
}
COLUMNS = {
    "value": "mean of the middle half of the layers",
    "beats next": "probability that the model is better than the one below",
}


def show_ranking(ranking: Ranking, console: Console) -> None:
    """Print the models, best first, how sure their order is, and how it agrees with known scores."""
    console.print(Text(f"ranked by {ranking.metric}", style="bold"), highlight=False)
    console.print(Text(f"  {ranking.why}", style="dim"))
    console.print(_models(ranking, console.width))
    console.print(Text(f"  {_legend(ranking)}", style="dim"))
    console.print()
    console.print(Text(printable(verdict(ranking, named=_named))), highlight=False)
    for item in ranking.left_out:
        line = f"not ranked: {item.source}: {item.reason}"
        console.print(Text(printable(line), style="yellow"))
    if ranking.scores is not None:
        console.print()
        _show_scores(ranking, console)


def _named(name: str) -> str:
    return fit_name(name, NAME_WIDTH)


def _models(ranking: Ranking, width: int) -> Table:
    table = new_table("rank", "model", ranking.metric, "95 %", "mean", "n", "beats next", "note")
    following = [*ranking.models[1:], None]
    cells = [
        (
            places(model),
            model.name,
            f"{model.value:.3f}",
            interval(model),
            f"{model.mean:.2f}",
            str(model.n_layers),
            "" if after is None else probability(ranking.p_better(model.name, after.name)),
            " ".join(CODES[mark] for mark in model.warnings),
        )
        for model, after in zip(ranking.models, following, strict=True)
    ]
    headers = [str(column.header) for column in table.columns]
    used = sum(
        max(len(cell) for cell in column) + 1
        for column in zip(headers, *cells, strict=True)
        if column[0] != "model"
    )
    room = max(MIN_NAME_WIDTH, width - used - 1)
    for place, name, *numbers in cells:
        add_row(table, place, fit_name(name, room), *numbers)
    return table


def fit_name(name: str, width: int) -> str:
    """Make a model's name fit by leaving out its middle; wide letters take two cells."""
    return shorten_middle(name, width, measure=cell_len)


def _legend(ranking: Ranking) -> str:
    used = Counter(mark for model in ranking.models for mark in model.warnings)
    parts = [
        f"{ranking.metric}: {COLUMNS['value']}",
        "mean, n: of all its layers with an alpha",
        f"beats next: {COLUMNS['beats next']}",
    ]
    parts += [f"{CODES[mark]}: {MARK_TEXT[mark]}" for mark in CODES if used[mark]]
    return " · ".join(parts)


def _show_scores(ranking: Ranking, console: Console) -> None:
    scores = ranking.scores
    if scores is None:
        return
    better = "higher" if scores.higher_is_better else "lower"
    title = f"against known scores: {printable(scores.label)}, {better} is better"
    console.print(Text(title, style="bold"))
    table = new_table("metric", "group", "n", "tau", "95 %", "p", "Spearman", "R²")
    for agreement in scores.agreements:
        chosen = agreement.metric == ranking.metric
        add_row(
            table,
            agreement.metric,
            shorten(agreement.group, 16),
            str(agreement.n_models),
            _signed(agreement.tau),
            _tau_interval(agreement),
            "" if math.isnan(agreement.p_value) else f"{agreement.p_value:.3f}",
            _signed(agreement.spearman),
            "–" if math.isnan(agreement.r_squared) else f"{agreement.r_squared:.2f}",
            style="bold" if chosen else "",
        )
    console.print(table)
    text = (
        "  tau: Kendall's, 1 if what the metric calls better always scores better · 95 %: as the"
        " layers vary · p: how often chance orders as few models as well"
    )
    console.print(Text(text, style="dim"))
    if scores.paradox:
        console.print(Text(scores.paradox, style="bold"))


def _tau_interval(agreement: Agreement) -> str:
    if math.isnan(agreement.tau_low):
        return ""
    return f"{agreement.tau_low:+.2f} to {agreement.tau_high:+.2f}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"
