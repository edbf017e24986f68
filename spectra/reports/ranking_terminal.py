"""A ranking on a terminal: a table that fits 80 columns, and what it says in words."""

import math
from collections import Counter

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spectra.errors import printable
from spectra.ranking import MARK_TEXT, Agreement, Mark, RankedModel, Ranking
from spectra.reports.terminal import add_row, new_table, shorten

SURE = 0.95
NAME_WIDTH = 36
MIN_NAME_WIDTH = 12
NAMED = 3
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
    console.print(Text(printable(verdict(ranking))), highlight=False)
    for item in ranking.left_out:
        line = f"not ranked: {item.source}: {item.reason}"
        console.print(Text(printable(line), style="yellow"))
    if ranking.scores is not None:
        console.print()
        _show_scores(ranking, console)


def verdict(ranking: Ranking) -> str:
    """Say in a sentence which model is best, and how sure that is."""
    names = {model.name: fit_name(model.name, NAME_WIDTH) for model in ranking.models}
    first, second = ranking.models[:2]
    p = ranking.p_better(first.name, second.name)
    if ranking.best is None:
        return (
            "No model is called best: all have layers below alpha 2 (over-trained), where lower is"
            f" not better. The lowest {ranking.metric} has {names[first.name]}."
        )
    if Mark.OVER_TRAINED in second.warnings:
        return (
            f"Best: {names[first.name]}; the others have layers below alpha 2 (over-trained), where"
            " lower is not better."
        )
    if math.isnan(p):
        return f"First: {names[first.name]}; one layer cannot tell how sure that is."
    rivals = [
        names[model.name]
        for model in ranking.models[1:]
        if ranking.p_better(first.name, model.name) < SURE
        and Mark.OVER_TRAINED not in model.warnings
    ]
    if not rivals:
        return f"Best: {names[first.name]} (probability {_probability(p)} against the second)."
    more = f" and {len(rivals) - NAMED} more" if len(rivals) > NAMED else ""
    return (
        f"First: {names[first.name]}. Not told from it (probability below {SURE}):"
        f" {', '.join(rivals[:NAMED])}{more}."
    )


def _models(ranking: Ranking, width: int) -> Table:
    table = new_table("rank", "model", ranking.metric, "95 %", "mean", "n", "beats next", "note")
    following = [*ranking.models[1:], None]
    cells = [
        (
            _places(model),
            model.name,
            f"{model.value:.3f}",
            _interval(model),
            f"{model.mean:.2f}",
            str(model.n_layers),
            "" if after is None else _probability(ranking.p_better(model.name, after.name)),
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
    """Make a model's name fit by leaving out its middle.

    Examples
    --------
    >>> fit_name("a-model-with-a-long-name", 16)
    'a-model-w…g-name'
    """
    name = printable(name)
    if cell_len(name) <= width:
        return name
    head = (width - 1) * 3 // 5
    short = f"{name[:head]}…{name[head + 1 - width :]}"
    while cell_len(short) > width:  # wide characters take two cells
        short = f"{short.partition('…')[0]}…{short.partition('…')[2][1:]}"
    return short


def _places(model: RankedModel) -> str:
    low, high = model.rank_low, model.rank_high
    return f"{model.rank}" if low == high else f"{model.rank} ({low}-{high})"


def _interval(model: RankedModel) -> str:
    if not math.isfinite(model.value_low) or not math.isfinite(model.value_high):
        return "–"
    return f"{model.value_low:.2f} to {model.value_high:.2f}"


def _probability(p: float) -> str:
    """Say a probability in two digits, never as certain.

    Examples
    --------
    >>> _probability(0.9996), _probability(0.614), _probability(math.nan)
    ('>.99', '.61', '–')
    """
    if math.isnan(p):
        return "–"
    return ">.99" if p > 0.99 else "<.01" if p < 0.01 else f"{p:.2f}".lstrip("0")


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
