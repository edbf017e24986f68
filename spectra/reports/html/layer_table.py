"""The table of all layers; in large models one row a stack of experts."""

import math
from collections import Counter
from collections.abc import Sequence

from spectra.naming import ROLES
from spectra.records import FINDING_TEXT, LayerReport, Status
from spectra.reports.concerns import badness
from spectra.reports.html import figures, pieces
from spectra.reports.html.groups import Entry
from spectra.reports.html.markup import Child, Markup, count, number, tag
from spectra.reports.html.texts import NOTES, TERMS, VERDICTS

MOST_ROWS = 1000
DIGITS = {"alpha": 2, "ks": 3, "n_tail": 0, "alpha_hat": 2, "log_norm": 2, "stable_rank": 1,
          "erg_gap": 0, "n_spikes": 0}  # fmt: skip
COLUMNS = (
    pieces.Column("position", "#", "place in the checkpoint"),
    pieces.Column("name", "layer", is_number=False, is_head=True),
    pieces.Column("role", "role", "what the layer does, by its name", is_number=False),
    pieces.Column("shape", "size", "N × M × slices", is_number=False),
    pieces.Column("verdict", "verdict", is_number=False),
    pieces.Column("alpha", "alpha", TERMS["alpha"].meaning),
    pieces.Column("interval", "95 % interval", TERMS["interval"].meaning),
    pieces.Column("ks", "KS", TERMS["ks"].meaning),
    pieces.Column("n_tail", "tail", TERMS["tail"].meaning),
    pieces.Column("alpha_hat", "alpha-hat", TERMS["alpha_hat"].meaning),
    pieces.Column("log_norm", "log norm", TERMS["log_norm"].meaning),
    pieces.Column("stable_rank", "stable rank", TERMS["stable_rank"].meaning),
    pieces.Column("erg_gap", "ERG gap", TERMS["erg_gap"].meaning),
    pieces.Column("n_spikes", "spikes", TERMS["spikes"].meaning),
    pieces.Column("note", "noted", is_number=False),
)


def layer_table(entries: Sequence[Entry], drawn: set[int]) -> Markup:
    """Return the section with every layer.

    Parameters
    ----------
    entries : sequence of Entry
    drawn : set of int
        Places of the layers whose spectrum is on the page.
    """
    chosen = _chosen(entries)
    note = "Click a name to see the spectrum. The head of a column says what it holds."
    if len(chosen) < len(entries):
        note += (
            f" {len(entries) - len(chosen)} layers that need no look are left out; --csv has all."
        )
    stacks = sum(len(entry.members) > 1 for entry in entries)
    if stacks:
        note += " Experts of one stack share a row, which shows medians; --csv has every one."
    caption = f"{count(sum(len(entry.members) for entry in chosen), 'layer')} in checkpoint order"
    rows = [_row(entry, drawn) for entry in chosen]
    held = [c for c in COLUMNS if c.key not in DIGITS or _held(chosen, c.key)]
    places = [i for i, column in enumerate(COLUMNS) if column in held]
    kept = [pieces.Row(tuple(row.cells[i] for i in places), row.attributes) for row in rows]
    return pieces.section(
        "layers",
        "All layers",
        tag("p", note, class_="note"),
        _filters(chosen),
        pieces.table(held, kept, key="layer-table", caption=caption),
    )


def _held(entries: Sequence[Entry], metric: str) -> bool:
    return any(metric in entry.layer.metrics for entry in entries)


def _chosen(entries: Sequence[Entry]) -> Sequence[Entry]:
    if len(entries) <= MOST_ROWS:
        return entries
    worst = sorted(entries, key=lambda entry: max(badness(layer) for _, layer in entry.members))
    places = {entry.position for entry in worst[-MOST_ROWS:]}
    return [entry for entry in entries if entry.position in places]


def _row(entry: Entry, drawn: set[int]) -> pieces.Row:
    layer, place = entry.layer, str(entry.position + 1)
    name: Child = pieces.name_of(entry.name, 60)
    if entry.position in drawn and len(entry.members) == 1:
        name = tag("a", name, href=f"#spectrum-{place}", data_spectrum=place)
    low, high = entry.interval()
    interval = f"{number(low)}–{number(high)}" if math.isfinite(low) else "–"
    slices = f"×{layer.n_matrices}" if layer.n_matrices > 1 else ""
    values = {key: number(entry.value(key), digits) for key, digits in DIGITS.items()}
    cells: dict[str, Child] = {
        "position": place if len(entry.members) == 1 else f"{place} +{len(entry.members) - 1}",
        "name": name,
        "role": tag("span", entry.role, title=ROLES[entry.role]),
        "shape": f"{layer.N}×{layer.M}{slices}",
        "verdict": _verdicts(entry),
        "interval": interval,
        "note": _note(layer) if len(entry.members) == 1 else f"{len(entry.members)} experts",
        **values,
    }
    verdict = layer.verdict if len(entry.members) == 1 else "mixed"
    return pieces.Row(
        tuple(cells[column.key] for column in COLUMNS),
        {"id": f"layer-{place}", "data_verdict": str(verdict)},
    )


def _verdicts(entry: Entry) -> Child:
    counts = Counter(layer.verdict for _, layer in entry.members)
    if len(entry.members) == 1:
        return pieces.chip(entry.layer.verdict)
    return [
        (pieces.chip(verdict, f"{counts[verdict]} {VERDICTS[verdict][1]}"), " ")
        for verdict in VERDICTS
        if counts[verdict]
    ]


def _note(layer: LayerReport) -> Child:
    if layer.status is not Status.OK:
        return layer.reason
    words: list[str] = [layer.kind] if layer.kind in ("embedding", "head") else []
    said = {"over_trained", "under_trained", "random_like"}
    noted = [finding for finding in layer.warnings if finding.value not in said]
    words += [NOTES[finding] for finding in noted]
    return tag("span", ", ".join(words), title="; ".join(FINDING_TEXT[f] for f in noted) or None)


def _filters(entries: Sequence[Entry]) -> Markup:
    """Return the controls of the table; hidden until the script that serves them runs."""
    found = figures.count_verdicts([layer.verdict for e in entries for _, layer in e.members])
    verdicts = [
        tag("option", VERDICTS[verdict][1], value=str(verdict)) for verdict, n in found.items() if n
    ]
    roles = sorted({entry.role for entry in entries}, key=list(ROLES).index)
    return tag(
        "form",
        tag("label", "name or note ", tag("input", type="search", id="filter-text")),
        tag("label", "verdict ",
            tag("select", tag("option", "any", value=""), verdicts, id="filter-verdict")),
        tag("label", "role ",
            tag("select", tag("option", "any", value=""),
                [tag("option", role, value=role) for role in roles], id="filter-role")),
        tag("output", "", id="filter-count", aria_live="polite"),
        id="filters",
        hidden=True,
    )  # fmt: skip
