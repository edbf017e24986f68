"""The page of a run: what moved, where that changed, what goes wrong, and every layer at every step."""

import math
import shlex

from spectra.naming import ROLES
from spectra.reports.histories import history_to_dict
from spectra.reports.history_words import change_lines, count, course, sign_heads
from spectra.reports.html import document, heat_map, marks, pieces, provenance
from spectra.reports.html.histories import figures, tables
from spectra.reports.html.histories.texts import (
    HISTORY_TERMS,
    NO_TRAPS,
    NO_VALIDATION,
    TOO_FEW,
    WHAT_THIS_IS,
)
from spectra.reports.html.markup import Child, Markup, tag
from spectra.reports.html.texts import READINGS
from spectra.reports.names import shorten_middle
from spectra.tails import WITH_BAND
from spectra.trajectories import FEWEST, History
from spectra.verdicts import OVER_TRAINED, UNDER_TRAINED

OTHERS = {
    "ks": "KS",
    "log_norm": "log norm",
    "stable_rank": "stable rank",
    "alpha_hat": "alpha-hat",
}
"""Metrics drawn beside alpha, and what they are called."""
LINKS = {
    "verdict": "Verdict",
    "course": "Alpha over the run",
    "roles": "By role",
    "changes": "Changes and signs",
    "checkpoints": "Checkpoints",
    "layers": "Every layer",
    "provenance": "Source",
    "glossary": "What the words mean",
}


def history_to_html(history: History) -> str:
    """Return the history of a run as one self-contained HTML page.

    As `spectra.reports.to_html`: it needs no network, and every number is in the file. The block
    ``history`` holds the JSON of `spectra.reports.histories.history_to_json`.

    Parameters
    ----------
    history : History
        Without its ``reports`` neither the band of the layers nor every layer is drawn.
    """
    sections = {
        "verdict": _verdict(history),
        "course": _course(history),
        "roles": _small_multiples(history),
        "changes": tables.changes_section(history),
        "checkpoints": tables.checkpoints_section(history),
        "layers": _every_layer(history),
        "left_out": _left_out(history),
        "provenance": _provenance(history),
        "glossary": pieces.section(
            "glossary", "What the words mean", pieces.glossary(HISTORY_TERMS)
        ),
    }
    rules = [f"{key} {history.options[key]}" for key in ("convention", "estimator")
             if key in history.options]  # fmt: skip
    name = shorten_middle(history.address.rstrip("/").rpartition("/")[2] or history.address, 80)
    return document.page(
        name,
        kicker=["Spectral history", count(len(history.checkpoints)), *rules],
        title=f"Spectral history: {name}",
        sections=sections,
        links=LINKS,
        data={"history": history_to_dict(history)},
    )


def lead(history: History) -> list[str]:
    """Return the verdict: where alpha begins and ends, how that reads, and what goes wrong."""
    last = next(
        (p.alpha for p in reversed(history.checkpoints) if math.isfinite(p.alpha)), math.nan
    )
    reading = []
    if math.isfinite(last) and _has_band(history):
        below, inside, above = READINGS
        words = below if last < OVER_TRAINED else above if last > UNDER_TRAINED else inside
        reading = [f"At its end: {words[:1].lower()}{words[1:]}"]
    heads = [f"{head.rstrip('.')}." for head, _ in sign_heads(history)]
    return [course(history), *reading, *heads]


def cautions(history: History) -> list[str]:
    """Return how far the course can be trusted, in sentences."""
    n, compared = len(history.checkpoints), len(history.layers)
    found = []
    if history.reports:
        whole = len(history.reports[0].layers)
        found.append(
            f"{compared} of {whole} layers are compared: those with an alpha at every checkpoint, and"
            " neither embeddings nor heads."
        )
    if history.choice:
        found.append(f"More than one number varies among the names; ordered by {history.choice}.")
    if n < FEWEST:
        found.append(TOO_FEW.format(n=FEWEST))
    if all(point.n_traps is None for point in history.checkpoints):
        found.append(NO_TRAPS)
    if history.left_out:
        found.append(f"{count(len(history.left_out))} could not be used; see below.")
    return [*found, NO_VALIDATION]


def _has_band(history: History) -> bool:
    return history.options.get("estimator") in WITH_BAND


def _verdict(history: History) -> Markup:
    alert = tag("p", tag("strong", "Incomplete: "), "the analysis was interrupted.", class_="alert")
    return pieces.section(
        "verdict",
        "Verdict",
        None if history.complete else alert,
        tag("p", " ".join(lead(history)), class_="lead"),
        tag("p", WHAT_THIS_IS, class_="note"),
        tag("h3", "Where the rate changes"),
        [tag("p", line) for line in change_lines(history)] or tag("p", "Nothing could be watched."),
        tag("h3", "How far to trust it"),
        tag("ul", [tag("li", words) for words in cautions(history)]),
    )


