"""Spectra on a torch device: equal shapes in one call, and what to do when memory or a solve fails.

The same code runs on torch's CPU for the tests (device ``cpu:0``); it has not met a GPU yet.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch

from spectra.engine import cpu
from spectra.engine.planning import Precision
from spectra.engine.weights import Failure, Float64, Stack, Weights

T = TypeVar("T")

PROBE = (32, 256)
"""Matrices and side of the probe that tells whether a stack is solved as one."""
EXACT_IN_FLOAT32 = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types whose products are exact in float32: their Gram matrices need tensor cores alone."""


def solve(
    layers: Sequence[Weights], device: str, precision: Precision, resolution: float
) -> list[cpu.Solved | Failure]:
    """Solve layers of one shape on a device; those that fail there, on the CPU.

    Parameters
    ----------
    layers : sequence of Weights
    device : str
    precision : str
        ``double`` or ``fast``; ``svd`` is the CPU's.
    resolution : float
        As for ``cpu.solve``.

    Returns
    -------
    list of Solved or Failure
    """
    if precision == "svd":
        return [cpu.singular(layer) for layer in layers]
    prepared = [
        cpu.well_scaled(layer, precision, functools.partial(_form, layer, device, precision))
        for layer in layers
    ]
    stacks = [g for g in prepared if not isinstance(g, Failure)]
    found = iter(_solved(stacks, device))
    outcomes: list[cpu.Solved | Failure] = []
    for layer, grams in zip(layers, prepared, strict=True):
        if isinstance(grams, Failure):
            outcomes.append(grams)
            continue
        values, squares = next(found)
        outcomes.append(cpu.certified(layer, grams, values, squares, precision, resolution))
    return outcomes


class _DeviceGrams:
    """Gram matrices (n_matrices, M, M) on the device or, where that was too small, on the host."""

    def __init__(self, matrices: torch.Tensor, squared_norms: Float64, exponent: int) -> None:
        self.matrices = matrices
        self.squared_norms = squared_norms
        self.exponent = exponent


def _form(layer: Weights, device: str, precision: Precision, exponent: int) -> _DeviceGrams:
    """Form the Gram matrices on the device, by blocks if a whole layer does not fit, at last here."""
    for whole in (True, False):
        attempt = functools.partial(_summed, layer, device, precision, exponent, whole=whole)
        grams = _with_memory(attempt)
        if grams is not None:
            return grams
    host = cpu.summed(layer, precision, exponent)
    full = np.triu(host.matrices) + np.triu(host.matrices, 1).transpose(0, 2, 1)
    return _DeviceGrams(torch.from_numpy(full), host.squared_norms, exponent)


def _summed(
    layer: Weights, device: str, precision: Precision, exponent: int, *, whole: bool
) -> _DeviceGrams:
    matrix = layer.matrix
    dtype = torch.float32 if precision == "fast" else torch.float64
    if whole and not layer.is_streamed:
        stack = _to_device(layer.held(), device, exponent)
        norms = torch.linalg.vector_norm(stack, dim=(1, 2), dtype=torch.float64).square()
        tall = stack if layer.is_tall else stack.mT
        return _DeviceGrams(_product(tall, matrix.dtype, dtype), norms.cpu().numpy(), exponent)
    grams = torch.zeros((matrix.n_matrices, matrix.M, matrix.M), dtype=dtype, device=device)
    squared = np.zeros(matrix.n_matrices)
    for index, block in layer.blocks(np.float64, exponent):
        part = torch.from_numpy(block).to(device=device, dtype=dtype)
        tall = part if layer.is_tall else part.mT
        squared[index] += np.vdot(block, block)
        grams[index] += tall.mT @ tall
    return _DeviceGrams(grams, squared, exponent)


