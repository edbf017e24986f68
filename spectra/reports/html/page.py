"""The page of one model: what to look at first, the pictures, every layer, and what it all means."""

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

from spectra.records import FINDING_TEXT, LayerReport, ModelReport, Status, Verdict
from spectra.reports.concerns import BROKEN, OUTSIDE, Concern, badness, best, concerns
from spectra.reports.headline import Headline, headlines
from spectra.reports.html import esds, figures, heat_map, pieces
from spectra.reports.html.groups import Entry, entries_of
from spectra.reports.html.layer_table import layer_table
from spectra.reports.html.markup import Child, Markup, count, number, shown, tag
from spectra.reports.html.texts import NO_SPECTRA, NOTES, TERMS, WHAT_THIS_IS
from spectra.reports.tables import to_dict
from spectra.reports.words import MEANING, MISLEADS
from spectra.verdicts import DOUBTS

LOOK_FIRST = 6
SHOWN_WORST, SHOWN_BEST = 4, 2
MOST_SPECTRA = 300
LISTED = 200  # skipped tensors that are listed one by one


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
    worst = concerns(report.layers)
    numbers = headlines(report)
    gallery = _gallery(report, worst)
    others = _other_spectra(report, {position for position, _ in gallery})
    drawn = {position for position, _ in (*gallery, *others)}
    parts = [
        ("verdict", _verdict(report, worst)),
        ("numbers", _numbers(numbers)),
        ("depth", _depth(entries, numbers)),
        ("blocks", _blocks(report)),
        ("spectra", _spectra(report, gallery, others)),
        ("fit", _fit(entries)),
        ("erg", _erg(entries, report)),
        ("layers", layer_table(entries, drawn)),
        ("skipped", _skipped(report)),
        ("provenance", _provenance(report)),
        ("glossary", pieces.section("glossary", "What the words mean", pieces.glossary(TERMS))),
    ]
    body = (
        _header(report),
        tag("main", [part for _, part in parts]),
    )
    return pieces.document(
        f"Spectral report: {source_name(report)}",
        body,
        {"report": to_dict(report), "headline": [_headline_json(found) for found in numbers]},
    )


def source_name(report: ModelReport) -> str:
    """Return what a model is called: the last part of where it came from."""
    address = report.source.address
    if address.startswith("<"):
        return f"weights in memory ({address.strip('<>')})"
    return PurePath(address).name or address


def reproduce(report: ModelReport) -> str:
    """Return the command that makes this report again; the Python for weights that were in memory.

    Examples
    --------
    >>> import numpy as np, spectra
    >>> report = spectra.analyze({"fc": np.eye(30)}, seed=3)
    >>> reproduce(report)
    "spectra.analyze(weights, seed=3).write('report.html')"
    """
    options = {key: value for key, value in report.options.items() if value != _DEFAULTS.get(key)}
    device = str(report.run.get("device", "cpu"))
    if report.source.address.startswith("<"):
        arguments = "".join(f", {key}={value!r}" for key, value in options.items())
        return f"spectra.analyze(weights{arguments}).write('report.html')"
    words = ["spectra", "analyze", report.source.address]
    for key, value in options.items():
        if key == "evidence":
            words += ["--metrics", "all"]
            continue
        for each in value if isinstance(value, tuple | list) else [value]:
            words += [f"--{key}", str(each)]
    words += ["--allow-partial"] if report.source.partial else []
    words += ["--device", device] if device != "cpu" else []
    return shlex.join([*words, "--html", "report.html"])


_DEFAULTS = {
    "convention": "htsr",
    "estimator": "csn",
    "layers": (),
    "exclude": (),
    "conv": "slices",
    "precision": "double",
    "seed": 0,
    "replicates": 20,
    "evidence": False,
}


