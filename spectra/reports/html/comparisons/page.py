"""The page of a comparison: what kind of change it is, where it lies, and every layer."""

import math
import shlex
from collections import Counter

from spectra.comparing import Change, Comparison
from spectra.ranking.order import distinct_names
from spectra.reports.comparisons import comparison_to_dict
from spectra.reports.html import document, marks, pieces, provenance
from spectra.reports.html.comparisons import figures, tables
from spectra.reports.html.comparisons.texts import (
    CHANGES,
    COMPARISON_TERMS,
    KIND_IS_GUESSED,
    NO_WEIGHTS,
    NOT_BETTER,
    WHAT_THIS_IS,
)
from spectra.reports.html.markup import Child, Markup, count, tag
from spectra.reports.names import shorten_middle
from spectra.tails import WITH_BAND

NAME = 60  # letters of a model in the heading
LINKS = {
    "verdict": "Verdict",
    "alphas": "Alpha",
    "sizes": "Size by depth",
    "overlaps": "Directions",
    "groups": "Groups",
    "layers": "All layers",
    "unmatched": "Without counterpart",
    "provenance": "Source",
    "glossary": "What the words mean",
}


def comparison_to_html(comparison: Comparison) -> str:
    """Return a comparison of two models as one self-contained HTML page.

    As `spectra.reports.to_html`: it needs no network, and every number is in the file. The block
    ``comparison`` holds the JSON of `spectra.reports.comparisons.comparison_to_json`.

    Parameters
    ----------
    comparison : Comparison
    """
    sections = {
        "verdict": _verdict(comparison),
        "alphas": _alphas(comparison),
        "sizes": _sizes(comparison),
        "overlaps": _overlaps(comparison),
        "groups": tables.groups_section(comparison),
        "layers": tables.layers_section(comparison),
        "unmatched": tables.unmatched_section(comparison),
        "provenance": _provenance(comparison),
        "glossary": pieces.section(
            "glossary", "What the words mean", pieces.glossary(COMPARISON_TERMS)
        ),
    }
    rules = [f"{key} {comparison.options[key]}" for key in ("convention", "estimator")
             if key in comparison.options]  # fmt: skip
    base, other = _called(comparison.base, comparison.other)
    return document.page(
        f"{base} → {other}",
        kicker=["Spectral comparison", *rules],
        title=f"Spectral comparison: {base} and {other}",
        sections=sections,
        links=LINKS,
        data={"comparison": comparison_to_dict(comparison)},
    )


def cautions(comparison: Comparison) -> list[str]:
    """Return how far the verdict can be trusted, in sentences."""
    fitted = [x for x in comparison.layers if all(map(math.isfinite, figures.alphas(x)))]
    moved = sum(layer.alpha_moved for layer in fitted)
    without = sum(
        layer.delta is None and layer.change is Change.UNKNOWN for layer in comparison.layers
    )
    apart = (
        len(comparison.only_in_base) + len(comparison.only_in_other) + len(comparison.other_shape)
    )
    found = []
    if fitted:
        found.append(
            f"Alpha changed beyond its 95 % interval in {moved or 'none'} of"
            f" {count(len(fitted), 'layer')}; other changes may be chance of the fit."
        )
    if without:
        found.append(NO_WEIGHTS.format(n=without))
    if apart:
        found.append(f"{count(apart, 'layer has', 'layers have')} no counterpart; see below.")
    return [*found, KIND_IS_GUESSED, NOT_BETTER]


def _verdict(comparison: Comparison) -> Markup:
    kinds = Counter(layer.change for layer in comparison.layers)
    chips = [tag("li", kinds[kind], " ", tables.chip(kind)) for kind in CHANGES if kinds[kind]]
    return pieces.section(
        "verdict",
        "Verdict",
        tag("p", comparison.verdict, class_="lead"),
        tag("ul", chips, class_="counts") if chips else None,
        [tag("p", note, class_="note") for note in comparison.notes],
        tag("p", WHAT_THIS_IS, class_="note"),
        tag("h3", "How far to trust it"),
        tag("ul", [tag("li", words) for words in cautions(comparison)]),
    )


