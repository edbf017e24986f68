"""Spectra on the CPU: Gram matrices of the short side, solved in place, each with its certificate."""

import math
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from spectra.conventions import FLOAT32_EPS, FLOAT64_EPS
from spectra.engine import lapack
from spectra.engine.planning import BATCHED_BELOW, Precision
from spectra.engine.weights import Failure, Float64, Stack, Weights

CERTIFICATE = {"double": 1e-9, "fast": 1e-4, "svd": 1e-9}
"""Largest residual of a decomposition that is believed; good ones have 1e-14, or 1e-6 in float32."""

SAFE = {"double": (1e-130, 1e130), "fast": (1e-14, 1e14)}
"""Sums of squares in here neither overflow nor lose digits, nor does LAPACK rescale the matrix."""

REUSED = 2**19
_scratch = threading.local()


class Solved(NamedTuple):
    """The eigenvalues of a layer whose weights were multiplied by 2^-exponent, and their checks.

    ``values`` (n_matrices, M) ascend in each row; ``squared_norms`` (n_matrices,) are ‖W‖²_F;
    ``residuals`` (n_matrices,) the larger of |Σλ - ‖W‖²_F| / ‖W‖²_F and |Σλ² - ‖G‖²_F| / ‖G‖²_F.
    They are ``settled`` if they would be the same whatever resolution was asked for.
    """

    values: Float64
    squared_norms: Float64
    residuals: Float64
    exponent: int
    solver: str
    settled: bool = True


class Grams(NamedTuple):
    """Gram matrices (n_matrices, M, M) of a layer, one triangle each, and ‖W‖²_F by slice."""

    matrices: Stack
    squared_norms: Float64
    exponent: int


class Formed(Protocol):
    """Gram matrices wherever they are, with ‖W‖²_F by slice."""

    @property
    def squared_norms(self) -> Float64:
        """Of the scaled weights."""
        ...

    @property
    def exponent(self) -> int:
        """The weights were multiplied by 2 to its negative."""
        ...


G = TypeVar("G", bound=Formed)


def solve(
    weights: Weights, precision: Precision, resolution: float, *, two_stage: bool
) -> Solved | Failure:
    """Return the eigenvalues of one layer.

    Parameters
    ----------
    weights : Weights
    precision : str
    resolution : float
        Smallest σ/‖W‖_F that must be told from zero: where a Gram matrix in float64 cannot, and
        there are such, the layer is solved again by SVD.
    two_stage : bool

    Raises
    ------
    MemoryError
    """
    if precision == "svd":
        return singular(weights)
    grams = gram(weights, precision)
    if isinstance(grams, Failure):
        return grams
    weights.release()
    return solve_formed(weights, grams, precision, resolution, two_stage=two_stage)


def solve_formed(
    weights: Weights, grams: Grams, precision: Precision, resolution: float, *, two_stage: bool
) -> Solved | Failure:
    """Return the eigenvalues of Gram matrices, which are destroyed; `weights` say the rest."""
    squares = squared_sums(grams.matrices)
    try:
        values = _eigenvalues(grams.matrices, two_stage=two_stage)
    except np.linalg.LinAlgError:
        return singular(weights)
    return certified(weights, grams, values, squares, precision, resolution)


def certified(
    weights: Weights,
    grams: Formed,
    values: Float64,
    squares: Float64,
    precision: Precision,
    resolution: float,
) -> Solved | Failure:
    """Check eigenvalues against ‖W‖²_F and ‖G‖²_F; by SVD where they fail, or see too little."""
    residuals = residuals_of(values, grams.squared_norms, squares)
    if not np.all(residuals <= CERTIFICATE[precision]):
        return singular(weights)
    noise = rounding(weights.matrix.M, precision) * values[:, -1]
    in_doubt = (values[:, 0] <= noise) & (noise > 0) & (precision == "double")
    if np.any(in_doubt & (resolution**2 * grams.squared_norms < noise)):
        finer = singular(weights)
        return finer if isinstance(finer, Failure) else finer._replace(settled=False)
    settled = not in_doubt.any()
    return Solved(values, grams.squared_norms, residuals, grams.exponent, "gram", settled)


def rounding(M: int, precision: str) -> float:
    """Bound what rounding does to an eigenvalue, relative to the largest.

    Measured at 0.02 to 3 times eps √M by every route, in float64 as in float32; by SVD, eigenvalues
    near zero are right to the square of that.
    """
    return 6 * (FLOAT32_EPS if precision == "fast" else FLOAT64_EPS) * math.sqrt(M)


def gram(weights: Weights, precision: Precision) -> Grams | Failure:
    """Form the Gram matrices in the precision asked for."""
    return well_scaled(weights, precision, lambda exponent: summed(weights, precision, exponent))


def well_scaled(weights: Weights, precision: Precision, form: Callable[[int], G]) -> G | Failure:
    """Form Gram matrices as the weights are; scaled by a power of two only if their numbers need it.

    What is not finite shows in ‖W‖²_F, so that nothing is looked through twice without cause.
    """
    grams = form(0)
    low, high = SAFE[precision]
    if np.all((low < grams.squared_norms) & (grams.squared_norms < high)):
        return grams
    exponent = weights.exponent()
    if isinstance(exponent, Failure):
        return exponent
    return form(exponent) if exponent else grams


