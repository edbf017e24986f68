"""The report on a terminal: a table that fits 80 columns, and what it says in words."""

import math
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from spectra.analysis import OVER_TRAINED, UNDER_TRAINED, Inventory
from spectra.engine import operations
from spectra.records import (
    STATUS_TEXT,
    Finding,
    LayerReport,
    Matrix,
    ModelReport,
    Skipped,
    Status,
)

MAX_ROWS = 60
NAMED = 3  # how many of the worst layers are called by name
NAME_WIDTH = 30  # of 80 columns; what the others leave on a wider terminal
OTHER_COLUMNS = 52

# Worst first; what a layer's last column says when it has several findings.
NOTES = {
    Finding.OVER_TRAINED: "over-trained",
    Finding.UNDER_TRAINED: "under-trained",
    Finding.RANK_COLLAPSE: "rank collapse",
    Finding.POOR_FIT: "poor fit",
    Finding.SHORT_SPECTRUM: "few eigenvalues",
    Finding.SHORT_TAIL: "short tail",
}
MEANS = ("alpha", "alpha_hat", "log_norm", "log_spectral_norm", "stable_rank")
FAILED = {
    Status.TOO_FEW_EIGENVALUES: "too few λ",
    Status.NON_FINITE: "NaN or Inf",
    Status.ZERO: "all zero",
    Status.DEGENERATE: "no spectrum",
    Status.UNSUPPORTED_DTYPE: "type not read",
    Status.NOT_REACHED: "not reached",
}
STYLES = {"over-trained": "red", "under-trained": "yellow"}


def show_report(report: ModelReport, console: Console, *, rows: int = MAX_ROWS) -> None:
    """Print the table of layers (at most `rows`; 0 for all) and the summary below it."""
    console.print(_heading(report))
    console.print(_layer_table(_shown(report.layers, rows), console.width))
    hidden = len(report.layers) - len(_shown(report.layers, rows))
    if hidden:
        console.print(Text(f"  … {hidden} more layers; --rows 0 shows all", style="dim"))
    console.print(_verdict(report))


def show_inventory(stock: Inventory, console: Console, *, rows: int = MAX_ROWS) -> None:
    """Print what an analysis would take, what it would skip, and what it would cost."""
    console.print(Text(f"{printable(stock.source.address)} · {stock.source.format}", style="bold"))
    for note in stock.source.notes:
        console.print(Text(f"  {note}", style="dim"))
    table = _table("layer", "kind", "N×M", "eigenvalues", "GFLOP")
    shown = stock.matrices[:rows] if rows else stock.matrices
    for matrix in shown:
        _add(
            table,
            shorten(matrix.name, NAME_WIDTH + 4),
            matrix.kind,
            _shape(matrix),
            f"{matrix.n_matrices * matrix.M}",
            f"{operations(matrix) / 1e9:.3g}",
        )
    console.print(table)
    if len(stock.matrices) > len(shown):
        more = len(stock.matrices) - len(shown)
        console.print(Text(f"  … {more} more layers; --rows 0 shows all", style="dim"))
    console.print(
        f"{len(stock.matrices)} layers to analyse, {stock.source.nbytes / 1e6:,.1f} MB of weights,"
        f" {stock.operations / 1e9:,.3g} GFLOP,\nabout {stock.working_bytes / 1e6:,.1f} MB of memory"
        " beyond the program itself",
        highlight=False,
    )
    console.print(Text(f"skipped: {_skipped_line(stock.skipped)}", style="dim"))


