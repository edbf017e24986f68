"""What a comparison of two models says: frozen records."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from spectra.errors import unknown_name
from spectra.records import Kind, LayerReport, ModelReport, Value


class Change(StrEnum):
    """What kind of change a layer, or a model, went through."""

    IDENTICAL = "identical"
    FEW_LAYERS = "few_layers"
    RESCALED = "rescaled"
    LOW_RANK = "low_rank"
    NOISE_LIKE = "noise_like"
    FINE_TUNED = "fine_tuned"
    UNRELATED = "unrelated"
    NON_FINITE = "non_finite"
    UNKNOWN = "unknown"


CHANGE_TEXT: Mapping[Change, str] = {
    Change.IDENTICAL: "the same numbers",
    Change.FEW_LAYERS: "the same numbers but in a few layers",
    Change.RESCALED: "multiplied by a constant",
    Change.LOW_RANK: "a few directions were added, as merging LoRA does",
    Change.NOISE_LIKE: "small noise was added, as rounding and quantisation do",
    Change.FINE_TUNED: "trained further",
    Change.UNRELATED: "no more alike than two separate training runs",
    Change.NON_FINITE: "NaN or infinite weights in one of them, and not in the other",
    Change.UNKNOWN: "the weights of both were not at hand, or have no numbers",
}


@dataclass(frozen=True, slots=True)
class Delta:
    """The matrix ΔW = W_other - W_base of one layer, in numbers.

    Attributes
    ----------
    norm : float
        ‖ΔW‖_F / ‖W_base‖_F.
    spectral_norm : float
        ‖ΔW‖_2 / ‖W_base‖_2.
    stable_rank : float
        ‖ΔW‖²_F / ‖ΔW‖²_2, over the pooled slices.
    structure : float
        Squares off the diagonal of ΔWᵀΔW, over what entries of the same sizes and random signs
        show: 1 for noise, however unequal its rows and columns; more for anything else.
    rank : int
        Singular values of ΔW that rounding of both matrices to their stored types cannot explain.
    rank_share : float
        Share of ‖ΔW‖²_F that these hold.
    rank_rest : float
        ‖ΔW‖_F without these over ½ u ‖W_other‖_F, somewhat more than rounding to unit round-off u
        leaves: 1 or less if rounding explains all the rest.
    cosine : float
        ⟨W_base, W_other⟩ / (‖W_base‖_F ‖W_other‖_F).
    scale : float
        c of the multiple c W_base that is nearest to W_other.
    along_base : float
        Share of ‖ΔW‖²_F that this multiple explains, (c - 1)² ‖W_base‖² / ‖ΔW‖².
    random_like : bool
        Whether the spectrum of ΔW is not told from that of noise.
    n_spikes : int
        Eigenvalues of ΔW above what noise explains.
    squared_norm : float
        ‖ΔW‖²_F, in squared weights.
    base_squared_norm : float
        ‖W_base‖²_F, in squared weights.
    report : LayerReport
        Everything ``analyze`` says of ΔW as a matrix.
    """

    norm: float
    spectral_norm: float
    stable_rank: float
    structure: float
    rank: int
    rank_share: float
    rank_rest: float
    cosine: float
    scale: float
    along_base: float
    random_like: bool
    n_spikes: int
    squared_norm: float
    base_squared_norm: float
    report: LayerReport = field(repr=False, compare=False)

    def of_tail(self, metric: str) -> Value:
        """Return alpha of ΔW, or its interval; NaN where ΔW is hardly more than its few directions.

        What lies below those is rounding, whose exponent is no one's.
        """
        whole = self.rank >= self.report.n_eigenvalues / 2
        return self.report.metrics.get(metric, math.nan) if whole else math.nan


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much of the leading `k` singular directions of base is among those of other.

    ``left`` and ``right`` are mean squared cosines ‖U_kᵀ U'_k‖²_F / k, over the slices of a
    convolution: 1 for the same subspace. ``left_random`` and ``right_random`` are what two random
    subspaces of the same dimensions show, k over the rows and k over the columns.
    """

    k: int
    left: float
    right: float
    left_random: float
    right_random: float

    @property
    def excess(self) -> float:
        """The smaller of both overlaps, between random (0) and the same subspace (1)."""
        left = (self.left - self.left_random) / (1.0 - self.left_random)
        right = (self.right - self.right_random) / (1.0 - self.right_random)
        return min(left, right)


