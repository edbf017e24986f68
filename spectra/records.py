"""The records that travel through the library: frozen, and plain data but for look-up by name."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.errors import unknown_name

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

Vector: TypeAlias = npt.NDArray[np.float64]
Kind: TypeAlias = Literal["linear", "embedding", "head", "conv1d", "conv2d", "conv3d"]
Value: TypeAlias = float | int


class Status(StrEnum):
    """``ok``, or why a layer has no power-law numbers."""

    OK = "ok"
    TOO_FEW_EIGENVALUES = "too_few_eigenvalues"
    NON_FINITE = "non_finite"
    ZERO = "zero"
    DEGENERATE = "degenerate"
    OUT_OF_RANGE = "out_of_range"
    FIT_FAILED = "fit_failed"
    NOT_CONVERGED = "not_converged"
    UNSUPPORTED_DTYPE = "unsupported_dtype"
    UNREADABLE = "unreadable"
    OVER_BUDGET = "over_budget"
    NOT_REACHED = "not_reached"


STATUS_TEXT: Mapping[Status, str] = {
    Status.OK: "fitted",
    Status.TOO_FEW_EIGENVALUES: "too few eigenvalues to fit",
    Status.NON_FINITE: "holds NaN or infinite weights",
    Status.ZERO: "all weights are zero",
    Status.DEGENERATE: "rank one, or all singular values equal: no spectrum to fit",
    Status.OUT_OF_RANGE: "squares of the weights leave the range of float64",
    Status.FIT_FAILED: "no tail of the spectrum admits a power law",
    Status.NOT_CONVERGED: "the decomposition failed its own check",
    Status.UNSUPPORTED_DTYPE: "stored in a type whose values need scales that are not read yet",
    Status.UNREADABLE: "its bytes could not be read",
    Status.OVER_BUDGET: "does not fit in memory",
    Status.NOT_REACHED: "the analysis was interrupted before it",
}


class Finding(StrEnum):
    """What is noteworthy about a layer that has numbers; codes of ``LayerReport.warnings``."""

    OVER_TRAINED = "over_trained"
    UNDER_TRAINED = "under_trained"
    SHORT_SPECTRUM = "short_spectrum"
    SHORT_TAIL = "short_tail"
    POOR_FIT = "poor_fit"
    RANK_COLLAPSE = "rank_collapse"
    RANDOM_LIKE = "random_like"
    NOT_POWER_LAW = "not_power_law"
    CORRELATION_TRAP = "correlation_trap"
    NO_BAND = "no_band"
    LIKE_SHUFFLED = "like_shuffled"
    LOW_PRECISION = "low_precision"


FINDING_TEXT: Mapping[Finding, str] = {
    Finding.OVER_TRAINED: "alpha < 2: correlations heavier than in well-trained layers",
    Finding.UNDER_TRAINED: "alpha > 6: hardly told from random weights",
    Finding.SHORT_SPECTRUM: "fewer than 50 eigenvalues: alpha is uncertain and biased upwards",
    Finding.SHORT_TAIL: "fewer than 20 eigenvalues in the tail: alpha is uncertain",
    Finding.POOR_FIT: "KS distance above 0.1: the tail is hardly a power law",
    Finding.RANK_COLLAPSE: "a tenth or more of the eigenvalues are zero",
    Finding.RANDOM_LIKE: "the spectrum is that of random weights",
    Finding.NOT_POWER_LAW: "a power law is ruled out (goodness of fit p < 0.1)",
    Finding.LIKE_SHUFFLED: "the spectrum is that of its own entries shuffled",
    Finding.LOW_PRECISION: "some eigenvalues are below the rounding error of float32: ranks are too low",
    Finding.NO_BAND: "the band from 2 to 6 belongs to csn, not to this estimator",
    Finding.CORRELATION_TRAP: "an eigenvalue survives shuffling: a mean shift or a few huge entries",
}


class Verdict(StrEnum):
    """What the numbers of a layer amount to."""

    WELL_TRAINED = "well_trained"
    OVER_TRAINED = "over_trained"
    UNDER_TRAINED = "under_trained"
    RANDOM_LIKE = "random_like"
    NOT_JUDGED = "not_judged"
    NO_NUMBERS = "no_numbers"


class Phase(StrEnum):
    """The phase of training that a spectrum shows (JMLR 22 (2021), table 1; SETOL, table 1)."""

    RANDOM_LIKE = "random_like"
    BULK_AND_SPIKES = "bulk_and_spikes"
    WEAKLY_HEAVY_TAILED = "weakly_heavy_tailed"
    HEAVY_TAILED = "heavy_tailed"
    VERY_HEAVY_TAILED = "very_heavy_tailed"
    RANK_COLLAPSE = "rank_collapse"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a checkpoint, as its header describes it.

    ``storage`` is equal for two tensors exactly when they are the same numbers in the same place
    (tied weights); ``None`` where the format cannot say. ``owner`` is the class of the module that
    holds it, which says of what ``kind`` it is and of how many ``groups``; None for files.
    ``dequantised_from`` names the codes that its numbers are computed from; ``dtype`` is then that
    of the result. A ``whole`` tensor is computed as one: its rows cost as much as all of it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    storage: tuple[object, ...] | None = None
    owner: str | None = None
    kind: Kind | None = None
    groups: int = 1
    dequantised_from: str = ""
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One of several matrices in a stored tensor: what of it, and how it is called.

    Along `axis` of the matrix, the entries whose position modulo `period` lies in [`begin`, `begin` +
    `length`); all of them if `length` is 0. ``expert`` is the index on the axis before the matrix.
    """

    label: str
    axis: int = 0
    period: int = 0
    begin: int = 0
    length: int = 0
    expert: int | None = None


