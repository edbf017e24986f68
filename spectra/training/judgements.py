"""What one reading says of each thing that can go wrong: pure functions of it, its past and rules."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, TypeAlias

from spectra import rmt, tails
from spectra.analysis import NOT_AVERAGED
from spectra.conventions import HTSR
from spectra.errors import SelectionError
from spectra.records import Finding, Status
from spectra.training.readings import Reading
from spectra.verdicts import COLLAPSED, DOUBTS, OVER_TRAINED, UNDER_TRAINED

LOOKED = frozenset(Status) - {
    Status.UNSUPPORTED_DTYPE,
    Status.UNREADABLE,
    Status.OVER_BUDGET,
    Status.NOT_REACHED,
}
"""Statuses that say something of the weights."""

TRAP_GONE = 0.05
"""A trap is gone once what survives shuffling is as common in noise as this."""
RECOVERED = 2.0
"""Ranks count as recovered at half the loss, or twice the stable rank, that raise an alarm."""


class AlarmKind(StrEnum):
    """What may go wrong in training, the gravest first."""

    NON_FINITE = "non_finite"
    DEAD = "dead"
    RANK_COLLAPSE = "rank_collapse"
    ANTI_GROKKING_SIGN = "anti_grokking_sign"
    CORRELATION_TRAP = "correlation_trap"
    ALPHA_BELOW_BAND = "alpha_below_band"
    ALPHA_ABOVE_BAND = "alpha_above_band"


@dataclass(frozen=True, slots=True)
class AlarmRules:
    """When readings become an alarm.

    Attributes
    ----------
    confirm : int
        Readings of a layer, one after the other, that must show a thing before it is told, and that
        must be clear of it before it is over. Values that are not finite need no second reading.
    alpha_low, alpha_high : float
        The band; it belongs to estimators that search for xmin.
    alpha_level : float
        Largest chance, by alpha's own interval, of an alpha so far beyond an edge if the exponent
        were that edge. Of one layer and one reading.
    trap_level : float
        Largest chance, if all layers were Gaussian noise, that any shows a trap at one reading each.
    trap_margin : float
        How many times as far beyond the edge of noise as Gaussian entries reach at that level. At 1
        entries that are merely heavier-tailed than Gaussian, as trained ones are, look like traps.
    warm_up : int or None
        Step from which on alpha above the band is told of a layer that was never inside. None:
        never, since at the start every layer is like random weights.
    rank_loss : float
        Share of the eigenvalues that are zero.
    rank_fall : float
        Share of its own past to which the stable rank falls.
    memory : int
        Readings whose median is that past; five are needed, or as many as `memory` if it is less.

    Raises
    ------
    SelectionError
        If a number is out of its range.
    """

    confirm: int = 3
    alpha_low: float = OVER_TRAINED
    alpha_high: float = UNDER_TRAINED
    alpha_level: float = 0.025
    trap_level: float = 0.01
    trap_margin: float = 2.0
    warm_up: int | None = None
    rank_loss: float = COLLAPSED
    rank_fall: float = 0.25
    memory: int = 9

    def __post_init__(self) -> None:
        for name in ("confirm", "memory"):
            if getattr(self, name) < 1:
                raise SelectionError("E_RULE", name, f"must be 1 or more, is {getattr(self, name)}")
        for name in ("alpha_level", "trap_level", "rank_loss", "rank_fall"):
            if not 0 < getattr(self, name) < 1:
                raise SelectionError(
                    "E_RULE", name, f"must lie between 0 and 1, is {getattr(self, name)}"
                )
        if not self.trap_margin >= 1:
            raise SelectionError(
                "E_RULE", "trap_margin", f"must be 1 or more, is {self.trap_margin}"
            )
        if not 1 < self.alpha_low < self.alpha_high:
            raise SelectionError(
                "E_RULE",
                "alpha_low",
                f"must lie above 1 and below alpha_high ({self.alpha_high}), is {self.alpha_low}",
            )


Seen: TypeAlias = Literal["shown", "between", "clear", "silent"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a reading says of one kind of alarm.

    Attributes
    ----------
    seen : {"shown", "between", "clear", "silent"}
        ``between`` neither raises an alarm nor ends one; ``silent`` cannot tell, and changes nothing.
    p : float
        Chance of such a reading if nothing were wrong; 0 for what is counted.
    text : str
        What was found, with the numbers.
    """

    seen: Seen
    p: float = 0.0
    text: str = ""


