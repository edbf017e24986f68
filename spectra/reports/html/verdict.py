"""The first part of a page: the verdict in a sentence, and the layers to look at first."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from spectra.records import FINDING_TEXT, Finding, LayerReport, ModelReport, Status, Verdict
from spectra.reports.concerns import BROKEN, OUTSIDE, Concern
from spectra.reports.html import figures, pieces
from spectra.reports.html.groups import stack_of
from spectra.reports.html.markup import Child, Markup, count, number, tag
from spectra.reports.html.texts import NOTES, VERDICTS, WHAT_THIS_IS
from spectra.reports.words import MEANING, MISLEADS
from spectra.verdicts import DOUBTS

LOOK_FIRST = 6
JUDGED = frozenset({Verdict.WELL_TRAINED, *OUTSIDE, Verdict.RANDOM_LIKE})


def verdict_section(
    report: ModelReport, worst: Sequence[Concern], hrefs: Mapping[int, str]
) -> Markup:
    """Return what was analysed, how the layers do, and which to look at first and why.

    Parameters
    ----------
    report : ModelReport
    worst : sequence of Concern
        The most pressing first.
    hrefs : mapping of int to str
        Where the name of a layer leads, by its place in the report.
    """
    averaged = [layer for layer in report.layers if layer.averaged]
    counted = [x.verdict for x in report.layers if x.averaged or x.status is not Status.OK]
    counts = figures.count_verdicts(counted)
    chips = [tag("li", n, " ", pieces.chip(verdict)) for verdict, n in counts.items() if n]
    return pieces.section(
        "verdict",
        "Verdict",
        _alert(report),
        tag("p", " ".join(lead(report)), class_="lead"),
        figures.verdict_bar(counts) if counted else None,
        tag("ul", chips, class_="counts") if chips else None,
        _unjudged(averaged),
        tag("p", WHAT_THIS_IS, class_="note"),
        tag("h3", "Look at these layers first"),
        _look_first(worst, averaged, hrefs),
    )


def lead(report: ModelReport) -> list[str]:
    """Return the verdict: how many layers are well trained, how many not, and what was left out."""
    if not report.layers:
        return ["No layer was analysed.", *_skipped(report)]
    averaged = [layer for layer in report.layers if layer.averaged]
    found = figures.count_verdicts([layer.verdict for layer in averaged])
    judged = {v: n for v, n in found.items() if n and v in JUDGED}
    left_out = sum(layer.status is Status.OK and not layer.averaged for layer in report.layers)
    return [
        *_judged(judged, sum(found.values())),
        *_not_judged(averaged, first=not judged),
        *([f"{count(left_out, 'embedding or head is', 'embeddings or heads are')} listed only."]
          if left_out else []),
        *_failed([layer for layer in report.layers if layer.status is not Status.OK]),
        *_skipped(report),
    ]  # fmt: skip


def why(concern: Concern) -> str:
    """Return in words why a layer needs a look."""
    layer = concern.layer
    if layer.status in BROKEN:
        return f"Its weights are broken: {layer.reason}."
    parts = []
    if layer.verdict in OUTSIDE:
        alpha, low, high = (
            layer.metrics.get(key, math.nan) for key in ("alpha", "alpha_low", "alpha_high")
        )
        side = "below 2" if layer.verdict is Verdict.OVER_TRAINED else "above 6"
        interval = f" (likely {number(low)} to {number(high)})" if math.isfinite(low) else ""
        parts.append(f"Its alpha is {number(alpha)}{interval}, {side}.")
    if concern.borderline:
        parts.append("The interval reaches into the band from 2 to 6, so this may be chance.")
    if layer.verdict in (*OUTSIDE, Verdict.RANDOM_LIKE):
        parts.append(MEANING[layer.verdict])
    said = {"over_trained", "under_trained", layer.verdict.value}
    noted = "; ".join(FINDING_TEXT[f] for f in layer.warnings if f.value not in said)
    if noted:
        parts.append(f"{'Also noted' if parts else 'Noted'}: {noted}.")
    return " ".join(parts)


def _alert(report: ModelReport) -> Markup | None:
    if report.complete:
        return None
    missing = "the analysis was interrupted; layers that were not reached have no numbers"
    if report.source.partial:
        missing = "files of the checkpoint are missing"
    return tag("p", tag("strong", "Incomplete: "), f"{missing}.", class_="alert")


def _judged(judged: Mapping[Verdict, int], n_averaged: int) -> list[str]:
    total = sum(judged.values())
    if not n_averaged:
        return ["None of its layers could be judged."]
    if not total:
        return []
    if set(judged) == {Verdict.WELL_TRAINED}:
        whole = {1: "The one layer", 2: "Both layers"}.get(total, f"All {total} layers")
        return [f"{whole} that can be judged {'looks' if total == 1 else 'look'} well trained."]
    words = [VERDICTS[verdict][1] for verdict in judged]
    if total == 1:
        return [f"The one layer that can be judged looks {words[0]}."]
    first, *others = judged.values()
    words = [
        f"{first} {'looks' if first == 1 else 'look'} {words[0]}",
        *(f"{n} {word}" for n, word in zip(others, words[1:], strict=True)),
    ]
    return [f"Of the {total} layers that can be judged, {pieces.sentence(words)}."]


def _not_judged(averaged: Sequence[LayerReport], *, first: bool) -> list[str]:
    reasons = _reasons(averaged)
    n = sum(layer.verdict is Verdict.NOT_JUDGED for layer in averaged)
    if not n:
        return []
    if Finding.NO_BAND in reasons:
        return [f"None of its {count(n, 'layer')} is judged: {FINDING_TEXT[Finding.NO_BAND]}."]
    why_not = pieces.sentence([NOTES[finding] for finding, _ in reasons.most_common(3)])
    if first:
        who = "Its one layer" if n == 1 else f"None of its {n} layers"
        return [f"{who} {'cannot' if n == 1 else 'can'} be judged: {why_not}."]
    return [f"{n} cannot be judged: {why_not}."]


def _failed(failed: Sequence[LayerReport]) -> list[str]:
    if not failed:
        return []
    reasons = Counter(layer.reason for layer in failed)
    most = "; ".join(reason for reason, _ in reasons.most_common(2))
    return [f"{count(len(failed), 'layer has', 'layers have')} no alpha: {most}."]


def _skipped(report: ModelReport) -> list[str]:
    reasons: Counter[str] = Counter()
    for item in report.skipped:
        reasons[item.reason] += max(item.count, 1)
    if not reasons:
        return []
    most = "; ".join(reason for reason, _ in reasons.most_common(2))
    return [f"{count(sum(reasons.values()), 'tensor was', 'tensors were')} skipped: {most}."]


def _reasons(averaged: Sequence[LayerReport]) -> Counter[Finding]:
    return Counter(
        finding
        for layer in averaged
        if layer.verdict is Verdict.NOT_JUDGED
        for finding in layer.warnings
        if finding in DOUBTS
    )


def _unjudged(averaged: Sequence[LayerReport]) -> Markup | None:
    """Say why layers are not judged, the most frequent reason first."""
    listed = [
        tag("li", tag("strong", f"{n} {NOTES[finding]}"), f": {FINDING_TEXT[finding]}")
        for finding, n in _reasons(averaged).most_common()
    ]
    summary = tag("summary", "Why layers are not judged")
    return tag("details", summary, tag("ul", listed)) if listed else None


def _look_first(
    worst: Sequence[Concern], averaged: Sequence[LayerReport], hrefs: Mapping[int, str]
) -> Child:
    if not worst:
        if any(not DOUBTS & set(layer.warnings) for layer in averaged):
            return tag("p", "None stands out: all layers that can be judged look well trained.")
        return tag("p", "None can be named, since none could be judged.")
    groups: dict[tuple[str, int, Verdict], list[Concern]] = {}
    for concern in worst:
        stack = stack_of(concern.layer)
        key = (stack, -1 if stack else concern.position, concern.layer.verdict)
        groups.setdefault(key, []).append(concern)
    shown = list(groups.values())[:LOOK_FIRST]
    more = len(worst) - sum(map(len, shown))
    rest = (
        f"{count(more, 'more layer needs', 'more layers need')} a look: sort the table by verdict."
    )
    return (
        tag("ol", [_item(group, hrefs) for group in shown], class_="concerns"),
        tag("p", tag("a", rest, href="#layers")) if more else None,
    )


def _item(group: Sequence[Concern], hrefs: Mapping[int, str]) -> Markup:
    """Return one layer to look at, with how many more experts of its stack are like it."""
    concern, layer = group[0], group[0].layer
    title = tag(
        "a",
        f"#{concern.position + 1} ",
        pieces.name_of(layer.name, 70),
        href=hrefs[concern.position],
    )
    others = f" and {count(len(group) - 1, 'more expert', 'more experts')} of its stack"
    misleads = MISLEADS[layer.verdict]
    return tag(
        "li",
        tag(
            "p",
            title,
            others if len(group) > 1 else None,
            " ",
            pieces.chip(layer.verdict),
            " ",
            tag("span", "borderline", class_="chip borderline") if concern.borderline else None,
            class_="what",
        ),
        tag("p", why(concern)),
        tag("p", misleads, class_="note") if misleads else None,
        class_=f"concern v-{layer.verdict}",
    )