@dataclass(frozen=True, slots=True)
class Matrix:
    """The matrices of one layer: ``n_matrices`` slices of equal shape, analysed as one spectrum.

    ``N`` >= ``M`` are the sides of one slice, ``shape`` and ``dtype`` those of the stored tensor.
    ``aliases`` are further names under which the checkpoint ties the same numbers. ``part`` says what
    of the tensor this is, if not all, and ``layout`` the rule in words. ``first_row`` is where the
    rows of the tensor begin that are the N rows of this matrix; None if it is not made of such.
    """

    name: str
    tensor: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    N: int
    M: int
    n_matrices: int = 1
    groups: int = 1
    aliases: tuple[str, ...] = ()
    part: Part | None = None
    layout: str = ""
    first_row: int | None = None
    dequantised_from: str = ""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something seen in the checkpoint that is not analysed, and why; `count` tensors in one line."""

    name: str
    shape: tuple[int, ...]
    reason: str
    count: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Eigenvalues λ = σ² of WᵀW (no 1/N), pooled over the slices of a layer.

    Compared and hashed by identity, so that what several metrics need is computed once.

    Attributes
    ----------
    eigenvalues : ndarray of shape (n_matrices * M,)
        Ascending, float64; unit: squared weight (times the convention's scale).
    squared_norm : float
        ‖W‖²_F summed from the weights themselves, in the unit of the eigenvalues.
    residual : float
        The larger of |Σλ - ‖W‖²_F| / ‖W‖²_F and |Σλ² - ‖G‖²_F| / ‖G‖²_F, over the slices: the
        decomposition's own certificate.
    solver : str
        How the eigenvalues were computed: ``gram``, ``gram_float32`` or ``svd``.
    error : float
        Bound on the absolute error of an eigenvalue, in the unit of the eigenvalues.
    floor : float
        Eigenvalues at or below count as zero (rank, entropy).
    cutoff : float
        Eigenvalues at or below are kept out of the power-law fit.
    density_fit : bool
        Whether the bulk is found by fitting a density, as WeightWatcher does.
    stored : bool
        Whether it was read back from a store instead of computed.
    raw : Spectrum or None
        What the decomposition gave, before a convention was applied; None if this is it.
    """

    eigenvalues: Vector = field(repr=False)
    N: int
    M: int
    n_matrices: int
    squared_norm: float
    residual: float
    solver: str
    error: float = 0.0
    floor: float = 0.0
    cutoff: float = 0.0
    density_fit: bool = False
    stored: bool = False
    raw: "Spectrum | None" = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class TailFit:
    """A power law ρ(λ) ∝ λ^-alpha fitted to the eigenvalues from ``xmin`` to ``xmax``.

    ``alpha_low`` to ``alpha_high`` is a 95 % interval that accounts for the choice of ``xmin``.

    All numbers are NaN (``n_tail`` 0) unless ``status`` is ``ok``.
    """

    alpha: float = math.nan
    xmin: float = math.nan
    xmax: float = math.nan
    ks: float = math.nan
    n_tail: int = 0
    cutoff_rate: float = 0.0
    erg_log_det_sd: float = math.nan
    alpha_stderr: float = math.nan
    alpha_low: float = math.nan
    alpha_high: float = math.nan
    estimator: str = "csn"
    status: Status = Status.FIT_FAILED


