"""The page of one model: what to look at first, the pictures, every layer, and what it all means."""

import math
from collections.abc import Mapping, Sequence

from spectra.records import ModelReport
from spectra.reports.concerns import concerns
from spectra.reports.headline import JUDGED, Headline, headlines
from spectra.reports.html import document, figures, gallery, heat_map, marks, pieces, provenance
from spectra.reports.html.groups import Entry, entries_of, has_band
from spectra.reports.html.layer_table import layer_table
from spectra.reports.html.markup import Markup, count, number, tag
from spectra.reports.html.texts import HARDLY, READINGS, TERMS
from spectra.reports.html.verdict import verdict_section
from spectra.reports.tables import to_dict
from spectra.verdicts import OVER_TRAINED, UNDER_TRAINED

LINKS = {
    "verdict": "Verdict",
    "numbers": "Numbers",
    "depth": "By depth",
    "spectra": "Spectra",
    "layers": "All layers",
    "provenance": "Source",
    "glossary": "What the words mean",
}


def to_html(report: ModelReport) -> str:
    """Return the report as one self-contained HTML page.

    It needs no network and no script: style, pictures and numbers are in the file. A script, allowed
    by its hash alone, sorts and filters the table. The block ``report`` holds the JSON of
    `spectra.reports.to_json`, the block ``headline`` the six numbers at the top.

    Parameters
    ----------
    report : ModelReport
        With or without spectra; those read back from JSON have none.
    """
    entries = entries_of(report)
    hrefs = {position: entry.href for entry in entries for position, _ in entry.members}
    worst = concerns(report.layers)
    numbers = headlines(report)
    spectra = gallery.choose(report, worst)
    banded = has_band(entries)
    sections = {
        "verdict": verdict_section(report, worst, hrefs),
        "numbers": _numbers(report, numbers, banded=banded),
        "depth": _depth(entries, numbers, banded=banded),
        "blocks": _blocks(report, hrefs) if banded else None,
        "spectra": gallery.spectra_section(report, spectra, hrefs),
        "fit": _pair(_fit(entries), _erg(entries, report)) if banded else None,
        "layers": layer_table(entries, spectra.drawn),
        "skipped": provenance.left_out_section(report, hrefs),
        "provenance": provenance.provenance_section(report),
        "glossary": pieces.section("glossary", "What the words mean", pieces.glossary(TERMS)),
    }
    name = provenance.source_name(report)
    rules = [f"{key} {report.options[key]}" for key in ("convention", "estimator")
             if key in report.options]  # fmt: skip
    return document.page(
        name,
        kicker=["Spectral report", report.source.format, *rules],
        title=f"Spectral report: {name}",
        sections=sections,
        links=LINKS,
        data={"report": to_dict(report), "headline": [_plain(found) for found in numbers]},
    )


def headline_text(name: str, value: float) -> str:
    """Return a headline number as it is shown.

    Examples
    --------
    >>> headline_text("share_in_band", 5 / 7), headline_text("alpha", 4.094)
    ('71 %', '4.09')
    """
    if name == "share_in_band":
        return f"{100 * value:.0f} %" if math.isfinite(value) else "–"
    return number(value, 1 if name == "erg_gap" else 2)


def _numbers(report: ModelReport, numbers: Sequence[Headline], *, banded: bool) -> Markup:
    cards = [
        pieces.Card(
            found.name,
            TERMS[found.name].title,
            headline_text(found.name, found.value),
            _spread(found),
            " ".join([*(_reading(found, report) if banded else []), TERMS[found.name].meaning]),
        )
        for found in numbers
    ]
    note = "Means over the layers that have an alpha and are neither embeddings nor output heads."
    if not banded:
        note += (
            f" The exponents are those of the estimator {report.options.get('estimator')}; the ranges"
            " named here are those of csn, so nothing is judged by them."
        )
    return pieces.section(
        "numbers", "The model in numbers", pieces.cards(cards), tag("p", note, class_="note")
    )