def _header(report: ModelReport) -> Markup:
    links = [
        ("verdict", "Verdict"),
        ("depth", "By depth"),
        ("spectra", "Spectra"),
        ("layers", "All layers"),
        ("provenance", "Source"),
        ("glossary", "Words"),
    ]
    return tag(
        "header",
        tag("p", "Spectral report", class_="kicker"),
        tag("h1", shown(source_name(report), 120)),
        tag("nav", [tag("a", words, href=f"#{key}") for key, words in links], aria_label="parts"),
    )


def _verdict(report: ModelReport, worst: Sequence[Concern]) -> Markup:
    averaged = [layer for layer in report.layers if layer.averaged]
    counts = figures.count_verdicts(
        [
            layer.verdict
            for layer in report.layers
            if layer.averaged or layer.status is not Status.OK
        ]
    )
    alert = None
    if not report.complete:
        missing = "files of the checkpoint are missing" if report.source.partial else (
            "the analysis was interrupted; layers that were not reached have no numbers"
        )  # fmt: skip
        alert = tag("p", tag("strong", "Incomplete: "), f"{missing}.", class_="alert")
    chips = [tag("li", n, " ", pieces.chip(verdict)) for verdict, n in counts.items() if n]
    return pieces.section(
        "verdict",
        "Verdict",
        alert,
        tag("p", _lead(report, averaged), class_="lead"),
        figures.verdict_bar(counts) if sum(counts.values()) else None,
        tag("ul", chips, class_="counts") if chips else None,
        _unjudged(averaged),
        tag("p", WHAT_THIS_IS, class_="note"),
        tag("h3", "Look at these layers first"),
        _look_first(worst, averaged),
    )


def _lead(report: ModelReport, averaged: Sequence[LayerReport]) -> str:
    if not report.layers:
        return "No layer was analysed."
    found = figures.count_verdicts([layer.verdict for layer in averaged])
    well = found[Verdict.WELL_TRAINED]
    judged = well + sum(found[verdict] for verdict in OUTSIDE) + found[Verdict.RANDOM_LIKE]
    if not averaged:
        text = "None of its layers could be judged."
    elif not judged:
        text = f"None of its {count(len(averaged), 'layer')} could be judged."
    else:
        text = f"{count(well, 'looks', 'look')} well trained of the "
        text += f"{count(judged, 'layer')} that can be judged."
        if well == judged:
            text = (
                f"{'The one layer' if judged == 1 else f'All {judged} layers'} that can be judged"
            )
            text += f" {'looks' if judged == 1 else 'look'} well trained."
    others = len(averaged) - judged
    text += (
        f" {count(others, 'more cannot', 'more cannot')} be judged." if judged and others else ""
    )
    left_out = sum(layer.status is Status.OK and not layer.averaged for layer in report.layers)
    if left_out:
        text += (
            f" {count(left_out, 'embedding or head is', 'embeddings or heads are')} listed only."
        )
    failed = len(report.layers) - len(averaged) - left_out
    if failed:
        text += f" {count(failed, 'layer has', 'layers have')} no alpha."
    skipped = sum(max(item.count, 1) for item in report.skipped)
    return f"{text} {count(skipped, 'tensor was', 'tensors were')} skipped." if skipped else text


def _unjudged(averaged: Sequence[LayerReport]) -> Markup | None:
    """Say why layers are not judged, the most frequent reason first."""
    reasons = Counter(
        finding
        for layer in averaged
        if layer.verdict is Verdict.NOT_JUDGED
        for finding in layer.warnings
        if finding in DOUBTS
    )
    if not reasons:
        return None
    listed = [
        tag("li", tag("strong", f"{n} {NOTES[finding]}"), f": {FINDING_TEXT[finding]}")
        for finding, n in reasons.most_common()
    ]
    return tag(
        "details",
        tag("summary", "Why layers are not judged"),
        tag("ul", listed),
    )