@dataclass(frozen=True, slots=True, repr=False)
class LayerReport:
    """What is known of one layer; metrics are looked up as ``layer["alpha"]`` or ``layer.alpha``.

    ``solver`` says how the spectrum was computed, ``residual`` is its certificate, and
    ``eigenvalue_error`` bounds the error of an eigenvalue, relative to the largest.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    status: Status
    reason: str
    warnings: tuple[Finding, ...]
    aliases: tuple[str, ...]
    tensor: str
    layout: str
    dequantised_from: str
    N: int
    M: int
    aspect_ratio: float
    n_matrices: int
    n_eigenvalues: int
    estimator: str
    solver: str
    residual: float
    eigenvalue_error: float
    metrics: Mapping[str, Value] = field(repr=False)
    averaged: bool = False
    verdict: Verdict = Verdict.NO_NUMBERS
    phase: Phase = Phase.UNKNOWN
    best_family: str = ""
    spectrum: Spectrum | None = field(default=None, repr=False, compare=False)
    fit: TailFit | None = field(default=None, repr=False, compare=False)

    def __getitem__(self, metric: str) -> Value:
        try:
            return self.metrics[metric]
        except KeyError:
            raise unknown_name(metric, "metric", tuple(self.metrics)) from None

    def __repr__(self) -> str:
        alpha = self.metrics.get("alpha", math.nan)
        return f"<LayerReport {self.name}: {self.N}×{self.M}, {self.status}, alpha {alpha:.3f}>"

    def __getattr__(self, metric: str) -> Value:
        # Reached only for names that are no fields. Dunder look-ups (copy, pickle) must not recurse.
        if metric.startswith("_") or metric == "metrics":
            raise AttributeError(metric)
        try:
            return self.metrics[metric]
        except KeyError:
            close = difflib.get_close_matches(metric, self.metrics, n=3)
            hint = f"; close: {', '.join(close)}" if close else ""
            raise AttributeError(f"no field or metric {metric!r}{hint}") from None


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """Where the weights came from and what was seen there; `partial` if files of it are missing."""

    address: str
    format: str
    n_tensors: int
    nbytes: int
    notes: tuple[str, ...] = ()
    partial: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class ModelReport:
    """The result of ``analyze``: layers in checkpoint order, what was skipped, and their summary.

    ``coverage`` counts the tensors of the source: each is analysed, failed or skipped. ``complete``
    is False after an interruption, or if files of the checkpoint were missing.
    """

    source: SourceInfo
    options: Mapping[str, object]
    summary: Mapping[str, Value]
    coverage: Mapping[str, int]
    layers: tuple[LayerReport, ...]
    skipped: tuple[Skipped, ...]
    run: Mapping[str, object]
    complete: bool = True

    def __getitem__(self, layer: str) -> LayerReport:
        for report in self.layers:
            if layer in (report.name, report.name.removesuffix(".weight"), *report.aliases):
                return report
        raise unknown_name(layer, "layer", [report.name for report in self.layers])

    def __repr__(self) -> str:
        return f"<ModelReport of {self.source.address}: {len(self.layers)} layers>"

    def __str__(self) -> str:
        from spectra import reports

        return reports.to_text(self)

    def write(self, path: str | Path) -> None:
        """Write the report as ``.json``, ``.csv``, ``.html``, ``.md``, ``.parquet`` or ``.spectra``, by the ending of `path`."""
        from spectra import reports

        reports.write(self, path)

    def to_arrow(self) -> "pa.Table":
        """Return the layers as an Arrow table, all else in its metadata: `spectra.reports.frames`."""
        from spectra import reports

        return reports.frames.table([self])

    def to_pandas(self) -> "pd.DataFrame":
        """Return the layers as a pandas frame, one row each: `spectra.reports.frames`."""
        from spectra import reports

        return reports.frames.to_pandas(self.to_arrow())

    def to_polars(self) -> "pl.DataFrame":
        """Return the layers as a polars frame, one row each: `spectra.reports.frames`."""
        from spectra import reports

        return reports.frames.to_polars(self.to_arrow())

    def _repr_html_(self) -> str:
        from spectra import reports

        return reports.html_table(self)