def summed(weights: Weights, precision: Precision, exponent: int) -> Grams:
    """Sum the Gram matrices over the blocks of weights times 2^-exponent."""
    matrix = weights.matrix
    dtype = np.float32 if precision == "fast" else np.float64
    matrices = _zeros((matrix.n_matrices, matrix.M, matrix.M), dtype)
    norms = np.zeros(matrix.n_matrices)
    with np.errstate(over="ignore", invalid="ignore"):  # told by the norm
        for index, block in weights.blocks(dtype, exponent):
            norms[index] += _squared_norm(block)
            lapack.add_gram(block, matrices[index], tall=weights.is_tall)
    return Grams(matrices, norms, exponent)


def _zeros(shape: tuple[int, ...], dtype: type[np.floating]) -> Stack:
    """Return zeros, small ones in memory that this thread used before: new pages cost a tenth."""
    size = math.prod(shape)
    if size > REUSED:
        return np.zeros(shape, dtype)
    if not hasattr(_scratch, "memory"):
        _scratch.memory = np.empty(REUSED)
    zeros: Stack = _scratch.memory.view(dtype)[:size].reshape(shape)
    zeros.fill(0)
    return zeros


def _squared_norm(block: Stack) -> float:
    if block.dtype == np.float64:
        return float(np.vdot(block, block))
    return float(np.einsum("ij,ij->i", block, block).sum(dtype=np.float64))


def squared_sums(matrices: Stack) -> Float64:
    """Return ‖G‖²_F of matrices of which only a triangle is filled."""
    rows = np.einsum("kij,kij->ki", matrices, matrices).sum(axis=1, dtype=np.float64)
    diagonals = np.einsum("kii->ki", matrices).astype(np.float64)
    return np.asarray(2 * rows - np.square(diagonals).sum(axis=1), np.float64)


def _eigenvalues(matrices: Stack, *, two_stage: bool) -> Float64:
    """Solve Gram matrices in place: small ones in one call, others without NumPy's copy."""
    if matrices.shape[1] < BATCHED_BELOW:
        return np.asarray(np.linalg.eigvalsh(matrices, UPLO="U"), np.float64)
    rows = [lapack.eigenvalues(matrix, two_stage=two_stage) for matrix in matrices]
    return np.asarray(rows, np.float64)


def residuals_of(values: Float64, squared_norms: Float64, squares: Float64) -> Float64:
    """Return the larger of the relative differences of Σλ from ‖W‖²_F and of Σλ² from ‖G‖²_F."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        first = np.abs(values.sum(axis=1) - squared_norms) / squared_norms
        second = np.abs(np.square(values).sum(axis=1) - squares) / squares
    zero = (squared_norms == 0) & ~values.any(axis=1)
    return np.where(zero, 0.0, np.maximum(first, second))


def singular(weights: Weights) -> Solved | Failure:
    """Return the eigenvalues as squares of singular values, right to eps ‖W‖ at the small end too."""
    exponent = weights.exponent()
    if isinstance(exponent, Failure):
        return exponent
    values, norms = [], []
    for factor, squared_norm in _factors(weights, exponent):
        norms.append(squared_norm)
        try:
            values.append(np.square(np.linalg.svd(factor, compute_uv=False)[::-1]))
        except np.linalg.LinAlgError:
            values.append(np.full(weights.matrix.M, np.nan))
    found, squared_norms = np.array(values), np.array(norms)
    # ‖G‖² is not to hand; Σλ tells.
    residuals = residuals_of(found, squared_norms, np.square(found).sum(axis=1))
    return Solved(found, squared_norms, residuals, exponent, "svd")


def _factors(weights: Weights, exponent: int) -> Iterator[tuple[Float64, float]]:
    """Yield what has the singular values of each slice, and ‖W‖²_F: the slice, or R if streamed."""
    if weights.is_streamed:
        yield _triangular_factor(weights, exponent)
        return
    for whole in weights.slices(exponent):
        yield whole, float(np.einsum("ij,ij", whole, whole))


def _triangular_factor(weights: Weights, exponent: int) -> tuple[Float64, float]:
    """Return R of W = QR block by block: it has W's singular values and only its short side."""
    M = weights.matrix.M
    factor: Float64 = np.empty((0, M))
    squared_norm = 0.0
    pending: list[Float64] = []
    for _, block in weights.blocks(np.float64, exponent):
        squared_norm += _squared_norm(block)
        pending.append(np.asarray(block, np.float64))
        if sum(map(len, pending)) >= M:
            factor, pending = _qr(factor, pending), []
    return (_qr(factor, pending) if pending else factor), squared_norm


def _qr(factor: Float64, blocks: list[Float64]) -> Float64:
    return np.asarray(np.linalg.qr(np.vstack([factor, *blocks]), mode="r"), np.float64)
