"""A ranking on a terminal: a table that fits 80 columns, and what it says in words."""

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spectra.errors import printable
from spectra.ranking import Ranking
from spectra.reports import ranking_cells
from spectra.reports.names import shorten_middle, told_apart
from spectra.reports.terminal import add_row, new_table, shorten

NAME_WIDTH = 36
MIN_NAME_WIDTH = 12


def show_ranking(ranking: Ranking, console: Console) -> None:
    """Print the models, best first, how sure their order is, and how it agrees with known scores."""
    console.print(Text(f"ranked by {ranking.metric}", style="bold"), highlight=False)
    console.print(Text(f"  {ranking.why}", style="dim"))
    console.print(_models(ranking, console.width))
    console.print(Text(f"  {' · '.join(ranking_cells.legend(ranking))}", style="dim"))
    console.print()
    spelled = _spelled(ranking, NAME_WIDTH)
    said = ranking_cells.verdict(ranking, lambda name: spelled[name])
    console.print(Text(said), highlight=False)
    doubt = ranking_cells.judged_share(ranking)
    if doubt:
        console.print(Text(doubt, style="dim"))
    for item in ranking.left_out:
        line = f"not ranked: {item.source}: {item.reason}"
        console.print(Text(printable(line), style="yellow"))
    if ranking.scores is not None:
        console.print()
        _show_scores(ranking, console)


def _models(ranking: Ranking, width: int) -> Table:
    headers = ranking_cells.headers(ranking)
    table = new_table(*headers)
    rows = list(ranking_cells.cells(ranking))
    used = sum(
        max(len(cell) for cell in column) + 1
        for column in zip(headers, *rows, strict=True)
        if column[0] != "model"
    )
    room = max(MIN_NAME_WIDTH, width - used - 1)
    spelled = _spelled(ranking, room)
    for place, name, *numbers in rows:
        add_row(table, place, spelled[name], *numbers)
    return table


def _spelled(ranking: Ranking, width: int) -> dict[str, str]:
    """Return names that fit and stay apart; ones of wide letters are cut again."""
    whole = [model.name for model in ranking.models]
    short = [fit_name(name, width) for name in told_apart(whole, width)]
    return dict(zip(whole, short, strict=True))


def fit_name(name: str, width: int) -> str:
    """Make a model's name fit by leaving out its middle; wide letters take two cells."""
    return shorten_middle(name, width, measure=cell_len)


def _show_scores(ranking: Ranking, console: Console) -> None:
    scores = ranking.scores
    if scores is None:
        return
    title = ranking_cells.scores_title(scores, printable)
    console.print(Text(title, style="bold"))
    table = new_table(*ranking_cells.AGREEMENT)
    for metric, group, *numbers in ranking_cells.agreement_cells(scores):
        style = "bold" if metric == ranking.metric else ""
        add_row(table, metric, shorten(group, 16), *numbers, style=style)
    console.print(table)
    text = (
        "  tau: Kendall's, 1 if what the metric calls better always scores better · 95 %: as the"
        " layers vary · p: how often chance orders as few models as well"
    )
    console.print(Text(text, style="dim"))
    if scores.paradox:
        console.print(Text(scores.paradox, style="bold"))