SILENT = Judgement("silent")
CLEAR = Judgement("clear")
BETWEEN = Judgement("between")


@dataclass(frozen=True, slots=True)
class Past:
    """What must be known of a layer's earlier readings.

    Attributes
    ----------
    fitted : bool
        Whether it had a spectrum that could be fitted.
    inside : bool
        Whether its alpha was in the band, without doubt.
    tested : bool
        Whether traps were looked for.
    stable_ranks : tuple of float
        The latest ones, but for those of a rank that has collapsed.
    """

    fitted: bool = False
    inside: bool = False
    tested: bool = False
    stable_ranks: tuple[float, ...] = ()


def judge(
    reading: Reading, past: Past, rules: AlarmRules, n_layers: int
) -> Mapping[AlarmKind, Judgement]:
    """Judge one reading for every kind of alarm that its subject can raise.

    Parameters
    ----------
    reading : Reading
    past : Past
        Of the same layer and subject, without this reading.
    rules : AlarmRules
    n_layers : int
        Layers in which traps are looked for, this one among them.

    Returns
    -------
    mapping of AlarmKind to Judgement
        Ranks, traps and alpha are those of weights: of updates and gradients no band is known, and
        a rank of one is usual.
    """
    found = {AlarmKind.NON_FINITE: non_finite(reading), AlarmKind.DEAD: dead(reading)}
    if reading.of != "weight":
        return found
    return found | {
        AlarmKind.RANK_COLLAPSE: rank_collapse(reading, past, rules),
        AlarmKind.CORRELATION_TRAP: correlation_trap(reading, rules, n_layers),
        AlarmKind.ALPHA_BELOW_BAND: alpha_below_band(reading, rules),
        AlarmKind.ALPHA_ABOVE_BAND: alpha_above_band(reading, past, rules),
    }


def remember(reading: Reading, past: Past, rules: AlarmRules, *, collapsed: bool) -> Past:
    """Return the past with this reading in it; a rank that is `collapsed` is no yardstick."""
    ranks, rank = past.stable_ranks, reading["stable_rank"]
    if math.isfinite(rank) and not collapsed:
        ranks = (*ranks, float(rank))[-rules.memory :]
    in_band = rules.alpha_low <= reading["alpha"] <= rules.alpha_high
    return replace(
        past,
        fitted=past.fitted or reading.status is Status.OK,
        inside=past.inside or (_judged(reading) and in_band),
        tested=past.tested or math.isfinite(reading["trap_p"]),
        stable_ranks=ranks,
    )


def non_finite(reading: Reading) -> Judgement:
    """Tell values that are NaN or infinite."""
    if reading.status is Status.NON_FINITE:
        return Judgement("shown", 0.0, reading.reason or "holds NaN or infinite values")
    return CLEAR if reading.status in LOOKED else SILENT


def dead(reading: Reading) -> Judgement:
    """Tell what is zero throughout: weights, or what should change them."""
    if reading.status is Status.ZERO:
        return Judgement("shown", 0.0, "is zero throughout")
    can_tell = reading.status in LOOKED and reading.status is not Status.NON_FINITE
    return CLEAR if can_tell else SILENT


def rank_collapse(reading: Reading, past: Past, rules: AlarmRules) -> Judgement:
    """Tell a spectrum that has lost directions: zero eigenvalues, or one that rules all others.

    The loss is counted against the layer's shape, the stable rank against the median of its own
    past, since learning lowers it slowly and by as much as five times.
    """
    enough = reading.n_eigenvalues >= HTSR.min_eigenvalues
    if enough and reading.status is Status.TOO_FEW_EIGENVALUES:
        text = f"fewer than {HTSR.min_eigenvalues} of {reading.n_eigenvalues} eigenvalues are not 0"
        return Judgement("shown", 0.0, text)
    if past.fitted and reading.status is Status.DEGENERATE:
        text = "no spectrum is left: rank one, or all singular values equal"
        return Judgement("shown", 0.0, text)
    counted = enough and Finding.LOW_PRECISION not in reading.warnings
    loss = reading["rank_loss"] / reading.n_eigenvalues if counted else math.nan
    few = len(past.stable_ranks) < min(5, rules.memory)
    usual = math.nan if few else statistics.median(past.stable_ranks)
    fall = reading["stable_rank"] / usual
    if loss >= rules.rank_loss:
        text = f"{loss:.0%} of {reading.n_eigenvalues} eigenvalues are zero"
        return Judgement("shown", 0.0, text)
    if fall <= rules.rank_fall:
        text = f"the stable rank fell from {usual:.3g} to {reading['stable_rank']:.3g}"
        return Judgement("shown", 0.0, text)
    if loss > rules.rank_loss / RECOVERED or fall < rules.rank_fall * RECOVERED:
        return BETWEEN
    return CLEAR if math.isfinite(loss) or math.isfinite(fall) else SILENT


