"""The history of a run in words: where it begins and ends, what changes, and what goes wrong."""

import math
from collections.abc import Callable, Iterator, Sequence

from spectra.trajectories import (
    FEWEST,
    SIGN_TEXT,
    ChangePoint,
    History,
    HistoryPoint,
    Sign,
    SignKind,
)
from spectra.trajectories.checkpoints import POSITION

NAMED = 3  # layers a sign is told of
WORDS = {"alpha": "alpha", "ks": "KS", "log_norm": "log_norm", "stable_rank": "stable rank"}


def course(history: History) -> str:
    """Say in a sentence where alpha begins and where it ends."""
    known = [point for point in history.checkpoints if math.isfinite(point.alpha)]
    if not known:
        return "No checkpoint has an alpha to compare."
    n = len(history.layers)
    typical = f"Alpha, typical over {n} {'layer' if n == 1 else 'layers'}, "
    if len(known) == 1:
        return (
            f"{typical}is {_alpha(known[0])} at {when(history, known[0].step)}; that is no course."
        )
    first, last = known[0], known[-1]
    return (
        f"{typical}goes from {_alpha(first)} at {when(history, first.step)} to {_alpha(last)} at"
        f" {when(history, last.step)}."
    )


def when(history: History, step: int) -> str:
    """Return a step with what it counts, such as epoch 20."""
    return f"{history.unit} {step:,}"


def _alpha(point: HistoryPoint) -> str:
    if not math.isfinite(point.alpha_low):
        return f"{point.alpha:.2f}"
    return f"{point.alpha:.2f} ({point.alpha_low:.2f} to {point.alpha_high:.2f})"


def change_lines(history: History) -> Iterator[str]:
    """Say where rates change, and how sure that is."""
    if not history.change_points:
        known = sum(math.isfinite(point.alpha) for point in history.checkpoints)
        if known < FEWEST:
            yield f"Changes: cannot be told from {count(known)}; that takes {FEWEST}."
        elif _rests(history):
            yield "Changes: none; nothing moved."
        else:
            yield "Changes: none; every rate stays the same."
        return
    found = sorted((c for c in history.change_points if c.found), key=lambda c: c.step)
    for change in found:
        before, after = (
            rate_text(r, history.unit) for r in (change.rate_before, change.rate_after)
        )
        yield (
            f"Change: {watched(change)} {before} until {history.unit} {change.step}, then {after}"
            f" (p {p_text(change.p_adjusted)})."
        )
    if not found:
        least = min(history.change_points, key=lambda change: change.p_adjusted)
        yield (
            "Changes: none told from a steady drift; the likeliest is in"
            f" {watched(least)} at {history.unit} {least.step} (p {p_text(least.p_adjusted)})."
        )


def _rests(history: History) -> bool:
    """Tell whether no number over the run differs between checkpoints."""
    return all(len(set(filter(math.isfinite, item.typical))) <= 1 for item in history.trajectories)


def sign_lines(history: History, named: Callable[[str], str]) -> Iterator[str]:
    """Say what goes wrong, from which step, and how sure that is; `named` writes the layers."""
    for head, signs in sign_heads(history):
        yield head
        for sign in signs[:NAMED] if signs and signs[0].layer else ():
            since = f"from {history.unit} {sign.step}, at {count(sign.n_checkpoints)}"
            yield f"  {named(sign.layer)} {since}{_seen(sign)}"
        if len(signs) > NAMED:
            yield f"  and {len(signs) - NAMED} more layers"


def sign_heads(history: History) -> Iterator[tuple[str, list[Sign]]]:
    """Say of every kind of sign from which step it is seen, with its signs; that there is none."""
    if not history.signs:
        yield _no_signs(history), []
    for kind in dict.fromkeys(sign.kind for sign in history.signs):
        signs = [sign for sign in history.signs if sign.kind is kind]
        yield f"Sign from {history.unit} {signs[0].step}: {_what(kind, signs)}", signs


def _no_signs(history: History) -> str:
    """Say that no sign starts, and what that does not cover."""
    already = history.checkpoints[0].share_over_trained
    text = "Signs of over-training: none"
    if len(history.checkpoints) < 2:
        text = "Signs of over-training: a single checkpoint shows none that start"
    if already > 0:
        text += f" that start here; {already:.0%} of the layers are below 2 from the first on"
    if all(point.n_traps is None for point in history.checkpoints):
        text += " (correlation traps were not looked for: --metrics all)"
    return f"{text}."


def _what(kind: SignKind, signs: Sequence[Sign]) -> str:
    if kind in (SignKind.OVER_TRAINED_RISING, SignKind.RANDOM_LIKE_RISING):
        return f"{SIGN_TEXT[kind]}: {signs[0].value:.0%} at the end{_chance(signs[0].p_value)}"
    return f"{len(signs)} {'layer' if len(signs) == 1 else 'layers'}: {SIGN_TEXT[kind]}"


def _seen(sign: Sign) -> str:
    if sign.kind is SignKind.LEFT_BAND:
        return f": alpha {sign.value:.2f}{_chance(sign.p_value)}"
    if sign.kind is SignKind.CORRELATION_TRAP:
        return f": {sign.value:.0f} of them{_chance(sign.p_value)}"
    return f": {sign.value:.0%} zero" if sign.kind is SignKind.RANK_COLLAPSE else ""


def count(n: int) -> str:
    """Return a number of checkpoints with its noun."""
    return f"{n} checkpoint" if n == 1 else f"{n} checkpoints"


def _chance(p: float) -> str:
    return "" if math.isnan(p) else f" (p {p_text(p)})"


def p_text(p: float) -> str:
    """Return a probability as it is written after a p."""
    return "below .001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"


def watched(change: ChangePoint) -> str:
    """Return what a change is a change of: a metric, of all layers or of a role."""
    return WORDS.get(change.metric, change.metric) + (f" of {change.role}" if change.role else "")


def rate_text(rate: float, unit: str) -> str:
    """Say a rate in words.

    Examples
    --------
    >>> rate_text(-0.0123, "epoch"), rate_text(0.0, "step")
    ('falls by 0.0123 an epoch', 'rests')
    """
    if rate == 0:
        return "rests"
    each = "an epoch" if unit == "epoch" else f"a {'checkpoint' if unit == POSITION else unit}"
    return f"{'falls' if rate < 0 else 'rises'} by {abs(rate):.3g} {each}"
