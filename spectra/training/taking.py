"""Taking from a model what is watched of its layers: weights, updates, gradients."""

import dataclasses
import logging
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spectra import engine
from spectra.records import Matrix, Status
from spectra.sources import Checkpoint, layouts, memory, shards
from spectra.sources.base import Array, Readable
from spectra.sources.derived import Product
from spectra.training.gathering import Gatherer
from spectra.training.live import Live
from spectra.training.readings import Subject
from spectra.training.world import World

if TYPE_CHECKING:
    import torch

Content: TypeAlias = Array | engine.Gram | engine.Failure
"""The stack (n_matrices, rows, columns) of a layer, or all that is known of it."""

Taken: TypeAlias = tuple[Subject, int, Content]
"""What a spectrum is to be of, the steps it covers, and its content."""

SAMPLED = 1024
"""Entries of a layer by which processes tell whether they hold the same."""

logger = logging.getLogger(__name__)


class Taker:
    """Takes layers out of a live model, and remembers what updates and frozen layers need.

    Parameters
    ----------
    model : Live
    source : Checkpoint
        The same model, opened.
    matrices : sequence of Matrix
        Its layers; they are named by their positions here.
    watch : sequence of {"weight", "update", "gradient"}
    world : World
        Those who hold pieces of its tensors: all take a layer of which each holds a piece, together.

    Attributes
    ----------
    held : Mapping[str, torch.nn.Parameter or keras.Variable]
        The model's parameters, by the names of their tensors; none for weights that are computed.
    homes : Mapping of int to list of int
        The processes that hold a layer whole, of those that are in pieces: experts of a stack.
    frozen_read : set of int
        Layers that do not train and were taken already.
    """

    def __init__(
        self,
        model: Live,
        source: Checkpoint,
        matrices: Sequence[Matrix],
        watch: Sequence[Subject],
        world: World,
    ) -> None:
        self._source, self._matrices, self._watch = source, matrices, watch
        self._model = model
        self.held: Mapping[str, Any] = model.parameters
        self._in_pieces = any(map(shards.is_sharded, self.held.values()))
        self._experts = _Current(lambda name: self.held[name])
        self._gradients = _Current(lambda name: self.held[name].grad)
        self.frozen_read: set[int] = set()
        self._last_read: dict[int, tuple[int, Array | Product]] = {}
        self._last_pieces: dict[int, tuple[int, torch.Tensor]] = {}
        self._newest: dict[str, tuple[int, torch.Tensor]] = {}
        self._gatherer = Gatherer(world)
        self._world = world
        self.homes: dict[int, list[int]] = {}
        here = [i for i, matrix in enumerate(matrices) if self._is_expert_here(matrix)]
        for rank, theirs in enumerate(world.gather(here)):
            for position in theirs:
                self.homes.setdefault(position, []).append(rank)

    def is_sharded(self, position: int) -> bool:
        """Tell whether processes hold pieces of a layer, and take it together."""
        if position in self.homes:
            return False
        return shards.is_sharded(self.held.get(self._matrices[position].tensor))

    def warn_of_strangers(self, names: Sequence[str]) -> None:
        """Warn if processes hold different weights where each should hold the same."""
        if self._world.size == 1:
            return
        told = self._world.gather([self._digest(i) for i in range(len(self._matrices))])
        differ = [name for name, *theirs in zip(names, *told, strict=True) if len(set(theirs)) > 1]
        if differ and self._world.rank == 0:
            logger.warning(
                "processes hold different weights of %d layers (%s): each is read where its owner"
                " has it; if they train apart, watch each with world=Alone()",
                len(differ),
                differ[0],
            )

    def _digest(self, position: int) -> int:
        import torch

        parameter = self.held.get(self._matrices[position].tensor)
        if not isinstance(parameter, torch.Tensor) or shards.is_sharded(parameter):
            return 0
        return zlib.crc32(memory.as_array(shards.local(parameter).flatten()[:SAMPLED]).tobytes())

    def _is_expert_here(self, matrix: Matrix) -> bool:
        parameter = self.held.get(matrix.tensor)
        if not shards.is_sharded(parameter) or matrix.part is None or matrix.part.expert is None:
            return False
        return matrix.part.expert in shards.rows_here(parameter)  # type: ignore[arg-type]

    def is_known(self, position: int) -> bool:
        """Tell whether a layer is frozen and was taken before: its weights are what they were."""
        if not self._model.is_frozen(self._matrices[position].tensor):
            self.frozen_read.discard(position)
            return False
        known = position in self.frozen_read
        self.frozen_read.add(position)
        return known

    def take(self, position: int, step: int, *, copied: bool, keep: bool = True) -> list[Taken]:
        """Take what is watched of a layer.

        Parameters
        ----------
        position : int
        step : int
        copied : bool
            Whether it must be a copy; if not, its memory may be that of the model.
        keep : bool
            Whether this process reads the layer. One that does not, only gives its piece of it.
        """
        if self.is_sharded(position):
            return self._take_pieces(position, step, keep=keep)
        if not keep:
            return []
        try:
            return self._take_whole(position, step, copied=copied)
        except Exception as error:
            if self._world.size == 1:
                raise
            logger.exception("%s cannot be taken", self._matrices[position].name)
            reason = f"{type(error).__name__}: {error}"  # told to the others, who would wait
            return [(self._watch[0], 0, engine.Failure(Status.UNREADABLE, reason))]

    def _take_whole(self, position: int, step: int, *, copied: bool) -> list[Taken]:
        matrix = self._matrices[position]
        taken: list[Taken] = []
        weights = self._read_weights(position, copied=copied or "update" in self._watch)
        for subject in self._watch:
            if subject == "weight":
                taken.append((subject, 0, weights))
            elif subject == "gradient" and self._has_gradient(matrix):
                taken.append((subject, 0, self._read(matrix, self._gradients, copied=copied)))
            elif subject == "update" and not isinstance(weights, engine.Failure):
                since, before = self._last_read.get(position, (step, None))
                now = self._comparable(matrix, weights)
                if _shape(before) != _shape(now):
                    before = None  # another parameter, as of a vocabulary that has grown
                if before is not None and step > since:
                    with np.errstate(all="ignore"):  # what is not finite is a status
                        taken.append((subject, step - since, now - before))
                self._last_read[position] = (step, now)
        return taken

    def end_turn(self) -> None:
        """Let go of the whole tensors that were gathered, and of what was kept for their parts."""
        self._gatherer.clear()
        self._newest.clear()

    def remember(self, positions: Iterable[int], step: int) -> None:
        """Take the weights as they are, for what the next updates are the differences to."""
        for position in positions if "update" in self._watch else ():
            matrix = self._matrices[position]
            if self.is_sharded(position):
                self._last_pieces[position] = self._piece(matrix, step)
                continue
            weights = self._read_weights(position, copied=True)
            if not isinstance(weights, engine.Failure):
                self._last_read[position] = (step, self._comparable(matrix, weights))
        self.end_turn()

    def _comparable(self, matrix: Matrix, weights: Array) -> Array | Product:
        """Return what a difference to later weights can be taken from: a core's is of no matrix."""
        return self._source.product(matrix.tensor) or weights

    def _take_pieces(self, position: int, step: int, *, keep: bool) -> list[Taken]:
        matrix = self._matrices[position]
        parameter = self.held[matrix.tensor]
        since, before = self._last_pieces.get(position, (step, None))

        def update() -> "torch.Tensor | None":
            self._piece(matrix, step)
            if before is None or step == since:
                return None
            return shards.difference(parameter, before)

        pieces: dict[Subject, Callable[[], torch.Tensor | None]] = {
            "weight": lambda: parameter,
            "update": update,
            "gradient": lambda: parameter.grad,
        }
        taken: list[Taken] = []
        for subject in self._watch:
            span = step - since if subject == "update" else 0
            content = self._gatherer.gather(matrix, subject, span, pieces[subject], keep=keep)
            if content is not None:
                taken.append((subject, span, content))
        if matrix.tensor in self._newest:  # made for this part of the tensor or another
            self._last_pieces[position] = self._newest[matrix.tensor]
        return taken

    def _piece(self, matrix: Matrix, step: int) -> "tuple[int, torch.Tensor]":
        """Return a copy of the piece of a tensor that is here: one for all parts of it."""
        if matrix.tensor not in self._newest:
            piece = shards.local(self.held[matrix.tensor]).clone()
            self._newest[matrix.tensor] = (step, piece)
        return self._newest[matrix.tensor]

    def _read_weights(self, position: int, *, copied: bool) -> Array | engine.Failure:
        source = self._experts if position in self.homes else self._source
        return self._read(self._matrices[position], source, copied=copied)

    def _read(self, matrix: Matrix, source: Readable, *, copied: bool) -> Array | engine.Failure:
        import torch

        if self._in_pieces and matrix.tensor not in self.held:
            # To compute it may take all processes, and they are not here.
            reason = "is computed, in a model whose parameters are spread over processes"
            return engine.Failure(Status.UNREADABLE, reason)
        try:
            with torch.no_grad():
                stack = layouts.read(matrix, source)
                return np.array(stack) if copied else stack
        except engine.UNREADABLE as error:
            return engine.Failure(Status.UNREADABLE, str(error))

    def _has_gradient(self, matrix: Matrix) -> bool:
        parameter = self.held.get(matrix.tensor)
        return parameter is not None and parameter.grad is not None


