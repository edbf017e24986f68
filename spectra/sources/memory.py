"""Weights already in memory: a live ``nn.Module``, a state dict, a dict of arrays."""

import contextlib
import copy
import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spectra.errors import WeightError
from spectra.records import Kind, Skipped, SourceInfo, Tensor
from spectra.sources import shards
from spectra.sources.base import CONVOLUTIONS, Array, totals
from spectra.sources.pytorch import torch_files

if TYPE_CHECKING:
    import torch
    from torch import nn


class MemorySource:
    """Tensors, arrays, or functions that make them, by name; nothing is copied before it is read."""

    def __init__(
        self,
        values: Mapping[str, Any],
        tensors: tuple[Tensor, ...],
        info: SourceInfo,
        ignored: tuple[Skipped, ...] = (),
    ) -> None:
        self._values = values
        self.tensors = tensors
        self.ignored = ignored
        self.info = info

    def expect(self, names: Sequence[str]) -> None:
        """Refuse tensors that are to be read and of which this process holds a piece."""
        for name in names:
            if not callable(self._values[name]):
                shards.refuse_piece(name, self._values[name])

    def read(self, name: str) -> Array:
        """Return one tensor as a NumPy array."""
        return as_array(self._value(name))

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows of one tensor."""
        return as_array(self._value(name)[begin:end])

    def _value(self, name: str) -> Any:  # noqa: ANN401 - an array or a tensor
        value = self._values[name]
        value = value() if callable(value) else value
        shards.refuse_piece(name, value)
        return value


class Parameters(Mapping[str, Any]):
    """Parameters of a module by name, as it has them now: some are put in the place of others.

    As by ``load_state_dict(..., assign=True)``. Pieces stay those that were found: a forward pass of
    FSDP2 leaves whole copies in their place for a while. So does whatever the module has no more.

    Parameters
    ----------
    module : torch.nn.Module
    found : Mapping of str to torch.nn.Parameter or callable
        What it has when this is made; what is computed is called.
    """

    def __init__(self, module: "nn.Module", found: Mapping[str, Any]) -> None:
        self._module, self._found = module, dict(found)

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - a parameter, or what computes one
        found = self._found[name]
        if callable(found) or shards.is_dtensor(found):
            return found
        with contextlib.suppress(AttributeError):
            self._found[name] = self._module.get_parameter(name)
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def as_array(value: Any) -> Array:  # noqa: ANN401 - an array or a tensor
    """Return an array, or a tensor as one: on the CPU both share their memory with what is returned."""
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    return torch_files.to_array(shards.local(value))


def open_mapping(values: Mapping[str, Any]) -> MemorySource:
    """Open a state dict or a dict of arrays.

    Raises
    ------
    WeightError
        If a key is no string, a value neither array nor tensor, or there is nothing in it.
    """
    if not values:
        raise WeightError("E_NO_TENSORS", "weights", "the dict is empty", "pass a state dict")
    tensors = []
    for name, value in values.items():
        if not isinstance(name, str):
            raise WeightError("E_NAME", "weights", f"the key {name!r} is no string")
        if isinstance(value, np.ma.MaskedArray):
            raise WeightError("E_TYPE", f"weights[{name!r}]", "is masked", "fill it first")
        if isinstance(value, np.ndarray):
            tensors.append(_describe_array(name, value))
        elif is_tensor(value):
            tensors.append(torch_files.describe(name, value))
        else:
            raise WeightError(
                "E_TYPE",
                f"weights[{name!r}]",
                f"expected an array or a tensor, got {type(value).__name__}",
                "pass the state dict itself" if isinstance(value, Mapping) else "leave it out",
            )
    info = SourceInfo("<dict>", "arrays in memory", *totals(tensors))
    return MemorySource(values, tuple(tensors), info)


def _describe_array(name: str, array: Array) -> Tensor:
    dtype = array.dtype.name
    if array.size and 0 in array.strides and array.size > 1:
        dtype = f"{dtype}, expanded"  # a small thing that calls itself large
    place = (array.__array_interface__["data"][0], array.shape, array.strides, dtype)
    return Tensor(name, array.shape, dtype, array.nbytes, place if array.size else None)


def is_module(value: object) -> bool:
    """Tell whether `value` is a torch module, without importing torch for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def is_tensor(value: object) -> bool:
    """Tell whether `value` is a torch tensor, without importing torch for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def open_module(module: "nn.Module") -> MemorySource:
    """Open a live module: parameters in order, with what their modules say of them.

    Weights under ``torch.nn.utils.parametrize`` are taken as the module computes with them; the
    parts that the older weight_norm leaves are skipped with that reason.

    Raises
    ------
    WeightError
        If it has no parameters, or they are pieces of FSDP1 or ZeRO-3.
    """
    shards.refuse_pieces(module)
    values: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    ignored = []
    for prefix, child in module.named_modules(remove_duplicate=False):
        if "parametrizations" in prefix.split("."):
            continue  # the originals; their owner lists the effective weight
        hints = _hints(child)
        for name, value in _parameters(child):
            full = f"{prefix}.{name}" if prefix else name
            values[full] = value
            parameter = value() if callable(value) else value
            kind, groups = hints if name == "weight" else (None, 1)
            tensors[full] = dataclasses.replace(
                torch_files.describe(full, parameter),
                owner=type(child).__name__,
                kind=kind,
                groups=groups,
            )
        for name, buffer in child.named_buffers(recurse=False):
            full = f"{prefix}.{name}" if prefix else name
            ignored.append(Skipped(full, tuple(buffer.shape), "buffer, not a parameter"))
    if not tensors:
        raise WeightError("E_NO_TENSORS", type(module).__name__, "the module has no parameters")
    info = SourceInfo(f"<{type(module).__name__}>", "live module", *totals(tensors.values()))
    held = Parameters(module, values)
    return MemorySource(held, tuple(tensors.values()), info, tuple(ignored))


def config_of(module: "nn.Module") -> dict[str, Any]:
    """Return the configuration that a transformers model carries, or nothing."""
    to_dict = getattr(getattr(module, "config", None), "to_dict", None)
    found = to_dict() if callable(to_dict) else {}
    return found if isinstance(found, dict) else {}


def _parameters(module: "nn.Module") -> list[tuple[str, Any]]:
    """Return the parameters a module owns; for parametrised ones, what computes them."""
    names = getattr(module, "parametrizations", ())
    effective = [(name, functools.partial(_effective, module, name)) for name in names]
    return [*effective, *module.named_parameters(recurse=False)]


def _effective(module: "nn.Module", name: str) -> "torch.Tensor":
    """Compute a parametrised weight from a copy: some, such as spectral_norm, change as they compute."""
    import torch

    with torch.no_grad():
        weight: torch.Tensor = copy.deepcopy(module.parametrizations[name]).eval()()  # type: ignore[index,union-attr]
    return weight


def _hints(module: "nn.Module") -> tuple[Kind | None, int]:
    import torch

    if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag):
        return "embedding", 1
    if isinstance(module, torch.nn.modules.conv._ConvNd):
        return CONVOLUTIONS[module.weight.ndim], module.groups
    return None, 1
