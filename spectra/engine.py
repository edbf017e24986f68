"""Decompositions: plan batches of equal shapes, solve them on a device, yield spectra as they finish.

The eigenvalues of WᵀW are those of the Gram matrix of W's short side, formed and solved in float64
without vectors. On the CPU that is NumPy's LAPACK, on CUDA torch's; nothing else here knows a device.
"""

import ctypes
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spectra.conventions import FLOAT64_EPS
from spectra.errors import CheckpointError, DeviceError
from spectra.records import Matrix, Spectrum, Status

BATCH_BYTES = 64 * 2**20
"""Matrices of equal shape are solved together up to this many bytes in float64."""

CERTIFICATE = 1e-9
"""Largest |Σλ - ‖W‖²_F| / ‖W‖²_F of a decomposition that is believed; a good one has 1e-13."""

Float64 = npt.NDArray[np.float64]
Stack = npt.NDArray[np.floating]  # (n_matrices, rows, columns)
Read = Callable[[Matrix], Stack]


@dataclass(frozen=True, slots=True)
class Batch:
    """Matrices of one shape that are solved together, and where they stand in the checkpoint."""

    matrices: tuple[Matrix, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A matrix without a spectrum: why, in a code and in words."""

    status: Status
    reason: str


def operations(matrix: Matrix) -> float:
    """Predict the floating-point operations of one layer: half a Gram product and a solve.

    Examples
    --------
    >>> round(operations(Matrix("w", "w", "linear", (300, 100), "float32", 0, 300, 100)) / 1e6, 1)
    4.3
    """
    return matrix.n_matrices * (matrix.N * matrix.M**2 + 4 / 3 * matrix.M**3)


def working_bytes(matrix: Matrix) -> int:
    """Predict the peak memory of one layer: its weights as read and in float64, Gram and a copy."""
    float64 = 8 * matrix.n_matrices
    return matrix.nbytes + float64 * (matrix.N * matrix.M + 2 * matrix.M**2)


def plan(matrices: Sequence[Matrix], *, batch_bytes: int = BATCH_BYTES) -> list[Batch]:
    """Group matrices of equal shape, in the order of their first, into batches that fit in memory.

    Parameters
    ----------
    matrices : sequence of Matrix
    batch_bytes : int
        Most bytes of float64 weights in one batch; a larger matrix is a batch of its own.

    Returns
    -------
    list of Batch
        Every matrix in exactly one.

    Examples
    --------
    >>> w = Matrix("w", "w", "linear", (8, 8), "float32", 256, 8, 8)
    >>> [batch.positions for batch in plan([w, w, w], batch_bytes=1024)]
    [(0, 1), (2,)]
    """
    open_batches: dict[tuple[int, int], list[int]] = {}
    closed: list[list[int]] = []
    filled: dict[tuple[int, int], int] = {}
    for position, matrix in enumerate(matrices):
        shape = (matrix.N, matrix.M)
        nbytes = 8 * matrix.n_matrices * matrix.N * matrix.M
        if shape in open_batches and filled[shape] + nbytes > batch_bytes:
            closed.append(open_batches.pop(shape))
        if shape not in open_batches:
            open_batches[shape], filled[shape] = [], 0
        open_batches[shape].append(position)
        filled[shape] += nbytes
    groups = sorted([*closed, *open_batches.values()])
    return [Batch(tuple(matrices[i] for i in group), tuple(group)) for group in groups]


def decompose(
    batches: Iterable[Batch], read: Read, *, device: str = "cpu", resolution: float = 0.0
) -> Iterator[tuple[int, Spectrum | Failure]]:
    """Read and solve batches, yielding each matrix's position with its spectrum as it finishes.

    Parameters
    ----------
    batches : iterable of Batch
    read : callable
        Gives the stack (n_matrices, rows, columns) of a matrix.
    device : str
        ``cpu`` or ``cuda[:i]``.
    resolution : float
        Smallest σ/‖W‖_F that must be told from zero; where the Gram route cannot and there are
        such, the matrix is solved again by SVD.

    Yields
    ------
    (int, Spectrum or Failure)
        A matrix that fails takes no other with it.
    """
    for batch in batches:
        yield from _solve(batch, read, device, resolution)


def _solve(
    batch: Batch, read: Read, device: str, resolution: float
) -> list[tuple[int, Spectrum | Failure]]:
    """Solve one batch; a function of its own so that nothing of it is alive when the next is read."""
    outcomes: list[tuple[int, Spectrum | Failure]] = []
    stacks: list[Float64] = []
    exponents: list[int] = []
    positions: list[int] = []
    for matrix, position in zip(batch.matrices, batch.positions, strict=True):
        prepared = _prepare(matrix, read)
        if isinstance(prepared, Failure):
            outcomes.append((position, prepared))
            continue
        stacks.append(prepared[0])
        exponents.append(prepared[1])
        positions.append(position)
    if not stacks:
        return outcomes
    sizes = [len(stack) for stack in stacks]
    try:
        whole = stacks[0] if len(stacks) == 1 else np.concatenate(stacks)
        values, norms, used = _eigenvalues(whole, device, resolution)
    except MemoryError:
        needed = working_bytes(batch.matrices[0]) / 1e9
        failure = Failure(Status.OVER_BUDGET, f"needs about {needed:.1f} GB of memory")
        return outcomes + [(position, failure) for position in positions]
    ends = np.cumsum(sizes)
    for position, exponent, end, size in zip(positions, exponents, ends, sizes, strict=True):
        part = slice(end - size, end)
        solver = "svd" if "svd" in used[part] else "gram"
        norm = float(norms[part].sum())
        outcomes.append((position, _spectrum(batch, values[part], norm, exponent, solver)))
    return outcomes


def _prepare(matrix: Matrix, read: Read) -> tuple[Float64, int] | Failure:
    """Read a matrix as float64, tall, with its largest entry brought near 1 by a power of two.

    LAPACK returns NaN without a word for infinite and for huge entries; squares of tiny ones vanish.
    """
    try:
        stack = read(matrix)
        peak = max(float(stack.max()), -float(stack.min()))
    except MemoryError:
        return Failure(Status.OVER_BUDGET, f"holds {matrix.nbytes / 1e9:.1f} GB of weights")
    except (CheckpointError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        return Failure(Status.UNREADABLE, str(error))
    if not math.isfinite(peak):
        return Failure(Status.NON_FINITE, _count_non_finite(stack))
    exponent = max(math.frexp(peak)[1], -1000) if peak else 0
    if stack.shape[1] < stack.shape[2]:
        stack = stack.transpose(0, 2, 1)
    try:
        return np.multiply(stack, math.ldexp(1.0, -exponent), dtype=np.float64), exponent
    except MemoryError:
        return Failure(Status.OVER_BUDGET, f"{stack.size * 8 / 1e9:.1f} GB in float64")


def _count_non_finite(stack: Stack) -> str:
    bad = ~np.isfinite(stack)
    n_nan = int(np.count_nonzero(np.isnan(stack)))
    n_inf = int(np.count_nonzero(bad)) - n_nan
    return f"{n_nan} NaN and {n_inf} infinite of {stack.size} weights"


def _eigenvalues(
    stack: Float64, device: str, resolution: float
) -> tuple[Float64, Float64, list[str]]:
    """Return for each W its ascending eigenvalues (n, M), ‖W‖²_F (n,), and the solver used."""
    norms = np.einsum("kij,kij->k", stack, stack)
    try:
        values = np.linalg.eigvalsh(_gram(stack)) if device == "cpu" else _on_torch(stack, device)
    except np.linalg.LinAlgError:
        values = np.full((len(stack), stack.shape[2]), np.nan)
    used = ["gram"] * len(stack)
    for i, found in enumerate(values):
        # Rounding in the Gram route, measured at 0.1 to 2 times eps √M λ_max, hides what is smaller.
        noise = 4 * FLOAT64_EPS * math.sqrt(stack.shape[2]) * found[-1]
        unseen = found[0] <= noise and resolution**2 * norms[i] < noise
        if unseen or not _residual(norms[i], found) <= CERTIFICATE:
            values[i], used[i] = _svd(stack[i]), "svd"
    return np.maximum(values, 0.0, out=values), norms, used


def _gram(stack: Float64) -> Float64:
    grams = np.empty((len(stack), stack.shape[2], stack.shape[2]))
    for matrix, gram in zip(stack, grams, strict=True):
        # NumPy gives a product with the own transpose to BLAS' symmetric kernel: half the work.
        np.matmul(matrix.T, matrix, out=gram)
    return grams


def _svd(matrix: Float64) -> Float64:
    try:
        singular = np.asarray(np.linalg.svd(matrix, compute_uv=False)[::-1], np.float64)
    except np.linalg.LinAlgError:
        return np.full(matrix.shape[1], np.nan)
    return np.square(singular)


def _residual(squared_norm: float, eigenvalues: Float64) -> float:
    difference = abs(float(np.sum(eigenvalues)) - squared_norm)
    return difference / squared_norm if squared_norm else difference


def _spectrum(
    batch: Batch,
    values: Float64,
    squared_norm: float,
    exponent: int,
    solver: str,
) -> Spectrum | Failure:
    """Pool the eigenvalues of a layer's slices and take the scaling back."""
    residual = _residual(squared_norm, values)
    if not residual <= CERTIFICATE:
        return Failure(Status.NOT_CONVERGED, f"|Σλ - ‖W‖²| / ‖W‖² = {residual:.1e}")
    with np.errstate(over="ignore", under="ignore"):
        eigenvalues = np.ldexp(np.sort(values, axis=None), 2 * exponent)
        unscaled = float(np.ldexp(squared_norm, 2 * exponent))
    if squared_norm and (not math.isfinite(unscaled) or eigenvalues[-1] < sys.float_info.min):
        return Failure(Status.OUT_OF_RANGE, f"largest weight near 2^{exponent}")
    return Spectrum(
        eigenvalues=eigenvalues,
        N=batch.matrices[0].N,
        M=batch.matrices[0].M,
        n_matrices=len(values),
        squared_norm=unscaled,
        residual=residual,
        solver=solver,
    )


def _on_torch(stack: Float64, device: str) -> Float64:
    """Solve on a torch device; the same code runs on torch's CPU for the tests."""
    import torch

    try:
        on_device: torch.Tensor = torch.from_numpy(stack).to(device)
        solved = torch.linalg.eigvalsh(on_device.mT @ on_device).cpu()
    except torch.OutOfMemoryError:
        return np.asarray(np.linalg.eigvalsh(_gram(stack)), np.float64)  # the host has more
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise np.linalg.LinAlgError(str(error)) from error
    values: Float64 = solved.numpy()
    return values


def resolve_device(name: str) -> str:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:i`` into a device that is there.

    Raises
    ------
    DeviceError
        If the device is unknown, or not on this machine.

    Examples
    --------
    >>> resolve_device("cpu")
    'cpu'
    """
    if name == "cpu":
        return name
    if name != "auto" and name.partition(":")[0] != "cuda":
        raise DeviceError("E_DEVICE", name, "is no device", "use auto, cpu, cuda or cuda:0")
    count = _cuda_devices()
    if name == "auto":
        return "cuda" if count else "cpu"
    index = name.partition(":")[2] or "0"
    if not index.isdecimal() or int(index) >= count:
        raise DeviceError(
            "E_DEVICE", name, f"is not there ({count} CUDA devices found)", "use --device cpu"
        )
    return name


def _cuda_devices() -> int:
    """Count CUDA devices; torch, slow to import, is asked only where a driver is installed."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
