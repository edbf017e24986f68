"""Values of parameter groups that a scheduler sets and a multiplier scales, kept apart."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

Number: TypeAlias = float | Tensor


class ScaledValues:
    """One value of some groups (``lr``, ``weight_decay``): what is scheduled, times a multiplier.

    Dividing a rounded product gives back the factor only nearly, and every chained scheduler would
    carry that on; so what is scheduled is kept beside what is applied. Tensors are written in place
    and no branch asks for their number: compiled and captured optimizers hold on to them, and it may
    be on a device.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Its groups are looked up at each call: loading a state replaces them.
    key : str
    places : Mapping[str, int]
        The group of each name. Groups that share one tensor are given one each.
    """

    def __init__(self, optimizer: Any, key: str, places: Mapping[str, int]) -> None:  # noqa: ANN401
        self._optimizer = optimizer
        self._key = key
        self._places = dict(places)
        self._part_shared_tensors()
        self._factors = dict.fromkeys(places, 1.0)
        self.note()
        self._applied = dict(self._scheduled)

    def take_out(self) -> None:
        """Put back what was scheduled; of a value that someone else has set, divide it out."""
        for name, factor in self._factors.items():
            group, applied = self._group(name), self._applied[name]
            value, scheduled = group[self._key], self._scheduled[name]
            if isinstance(value, Tensor):
                value.copy_(torch.where(value == applied, scheduled, value / factor))
            else:
                group[self._key] = scheduled if value == applied else value / factor

    def note(self) -> None:
        """Take what the groups hold for what is scheduled."""
        self._scheduled = {name: self._held(name) for name in self._places}

    def set_all(self, value: float) -> None:
        """Write one value into all groups of the optimizer."""
        for group in self._optimizer.param_groups:
            _put(group, self._key, value)

    def apply(self, factors: Mapping[str, float]) -> None:
        """Write each scheduled value times its factor."""
        for name, factor in factors.items():
            _put(self._group(name), self._key, self._scheduled[name] * factor)
            self._applied[name] = self._held(name)
        self._factors = dict(factors)

    def plain(self) -> dict[str, float]:
        """Return what is scheduled, as plain numbers."""
        return {name: float(value) for name, value in self._scheduled.items()}

    def load(self, scheduled: Mapping[str, float]) -> None:
        """Go on from what `plain` returned; to be applied next."""
        for name, value in scheduled.items():
            _put(self._group(name), self._key, value)
        self.note()

    def _group(self, name: str) -> dict[str, Any]:
        group: dict[str, Any] = self._optimizer.param_groups[self._places[name]]
        return group

    def _held(self, name: str) -> Number:
        value = self._group(name)[self._key]
        return value.detach().clone() if isinstance(value, Tensor) else float(value)

    def _part_shared_tensors(self) -> None:
        # An optimizer made with a single tensor for its rate gives it to all groups.
        seen: set[int] = set()
        for group in self._optimizer.param_groups:
            value = group[self._key]
            if isinstance(value, Tensor):
                if id(value) in seen:
                    group[self._key] = value.clone()
                seen.add(id(value))


def _put(group: dict[str, Any], key: str, value: Number) -> None:
    if isinstance(group[key], Tensor):
        group[key].fill_(value)
    else:
        group[key] = float(value)
