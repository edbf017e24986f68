"""The page of a ranking: which model is best and how sure that is, the order, and what speaks for it."""

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from statistics import median

from spectra.ranking import MARK_TEXT, Mark, RankedModel, Ranking
from spectra.records import LayerReport, ModelReport
from spectra.reports.html import document, marks, pieces, provenance
from spectra.reports.html.groups import Entry
from spectra.reports.html.markup import Child, Markup, count, tag
from spectra.reports.html.rankings import figures, tables
from spectra.reports.html.rankings.texts import (
    ALPHA_OVER_SHAPES,
    CERTAINTY,
    OTHER_SHAPES,
    RANKING_TERMS,
    SAME_TASK,
    WHAT_THIS_IS,
)
from spectra.reports.names import shorten_middle
from spectra.reports.ranking_cells import told_apart, verdict
from spectra.reports.rankings import ranking_to_dict

WIDTHS_APART = 2.0  # the factor from which widths are said to differ
NAME = 60  # letters of a model in a sentence
LINKS = {
    "verdict": "Verdict",
    "order": "Order",
    "models": "Models",
    "pairs": "Pair by pair",
    "depth": "Layer by layer",
    "scores": "Known scores",
    "provenance": "Source",
    "glossary": "What the words mean",
}


def ranking_to_html(ranking: Ranking) -> str:
    """Return a ranking as one self-contained HTML page.

    As `spectra.reports.to_html`: it needs no network, and every number is in the file. The block
    ``ranking`` holds the JSON of `spectra.reports.rankings.ranking_to_json`.

    Parameters
    ----------
    ranking : Ranking
        Without its ``reports`` the layers are not drawn.
    """
    sections = {
        "verdict": _verdict(ranking),
        "order": _order(ranking),
        "models": tables.models_section(ranking),
        "pairs": tables.pairs_section(ranking),
        "scores": tables.scores_section(ranking),
        "depth": _layers(ranking),
        "left_out": _left_out(ranking),
        "provenance": _provenance(ranking),
        "glossary": pieces.section(
            "glossary", "What the words mean", pieces.glossary(RANKING_TERMS)
        ),
    }
    rules = [f"{key} {ranking.options[key]}" for key in ("convention", "estimator")
             if key in ranking.options]  # fmt: skip
    n = count(len(ranking.models), "model")
    return document.page(
        f"{n}, ranked by {ranking.metric}",
        kicker=["Spectral ranking", *rules],
        title=f"Spectral ranking of {n}",
        sections=sections,
        links=LINKS,
        data={"ranking": ranking_to_dict(ranking)},
    )


def cautions(ranking: Ranking) -> list[str]:
    """Return how far the order can be trusted, in sentences: the most telling first."""
    sure, pairs = told_apart(ranking)
    apart = f"{sure} of {pairs} pairs of models are told apart" if pairs > 1 else (
        "The two models are told apart" if sure else "The two models are not told apart")  # fmt: skip
    first, *others = ranking.models
    found = [f"The first model is marked: {MARK_TEXT[mark]}." for mark in first.warnings]
    found.append(f"{apart} (probability .95 and more). {CERTAINTY}")
    ratio = _widths_apart(ranking.reports)
    if ratio >= WIDTHS_APART:
        found.append(
            f"Typical layers of these models differ in width by a factor of {ratio:.1f}. Over widths"
            " as different the method has failed: do not rely on this order."
        )
    if len({model.group for model in ranking.models}) > 1:
        found.append(ALPHA_OVER_SHAPES if ranking.metric == "alpha" else OTHER_SHAPES)
    marked = Counter(mark for model in others for mark in model.warnings)
    found += [
        f"{count(n, 'of the others is', 'of the others are')} marked: {MARK_TEXT[mark]}."
        for mark, n in marked.items()
    ]
    if ranking.scores:
        found.append(_held(ranking))
        found += [f"{ranking.scores.paradox}."] if ranking.scores.paradox else []
    return [*found, SAME_TASK]


def _verdict(ranking: Ranking) -> Markup:
    listed = tag("ul", [tag("li", words) for words in cautions(ranking)])
    return pieces.section(
        "verdict",
        "Verdict",
        tag("p", verdict(ranking, lambda name: shorten_middle(name, NAME)), class_="lead"),
        tag("p", WHAT_THIS_IS, class_="note"),
        tag("h3", f"Why {ranking.metric}"),
        tag("p", f"{_sentence(ranking.why)}."),
        tag("h3", "How far to trust it"),
        listed,
    )


def _held(ranking: Ranking) -> str:
    """Say how the order agrees with the scores that are known."""
    found = next((a for a in ranking.scores.agreements if a.metric == ranking.metric), None) if (
        ranking.scores) else None  # fmt: skip
    if ranking.scores is None or found is None or math.isnan(found.tau):
        return "The known scores are all alike, so nothing can be held against them."
    chance = "" if math.isnan(found.p_value) else (
        f"; chance orders {count(found.n_models, 'model')} as well with p = {found.p_value:.3f}")  # fmt: skip
    return f"Against the known scores ({ranking.scores.label}) Kendall's tau is {found.tau:+.2f}{chance}."


