"""A ranking in words: the verdict, and how places, intervals and probabilities are written."""

import math
from collections.abc import Callable

from spectra.errors import printable
from spectra.ranking import Mark, RankedModel, Ranking

SURE = 0.95
NAMED = 3  # rivals that the verdict names


def verdict(ranking: Ranking, *, named: Callable[[str], str] = printable) -> str:
    """Say in a sentence which model is best, and how sure that is.

    Parameters
    ----------
    ranking : Ranking
    named : callable
        How the name of a model is written.
    """
    names = {model.name: named(model.name) for model in ranking.models}
    first, second = ranking.models[:2]
    p = ranking.p_better(first.name, second.name)
    if ranking.best is None:
        return (
            "No model is called best: all have layers below alpha 2 (over-trained), where lower is"
            f" not better. The lowest {ranking.metric} has {names[first.name]}."
        )
    if Mark.OVER_TRAINED in second.warnings:
        return (
            f"Best: {names[first.name]}; the others have layers below alpha 2 (over-trained), where"
            " lower is not better."
        )
    if math.isnan(p):
        return f"First: {names[first.name]}; one layer cannot tell how sure that is."
    rivals = [
        names[model.name]
        for model in ranking.models[1:]
        if ranking.p_better(first.name, model.name) < SURE
        and Mark.OVER_TRAINED not in model.warnings
    ]
    if not rivals:
        return f"Best: {names[first.name]} (probability {probability(p)} against the second)."
    more = f" and {len(rivals) - NAMED} more" if len(rivals) > NAMED else ""
    return (
        f"First: {names[first.name]}. Not told from it (probability below {SURE}):"
        f" {', '.join(rivals[:NAMED])}{more}."
    )


def told_apart(ranking: Ranking) -> tuple[int, int]:
    """Return how many pairs of models are told apart, and how many there are."""
    sure = sum(max(pair.p_a_better, 1 - pair.p_a_better) >= SURE for pair in ranking.pairs)
    return sure, len(ranking.pairs)


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
