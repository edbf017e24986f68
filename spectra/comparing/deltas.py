"""The difference of two models as a source of weights, so that the engine streams it like any other."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from spectra import rmt
from spectra.comparing.matching import Pair
from spectra.comparing.records import Delta
from spectra.conventions import Convention
from spectra.records import LayerReport, SourceInfo, Spectrum, Tensor
from spectra.sources import Checkpoint
from spectra.sources.base import FLOAT_TYPES, Array

ROUNDING: Mapping[str, float] = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}
"""Largest relative error of a number rounded to a stored type."""

NO_PARTNER = "no partner"


class DeltaSource:
    """ΔW = W_other - W_base in float64, tensor by tensor or row by row, under the names of the base.

    Lists every tensor of the base, so that layouts cut them as they cut those; what has no partner
    of the same shape and of a floating type is listed with a type that nothing analyses.
    """

    def __init__(self, base: Checkpoint, other: Checkpoint, partners: Mapping[str, str]) -> None:
        self._base = base
        self._other = other
        self._partners = partners
        theirs = {tensor.name: tensor for tensor in other.tensors}
        self.tensors = tuple(
            _difference(tensor, theirs.get(partners.get(tensor.name, "")))
            for tensor in base.tensors
        )
        self.ignored = base.ignored
        self.info: SourceInfo = dataclasses.replace(base.info, partial=False)

    def expect(self, names: Sequence[str]) -> None:
        """Pass on which tensors will be read."""
        known = [name for name in names if name in self._partners]
        self._base.expect(known)
        self._other.expect([self._partners[name] for name in known])

    def read(self, name: str) -> Array:
        """Return one tensor of differences."""
        return _subtract(self._other.read(self._partners[name]), self._base.read(name))

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows of it, reading no more of either model where that can be."""
        theirs = self._other.read_rows(self._partners[name], begin, end)
        return _subtract(theirs, self._base.read_rows(name, begin, end))


def delta_source(base: Checkpoint, other: Checkpoint, pairs: Sequence[Pair]) -> Checkpoint:
    """Return the differences of the matched layers as a source that ``analyze`` takes."""
    partners = {mine.tensor: theirs.tensor for mine, theirs in pairs}
    return Checkpoint(DeltaSource(base, other, partners), base.config)


def _subtract(theirs: Array, mine: Array) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are told by the engine
        return np.subtract(theirs, mine, dtype=np.float64)


def _difference(mine: Tensor, theirs: Tensor | None) -> Tensor:
    if (
        theirs is None
        or theirs.shape != mine.shape
        or mine.dtype not in FLOAT_TYPES
        or theirs.dtype not in FLOAT_TYPES
    ):
        dtype = NO_PARTNER if mine.dtype in FLOAT_TYPES else mine.dtype
        return dataclasses.replace(mine, dtype=dtype)
    # Both are held beside their difference.
    nbytes = mine.nbytes + theirs.nbytes + 8 * math.prod(mine.shape)
    return dataclasses.replace(
        mine, dtype="float64", nbytes=nbytes, whole=mine.whole or theirs.whole
    )


def delta_of(row: LayerReport, pair: Pair, rules: Convention) -> Delta | None:
    """Turn what ``analyze`` says of ΔW into numbers relative to the base; None where it says nothing.

    Parameters
    ----------
    row : LayerReport
        Of ΔW, with its spectrum.
    pair : (LayerReport, LayerReport)
        Base and other, with theirs.
    rules : Convention
        By which all three were made.

    Notes
    -----
    Inner products come from norms alone, 2⟨W, W'⟩ = ‖W‖² + ‖W'‖² - ‖W' - W‖²: right to about 1e-16
    ‖W‖².
    """
    before, after, spectrum = pair[0].spectrum, pair[1].spectrum, row.spectrum
    if before is None or after is None or spectrum is None:
        return None
    mine, theirs, change = before.squared_norm, after.squared_norm, spectrum.squared_norm
    inner = (mine + theirs - change) / 2
    scale = inner / mine if mine else math.nan
    rank, share = _rank(spectrum, before, after, pair)
    moved = change > 0
    stable = change / float(spectrum.eigenvalues[-1]) if moved else math.nan
    # Eigenvalues of convolutions carry the convention's factor; energies are those of the weights.
    unit = rules.conv_scale if row.kind.startswith("conv") else 1.0
    return Delta(
        norm=math.sqrt(change / mine) if mine else math.nan,
        spectral_norm=math.sqrt(spectrum.eigenvalues[-1] / before.eigenvalues[-1])
        if mine
        else math.nan,
        stable_rank=stable,
        stable_rank_of_noise=stable / _stable_rank_of_noise(spectrum),
        rank=rank,
        rank_share=share,
        cosine=inner / math.sqrt(mine * theirs) if mine and theirs else math.nan,
        scale=scale,
        along_base=(scale - 1.0) ** 2 * mine / change if moved and mine else math.nan,
        random_like=moved and rmt.is_random_like(spectrum),
        n_spikes=rmt.tracy_widom_bulk(spectrum).n_spikes if moved else 0,
        squared_norm=change / unit,
        base_squared_norm=mine / unit,
        report=row,
    )


def _stable_rank_of_noise(spectrum: Spectrum) -> float:
    k = spectrum.n_matrices
    return k * spectrum.N * spectrum.M / rmt.edge(spectrum.N, spectrum.M)


def _rank(spectrum: Spectrum, before: Spectrum, after: Spectrum, pair: Pair) -> tuple[int, float]:
    """Count the singular values of ΔW above the edge of rounding noise, and their share of ‖ΔW‖².

    Rounding moves an entry w by u|w| at most; entries that are off by that much at random have
    singular values up to u √(mean w²) (√N + √M). Real errors are a third of it, so that the edge
    is exceeded by none.
    """
    variance = sum(
        ROUNDING.get(layer.dtype, 0.0) ** 2 * side.squared_norm
        for layer, side in zip(pair, (before, after), strict=True)
    ) / (spectrum.N * spectrum.M * spectrum.n_matrices)
    bound = max(rmt.edge(spectrum.N, spectrum.M, variance), spectrum.error)
    above = spectrum.eigenvalues[spectrum.eigenvalues > bound]
    share = float(above.sum()) / spectrum.squared_norm if spectrum.squared_norm else math.nan
    return int(above.size), share
