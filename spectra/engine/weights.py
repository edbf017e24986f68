"""A layer's weights on their way to its Gram matrices: read whole or in blocks, finite, scaled."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spectra.engine.planning import BLOCK_ENTRIES, block_rows
from spectra.errors import CheckpointError
from spectra.records import Matrix, Status

Float64 = npt.NDArray[np.float64]
Stack = npt.NDArray[np.floating]  # (n_matrices, rows, columns)

UNREADABLE = (CheckpointError, OSError, RuntimeError, NotImplementedError, ValueError)


class Read(Protocol):
    """Gives the stack (n_matrices, rows, columns) of a matrix, or of some rows of a single one."""

    def __call__(self, matrix: Matrix, rows: tuple[int, int] | None = None, /) -> Stack:
        """Read all, or the half-open range `rows` of the stored tensor's first axis."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """A matrix without a spectrum: why, in a code and in words."""

    status: Status
    reason: str


class Weights:
    """One layer's weights: held as `stack`, or streamed from where they lie when that is None."""

    def __init__(self, matrix: Matrix, read: Read, stack: Stack | None) -> None:
        self.matrix = matrix
        self.read = read
        self.stack = stack
        self.is_streamed = stack is None
        self.is_tall = stack is None or stack.shape[1] >= stack.shape[2]
        """Whether slices are stored as (N, M), and not as (M, N)."""
        self.content = ""
        """What tells these numbers from all others, once they were read for it."""

    def release(self) -> None:
        """Let go of the weights; what needs them again reads them again."""
        self.stack = None

    def blocks(self, dtype: type[np.floating], exponent: int = 0) -> Iterator[tuple[int, Stack]]:
        """Yield (index of the slice, block of it) in `dtype`, times 2^-exponent.

        Blocks are C-contiguous and cut the long side; together they are the layer. Slices are
        (N, M) or (M, N) as stored, and so are their blocks.
        """
        step = block_rows(self.matrix.M)
        if self.is_streamed:
            for block in self._streamed():
                yield 0, _converted(block, dtype, exponent)
            return
        for index, weights in enumerate(self.held()):
            if weights.dtype == dtype and weights.flags.c_contiguous and not exponent:
                yield index, weights
                continue
            for begin in range(0, max(weights.shape), step):
                part = np.s_[begin : begin + step]
                block = weights[part] if self.is_tall else weights[:, part]
                yield index, _converted(block, dtype, exponent)

    def stored(self) -> Iterator[Stack]:
        """Yield the numbers as they are read, in the order of the rows, in C-contiguous blocks."""
        if self.is_streamed:
            yield from map(np.ascontiguousarray, self._streamed())
            return
        for weights in self.held():
            step = max(1, BLOCK_ENTRIES // weights.shape[1])
            for begin in range(0, len(weights), step):
                yield np.ascontiguousarray(weights[begin : begin + step])

    def _streamed(self) -> Iterator[Stack]:
        step = block_rows(self.matrix.M)
        for begin in range(0, self.matrix.N, step):
            end = min(begin + step, self.matrix.N)
            yield self._checked(self.read(self.matrix, (begin, end)), 1, end - begin)[0]

    def slices(self, exponent: int = 0) -> Iterator[Float64]:
        """Yield each slice in float64, its long side first, times 2^-exponent; not when streamed."""
        for weights in self.held():
            tall = weights if self.is_tall else weights.T
            yield np.multiply(tall, math.ldexp(1.0, -exponent), dtype=np.float64)

    def held(self) -> Stack:
        """Return the whole stack, read again if it was let go."""
        if self.stack is None:
            self.stack = self.read(self.matrix)
        return self._checked(self.stack, self.matrix.n_matrices, self.matrix.N)

    def _checked(self, stack: Stack, count: int, long: int) -> Stack:
        """Hold what was read against what the header said: no array of another shape gets to LAPACK."""
        sides = {(count, long, self.matrix.M), (count, self.matrix.M, long)}
        if stack.shape not in sides or stack.dtype.kind != "f":
            raise CheckpointError(
                "E_SHAPE",
                self.matrix.name,
                f"was read as {stack.shape} of {stack.dtype}, its header says otherwise",
            )
        return stack

    def exponent(self) -> int | Failure:
        """Return the power of two of the largest weight, or what is not finite."""
        peak, n_nan, n_inf, size = 0.0, 0, 0, 0
        for _, block in self.blocks(np.float64):
            finite = np.isfinite(block)
            size += block.size
            if finite.all():
                peak = max(peak, float(np.abs(block).max(initial=0.0)))
            else:
                n_nan += int(np.count_nonzero(np.isnan(block)))
                n_inf += int(np.count_nonzero(np.isinf(block)))
        if n_nan or n_inf:
            return Failure(Status.NON_FINITE, f"{n_nan} NaN and {n_inf} infinite of {size} weights")
        return max(math.frexp(peak)[1], -1000) if peak else 0


def out_of_memory(needed: int, free: int) -> Failure:
    """Say how much memory a layer needs, and how much there is."""
    reason = f"needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
    return Failure(Status.OVER_BUDGET, reason)


def load(matrix: Matrix, read: Read, *, streamed: bool) -> Weights | Failure:
    """Read a layer's weights, unless they are to be streamed."""
    if streamed:
        return Weights(matrix, read, None)
    try:
        return Weights(matrix, read, read(matrix))
    except MemoryError:
        return Failure(Status.OVER_BUDGET, f"holds {matrix.nbytes / 1e9:.1f} GB of weights")
    except UNREADABLE as error:
        return Failure(Status.UNREADABLE, str(error))


def _converted(block: Stack, dtype: type[np.floating], exponent: int) -> Stack:
    with np.errstate(over="ignore", under="ignore"):  # told by the norm, and then scaled
        if not exponent:
            return np.ascontiguousarray(block, dtype)
        # Scaled in float64: the power of two may be beyond float32.
        scaled = np.multiply(block, math.ldexp(1.0, -exponent), dtype=np.float64, order="C")
        return np.asarray(scaled, dtype)