@dataclass(frozen=True, slots=True)
class LayerChange:
    """One layer that both models have.

    Attributes
    ----------
    name, other_name : str
        What it is called in either model.
    kind, shape, N, M, n_matrices
        Of the layer in the base.
    role, block : str
        See `spectra.naming`.
    change : Change
    alpha_change, alpha_change_low, alpha_change_high : float
        alpha of other minus alpha of base, with a 95 % interval.
    alpha_moved : bool
        Whether that interval excludes 0.
    changes : mapping
        Other minus base of every metric that both have; NaN where either has none.
    delta : Delta or None
        None where the weights of both are not at hand.
    overlap : Overlap or None
        None where it was not computed, or the layer is identical.
    base, other : LayerReport
    """

    name: str
    other_name: str
    kind: Kind
    shape: tuple[int, ...]
    N: int
    M: int
    n_matrices: int
    role: str
    block: str
    change: Change
    alpha_change: float
    alpha_change_low: float
    alpha_change_high: float
    alpha_moved: bool
    changes: Mapping[str, Value] = field(repr=False)
    delta: Delta | None
    overlap: Overlap | None
    base: LayerReport = field(repr=False, compare=False)
    other: LayerReport = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A layer that only one of the models has; `reason` says more where there is more to say."""

    name: str
    shape: tuple[int, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class OtherShape:
    """A layer that both models have, in different shapes."""

    name: str
    base_shape: tuple[int, ...]
    other_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Layers of one block or one role together.

    ``alpha_change`` is their mean change of alpha, ``delta_norm`` √(Σ‖ΔW‖² / Σ‖W_base‖²), and
    ``delta_share`` their share of ‖ΔW‖² over the whole model.
    """

    by: str
    name: str
    n_layers: int
    n_identical: int
    alpha_change: float
    delta_norm: float
    delta_share: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of ``compare``: matched layers in the order of the base, and what it amounts to.

    ``change`` and ``verdict`` say what kind of change it is, as a code and in plain words; `summary`
    holds the means. ``reports`` are the analyses it was made from: of base and of other.
    """

    base: str
    other: str
    change: Change
    verdict: str
    summary: Mapping[str, Value]
    layers: tuple[LayerChange, ...]
    groups: tuple[Group, ...]
    only_in_base: tuple[Unmatched, ...]
    only_in_other: tuple[Unmatched, ...]
    other_shape: tuple[OtherShape, ...]
    notes: tuple[str, ...]
    options: Mapping[str, object]
    reports: tuple[ModelReport, ...] = field(default=(), repr=False, compare=False)

    def __getitem__(self, layer: str) -> LayerChange:
        for row in self.layers:
            names = (row.name, row.other_name)
            if layer in names or layer in (name.removesuffix(".weight") for name in names):
                return row
        raise unknown_name(layer, "layer", [row.name for row in self.layers])


def alpha_interval(base: LayerReport, other: LayerReport) -> tuple[float, float, float]:
    """Return the change of alpha with its 95 % interval.

    The half widths of the two intervals, each on its own side, are combined as those of two
    independent estimates: Zou & Donner, Statistics in Medicine 27 (2008), eq. 2. Checkpoints of one
    run are correlated, so that for them the interval is wider than need be.

    Returns
    -------
    (float, float, float)
        Change, lower and upper end; NaN where a layer has no alpha, or no interval.
    """
    before, after = base.metrics.get("alpha", math.nan), other.metrics.get("alpha", math.nan)
    of_base, of_other = (
        {end: layer.metrics.get(f"alpha_{end}", math.nan) for end in ("low", "high")}
        for layer in (base, other)
    )
    change = after - before
    down = math.hypot(after - of_other["low"], of_base["high"] - before)
    up = math.hypot(of_other["high"] - after, before - of_base["low"])
    return change, change - down, change + up