def _reading(found: Headline, report: ModelReport) -> list[str]:
    """Say where an alpha stands against the band from 2 to 6, if most of its layers are judged."""
    if not found.name.startswith("alpha") or found.name == "alpha_hat" or math.isnan(found.value):
        return []
    averaged = [layer for layer in report.layers if layer.averaged]
    if 2 * sum(layer.verdict in JUDGED for layer in averaged) < len(averaged):
        return [HARDLY]
    below, inside, above = READINGS
    if found.value < OVER_TRAINED:
        return [below]
    return [above] if found.value > UNDER_TRAINED else [inside]


def _spread(found: Headline) -> str:
    layers = count(found.n, "layer")
    if found.spread == "none":
        return f"{layers}, no interval" if found.n else "no layer"
    low, high = (headline_text(found.name, end) for end in (found.low, found.high))
    if found.spread == "range":
        return f"{low} to {high} over {layers}"
    judged = " judged" if found.spread == "wilson" else ""
    return f"{low} to {high} (95 %), {layers}{judged}"


def _plain(found: Headline) -> dict[str, object]:
    ends = {"value": found.value, "low": found.low, "high": found.high}
    numbers = {key: end if math.isfinite(end) else None for key, end in ends.items()}
    return {"name": found.name, **numbers, "n": found.n, "spread": found.spread}


def _depth(entries: Sequence[Entry], numbers: Sequence[Headline], *, banded: bool) -> Markup | None:
    if not _any_finite(entries, "alpha"):
        return None
    mean = next((found.value for found in numbers if found.name == "alpha"), math.nan)
    stacks = sum(len(entry.members) > 1 for entry in entries)
    caption = "Every mark is a layer, the bar its 95 % interval; the first layers are on the left."
    if banded:
        caption += (
            " Well-trained layers lie in the grey band; the worst of those outside it have their number"
            " in the table. Hollow marks say nothing either way."
        )
    if stacks:
        caption += (
            f" {count(stacks, 'mark stands', 'marks stand')} for a stack of experts: its median, and"
            " the bar from the tenth to the ninetieth percentile."
        )
    drawing = figures.alpha_by_depth(entries, mean)
    legend = pieces.legend(marks.role_legend(entries))
    return pieces.section(
        "depth", "Layer by layer: alpha by depth", pieces.figure(drawing, caption, legend=legend)
    )


def _blocks(report: ModelReport, hrefs: Mapping[int, str]) -> Markup | None:
    drawn = heat_map.heat_map(report.layers, hrefs)
    if drawn is None:
        return None
    caption = (
        "The median alpha of the layers of each role (rows) in each block (columns). Blue is the band"
        " of well-trained layers, from 2 to 6."
    )
    legend = pieces.legend(heat_map.heat_legend())
    return pieces.section(
        "blocks", "What the layers do, and where", pieces.figure(drawn, caption, legend=legend)
    )


def _fit(entries: Sequence[Entry]) -> Markup | None:
    if not _any_finite(entries, "alpha", "ks"):
        return None
    caption = (
        "To the right the tail is hardly a power law, and alpha says little whatever it is. Random"
        " weights land in the violet box, good layers far to the left and between 2 and 6."
    )
    legend = pieces.legend(marks.role_legend(entries, depth=False))
    drawing = figures.alpha_against_ks(entries)
    return pieces.section(
        "fit", "Can the number be believed?", pieces.figure(drawing, caption, legend=legend)
    )


def _erg(entries: Sequence[Entry], report: ModelReport) -> Markup | None:
    if not _any_finite(entries, "alpha", "delta_lambda_min"):
        return None
    whose = "of these shapes" if report.options.get("evidence") else "of any shape"
    caption = (
        "SETOL's ideal layer has alpha 2 and a tail that begins where the ERG condition cuts: the"
        f" circle. The violet band is where random weights {whose} lie. A ring marks judged layers"
        " whose tail meets the condition as far as can be told."
    )
    legend = pieces.legend(marks.role_legend(entries, depth=False))
    drawing = figures.erg_picture(entries)
    return pieces.section(
        "erg",
        "How near the ideal: the ERG condition",
        pieces.figure(drawing, caption, legend=legend),
    )


def _pair(*parts: Markup | None) -> Markup | None:
    there = [part for part in parts if part is not None]
    return tag("div", there, class_="pair") if there else None


def _any_finite(entries: Sequence[Entry], *metrics: str) -> bool:
    return any(all(math.isfinite(entry.value(key)) for key in metrics) for entry in entries)
