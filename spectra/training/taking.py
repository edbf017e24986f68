"""Taking from a model what is watched of its layers: weights, updates, gradients."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spectra import engine
from spectra.records import Matrix, Status
from spectra.sources import Checkpoint, layouts, memory
from spectra.sources.base import Array, Readable
from spectra.sources.derived import Product
from spectra.training.live import Live
from spectra.training.readings import Subject

if TYPE_CHECKING:
    from torch import nn

Taken = tuple[Subject, int, Array | engine.Failure]
"""What a spectrum is to be of, the steps it covers, and the stack (n_matrices, rows, columns)."""


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

    Attributes
    ----------
    held : Mapping[str, torch.nn.Parameter or keras.Variable]
        The layers' parameters, by the names of their tensors; none for weights that are computed.
    frozen_read : set of int
        Layers that do not train and were taken already.
    """

    def __init__(
        self,
        model: Live,
        source: Checkpoint,
        matrices: Sequence[Matrix],
        watch: Sequence[Subject],
    ) -> None:
        self._source, self._matrices, self._watch = source, matrices, watch
        self._model = model
        held = model.parameters
        self.held: Mapping[str, Any] = {
            matrix.tensor: held[matrix.tensor] for matrix in matrices if matrix.tensor in held
        }
        self._gradients = _Gradients(self.held)
        self.frozen_read: set[int] = set()
        self._last_read: dict[int, tuple[int, Array | Product]] = {}

    def is_known(self, position: int) -> bool:
        """Tell whether a layer is frozen and was taken before: its weights are what they were."""
        if not self._model.is_frozen(self._matrices[position].tensor):
            self.frozen_read.discard(position)
            return False
        known = position in self.frozen_read
        self.frozen_read.add(position)
        return known

    def take(self, position: int, step: int, *, copied: bool) -> list[Taken]:
        """Take what is watched of a layer; not `copied`, its memory may be that of the model."""
        matrix = self._matrices[position]
        taken: list[Taken] = []
        weights = self._read(matrix, self._source, copied=copied or "update" in self._watch)
        for subject in self._watch:
            if subject == "weight":
                taken.append((subject, 0, weights))
            elif subject == "gradient" and self._has_gradient(matrix):
                taken.append((subject, 0, self._read(matrix, self._gradients, copied=copied)))
            elif subject == "update" and not isinstance(weights, engine.Failure):
                since, before = self._last_read.get(position, (0, None))
                now = self._comparable(matrix, weights)
                if before is not None:
                    taken.append((subject, step - since, now - before))
                self._last_read[position] = (step, now)
        return taken

    def remember(self, positions: Iterable[int], step: int) -> None:
        """Take the weights as they are, for what the next updates are the differences to."""
        for position in positions if "update" in self._watch else ():
            weights = self._read(self._matrices[position], self._source, copied=True)
            if not isinstance(weights, engine.Failure):
                self._last_read[position] = (
                    step,
                    self._comparable(self._matrices[position], weights),
                )

    def _comparable(self, matrix: Matrix, weights: Array) -> Array | Product:
        """Return what a difference to later weights can be taken from: a core's is of no matrix."""
        return self._source.product(matrix.tensor) or weights

    def _read(self, matrix: Matrix, source: Readable, *, copied: bool) -> Array | engine.Failure:
        import torch

        try:
            with torch.no_grad():
                stack = layouts.read(matrix, source)
                return np.array(stack) if copied else stack
        except engine.UNREADABLE as error:
            return engine.Failure(Status.UNREADABLE, str(error))

    def _has_gradient(self, matrix: Matrix) -> bool:
        parameter = self.held.get(matrix.tensor)
        return parameter is not None and parameter.grad is not None


def sized(matrix: Matrix, stack: Array | engine.Failure) -> Matrix:
    """Return the matrix with the sides of a stack: the update of a product has twice its rank."""
    if isinstance(stack, engine.Failure) or set(stack.shape[1:]) == {matrix.N, matrix.M}:
        return matrix
    rows, columns = stack.shape[1:]
    return dataclasses.replace(
        matrix, shape=(rows, columns), N=max(rows, columns), M=min(rows, columns)
    )


class _Gradients:
    """The gradients of parameters, read as their weights are."""

    def __init__(self, parameters: "Mapping[str, nn.Parameter]") -> None:
        self._parameters = parameters

    def read(self, name: str) -> Array:
        return memory.as_array(self._parameters[name].grad)

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        gradient = self._parameters[name].grad
        assert gradient is not None  # asked for before
        return memory.as_array(gradient[begin:end])
