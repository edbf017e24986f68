"""The report on a terminal: a table that fits 80 columns, and what it says in words."""

import io
from collections import Counter
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from spectra.engine import operations
from spectra.errors import printable
from spectra.inventory import Inventory
from spectra.records import (
    STATUS_TEXT,
    Finding,
    LayerReport,
    Matrix,
    ModelReport,
    Status,
)
from spectra.reports import names
from spectra.reports.cells import HEADERS, MEANS, legend, number, row, shape, skipped_line
from spectra.reports.concerns import badness, most_pressing, worst_first
from spectra.reports.words import explain
from spectra.verdicts import DOUBTS, OVER_TRAINED, UNDER_TRAINED

MAX_ROWS = 60
NAMED = 3  # how many of the worst layers are called by name
NAME_WIDTH = 30
MIN_NAME_WIDTH = 16
LEFT = ("", "rank", "layer", "kind", "note", "model", "metric", "group")


def show_report(report: ModelReport, console: Console, *, rows: int = MAX_ROWS) -> None:
    """Print the table of layers (at most `rows`; 0 for all) and the summary below it."""
    reached = [x for x in report.layers if x.status is not Status.NOT_REACHED]
    shown = most_pressing(reached, rows)
    console.print(_heading(report))
    console.print(_layer_table(shown, console.width))
    if len(shown) < len(reached):
        text = f"  … {len(reached) - len(shown)} more layers; --rows 0 shows all"
        console.print(Text(text, style="dim"))
    console.print(_legend(shown))
    quantised = [layer for layer in report.layers if layer.dequantised_from]
    for line in _how_read(quantised):
        console.print(Text(f"  {line}", style="dim"))
    console.print(_verdict(report))


def show_words(report: ModelReport, console: Console) -> None:
    """Print every layer in plain words."""
    for layer in report.layers:
        if layer.status is not Status.NOT_REACHED:
            console.print(Text(""))
            console.print(Text(printable(explain(layer))))


