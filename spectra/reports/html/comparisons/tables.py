"""The tables of a comparison: groups of layers, every layer, and what had no counterpart."""

import math
from collections.abc import Sequence

from spectra.comparing import (
    CHANGE_TEXT,
    Change,
    Comparison,
    Group,
    LayerChange,
    OtherShape,
    Unmatched,
)
from spectra.naming import ROLES
from spectra.reports.html import pieces, provenance
from spectra.reports.html.comparisons.figures import alphas, brief
from spectra.reports.html.comparisons.texts import CHANGES, COMPARISON_TERMS
from spectra.reports.html.markup import Child, Markup, count, number, tag
from spectra.reports.html.pieces import Column

TABLE = "layer-table"
LAYER_COLUMNS = (
    Column("position", "#", "place in the base"),
    Column("name", "layer", is_number=False, is_head=True),
    Column("role", "role", "what the layer does, by its name", is_number=False),
    Column("shape", "size", "N × M × slices", is_number=False),
    Column("change", "change", "what kind of change it is", is_number=False, class_="words"),
    Column("delta_norm", "size of ΔW", COMPARISON_TERMS["delta_norm"].meaning),
    Column("delta_rank", "rank", COMPARISON_TERMS["delta_rank"].meaning),
    Column("delta_structure", "structure", COMPARISON_TERMS["delta_structure"].meaning),
    Column("overlap_left", "overlap left", COMPARISON_TERMS["overlap"].meaning),
    Column("overlap_right", "right", COMPARISON_TERMS["overlap"].meaning),
    Column("alpha_base", "alpha base", COMPARISON_TERMS["alpha"].meaning),
    Column("alpha_other", "other"),
    Column("alpha_change", "change of alpha", COMPARISON_TERMS["alpha_change"].meaning),
    Column("interval", "95 % interval", COMPARISON_TERMS["alpha_change"].meaning),
)
GROUP_COLUMNS = (
    Column("name", "group", is_number=False, is_head=True),
    Column("n_layers", "layers"),
    Column("n_identical", "identical"),
    Column("delta_norm", "size of ΔW", COMPARISON_TERMS["delta_norm"].meaning),
    Column("delta_share", "share", COMPARISON_TERMS["delta_share"].meaning),
    Column("alpha_change", "change of alpha", "mean over the layers"),
)


def chip(change: Change) -> Markup:
    """Return a kind of change as a symbol and words."""
    symbol, words = CHANGES[change]
    mark = tag("span", symbol, class_="symbol", aria_hidden="true")
    return tag("span", mark, f" {words}", class_="chip", title=CHANGE_TEXT[change])


def groups_section(comparison: Comparison) -> Markup | None:
    """Return layers by role and by block together; None where every group is one layer."""
    parts: list[Child] = []
    for by in ("role", "block"):
        groups = [group for group in comparison.groups if group.by == by]
        if len(groups) > 1 and any(group.n_layers > 1 for group in groups):
            rows = [_group_row(group) for group in groups]
            parts.append(
                pieces.table(GROUP_COLUMNS, rows, key=f"{by}-table", caption=f"layers by {by}")
            )
    return pieces.section("groups", "Groups of layers", parts) if parts else None


def _group_row(group: Group) -> pieces.Row:
    share = f"{100 * group.delta_share:.0f} %" if math.isfinite(group.delta_share) else "–"
    name = ROLES.get(group.name, group.name) if group.by == "role" else group.name
    cells: tuple[Child, ...] = (
        pieces.name_of(name, 60) if group.by == "block" else name,
        str(group.n_layers),
        str(group.n_identical),
        brief(group.delta_norm),
        share,
        signed(group.alpha_change),
    )
    return pieces.Row(cells, {})


def layers_section(comparison: Comparison) -> Markup:
    """Return every layer that both models have."""
    rows = [_layer_row(place, layer) for place, layer in enumerate(comparison.layers, start=1)]
    seen = {layer.change for layer in comparison.layers}
    roles = sorted({layer.role for layer in comparison.layers}, key=list(ROLES).index)
    kinds = [(str(change), words) for change, (_, words) in CHANGES.items() if change in seen]
    caption = f"{count(len(rows), 'layer')} that both models have, in the order of the base"
    note = "A star marks a change of alpha beyond its 95 % interval. The head of a column says what it holds."
    return pieces.section(
        "layers",
        "All layers",
        tag("p", note, class_="note"),
        pieces.filters(TABLE, {"change": kinds, "role": [(role, role) for role in roles]}),
        pieces.table(LAYER_COLUMNS, rows, key=TABLE, caption=caption),
    )


def _layer_row(place: int, layer: LayerChange) -> pieces.Row:
    delta, shared = layer.delta, layer.overlap
    before, after = alphas(layer)
    slices = f"×{layer.n_matrices}" if layer.n_matrices > 1 else ""
    low, high = layer.alpha_change_low, layer.alpha_change_high
    cells: tuple[Child, ...] = (
        str(place),
        pieces.name_of(layer.name, 60),
        tag("span", layer.role, title=ROLES[layer.role]),
        f"{layer.N}×{layer.M}{slices}",
        chip(layer.change),
        "–" if delta is None else brief(delta.norm),
        "–" if delta is None else str(delta.rank),
        "–" if delta is None else number(delta.structure),
        "–" if shared is None else number(shared.left),
        "–" if shared is None else number(shared.right),
        number(before),
        number(after),
        signed(layer.alpha_change) + ("*" if layer.alpha_moved else ""),
        f"{signed(low)} to {signed(high)}" if math.isfinite(low) and math.isfinite(high) else "–",
    )
    attributes = {"id": f"layer-{place}", "data_change": str(layer.change), "data_role": layer.role}
    return pieces.Row(cells, attributes)


def unmatched_section(comparison: Comparison) -> Markup | None:
    """Return the layers of one model that the other lacks, or has in another shape."""
    lists: list[Child] = []
    kinds: tuple[tuple[str, Sequence[Unmatched | OtherShape]], ...] = (
        ("Only in the base", comparison.only_in_base),
        ("Only in the other", comparison.only_in_other),
        ("Of another shape", comparison.other_shape),
    )
    for heading, items in kinds:
        if items:
            head = tag("h3", f"{heading}: {count(len(items), 'layer')}")
            lists += [head, provenance.listed([_unmatched(item) for item in items])]
    return pieces.section("unmatched", "Layers without a counterpart", lists) if lists else None


def _unmatched(item: Unmatched | OtherShape) -> Child:
    name = pieces.name_of(item.name, 80)
    if isinstance(item, OtherShape):
        return (
            name,
            f": {_shape(item.base_shape)} in the base, {_shape(item.other_shape)} in the other",
        )
    return name, f" ({_shape(item.shape)})", f": {item.reason}" if item.reason else None


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def signed(value: float) -> str:
    """Return a change with its sign; a dash where there is none.

    Examples
    --------
    >>> signed(0.123), signed(math.nan)
    ('+0.12', '–')
    """
    if not math.isfinite(value):
        return "–"
    return f"{value:+.2f}" if abs(value) < 1000 else f"{value:+.1e}"