def printable(text: str) -> str:
    """Show control and direction characters as escapes, so that no name can drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shorten(name: str, width: int) -> str:
    """Cut a name from the left, where parts are shared, and drop the usual ``.weight``."""
    name = printable(name).removesuffix(".weight")
    return name if len(name) <= width else f"…{name[len(name) - width + 1 :]}"


def _add(table: Table, *cells: str, style: str = "") -> None:
    """Add a row of plain text: rich reads markup in strings, and names may hold it."""
    table.add_row(*map(Text, cells), style=style)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    for column in columns:
        left = column in ("", "layer", "kind", "note")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    return table


def _heading(report: ModelReport) -> Text:
    source, options = report.source, report.options
    return Text(
        f"{printable(source.address)} · {source.format}\n", style="bold", no_wrap=False
    ).append(
        f"convention {options['convention']} · estimator {options['estimator']}"
        + "".join(f" · {note}" for note in source.notes)
        + ("" if report.complete else " · INTERRUPTED, incomplete"),
        style="not bold dim" if report.complete else "bold red",
    )


def _shown(layers: Sequence[LayerReport], rows: int) -> Sequence[LayerReport]:
    """Return at most `rows` layers, those that most need a look, in checkpoint order."""
    if not rows or len(layers) <= rows:
        return layers
    worst = {id(layer) for layer in sorted(layers, key=_badness, reverse=True)[:rows]}
    return [layer for layer in layers if id(layer) in worst]


def _badness(layer: LayerReport) -> tuple[int, float]:
    """Order layers by how much they need a look: outside 2-6 by how far, then other findings."""
    if layer.status is not Status.OK:
        return (1, 0.0)
    alpha = layer.metrics.get("alpha", math.nan)
    outside = max(OVER_TRAINED - alpha, alpha - UNDER_TRAINED, 0.0)
    return (2 if outside else 1 if layer.warnings else 0, outside)


def _layer_table(layers: Sequence[LayerReport], width: int) -> Table:
    table = _table("", "layer", "N×M", "alpha", "KS", "tail", "α̂", "note")
    for layer in layers:
        note = _note(layer)
        style = "dim" if layer.status is not Status.OK else STYLES.get(note, "")
        _add(
            table,
            _mark(layer),
            shorten(layer.name, max(NAME_WIDTH, width - OTHER_COLUMNS)),
            _shape(layer),
            _number(layer, "alpha", 2),
            _number(layer, "ks", 3),
            _number(layer, "n_tail", 0),
            _number(layer, "alpha_hat", 2),
            note,
            style=style,
        )
    return table


def _mark(layer: LayerReport) -> str:
    if layer.status is not Status.OK:
        return "-"
    return "!" if _badness(layer)[0] == 2 else ""


def _note(layer: LayerReport) -> str:
    if layer.status is not Status.OK:
        return FAILED.get(layer.status, str(layer.status).replace("_", " "))
    notes = [text for finding, text in NOTES.items() if finding in layer.warnings]
    if not layer.averaged:
        notes.append(layer.kind)
    return notes[0] + ("…" if len(notes) > 1 else "") if notes else ""


def _shape(layer: LayerReport | Matrix) -> str:
    slices = f"×{layer.n_matrices}" if layer.n_matrices > 1 else ""
    return f"{layer.N}×{layer.M}{slices}"


def _number(layer: LayerReport, metric: str, digits: int) -> str:
    value = layer.metrics.get(metric, math.nan)
    if math.isnan(value):
        return "–"
    # An alpha of thousands is no exponent; scientific notation keeps the column narrow.
    return f"{value:.{digits}f}" if abs(value) < 1000 or not digits else f"{value:.0e}"


def _verdict(report: ModelReport) -> RenderableType:
    """Say what was analysed, the means, where the exponents lie, and where to look first."""
    summary = report.summary
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    _add(grid, "", "")
    counts = Counter(layer.status for layer in report.layers if layer.status is not Status.OK)
    without = ", ".join(f"{count} {STATUS_TEXT[status]}" for status, count in counts.items())
    fitted = f"{summary['n_layers'] - summary['n_failed']} of {summary['n_layers']} fitted"
    _add(grid, "layers", fitted + (f"; without numbers: {without}" if counts else ""))
    _add(grid, "skipped", _skipped_line(report.skipped))
    if summary["n_left_out"]:
        _add(grid, "not averaged", f"{summary['n_left_out']} embeddings and output heads")
    if summary["n_averaged"]:
        means = [f"{name} {summary[name]:.3f}" for name in MEANS if name in summary]
        _add(grid, f"mean of {summary['n_averaged']}", "   ".join(means))
    averaged = [layer for layer in report.layers if layer.averaged and "alpha" in layer.metrics]
    if averaged:
        _add_alpha_rows(grid, averaged)
    if not report.complete:
        _add(grid, "interrupted", "layers not reached are marked", style="bold red")
    return grid


def _add_alpha_rows(grid: Table, layers: Sequence[LayerReport]) -> None:
    over = sum(layer["alpha"] < OVER_TRAINED for layer in layers)
    under = sum(layer["alpha"] > UNDER_TRAINED for layer in layers)
    parts = [f"{len(layers) - over - under} from 2 to 6, where well-trained layers lie"]
    parts += [f"{under} above (under-trained)"] if under else []
    parts += [f"{over} below (over-trained)"] if over else []
    _add(grid, "alpha", ", ".join(parts))
    worst = sorted((x for x in layers if _badness(x)[0] == 2), key=_badness, reverse=True)
    for position, layer in enumerate(worst[:NAMED]):
        text = f"{shorten(layer.name, NAME_WIDTH)}, alpha {_number(layer, 'alpha', 2)}"
        _add(grid, "" if position else "look first at", text)
    doubtful = sum(bool({Finding.POOR_FIT, Finding.SHORT_TAIL} & set(x.warnings)) for x in layers)
    if doubtful:
        text = f"{doubtful} of {len(layers)} rest on a poor fit or a short tail"
        _add(grid, "with care", text)


def _skipped_line(skipped: Sequence[Skipped]) -> str:
    """Count the skipped tensors by reason, most frequent first."""
    if not skipped:
        return "nothing"
    reasons = Counter(item.reason for item in skipped).most_common()
    listed = "; ".join(f"{count} {reason}" for reason, count in reasons[:4])
    rest = sum(count for _, count in reasons[4:])
    return printable(listed) + (f"; {rest} for other reasons" if rest else "")
