"""A comparison on a terminal: what kind of change it is, and the layers that changed most."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spectra.comparing import (
    CHANGE_TEXT,
    Change,
    Comparison,
    Group,
    LayerChange,
    OtherShape,
    Unmatched,
)
from spectra.errors import printable
from spectra.reports.ranking_terminal import fit_name
from spectra.reports.terminal import MAX_ROWS, add_row, new_table, shorten

MIN_NAME_WIDTH = 14
MAX_GROUPS = 12
NAMED = 3
CODES = {
    Change.IDENTICAL: "same",
    Change.RESCALED: "scaled",
    Change.LOW_RANK: "low rank",
    Change.NOISE_LIKE: "noise",
    Change.FINE_TUNED: "trained",
    Change.UNRELATED: "other",
    Change.NON_FINITE: "NaN/Inf",
    Change.UNKNOWN: "–",
}
HEADERS = ("layer", "N×M", "|ΔW|", "rk ΔW", "overlap", "α", "Δα", "change")


def show_comparison(comparison: Comparison, console: Console, *, rows: int = MAX_ROWS) -> None:
    """Print the verdict, the groups, and the layers that changed most (at most `rows`; 0: all)."""
    for side, address in (("base ", comparison.base), ("other", comparison.other)):
        line = f"{side}  {fit_name(address, max(console.width - 8, MIN_NAME_WIDTH))}"
        console.print(Text(line, style="bold"), highlight=False)
    for note in comparison.notes:
        console.print(Text(f"  {printable(note)}", style="dim"))
    console.print()
    console.print(Text(printable(comparison.verdict)), highlight=False)
    _show_unmatched(comparison, console)
    if not comparison.layers:
        return
    for by in ("role", "block"):
        groups = [group for group in comparison.groups if group.by == by]
        if len(groups) > 1 and any(group.n_layers > 1 for group in groups):
            console.print()
            _show_groups(by, groups, console)
    console.print()
    ordered = sorted(comparison.layers, key=_size, reverse=True)
    shown = ordered[:rows] if rows else ordered
    console.print(_layer_table(shown, console.width))
    if len(shown) < len(ordered):
        more = f"  … {len(ordered) - len(shown)} more layers, changed less; --rows 0 shows all"
        console.print(Text(more, style="dim"))
    console.print(Text(f"  {_legend(shown)}", style="dim"))


def _size(layer: LayerChange) -> float:
    """Return what layers are ordered by: how far the weights moved, else how far alpha did."""
    size = abs(layer.alpha_change) if layer.delta is None else layer.delta.norm
    if layer.delta and layer.delta.squared_norm > 0 == layer.delta.base_squared_norm:
        return math.inf
    return -1.0 if math.isnan(size) else size


def _layer_table(layers: Sequence[LayerChange], width: int) -> Table:
    """Build the table; numbers are never cut, the name takes what the other columns leave."""
    table = new_table(*HEADERS)
    cells = [
        (
            _shape(layer),
            _digits(None if layer.delta is None else layer.delta.norm),
            "–" if layer.delta is None else str(layer.delta.rank),
            _overlap(layer),
            _fixed(layer.base.metrics.get("alpha", math.nan), ".2f"),
            _fixed(layer.alpha_change, "+.2f") + ("*" if layer.alpha_moved else " "),
            CODES[layer.change],
        )
        for layer in layers
    ]
    used = sum(max(map(len, column)) + 1 for column in zip(HEADERS[1:], *cells, strict=True))
    room = max(MIN_NAME_WIDTH, width - used - 1)
    for layer, numbers in zip(layers, cells, strict=True):
        style = "dim" if layer.change in (Change.IDENTICAL, Change.UNKNOWN) else ""
        add_row(table, shorten(layer.name, room), *numbers, style=style)
    return table


def _show_groups(by: str, groups: Sequence[Group], console: Console) -> None:
    """Print groups of layers: blocks in their order, the first of many."""
    table = new_table("group", "layers", "same", "|ΔW|", "share", "Δα")
    for group in groups[:MAX_GROUPS]:
        add_row(
            table,
            shorten(group.name, 30),
            str(group.n_layers),
            str(group.n_identical),
            _digits(group.delta_norm),
            "–" if math.isnan(group.delta_share) else f"{group.delta_share:.0%}",
            _fixed(group.alpha_change, "+.2f"),
        )
    table.columns[0].header = by
    console.print(table)
    if len(groups) > MAX_GROUPS:
        more = f"  … {len(groups) - MAX_GROUPS} more {by}s; all of them with --json"
        console.print(Text(more, style="dim"))


def _show_unmatched(comparison: Comparison, console: Console) -> None:
    for label, items in (
        ("only in base", comparison.only_in_base),
        ("only in other", comparison.only_in_other),
        ("of another shape", comparison.other_shape),
    ):
        if items:
            named = ", ".join(_unmatched(item) for item in items[:NAMED])
            more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
            line = f"{label}: {len(items)} layers: {named}{more}"
            console.print(Text(printable(line), style="yellow"))


def _unmatched(item: Unmatched | OtherShape) -> str:
    name = shorten(item.name, 40)
    if isinstance(item, OtherShape):
        before, after = ("×".join(map(str, s)) for s in (item.base_shape, item.other_shape))
        return f"{name} ({before}, {after})"
    return f"{name} ({item.reason})" if item.reason else name


def _legend(layers: Sequence[LayerChange]) -> str:
    parts = [
        "|ΔW|: norm of the difference over that of the base",
        "rk ΔW: directions of it that rounding cannot explain",
        "overlap: of leading directions, left/right, 1 the same",
        "α: of the base",
        "*: the change of α is beyond its 95 % interval",
    ]
    used = {layer.change for layer in layers}
    parts += [f"{code}: {CHANGE_TEXT[kind]}" for kind, code in CODES.items() if kind in used]
    return " · ".join(parts)


def _shape(layer: LayerChange) -> str:
    slices = f"×{layer.n_matrices}" if layer.n_matrices > 1 else ""
    return f"{layer.N}×{layer.M}{slices}"


def _overlap(layer: LayerChange) -> str:
    shared = layer.overlap
    return "–" if shared is None else f"{shared.left:.2f}/{shared.right:.2f}"


def _digits(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return "0" if value == 0 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _fixed(value: float, form: str) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:{form}}" if abs(value) < 1000 else f"{value:.0e}"