def _alphas(comparison: Comparison) -> Markup | None:
    """Return alpha before and after, the layers first whose alpha changed most."""
    fitted = [
        (place, layer)
        for place, layer in enumerate(comparison.layers)
        if all(map(math.isfinite, figures.alphas(layer)))
    ]
    if not fitted:
        return None
    fitted.sort(key=lambda found: (not found[1].alpha_moved, -abs(found[1].alpha_change)))
    shown = fitted[: figures.MOST_DUMBBELLS]
    banded = comparison.options.get("estimator") in WITH_BAND
    caption = "Alpha of the base (hollow) and of the other model (filled), most changed first."
    if banded:
        caption += " The grey band from 2 to 6 is where well-trained layers lie."
    if len(shown) < len(fitted):
        caption += f" {count(len(fitted) - len(shown), 'more layer', 'more layers')}, changed less, in the table."
    legend = pieces.legend(marks.role_legend(figures.entries_of(shown), depth=False, judged=False))
    drawing = figures.dumbbells(shown, banded=banded)
    return pieces.section(
        "alphas", "Alpha before and after", pieces.figure(drawing, caption, legend=legend)
    )


def _sizes(comparison: Comparison) -> Markup | None:
    known = [
        (place, layer) for place, layer in enumerate(comparison.layers)
        if layer.delta is not None and math.isfinite(layer.delta.norm)
    ]  # fmt: skip
    if not known:
        return None
    caption = (
        "Every mark is a layer: the size of its change over that of its weights; the first layers are on"
        " the left. Rounding gives all layers much the same size, training different ones."
    )
    if any(layer.change is Change.IDENTICAL for _, layer in known):
        caption += " Hollow marks at the foot did not change at all."
    legend = pieces.legend(marks.role_legend(figures.entries_of(known), depth=False, judged=False))
    drawing = figures.size_by_depth(known)
    return pieces.section(
        "sizes", "How much changed, by depth", pieces.figure(drawing, caption, legend=legend)
    )


def _overlaps(comparison: Comparison) -> Markup | None:
    known = [(i, layer) for i, layer in enumerate(comparison.layers) if layer.overlap is not None]
    if not known:
        return None
    caption = (
        "How much of the leading directions of each layer is still among the leading ones: 1 is all of"
        " it, and the small tick is what two unrelated layers would show."
    )
    legend = pieces.legend(marks.role_legend(figures.entries_of(known), depth=False, judged=False))
    drawing = figures.overlap_by_depth(known)
    return pieces.section(
        "overlaps", "Which directions were kept", pieces.figure(drawing, caption, legend=legend)
    )


def _provenance(comparison: Comparison) -> Markup:
    pairs: list[tuple[str, Child]] = [
        ("base", tag("code", comparison.base)),
        ("other", tag("code", comparison.other)),
        *((key, provenance.words_of(value)) for key, value in comparison.options.items()),
    ]
    return pieces.section(
        "provenance",
        "Where these numbers come from",
        tag("p", "This makes the comparison again:"),
        pieces.command(reproduce(comparison)),
        pieces.facts(pairs),
        tag("p", "All numbers are in this file as JSON, in the block with the id ",
            tag("code", "comparison"), ", as --json writes them.", class_="note"),
    )  # fmt: skip


def reproduce(comparison: Comparison) -> str:
    """Return the command that compares again; the Python for weights that were in memory."""
    if any(address.startswith("<") for address in (comparison.base, comparison.other)):
        return "spectra.compare(base, other)"
    options = {key: value for key, value in comparison.options.items() if key != "subspaces"}
    words = ["spectra", "compare", comparison.base, comparison.other]
    words += provenance.option_words(options)
    words += [] if comparison.options.get("subspaces", True) else ["--no-subspaces"]
    return shlex.join([*words, "--html", "comparison.html"])


def _called(base: str, other: str) -> list[str]:
    """Return what the models are called: the shortest endings of their paths that differ."""
    memory = "weights in memory"
    if base.startswith("<") or other.startswith("<"):
        return [memory if address.startswith("<") else address for address in (base, other)]
    return [shorten_middle(name, NAME) for name in distinct_names([base, other])]
