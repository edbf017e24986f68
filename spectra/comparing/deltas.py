"""The difference of two models as a source of weights, so that the engine streams it like any other."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from spectra import rmt
from spectra.comparing.matching import Pair
from spectra.comparing.records import Delta
from spectra.conventions import Convention
from spectra.engine import planning
from spectra.errors import CheckpointError
from spectra.records import LayerReport, Matrix, SourceInfo, Spectrum, Tensor, Vector
from spectra.sources import Checkpoint, layouts
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


def delta_of(
    row: LayerReport, pair: Pair, matrix: Matrix, source: Checkpoint, rules: Convention
) -> Delta | None:
    """Turn what ``analyze`` says of ΔW into numbers relative to the base; None where it says nothing.

    Parameters
    ----------
    row : LayerReport
        Of ΔW, with its spectrum.
    pair : (LayerReport, LayerReport)
        Base and other, with theirs.
    matrix : Matrix
        ΔW in `source`.
    source : Checkpoint
        The differences.
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
    rank, share, rest = _rank(spectrum, after, pair[1])
    moved = change > 0
    # Eigenvalues of convolutions carry the convention's factor; these are the weights' own.
    unit = rules.conv_scale if row.kind.startswith("conv") else 1.0
    return Delta(
        norm=math.sqrt(change / mine) if mine else math.nan,
        spectral_norm=math.sqrt(spectrum.eigenvalues[-1] / before.eigenvalues[-1])
        if mine
        else math.nan,
        stable_rank=change / float(spectrum.eigenvalues[-1]) if moved else math.nan,
        structure=_structure(matrix, source, spectrum.eigenvalues / unit) if moved else math.nan,
        rank=rank,
        rank_share=share,
        rank_rest=rest,
        cosine=inner / math.sqrt(mine) / math.sqrt(theirs) if mine and theirs else math.nan,
        scale=scale,
        along_base=(scale - 1.0) ** 2 * mine / change if moved and mine else math.nan,
        random_like=moved and rmt.is_random_like(spectrum),
        n_spikes=rmt.tracy_widom_bulk(spectrum).n_spikes if moved else 0,
        squared_norm=change / unit,
        base_squared_norm=mine / unit,
        report=row,
    )


def _structure(matrix: Matrix, source: Checkpoint, eigenvalues: Vector) -> float:
    """Hold the off-diagonal part of ΔWᵀΔW against what random signs would make of it.

    If entries d have independent random signs, whatever their sizes, the off-diagonal entries of the
    Gram matrix of the short side (columns, say) have the expected sum of squares Σ_i r_i² - Σ d⁴,
    where r_i is the squared norm of row i; what they have is Σλ² - Σ_j c_j². Their ratio is 1 within
    2 / M for any noise, however unequal its rows and columns, and grows with whatever entries have
    in common. The idea is that of signflip parallel analysis (arXiv 2012.02985).

    Returns
    -------
    float
        NaN where there is nothing off the diagonal to expect, or the weights cannot be read again.
    """
    unit = math.sqrt(float(eigenvalues.sum()))
    seen = float(np.square(eigenvalues / unit**2).sum())
    expected = 0.0
    columns = np.zeros((matrix.n_matrices, matrix.M))
    try:
        for index, block in _blocks(matrix, source):
            squares = np.square(block / unit)
            columns[index] += squares.sum(axis=0)
            expected += float(np.square(squares.sum(axis=1)).sum() - np.square(squares).sum())
    except (CheckpointError, OSError):
        return math.nan
    seen -= float(np.square(columns).sum())
    return seen / expected if expected > 0 else math.nan


def _blocks(matrix: Matrix, source: Checkpoint) -> Iterator[tuple[int, Array]]:
    """Yield slices with the short side in columns, a single large one in blocks of rows."""
    if planning.can_stream(matrix):
        step = planning.block_rows(matrix.M)
        for begin in range(0, matrix.N, step):
            rows = (begin, min(begin + step, matrix.N))
            yield 0, layouts.read(matrix, source, rows)[0]
        return
    for index, weights in enumerate(layouts.read(matrix, source)):
        yield index, weights if weights.shape[0] >= weights.shape[1] else weights.T


def _rank(spectrum: Spectrum, after: Spectrum, other: LayerReport) -> tuple[int, float, float]:
    """Count the singular values of ΔW above the edge of rounding noise, and weigh them and the rest.

    Rounding moves an entry w by u|w| at most; entries that are off by that much at random have
    singular values up to u √(mean w²) (√N + √M). Real errors are a third of it, so that the edge
    is exceeded by none. The rounding that counts is that of W_other: W_base is what it came from,
    in whatever type that is stored.

    Returns
    -------
    (int, float, float)
        How many there are, their share of ‖ΔW‖²_F, and the norm of the rest over ½ u ‖W_other‖_F:
        an error is uniform up to 2^-p of a power of two, 0.39 u |w| in the root mean square.
    """
    entries = spectrum.N * spectrum.M * spectrum.n_matrices
    unit = ROUNDING.get(other.dtype, 0.0)
    variance = unit**2 * after.squared_norm / entries
    bound = max(rmt.edge(spectrum.N, spectrum.M, variance), spectrum.error)
    above = spectrum.eigenvalues > bound
    held, left = (float(spectrum.eigenvalues[part].sum()) for part in (above, ~above))
    share = held / spectrum.squared_norm if spectrum.squared_norm else math.nan
    explained = 0.5 * unit * math.sqrt(after.squared_norm)
    rest = math.sqrt(max(left, 0.0)) / explained if explained else math.inf
    return int(np.count_nonzero(above)), share, rest