def _course(history: History) -> Markup | None:
    if not any(math.isfinite(point.alpha) for point in history.checkpoints):
        return None
    banded = _has_band(history)
    items = [(marks.swatch("circle", "r-blue"), "typical alpha, with its 95 % interval")]
    if banded:
        items.append((marks.line_swatch("band"), "2 to 6, as in well-trained layers"))
    if history.reports:
        items.append((marks.line_swatch("spread-area"), "eight in ten of the layers"))
    if any(change.found for change in history.change_points):
        items.append((marks.line_swatch("xmin"), "a rate changes"))
    if history.signs:
        items.append((marks.line_swatch("erg"), "a sign starts"))
    caption = "Good runs come down from above and settle between 2 and 6. " if banded else ""
    caption += (
        "The shaded band is the spread of the layers, the bars how far the typical value moves as they"
        " are resampled."
    )
    drawing = figures.alpha_over_run(history, banded=banded)
    return pieces.section(
        "course", "Alpha over the run",
        pieces.figure(drawing, caption, legend=pieces.legend(items)),
    )  # fmt: skip


def _small_multiples(history: History) -> Markup | None:
    """Return a small picture of every role, and of the metrics beside alpha."""
    drawn: list[Child] = []
    banded = _has_band(history)
    by_role = [t for t in history.trajectories if t.metric == "alpha" and t.role]
    for found in by_role if len(by_role) > 1 else ():
        if any(map(math.isfinite, found.typical)):
            title = f"alpha: {ROLES.get(found.role, found.role)} ({found.n_layers})"
            drawn.append(tag("figure", figures.small_alpha(history, found, title, banded=banded)))
    for found in history.trajectories:
        if found.metric in OTHERS and not found.role and any(map(math.isfinite, found.typical)):
            drawing = figures.small(history, found, OTHERS[found.metric])
            drawn.append(tag("figure", drawing))
    if not drawn:
        return None
    note = (
        "Alpha of the layers of each role, with how many there are, and other numbers over all layers"
        " compared; each is the mean of the middle half."
    )
    return pieces.section(
        "roles", "By role, and other numbers",
        tag("p", note, class_="note"), tag("div", drawn, class_="gallery"),
    )  # fmt: skip


def _every_layer(history: History) -> Markup | None:
    whole = len(history.reports) == len(history.checkpoints) and history.reports
    if not whole or not _has_band(history):
        return None
    layers = figures.rows_of(history)
    if not layers:
        return None
    columns = figures.evenly(len(history.checkpoints), figures.MOST_COLUMNS)
    caption = (
        "Alpha of every layer (rows, in the order of depth) at every checkpoint (columns). Blue is the"
        " band of well-trained layers, from 2 to 6; an empty cell has no alpha."
    )
    if len(columns) < len(history.checkpoints):
        caption += f" {len(columns)} of {len(history.checkpoints)} checkpoints are drawn, evenly."
    if len(layers) == figures.MOST_ROWS:
        caption += f" {figures.MOST_ROWS} layers are drawn, evenly; --csv has all."
    legend = pieces.legend(heat_map.colours())
    drawing = figures.heat_map(history, layers, columns)
    return pieces.section(
        "layers", "Every layer, step by step", pieces.figure(drawing, caption, legend=legend)
    )


def _left_out(history: History) -> Markup | None:
    lists: list[Child] = []
    for heading, items in (("Left out", history.left_out), ("Skipped", history.skipped)):
        if items:
            named: list[Child] = [
                (tag("code", shorten_middle(item.source, 120)), f": {item.reason}")
                for item in items
            ]
            lists += [tag("h3", heading), provenance.listed(named)]
    return pieces.section("left_out", "Left out and skipped, and why", lists) if lists else None


def _provenance(history: History) -> Markup:
    pairs: list[tuple[str, Child]] = [
        ("checkpoints", tag("code", history.address)),
        *((key, provenance.words_of(value)) for key, value in history.options.items()),
    ]
    return pieces.section(
        "provenance",
        "Where these numbers come from",
        tag("p", "This makes the history again:"),
        pieces.command(reproduce(history)),
        pieces.facts(pairs),
        tag("p", "All numbers are in this file as JSON, in the block with the id ",
            tag("code", "history"), ", as --json writes them.", class_="note"),
    )  # fmt: skip


def reproduce(history: History) -> str:
    """Return the command that makes this history again; the Python for weights that were in memory."""
    sources = [point.source for point in history.checkpoints]
    if any(source.startswith("<") for source in sources):
        return "spectra.history(checkpoints)"
    from_folder = all(source.startswith(history.address.rstrip("/")) for source in sources)
    words = ["spectra", "history", *([history.address] if from_folder else sources)]
    return shlex.join([*words, *provenance.option_words(history.options), "--html", "history.html"])