def to_text(report: ModelReport, *, width: int = 100) -> str:
    """Return the table and the summary as plain text."""
    console = Console(width=width, file=io.StringIO(), color_system=None, force_terminal=False)
    show_report(report, console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def show_inventory(stock: Inventory, console: Console, *, rows: int = MAX_ROWS) -> None:
    """Print what an analysis would take, what it would skip, and what it would cost."""
    console.print(Text(f"{printable(stock.source.address)} · {stock.source.format}", style="bold"))
    for remark in stock.source.notes:
        console.print(Text(f"  {printable(remark)}", style="dim"))
    table = new_table("layer", "kind", "N×M", "eigenvalues", "GFLOP")
    shown = stock.matrices[:rows] if rows else stock.matrices
    for matrix in shown:
        add_row(
            table,
            shorten(matrix.name, NAME_WIDTH + 4),
            matrix.kind,
            shape(matrix),
            f"{matrix.n_matrices * matrix.M}",
            f"{operations(matrix) / 1e9:.3g}" if stock.kept is None else "–",
        )
    console.print(table)
    if len(stock.matrices) > len(shown):
        more = len(stock.matrices) - len(shown)
        console.print(Text(f"  … {more} more layers; --rows 0 shows all", style="dim"))
    console.print(_costs(stock), highlight=False)
    for line in _how_read(stock.matrices):
        console.print(Text(line, style="dim"))
    console.print(Text(f"skipped: {skipped_line(stock.skipped)}", style="dim"))


def _costs(stock: Inventory) -> str:
    count = f"{len(stock.matrices)} layers to analyse"
    if stock.kept is not None:
        return f"{count} from their spectra, without weights"
    plan = stock.plan()
    return (
        f"{count}, {stock.source.nbytes / 1e6:,.1f} MB of weights,"
        f" {stock.operations / 1e9:,.3g} GFLOP,\nabout {duration(plan.seconds)} on"
        f" {plan.machine.cores} cores and {plan.nbytes / 1e6:,.1f} MB of memory beyond the program"
    )


def _how_read(layers: Sequence[Matrix | LayerReport]) -> list[str]:
    """Say how layers were cut out of tensors and what they were dequantised from, with counts."""
    lines = []
    for label, words in (
        ("cut", [layer.layout for layer in layers]),
        ("dequantised from", [layer.dequantised_from for layer in layers]),
    ):
        counts = Counter(word for word in words if word).most_common()
        if counts:
            lines.append(f"{label}: {'; '.join(f'{n} {printable(word)}' for word, n in counts)}")
    return lines


def duration(seconds: float) -> str:
    """Say a time in one unit.

    Examples
    --------
    >>> duration(0.2), duration(90), duration(9000)
    ('1 s', '90 s', '2.5 h')
    """
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def shorten(name: str, width: int) -> str:
    """Make a name fit so many cells of a terminal; see `names.shorten`.

    Examples
    --------
    >>> shorten("encoder.layer.11.attention.self.query.weight", 22)
    'e.l.11.a.self.query'
    """
    return names.shorten(name, width, measure=cell_len)


def add_row(table: Table, *cells: str, style: str = "") -> None:
    """Add a row of plain text: rich reads markup in strings, and names may hold it."""
    table.add_row(*map(Text, cells), style=style)


def new_table(*columns: str) -> Table:
    """Return an empty table without lines; words stand left, numbers right."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for column in columns:
        left = column in LEFT
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    return table


def _heading(report: ModelReport) -> Text:
    source, options = report.source, report.options
    interrupted = not report.complete and not source.partial
    return Text(
        f"{printable(source.address)} · {source.format}\n", style="bold", no_wrap=False
    ).append(
        f"convention {options['convention']} · estimator {options['estimator']}"
        + "".join(f" · {printable(remark)}" for remark in source.notes)
        + (" · INTERRUPTED, incomplete" if interrupted else ""),
        style="not bold dim" if report.complete else "bold red",
    )


def _layer_table(layers: Sequence[LayerReport], width: int) -> Table:
    """Build the table; numbers are never cut, the name takes what the other columns leave."""
    table = new_table(*HEADERS)
    rows = [row(layer) for layer in layers]
    used = sum(
        max(map(len, column)) + 1
        for column in zip(HEADERS, *rows, strict=True)
        if column[0] != "layer"
    )
    room = max(MIN_NAME_WIDTH, width - used - 1)
    for layer, (sign, name, *numbers) in zip(layers, rows, strict=True):
        style = "dim" if layer.status is not Status.OK else ""
        if badness(layer)[0] == 3:
            style = "red" if Finding.OVER_TRAINED in layer.warnings else "yellow"
        add_row(table, sign, shorten(name, room), *numbers, style=style)
    return table


def _legend(layers: Sequence[LayerReport]) -> Text:
    return Text("  " + " · ".join(legend(layers)), style="dim")


def _verdict(report: ModelReport) -> RenderableType:
    """Say what can be judged, where the exponents lie, where to look first, and what was left out."""
    summary = report.summary
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    add_row(grid, "", "")
    averaged = [layer for layer in report.layers if layer.averaged and "alpha" in layer.metrics]
    if averaged:
        _add_judgement(grid, averaged)
    if summary["n_averaged"]:
        means = [f"{name} {summary[name]:.3f}" for name in MEANS if name in summary]
        judged = summary["n_averaged"] - summary["n_not_judged"] - summary["n_random_like"]
        doubt = "" if 2 * judged >= summary["n_averaged"] else " (?)"  # most are not judged
        add_row(grid, f"mean of {summary['n_averaged']}{doubt}", "   ".join(means))
    if summary["n_left_out"]:
        add_row(grid, "not averaged", f"{summary['n_left_out']} embeddings and output heads")
    counts = Counter(layer.status for layer in report.layers if layer.status is not Status.OK)
    if counts:
        without = ", ".join(f"{count} {STATUS_TEXT[status]}" for status, count in counts.items())
        add_row(grid, "no alpha", f"{summary['n_failed']} of {summary['n_layers']}: {without}")
    add_row(grid, "skipped", skipped_line(report.skipped))
    if report.source.partial:
        add_row(grid, "partial", "files of the checkpoint are missing", style="bold red")
    elif not report.complete:
        add_row(grid, "interrupted", "what was not reached has no numbers", style="bold red")
    return grid


def _add_judgement(grid: Table, layers: Sequence[LayerReport]) -> None:
    """Judge only layers whose number can be believed, and say how many those are."""
    solid = [layer for layer in layers if not DOUBTS & set(layer.warnings)]
    doubtful = len(layers) - len(solid)
    over = sum(layer["alpha"] < OVER_TRAINED for layer in solid)
    under = sum(layer["alpha"] > UNDER_TRAINED for layer in solid)
    inside = len(solid) - over - under
    parts = [f"{inside} from 2 to 6, as in well-trained layers"] if inside else []
    parts += [f"{under} above 6 (under-trained)"] if under else []
    parts += [f"{over} below 2 (over-trained)"] if over else []
    if solid:
        add_row(grid, "alpha", f"of {len(solid)} layers: {'; '.join(parts)}")
    if doubtful:
        noise = sum(Finding.RANDOM_LIKE in layer.warnings for layer in layers)
        why = "the band from 2 to 6 is that of csn, not of this estimator"
        if not any(Finding.NO_BAND in layer.warnings for layer in layers):
            why = "poor fit or too few eigenvalues"
        text = f"{doubtful} of {len(layers)} (?): {why}"
        add_row(grid, "not judged", text + (f"; {noise} like random weights" if noise else ""))
    worst = [layer for layer in layers if badness(layer)[0] == 3]
    for position, layer in enumerate(worst_first(worst)[:NAMED]):
        text = f"{shorten(layer.name, NAME_WIDTH)}, alpha {number(layer, 'alpha', 2)}"
        add_row(grid, "" if position else "look first at", text)