def _order(ranking: Ranking) -> Markup:
    caption = (
        "Every mark is a model, the bar the 95 % interval of its value: how far it moves as the layers"
        " are resampled. Bars that overlap widely are models that the weights hardly tell apart;"
        " those of one architecture are compared layer by layer, which tells more than the bars show."
    )
    more = len(ranking.models) - figures.MOST_DRAWN
    if more > 0:
        caption += f" {count(more, 'more model is', 'more models are')} in the table."
    items = figures.order_legend(ranking)
    drawing = figures.order_picture(ranking)
    legend = pieces.legend(items) if items else None
    return pieces.section("order", "The order", pieces.figure(drawing, caption, legend=legend))


def _layers(ranking: Ranking) -> Markup | None:
    """Hold the layers of the first two models of one architecture against each other."""
    found = _two_alike(ranking)
    if found is None:
        return None
    (first, its), (second, others) = found
    pairs = [
        (Entry(layer.name, ((i, layer),)), other)
        for i, (layer, other) in enumerate(zip(its.layers, others.layers, strict=True))
        if _has_alpha(layer) and _has_alpha(other)
    ]
    if not pairs:
        return None
    lower = sum(entry.layer.alpha < other.alpha for entry, other in pairs)
    caption = (
        f"Every mark is a layer; on the line it has the same alpha in both. In {lower} of {len(pairs)}"
        f" layers alpha is lower in {shorten_middle(first.name, NAME)}. Hollow marks say little: the"
        " layer is not judged in one of the two."
    )
    drawing = figures.layers_picture(pairs, first.name, second.name)
    legend = pieces.legend(marks.role_legend([entry for entry, _ in pairs], depth=False))
    heading = "Layer by layer: the first against the next of its architecture"
    return pieces.section("depth", heading, pieces.figure(drawing, caption, legend=legend))


def _two_alike(
    ranking: Ranking,
) -> tuple[tuple[RankedModel, ModelReport], tuple[RankedModel, ModelReport]] | None:
    """Return the best two models of one architecture, that of the first model if it has two."""
    if len(ranking.reports) != len(ranking.models):
        return None
    for group in dict.fromkeys(model.group for model in ranking.models):
        pairs = zip(ranking.models, ranking.reports, strict=True)
        alike = [(model, report) for model, report in pairs if model.group == group]
        if len(alike) > 1:
            return alike[0], alike[1]
    return None


def _has_alpha(layer: LayerReport) -> bool:
    return layer.averaged and math.isfinite(layer.metrics.get("alpha", math.nan))


def _widths_apart(reports: Sequence[ModelReport]) -> float:
    """Return by what factor the typical smaller side of a layer differs among the models."""
    widths = [
        median(sides)
        for report in reports
        if (sides := [layer.M for layer in report.layers if layer.averaged])
    ]
    return max(widths) / min(widths) if widths else 1.0


def _left_out(ranking: Ranking) -> Markup | None:
    if not ranking.left_out:
        return None
    items: list[Child] = [
        (tag("code", shorten_middle(item.source, 120)), f": {item.reason}")
        for item in ranking.left_out
    ]
    return pieces.section("left_out", "Models left out, and why", provenance.listed(items))


def _provenance(ranking: Ranking) -> Markup:
    models = [
        (shorten_middle(model.name, NAME), tag("code", model.source)) for model in ranking.models
    ]
    options = [(key, provenance.words_of(value)) for key, value in ranking.options.items()]
    held = (
        tag(
            "p",
            "The known scores came from elsewhere: add --scores with their table.",
            class_="note",
        )
        if ranking.scores
        else None
    )
    return pieces.section(
        "provenance",
        "Where these numbers come from",
        tag("p", "This makes the ranking again:"),
        pieces.command(reproduce(ranking)),
        held,
        pieces.facts([*models, *options]),
        tag("p", "All numbers are in this file as JSON, in the block with the id ",
            tag("code", "ranking"), ", as --json writes them.", class_="note"),
    )  # fmt: skip


def reproduce(ranking: Ranking) -> str:
    """Return the command that makes this ranking again; the Python for weights that were in memory."""
    sources = [model.source for model in ranking.models]
    if any(source.startswith("<") for source in sources):
        return f"spectra.rank(models, by={ranking.metric!r})"
    words = ["spectra", "rank", *sources]
    words += ["--by", ranking.metric] if ranking.why == "asked for" else []
    options = {key: value for key, value in ranking.options.items() if key != "replicates"}
    words += provenance.option_words(options)
    words += (
        ["--allow-partial"] if any(Mark.INCOMPLETE in m.warnings for m in ranking.models) else []
    )
    return shlex.join([*words, "--html", "ranking.html"])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