def _shape(weights: Array | Product | None) -> tuple[int, ...]:
    """Return the shape that two must share to be subtracted; products of any rank can be."""
    return weights.shape if isinstance(weights, np.ndarray) else ()


def sized(matrix: Matrix, stack: Content) -> Matrix:
    """Return the matrix with the sides of a stack: the update of a product has twice its rank."""
    if not isinstance(stack, np.ndarray) or set(stack.shape[1:]) == {matrix.N, matrix.M}:
        return matrix
    rows, columns = stack.shape[1:]
    return dataclasses.replace(
        matrix, shape=(rows, columns), N=max(rows, columns), M=min(rows, columns)
    )


class _Current:
    """Parameters or their gradients as they are now, and of stacks in pieces the experts here."""

    def __init__(self, tensor: "Callable[[str], torch.Tensor | None]") -> None:
        self._tensor = tensor

    def read(self, name: str) -> Array:
        return memory.as_array(self._whole(name))

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        tensor = self._tensor(name)
        if not shards.is_sharded(tensor):
            return memory.as_array(self._whole(name)[begin:end])
        here = shards.rows_here(tensor)  # type: ignore[arg-type]
        if not here.start <= begin <= end <= here.stop:
            shards.refuse_piece(name, tensor)
        return memory.as_array(shards.local(tensor)[begin - here.start : end - here.start])  # type: ignore[arg-type]

    def _whole(self, name: str) -> "torch.Tensor":
        tensor = self._tensor(name)
        assert tensor is not None  # asked for before
        shards.refuse_piece(name, tensor)  # of a weight that is whole, a gradient may be a summand
        return tensor
