"""Bringing together, for the process that reads a layer, the pieces that all processes hold of it.

Before anything is gathered every process says that it can give its piece, so that none waits within
training's own collectives for one that fails, or that is somewhere else.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from spectra import engine
from spectra.records import Matrix, Status
from spectra.sources import layouts, memory, shards
from spectra.sources.base import Array
from spectra.training.readings import SUBJECTS, Subject
from spectra.training.world import World

if TYPE_CHECKING:
    import torch
    from torch.distributed.tensor import DTensor

NOTHING, READY, SUMS, FAILED = range(4)
"""What a process says of its piece: none here, it can give it, or its Gram matrix, or nothing at all."""

LOST = "%s cannot be gathered"

logger = logging.getLogger(__name__)


class Gatherer:
    """Gathers one tensor at a time; only the process that keeps it holds on to it.

    Parameters
    ----------
    world : World
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._whole: dict[tuple[str, Subject, int], Array | engine.Failure | None] = {}

    def clear(self) -> None:
        """Let go of the tensors gathered."""
        self._whole.clear()

    def gather(
        self,
        matrix: Matrix,
        subject: Subject,
        span: int,
        piece: "Callable[[], torch.Tensor | None]",
        *,
        keep: bool,
    ) -> Array | engine.Gram | engine.Failure | None:
        """Bring a layer together, or the sum of its Gram matrices; called by all processes.

        Parameters
        ----------
        matrix : Matrix
        subject : {"weight", "update", "gradient"}
        span : int
        piece : callable
            Gives the DTensor of which this process holds a piece; None as long as there is none.
        keep : bool
            Whether this process is to have it.

        Returns
        -------
        ndarray, Gram, Failure or None
            None for those that do not keep it, and where no process has anything.
        """
        key = (matrix.tensor, subject, span)
        if key not in self._whole:
            tensor, state = self._prepare(matrix, piece)
            said = [
                theirs for (_, theirs) in self._world.meet("take", SUBJECTS.index(subject), state)
            ]
            if set(said) == {NOTHING}:
                return None
            if tensor is None or len(set(said)) > 1:
                self._whole[key] = _not_given(said)
            elif state == SUMS and (summed := self._sum(matrix, tensor, keep=keep)):
                return summed[0]
            else:
                self._whole[key] = _whole(matrix, tensor, keep=keep)
        found = self._whole[key]
        if isinstance(found, engine.Failure) or found is None:
            return found if keep else None
        try:
            return layouts.read(matrix, _Held(found))
        except Exception as error:
            logger.exception(LOST, matrix.name)
            return _failure(error)

    def _prepare(
        self, matrix: Matrix, piece: "Callable[[], torch.Tensor | None]"
    ) -> "tuple[DTensor | None, int]":
        """Return the tensor, and what to say of it."""
        try:
            tensor = piece()
            if not shards.is_dtensor(tensor):
                return None, NOTHING
            found: DTensor = tensor  # type: ignore[assignment]
            large = max(8 * matrix.M**2, self._world.gather_up_to) < matrix.nbytes
            tall = matrix.part is None and matrix.shape == (matrix.N, matrix.M)
            return found, SUMS if large and tall and shards.is_cut_by_rows(found) else READY
        except Exception:  # told to the others, who would wait for it
            logger.exception(LOST, matrix.name)
            return None, FAILED

    def _sum(
        self, matrix: Matrix, tensor: "DTensor", *, keep: bool
    ) -> tuple[engine.Gram | None] | None:
        """Sum Gram matrices, for the one to keep; None, on all processes, where they do not tell all."""
        found, told = None, True
        try:
            summed = shards.gram_of_rows(tensor, keep=keep)
            if summed is not None:
                found = engine.Gram(*summed)
                told = engine.is_definite(found)
        except Exception:
            logger.exception(LOST, matrix.name)
            told = False
        return (found,) if all(yes for (yes,) in self._world.meet("take", int(told))) else None


class _Held:
    """A tensor that was gathered, read as a source is."""

    def __init__(self, values: Array) -> None:
        self._values = values

    def read(self, name: str) -> Array:
        return self._values

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        return self._values[begin:end]


def _not_given(said: Sequence[int]) -> engine.Failure:
    failed = [rank for rank, theirs in enumerate(said) if theirs == FAILED]
    reason = f"process {failed[0]} failed, see its log" if failed else "not all hold a piece of it"
    return engine.Failure(Status.UNREADABLE, reason)


def _whole(matrix: Matrix, tensor: "DTensor", *, keep: bool) -> Array | engine.Failure | None:
    try:
        gathered = shards.whole(tensor)
        return memory.as_array(gathered) if keep else None
    except Exception as error:
        logger.exception(LOST, matrix.name)
        return _failure(error)


def _failure(error: Exception) -> engine.Failure:
    """Say what went wrong, whatever it was: raised here, it would leave the others waiting."""
    return engine.Failure(Status.UNREADABLE, f"{type(error).__name__}: {error}")
