"""A smoothed copy on a terminal: what was cut, layer by layer, and what was left."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spectra.errors import printable
from spectra.records import Status
from spectra.reports.cells import skipped_line
from spectra.reports.ranking_terminal import fit_name
from spectra.reports.terminal import MAX_ROWS, add_row, new_table, shorten
from spectra.smoothing import Smoothed, SmoothedLayer

HEADERS = ("layer", "N×M", "rank", "kept", "‖W‖²", "status")
LEGEND = "rank: singular components · kept: in the tail · ‖W‖²: their share of ‖W‖²_F"
MIN_NAME_WIDTH = 16
NAMED = 3


def show_smoothed(copy: Smoothed, console: Console, *, rows: int = MAX_ROWS) -> None:
    """Print what was cut (at most `rows` layers; 0: all), what was left and why, and where the copy is."""
    line = (
        f"{fit_name(copy.source, max(console.width - 12, MIN_NAME_WIDTH))}, to {copy.options['to']}"
    )
    console.print(Text(line, style="bold"), highlight=False)
    for note in copy.notes:
        console.print(Text(f"  {printable(note)}", style="dim"))
    if copy.layers:
        shown = copy.layers[:rows] if rows else copy.layers
        console.print(_layer_table(shown, console.width))
        if len(shown) < len(copy.layers):
            more = f"  … {len(copy.layers) - len(shown)} more layers; --rows 0 shows all"
            console.print(Text(more, style="dim"))
        console.print(Text(f"  {LEGEND}", style="dim"))
    console.print(_summary(copy), highlight=False)


def _layer_table(layers: Sequence[SmoothedLayer], width: int) -> Table:
    """Build the table; numbers are never cut, the name takes what the other columns leave."""
    table = new_table(*HEADERS)
    cells = [
        (
            f"{x.N}×{x.M}" + (f"×{x.n_matrices}" if x.n_matrices > 1 else ""),
            str(x.rank_before),
            str(x.rank_after),
            "–" if math.isnan(x.norm_kept) else f"{x.norm_kept:.2%}",
            _status(x),
        )
        for x in layers
    ]
    used = sum(max(map(len, column)) + 1 for column in zip(HEADERS[1:], *cells, strict=True))
    room = max(MIN_NAME_WIDTH, width - used - 1)
    for layer, numbers in zip(layers, cells, strict=True):
        add_row(table, shorten(layer.name, room), *numbers, style="" if layer.cut else "dim")
    return table


def _status(layer: SmoothedLayer) -> str:
    if layer.cut:
        return "cut"
    return "whole" if layer.status is Status.OK else str(layer.status)


def _summary(copy: Smoothed) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    add_row(grid, "", "")
    add_row(grid, "cut", f"{copy.n_cut} of {len(copy.layers)} layers")
    left = [layer for layer in copy.layers if not layer.cut]
    for position, layer in enumerate(left[:NAMED]):
        text = f"{printable(shorten(layer.name, MIN_NAME_WIDTH * 2))}: {printable(layer.reason)}"
        add_row(grid, "" if position else "left", text)
    if len(left) > NAMED:
        add_row(grid, "", f"and {len(left) - NAMED} more; all of them with --json")
    add_row(grid, "not taken", skipped_line(copy.skipped))
    files = ", ".join(copy.files[:NAMED])
    more = f" and {len(copy.files) - NAMED} more" if len(copy.files) > NAMED else ""
    where = (
        copy.out if (copy.files == (copy.out.rpartition("/")[2],)) else f"{copy.out}: {files}{more}"
    )
    add_row(grid, "written", printable(where))
    return grid
