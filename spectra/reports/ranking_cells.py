"""What the cells of a table of models say, wherever it is shown, and what it amounts to in words."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from spectra.ranking import MARK_TEXT, Agreement, Mark, RankedModel, Ranking, Scores

SURE = 0.95
NAMED = 3
CODES: Mapping[Mark, str] = MappingProxyType(
    {
        Mark.BROKEN: "broken",
        Mark.OVER_TRAINED: "over",
        Mark.MOSTLY_RANDOM_LIKE: "noise",
        Mark.FEW_LAYERS: "few",
        Mark.MIXED_FORMATS: "format",
        Mark.LAYERS_FAILED: "failed",
        Mark.INCOMPLETE: "partial",
    }
)
COLUMNS = {
    "value": "mean of the middle half of the layers",
    "beats next": "probability that the model is better than the one below",
}


def verdict(ranking: Ranking, spell: Callable[[str], str]) -> str:
    """Say in a sentence which model is best, and how sure that is; `spell` writes the names."""
    names = {model.name: spell(model.name) for model in ranking.models}
    first, second = ranking.models[:2]
    p = ranking.p_better(first.name, second.name)
    if ranking.best is None:
        return (
            "No model is called best: all are over-trained, broken or like random weights (see the"
            f" notes). The lowest {ranking.metric} has {names[first.name]}."
        )
    if second.is_set_aside:
        return (
            f"Best: {names[first.name]}; the others are over-trained, broken or like random weights"
            " (see the notes)."
        )
    if math.isnan(p):
        return f"First: {names[first.name]}; one layer cannot tell how sure that is."
    rivals = [
        names[model.name]
        for model in ranking.models[1:]
        if ranking.p_better(first.name, model.name) < SURE and not model.is_set_aside
    ]
    if not rivals:
        return f"Best: {names[first.name]} (probability {probability(p)} against the second)."
    more = f" and {len(rivals) - NAMED} more" if len(rivals) > NAMED else ""
    return (
        f"First: {names[first.name]}. Not told from it (probability below {SURE}):"
        f" {', '.join(rivals[:NAMED])}{more}."
    )


JUDGED = ("n_well_trained", "n_over_trained", "n_under_trained")


def judged_share(ranking: Ranking) -> str:
    """Say how many of the alphas can be believed one by one, if that is less than half of a model's."""
    shares = [
        (sum(model.summary.get(count, 0) for count in JUDGED), model.summary["n_averaged"])
        for model in ranking.models
        if "n_averaged" in model.summary
    ]
    if not shares or all(2 * judged >= n for judged, n in shares):
        return ""
    (low, of), (high, most) = min(shares), max(shares)
    span = f"{low} of {of}" if (low, of) == (high, most) else f"{low} of {of} to {high} of {most}"
    return (
        f"Only {span} layers have an alpha that can be judged by itself; the others rest on poor fits"
        " or short tails, so the order is of averages of doubtful numbers."
    )


def told_apart(ranking: Ranking) -> tuple[int, int]:
    """Return how many pairs of models are told apart, and how many there are."""
    sure = sum(max(pair.p_a_better, 1 - pair.p_a_better) >= SURE for pair in ranking.pairs)
    return sure, len(ranking.pairs)


def headers(ranking: Ranking) -> tuple[str, ...]:
    """Return the headings of the columns of `cells`."""
    return ("rank", "model", ranking.metric, "95 %", "mean", "n", "beats next", "note")


def cells(ranking: Ranking) -> Iterator[tuple[str, ...]]:
    """Give the cells of each model, best first; names as they are, whatever they hold."""
    following = [*ranking.models[1:], None]
    for model, after in zip(ranking.models, following, strict=True):
        yield (
            places(model),
            model.name,
            f"{model.value:.3f}",
            interval(model),
            f"{model.mean:.2f}",
            str(model.n_layers),
            "" if after is None else probability(ranking.p_better(model.name, after.name)),
            " ".join(CODES[mark] for mark in model.warnings),
        )


def legend(ranking: Ranking) -> list[str]:
    """Explain the columns and the codes that the table uses."""
    used = Counter(mark for model in ranking.models for mark in model.warnings)
    parts = [
        f"{ranking.metric}: {COLUMNS['value']}",
        "mean, n: of the n layers compared",
        f"beats next: {COLUMNS['beats next']}",
    ]
    return parts + [f"{CODES[mark]}: {MARK_TEXT[mark]}" for mark in CODES if used[mark]]


AGREEMENT = ("metric", "group", "n", "tau", "95 %", "p", "Spearman", "R²")
"""The headings of the columns of `agreement_cells`."""


def agreement_cells(scores: Scores) -> Iterator[tuple[str, ...]]:
    """Give the cells of each agreement with known scores; groups as they are called."""
    for agreement in scores.agreements:
        yield (
            agreement.metric,
            agreement.group,
            str(agreement.n_models),
            _signed(agreement.tau),
            _tau_interval(agreement),
            "" if math.isnan(agreement.p_value) else f"{agreement.p_value:.3f}",
            _signed(agreement.spearman),
            "–" if math.isnan(agreement.r_squared) else f"{agreement.r_squared:.2f}",
        )


def scores_title(scores: Scores, spell: Callable[[str], str]) -> str:
    """Say what the ranking is held against; `spell` writes the label."""
    better = "higher" if scores.higher_is_better else "lower"
    sure = " (assumed: say so with --scores-are)" if scores.assumed else ""
    return f"against known scores: {spell(scores.label)}, {better} is better{sure}"


def places(model: RankedModel) -> str:
    """Return a place with its interval, such as 2 (1-3)."""
    low, high = model.rank_low, model.rank_high
    return f"{model.rank}" if low == high else f"{model.rank} ({low}-{high})"


def interval(model: RankedModel) -> str:
    """Return the interval of a model's value; a dash where it has none."""
    if not math.isfinite(model.value_low) or not math.isfinite(model.value_high):
        return "–"
    return f"{model.value_low:.2f} to {model.value_high:.2f}"


def probability(p: float) -> str:
    """Say a probability in two digits, never as certain.

    Examples
    --------
    >>> probability(0.9996), probability(0.614), probability(math.nan)
    ('>.99', '.61', '–')
    """
    if math.isnan(p):
        return "–"
    return ">.99" if p > 0.99 else "<.01" if p < 0.01 else f"{p:.2f}".lstrip("0")


def _tau_interval(agreement: Agreement) -> str:
    if math.isnan(agreement.tau_low):
        return ""
    return f"{agreement.tau_low:+.2f} to {agreement.tau_high:+.2f}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"