def _look_first(worst: Sequence[Concern], averaged: Sequence[LayerReport]) -> Child:
    if not worst:
        judged = any(not DOUBTS & set(layer.warnings) for layer in averaged)
        if judged:
            return tag("p", "None stands out: all layers that can be judged look well trained.")
        return tag("p", "None can be named, since none could be judged.")
    items = []
    for concern in worst[:LOOK_FIRST]:
        layer = concern.layer
        title = tag(
            "a",
            f"#{concern.position + 1} ",
            pieces.name_of(layer.name, 70),
            href=f"#layer-{concern.position + 1}",
        )
        border = tag("span", "borderline", class_="chip borderline") if concern.borderline else None
        misleads = MISLEADS[layer.verdict]
        items.append(
            tag(
                "li",
                tag("p", title, " ", pieces.chip(layer.verdict), " ", border, class_="what"),
                tag("p", why(concern)),
                tag("p", misleads, class_="note") if misleads else None,
                class_=f"concern v-{layer.verdict}",
            )
        )
    more = len(worst) - LOOK_FIRST
    rest = (
        f"{count(more, 'more layer needs', 'more layers need')} a look: sort the table by verdict."
    )
    return (
        tag("ol", items, class_="concerns"),
        tag("p", tag("a", rest, href="#layers")) if more > 0 else None,
    )


def why(concern: Concern) -> str:
    """Return in words why a layer needs a look."""
    layer = concern.layer
    if layer.status in BROKEN:
        return f"Its weights are broken: {layer.reason}."
    text = ""
    if layer.verdict in OUTSIDE:
        alpha, low, high = (layer.metrics.get(key, math.nan)
                            for key in ("alpha", "alpha_low", "alpha_high"))  # fmt: skip
        side = "below 2" if layer.verdict is Verdict.OVER_TRAINED else "above 6"
        interval = f" (likely {number(low)} to {number(high)})" if math.isfinite(low) else ""
        text = f"alpha is {number(alpha)}{interval}, {side}. "
        if concern.borderline:
            text += "The interval reaches into the band from 2 to 6, so this may be chance. "
    text += f"{MEANING[layer.verdict]} " if layer.verdict in (*OUTSIDE, Verdict.RANDOM_LIKE) else ""
    rest = [f for f in layer.warnings if f.value not in (layer.verdict.value, *_IMPLIED)]
    noted = "; ".join(FINDING_TEXT[finding] for finding in rest)
    return f"{text}{f'Also noted: {noted}.' if text and noted else noted}".strip()


_IMPLIED = ("over_trained", "under_trained")  # said with alpha


def _numbers(numbers: Sequence[Headline]) -> Markup:
    chosen = [
        pieces.Card(
            found.name,
            TERMS[found.name].title,
            _share(found.value) if found.spread == "wilson" else number(found.value),
            _spread(found),
            TERMS[found.name].meaning,
        )
        for found in numbers
    ]
    note = "Means over layers that have an alpha and are neither embeddings nor output heads."
    return pieces.section(
        "numbers", "The model in numbers", pieces.cards(chosen), tag("p", note, class_="note")
    )


def _spread(found: Headline) -> str:
    layers = count(found.n, "layer")
    if found.spread == "none":
        return f"{layers}, no interval" if found.n else "no layer"
    if found.spread == "range":
        return f"{number(found.low)} to {number(found.high)} over {layers}"
    if found.spread == "wilson":
        return f"{_share(found.low)} to {_share(found.high)} (95 %), {layers} judged"
    return f"{number(found.low)} to {number(found.high)} (95 %), {layers}"