def _to_device(stack: Stack, device: str, exponent: int) -> torch.Tensor:
    """Move weights as stored, and only there to wider types: fewer bytes cross the bus."""
    native = np.ascontiguousarray(stack, stack.dtype.newbyteorder("="))
    moved = torch.from_numpy(native if native.flags.writeable else native.copy()).to(device)
    if exponent:
        moved = torch.ldexp(moved.double(), torch.tensor(-exponent, device=device))
    return moved


def _product(tall: torch.Tensor, stored: str, dtype: torch.dtype) -> torch.Tensor:
    """Return WᵀW; for 16-bit weights in float32 from exact products, on tensor cores."""
    # Scaled weights are float64 here, and no longer numbers of the narrow type.
    if dtype == torch.float32 and tall.is_cuda and tall.dtype != torch.float64:
        half = EXACT_IN_FLOAT32.get(stored)
        if half is not None:  # pragma: no cover - needs a CUDA device
            narrow = tall.to(half)  # exact: the numbers come from that type
            return torch.bmm(narrow.mT, narrow, out_dtype=torch.float32)
    wide = tall.to(dtype)
    return wide.mT @ wide


def _solved(stacks: Sequence[_DeviceGrams], device: str) -> list[tuple[Float64, Float64]]:
    """Return eigenvalues and ‖G‖²_F of each layer, solved in as few calls as memory allows."""
    if not stacks:
        return []
    sizes = [len(grams.matrices) for grams in stacks]
    squares = [_squares(grams.matrices) for grams in stacks]
    found = _with_memory(lambda: torch.cat([grams.matrices.to(device) for grams in stacks]))
    whole = torch.cat([grams.matrices.cpu() for grams in stacks]) if found is None else found
    for grams in stacks:
        grams.matrices = torch.empty(0)  # the stack holds them now
    values = _eigenvalues(whole)
    ends = np.cumsum(sizes)
    parts = [values[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    return list(zip(parts, squares, strict=True))


def _squares(matrices: torch.Tensor) -> Float64:
    norms = torch.linalg.vector_norm(matrices, dim=(1, 2), dtype=torch.float64).square()
    found: Float64 = norms.cpu().numpy()
    return found


def _eigenvalues(matrices: torch.Tensor) -> Float64:
    """Solve a stack, on failure its halves, at last one matrix on the CPU: NaN where that fails too."""
    one = len(matrices) == 1
    together = one or matrices.device.type == "cpu" or _is_batched(str(matrices.device))
    if together:
        try:
            found = _with_memory(lambda: torch.linalg.eigvalsh(matrices).double().cpu().numpy())
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            found = None
        if found is not None:
            return np.asarray(found, np.float64)
    if one:
        host = matrices[0].cpu().double().numpy()
        try:
            return np.linalg.eigvalsh(host)[np.newaxis]
        except np.linalg.LinAlgError:
            return np.full((1, len(host)), np.nan)  # fails its certificate, and goes to the SVD
    middle = len(matrices) // 2
    return np.concatenate([_eigenvalues(matrices[:middle]), _eigenvalues(matrices[middle:])])


def _with_memory(work: Callable[[], T]) -> T | None:
    """Return what `work` gives, or None where the device has no memory for it."""
    try:
        return work()
    except torch.OutOfMemoryError:
        pass
    # Outside the except block, whose traceback would keep the tensors alive.
    if torch.cuda.is_available():  # pragma: no cover - needs a CUDA device
        torch.cuda.empty_cache()
    return None


@functools.cache
def _is_batched(device: str) -> bool:  # pragma: no cover - needs a CUDA device
    """Time once whether this torch and card solve a stack faster than its matrices one by one."""
    count, side = PROBE
    a = torch.randn(count, side, side, dtype=torch.float64, device=device)
    stack = a @ a.mT

    def timed(parts: Sequence[torch.Tensor]) -> float:
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        for part in parts:
            torch.linalg.eigvalsh(part)
        torch.cuda.synchronize(device)
        return time.perf_counter() - started

    timed([stack[:1]])  # the first call sets up the library
    return timed([stack]) <= timed([stack[i : i + 1] for i in range(count)])
