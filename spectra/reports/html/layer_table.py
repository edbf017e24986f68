"""The table of all layers; in large models one row a stack of experts."""

import math
from collections import Counter
from collections.abc import Sequence

from spectra.naming import ROLES
from spectra.records import FINDING_TEXT, LayerReport, Status
from spectra.reports.html import figures, pieces
from spectra.reports.html.groups import Entry
from spectra.reports.html.markup import Child, Markup, count, number, tag
from spectra.reports.html.pieces import Column
from spectra.reports.html.texts import NOTES, TERMS, VERDICTS

DIGITS = {"alpha": 2, "ks": 3, "n_tail": 0, "alpha_hat": 2, "log_norm": 2, "stable_rank": 1,
          "erg_gap": 0, "n_spikes": 0}  # fmt: skip
NOTED = "what else is noteworthy, and why a layer is not judged"
COLUMNS = (
    Column("position", "#", "place in the checkpoint"),
    Column("name", "layer", is_number=False, is_head=True),
    Column("role", "role", "what the layer does, by its name", is_number=False),
    Column("shape", "size", "N × M × slices", is_number=False),
    Column("verdict", "verdict", is_number=False, class_="words"),
    Column("note", "noted", NOTED, is_number=False, class_="words"),
    Column("alpha", "alpha", TERMS["alpha"].meaning),
    Column("interval", "95 % interval", TERMS["interval"].meaning),
    Column("ks", "KS", TERMS["ks"].meaning),
    Column("n_tail", "tail", TERMS["tail"].meaning),
    Column("alpha_hat", "alpha-hat", TERMS["alpha_hat"].meaning),
    Column("log_norm", "log norm", TERMS["log_norm"].meaning),
    Column("stable_rank", "stable rank", TERMS["stable_rank"].meaning),
    Column("erg_gap", "ERG gap", TERMS["erg_gap"].meaning),
    Column("n_spikes", "spikes", TERMS["spikes"].meaning),
)
TABLE = "layer-table"
SAID = {"over_trained", "under_trained", "random_like"}  # by the verdict


def layer_table(entries: Sequence[Entry], drawn: set[int]) -> Markup:
    """Return the section with every layer.

    Parameters
    ----------
    entries : sequence of Entry
    drawn : set of int
        Places of the layers whose spectrum is on the page.
    """
    note = "Click a name to see the spectrum." if drawn else ""
    note += " The head of a column says what it holds, the glossary when that misleads."
    if any(len(entry.members) > 1 for entry in entries):
        note += " Experts of one stack share a row, which shows medians; --csv has every one."
    caption = f"{count(sum(len(entry.members) for entry in entries), 'layer')} in checkpoint order"
    held = {metric for entry in entries for metric in entry.layer.metrics}
    columns = [c for c in COLUMNS if c.key not in DIGITS or c.key in held]
    return pieces.section(
        "layers",
        "All layers",
        tag("p", note.strip(), class_="note"),
        _filters(entries),
        pieces.table(
            columns,
            [_row(entry, columns, drawn) for entry in entries],
            key=TABLE,
            caption=caption,
        ),
    )


def _row(entry: Entry, columns: Sequence[Column], drawn: set[int]) -> pieces.Row:
    layer, place, n = entry.layer, str(entry.position + 1), len(entry.members)
    name: Child = pieces.name_of(entry.name, 60)
    if n == 1 and entry.position in drawn:
        name = tag("a", name, href=f"#spectrum-{place}", data_spectrum=place)
    low, high = entry.interval()
    slices = f"×{layer.n_matrices}" if layer.n_matrices > 1 else ""
    cells: dict[str, Child] = {
        "position": place,
        "name": name,
        "role": tag("span", entry.role, title=ROLES[entry.role]),
        "shape": f"{layer.N}×{layer.M}{slices}",
        "verdict": _verdicts(entry),
        "note": _note(layer) if n == 1 else f"{n} experts",
        "interval": f"{number(low)}–{number(high)}" if math.isfinite(low) else "–",
        **{key: number(entry.value(key), digits) for key, digits in DIGITS.items()},
    }
    return pieces.Row(
        tuple(cells[column.key] for column in columns),
        {
            "id": f"layer-{place}",
            "data_role": entry.role,
            "data_verdict": " ".join(sorted({str(layer.verdict) for _, layer in entry.members})),
        },
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
    noted = [finding for finding in layer.warnings if finding.value not in SAID]
    kind = layer.kind if layer.kind in ("embedding", "head") else ""
    words = ", ".join(filter(None, [kind, *(NOTES[finding] for finding in noted)]))
    return tag("span", words, title="; ".join(FINDING_TEXT[f] for f in noted) or None)


def _filters(entries: Sequence[Entry]) -> Markup:
    found = figures.count_verdicts([layer.verdict for e in entries for _, layer in e.members])
    verdicts = [(str(verdict), VERDICTS[verdict][1]) for verdict, n in found.items() if n]
    roles = sorted({entry.role for entry in entries}, key=list(ROLES).index)
    return pieces.filters(TABLE, {"verdict": verdicts, "role": [(role, role) for role in roles]})