def _share(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "–"


def _headline_json(found: Headline) -> dict[str, object]:
    def plain(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "name": found.name,
        "value": plain(found.value),
        "low": plain(found.low),
        "high": plain(found.high),
        "n": found.n,
        "spread": found.spread,
    }


def _depth(entries: Sequence[Entry], numbers: Sequence[Headline]) -> Markup | None:
    if not any(math.isfinite(entry.value("alpha")) for entry in entries):
        return None
    mean = next((found.value for found in numbers if found.name == "alpha"), math.nan)
    stacks = sum(len(entry.members) > 1 for entry in entries)
    caption = (
        "Every mark is a layer, the bar its 95 % interval. Layers inside the grey band look well"
        " trained; numbers name those that surely lie outside. Hollow marks say nothing either way."
    )
    if stacks:
        caption += (
            f" {count(stacks, 'mark stands', 'marks stand')} for a stack of experts: its median, and"
            " the bar from the tenth to the ninetieth percentile."
        )
    return pieces.section(
        "depth",
        "Layer by layer: alpha by depth",
        pieces.figure(
            figures.alpha_by_depth(entries, mean),
            caption,
            legend=pieces.legend(figures.role_legend(entries)),
        ),
    )


def _blocks(report: ModelReport) -> Markup | None:
    drawn = heat_map.heat_map(report.layers)
    if drawn is None or not any("alpha" in layer.metrics for layer in report.layers):
        return None
    return pieces.section(
        "blocks",
        "What the layers do, and where",
        pieces.figure(
            drawn,
            "The median alpha of the layers of each role (rows) in each block (columns). Blue is"
            " the band of well-trained layers.",
            legend=pieces.legend(heat_map.heat_legend()),
        ),
    )


def _gallery(report: ModelReport, worst: Sequence[Concern]) -> list[tuple[int, str]]:
    """Return the layers whose spectra are shown at once, each with why: the worst, then the best."""
    bad = [(c.position, "look at first") for c in worst if c.layer.spectrum is not None]
    good = [(i, "among the best") for i, layer in best(report.layers) if layer.spectrum is not None]
    bad = bad[:SHOWN_WORST]
    good = [pair for pair in good if pair[0] not in {i for i, _ in bad}]
    return [*bad, *good[:SHOWN_BEST]]


def _other_spectra(report: ModelReport, shown_already: set[int]) -> list[tuple[int, str]]:
    rest = [
        (i, layer)
        for i, layer in enumerate(report.layers)
        if layer.spectrum is not None and i not in shown_already
    ]
    room = MOST_SPECTRA - len(shown_already)
    if len(rest) > room:
        rest = sorted(rest, key=lambda pair: badness(pair[1]), reverse=True)[:room]
    return [(i, "") for i, _ in sorted(rest, key=lambda pair: pair[0])]


def _spectra(
    report: ModelReport, gallery: Sequence[tuple[int, str]], others: Sequence[tuple[int, str]]
) -> Markup:
    heading = "Spectra of the worst and the best layers"
    if not gallery and not others:
        says = NO_SPECTRA if report.layers else "There is no layer to draw."
        if any(layer.spectrum for layer in report.layers) or not _could_have_spectra(report):
            says = "No layer has a spectrum to draw."
        return pieces.section("spectra", heading, tag("p", says))
    total = sum(layer.spectrum is not None for layer in report.layers)
    left = total - len(gallery) - len(others)
    note = (
        f" {left} more are not drawn, to keep the page small; --plots DIR draws all."
        if left
        else ""
    )
    intro = (
        "The shaded area is what the layer has, the dashed curve what random weights of the same"
        " shape and size would have. A trained layer reaches further to the right. Where the orange"
        " line follows the upper end of the area, the tail is a power law, and alpha is its slope."
    )
    return pieces.section(
        "spectra",
        heading,
        tag("p", intro),
        pieces.legend(esds.esd_legend()),
        tag("div", [_spectrum(report, i, label) for i, label in gallery], class_="gallery"),
        tag(
            "details",
            tag("summary", f"The spectra of {count(len(others), 'other layer')}"),
            tag("div", [_spectrum(report, i, label) for i, label in others], class_="gallery"),
        )
        if others
        else None,
        tag("p", note, class_="note") if note else None,
    )


def _could_have_spectra(report: ModelReport) -> bool:
    return any(layer.status is Status.OK for layer in report.layers)


def _spectrum(report: ModelReport, position: int, label: str) -> Markup:
    layer = report.layers[position]
    return pieces.figure(
        esds.esd(layer),
        esds.esd_caption(layer),
        legend=tag(
            "p",
            tag(
                "a",
                f"#{position + 1} ",
                pieces.name_of(layer.name, 40),
                href=f"#layer-{position + 1}",
            ),
            tag("span", label, class_="label") if label else None,
            class_="what",
        ),
        key=f"spectrum-{position + 1}",
    )


def _fit(entries: Sequence[Entry]) -> Markup | None:
    if not any(math.isfinite(e.value("alpha")) and math.isfinite(e.value("ks")) for e in entries):
        return None
    return pieces.section(
        "fit",
        "Can the number be believed?",
        pieces.figure(
            figures.alpha_against_ks(entries),
            "To the right the tail is hardly a power law, and alpha says little whatever it is."
            " Random weights land in the violet box. Good layers are far to the left, between 2"
            " and 6.",
            legend=pieces.legend(figures.role_legend(entries, depth=False)),
        ),
    )


def _erg(entries: Sequence[Entry], report: ModelReport) -> Markup | None:
    wanted = ("alpha", "delta_lambda_min")
    if not any(all(math.isfinite(e.value(key)) for key in wanted) for e in entries):
        return None
    whose = "of their own shapes" if report.options.get("evidence") else "of any shape"
    return pieces.section(
        "erg",
        "How near the theory's ideal: the ERG condition",
        pieces.figure(
            figures.erg_picture(entries),
            "SETOL's ideal layer has alpha 2 and a tail that begins where the ERG condition cuts:"
            " the circle. Layers come down towards it as they are trained. The violet band is where"
            f" random weights {whose} lie. A ring marks layers whose tail meets the condition within"
            " its noise.",
            legend=pieces.legend(figures.role_legend(entries, depth=False)),
        ),
    )


def _skipped(report: ModelReport) -> Markup:
    failed = [(i, layer) for i, layer in enumerate(report.layers) if layer.status is not Status.OK]
    lists: list[Child] = []
    if failed:
        items = [
            tag("li", tag("a", f"#{i + 1} ", pieces.name_of(layer.name, 80), href=f"#layer-{i + 1}"),
                f": {layer.reason}")
            for i, layer in failed[:LISTED]
        ]  # fmt: skip
        more = len(failed) - LISTED
        items += [tag("li", f"and {more} more, in the table")] if more > 0 else []
        lists += [tag("h3", f"No alpha: {count(len(failed), 'layer')}"), tag("ul", items)]
    reasons: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for item in report.skipped:
        reasons.setdefault(item.reason, []).append(item.name)
        counts[item.reason] += max(item.count, 1)
    for reason, n in counts.most_common():
        names = reasons[reason]
        more = len(names) - LISTED
        lists.append(
            tag(
                "details",
                tag("summary", f"{count(n, 'tensor')} skipped: {reason}"),
                tag("ul", [tag("li", pieces.name_of(name, 80)) for name in names[:LISTED]],
                    tag("li", f"and {more} more") if more > 0 else None),
            )
        )  # fmt: skip
    return pieces.section(
        "skipped", "Failed and skipped", lists or tag("p", "Every tensor was analysed.")
    )


def _provenance(report: ModelReport) -> Markup:
    source, options = report.source, report.options
    pairs: list[tuple[str, Child]] = [
        ("source", tag("code", source.address)),
        ("format", source.format),
        ("tensors", f"{source.n_tensors:,} ({source.nbytes / 1e6:,.1f} MB)"),
        *(("note", note) for note in source.notes),
        *((key, _option(value)) for key, value in options.items()),
        *((key, _option(value)) for key, value in report.run.items()),
    ]
    return pieces.section(
        "provenance",
        "Where these numbers come from",
        tag("p", "This makes the report again:"),
        pieces.command(reproduce(report)),
        pieces.facts(pairs),
        tag("p", "All numbers are in this file as JSON, in the block with the id ",
            tag("code", "report"), ", as --json writes them.", class_="note"),
    )  # fmt: skip


def _option(value: object) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "–"
    return str(value)
