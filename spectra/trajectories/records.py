"""What the history of a training run says: frozen records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from spectra.naming import Role
from spectra.ranking import LeftOut
from spectra.records import ModelReport, Value


class SignKind(StrEnum):
    """What may show that a run goes wrong."""

    NON_FINITE = "non_finite"
    RANK_COLLAPSE = "rank_collapse"
    LEFT_BAND = "left_band"
    OVER_TRAINED_RISING = "over_trained_rising"
    RANDOM_LIKE_RISING = "random_like_rising"
    CORRELATION_TRAP = "correlation_trap"


SIGN_TEXT: Mapping[SignKind, str] = {
    SignKind.NON_FINITE: "holds NaN or infinite weights",
    SignKind.RANK_COLLAPSE: "a tenth or more of the eigenvalues have become zero",
    SignKind.LEFT_BAND: "alpha and all of its 95 % interval have fallen below 2",
    SignKind.OVER_TRAINED_RISING: "more layers are below alpha 2 than at the start",
    SignKind.RANDOM_LIKE_RISING: "more layers are like random weights than there were",
    SignKind.CORRELATION_TRAP: "an eigenvalue that survives shuffling has appeared",
}


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """One checkpoint of a run.

    Attributes
    ----------
    source : str
        Where it came from.
    name : str
        What it is called: the shortest name that tells it from the others.
    step : int
        The number in its name that varies over the run, or its place in the order, from 0.
    alpha, alpha_low, alpha_high : float
        Typical over the layers compared (`spectra.ranking.statistics.typical`), and a 95 % interval:
        how far it moves as the layers are resampled, the same ones at every step. NaN where the
        checkpoint has no alphas to compare.
    ks, log_norm : float
        Typical over the same layers.
    share_over_trained, share_random_like : float
        Of the layers averaged: those judged ``over_trained`` (alpha < 2 and no doubt about it), and
        those not told from random weights. NaN if there are none.
    n_traps : int or None
        Layers averaged that have a correlation trap; None where traps were not looked for.
    n_failed : int
        Layers without numbers.
    summary : mapping
        The summary of its report.
    """

    source: str
    name: str
    step: int
    alpha: float
    alpha_low: float
    alpha_high: float
    ks: float
    log_norm: float
    share_over_trained: float
    share_random_like: float
    n_traps: int | None
    n_failed: int
    summary: Mapping[str, Value] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One metric over the run, over all layers compared (``role`` is empty) or over those of a role.

    ``typical`` is the mean of the middle half of the layers; each holds one number a checkpoint, NaN
    where it has none.
    """

    metric: str
    role: Role
    n_layers: int
    typical: tuple[float, ...]
    mean: tuple[float, ...]
    median: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """Where the rate of a trajectory changes most, and how sure it is that it changes at all.

    Attributes
    ----------
    metric, role : str
        Which trajectory.
    step : int
        The step from which the later rate holds.
    rate_before, rate_after : float
        Mean change of the metric a step, on either side.
    p_value : float
        How often a steady drift with the same increments in another order has as large a change
        somewhere, at the best split each time.
    p_adjusted : float
        How often any of the trajectories looked at has.
    """

    metric: str
    role: Role
    step: int
    rate_before: float
    rate_after: float
    p_value: float
    p_adjusted: float

    @property
    def found(self) -> bool:
        """Whether chance is ruled out at the level of 5 %."""
        return self.p_adjusted <= 0.05


@dataclass(frozen=True, slots=True)
class Sign:
    """A sign that the run goes wrong, and the step at which it starts.

    Attributes
    ----------
    kind : SignKind
    layer : str
        Where; empty for the model.
    step : int
        The first checkpoint that shows it.
    n_checkpoints : int
        How many show it, up to the last one that could.
    value : float
        What is seen at the last of them: alpha, the share of layers, the share of eigenvalues that
        are zero, or the number of traps; NaN for weights that are not finite.
    p_value : float
        The chance of it if nothing were changing; NaN where it is counted, not estimated.
    """

    kind: SignKind
    layer: str
    step: int
    n_checkpoints: int
    value: float
    p_value: float


@dataclass(frozen=True, slots=True)
class History:
    """The result of ``history``: the checkpoints of a run in order, and what changes over them.

    Attributes
    ----------
    address : str
        The folder, or how many sources were given.
    unit : str
        What a step counts, from the names: ``epoch``, ``step``, ...; ``position`` if they say nothing.
    checkpoints : tuple of HistoryPoint
    layers : tuple of str
        Those compared: they have an alpha at every checkpoint that has alphas.
    trajectories : tuple of Trajectory
    change_points : tuple of ChangePoint
        Of every trajectory looked at, found or not; none for fewer than 6 checkpoints.
    signs : tuple of Sign
    skipped : tuple of LeftOut
        What in the folder is no checkpoint of its own, and why.
    left_out : tuple of LeftOut
        Checkpoints that could not be used, and why.
    options : mapping
        Those of the analyses.
    complete : bool
        False if it was interrupted.
    choice : str
        Which of the numbers that vary in the names were taken for the order; empty where one does.
    reports : tuple of ModelReport
        The analyses, in the order of `checkpoints`; without spectra, so that long runs fit in memory.
    """

    address: str
    unit: str
    checkpoints: tuple[HistoryPoint, ...]
    layers: tuple[str, ...]
    trajectories: tuple[Trajectory, ...]
    change_points: tuple[ChangePoint, ...]
    signs: tuple[Sign, ...]
    skipped: tuple[LeftOut, ...]
    left_out: tuple[LeftOut, ...]
    options: Mapping[str, object]
    complete: bool = True
    choice: str = ""
    reports: tuple[ModelReport, ...] = field(default=(), repr=False, compare=False)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of the checkpoints, rising."""
        return tuple(point.step for point in self.checkpoints)

    def trajectory(self, metric: str, role: Role = "") -> Trajectory:
        """Return one metric over the run, of all layers compared or of one role."""
        for found in self.trajectories:
            if (found.metric, found.role) == (metric, role):
                return found
        raise KeyError((metric, role))


class HistoryInterrupted(KeyboardInterrupt):
    """Ctrl-C during a history; ``history`` holds the checkpoints that were finished."""

    def __init__(self, history: History) -> None:
        self.history = history
        super().__init__("interrupted")