def correlation_trap(reading: Reading, rules: AlarmRules, n_layers: int) -> Judgement:
    """Tell an eigenvalue that survives shuffling, among as many layers as are watched.

    Each layer is a chance for noise to stand out, so its p-value is multiplied by their number
    (Bonferroni), which holds however the layers depend on each other. That p-value is of Gaussian
    entries; those with heavier tails reach further, which the margin allows for.
    """
    if not math.isfinite(reading["trap_p"]):
        return SILENT
    p, size = min(1.0, n_layers * reading["trap_p"]), reading["trap_size"]
    if p <= rules.trap_level and not size < _least_size(reading, rules, n_layers):
        times = f", the largest {size:.3g} times the edge of noise" if math.isfinite(size) else ""
        many = reading["n_traps"]
        count = f"{many:.0f} eigenvalues survive" if many > 1 else "an eigenvalue survives"
        return Judgement("shown", p, f"{count} shuffling the entries{times}")
    return CLEAR if reading["trap_p"] > TRAP_GONE else BETWEEN


def _least_size(reading: Reading, rules: AlarmRules, n_layers: int) -> float:
    """Return the least largest eigenvalue of a trap, over the edge of noise."""
    N, M = reading.N, reading.M
    slices = max(reading.n_eigenvalues // M, 1)
    level = max(rules.trap_level / (n_layers * slices), float(rmt.TRACY_WIDOM_LEVELS[-1]))
    reach = rmt.largest_of_noise(N, M, level=min(level, 0.5), n_matrices=slices) / rmt.edge(N, M)
    return 1 + rules.trap_margin * max(reach - 1, 0.0)


def alpha_below_band(reading: Reading, rules: AlarmRules) -> Judgement:
    """Tell an alpha whose interval lies below the band; clear once alpha itself is in it again."""
    if not _judged(reading):
        return SILENT
    alpha, edge = reading["alpha"], rules.alpha_low
    if alpha >= edge:
        return CLEAR
    return _beyond(reading, "below", edge, rules)


def alpha_above_band(reading: Reading, past: Past, rules: AlarmRules) -> Judgement:
    """Tell an alpha whose interval lies above the band, of a layer that has been inside."""
    if not _judged(reading):
        return SILENT
    alpha, edge = reading["alpha"], rules.alpha_high
    if alpha <= edge:
        return CLEAR
    warm = rules.warm_up is not None and reading.step >= rules.warm_up
    return _beyond(reading, "above", edge, rules) if past.inside or warm else SILENT


def _beyond(
    reading: Reading, side: Literal["below", "above"], edge: float, rules: AlarmRules
) -> Judgement:
    low, high = _interval(reading)
    p = tails.edge_p(reading["alpha"], high if side == "below" else low, edge)
    if not p <= rules.alpha_level:
        return BETWEEN
    interval = f"95 % interval {low:.2f} to {high:.2f}"
    return Judgement("shown", p, f"alpha {reading['alpha']:.2f} is {side} {edge:g} ({interval})")


def _judged(reading: Reading) -> bool:
    """Tell whether alpha may be held against the band: it is there, and no finding puts it in doubt."""
    return (
        reading.status is Status.OK
        and reading.kind not in NOT_AVERAGED  # the band from 2 to 6 is not theirs
        and not DOUBTS & set(reading.warnings)
        and all(map(math.isfinite, (reading["alpha"], *_interval(reading))))
    )


def _interval(reading: Reading) -> tuple[float, float]:
    """Return alpha's 95 % interval, by its standard error where it was not bootstrapped."""
    low, high = float(reading["alpha_low"]), float(reading["alpha_high"])
    if math.isfinite(low) and math.isfinite(high):
        return low, high
    over = float(reading["alpha"]) - 1
    if not over > 0:
        return math.nan, math.nan
    factor = math.exp(tails.NORMAL_975 * tails.TOO_SMALL * float(reading["alpha_stderr"]) / over)
    return 1 + over / factor, 1 + over * factor
