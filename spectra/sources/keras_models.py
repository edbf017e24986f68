"""Live Keras 3 models on any backend: what saving them would write, read from the model as it is.

Keras is not imported here: whoever holds one of its models has done that. Layers are walked as Keras
walks them to save, so that a model and its file call the same weights by the same names.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from spectra.errors import WeightError
from spectra.records import Skipped, SourceInfo, Tensor
from spectra.sources import memory
from spectra.sources.base import Array, natural_key, totals
from spectra.sources.keras_names import (
    NUMBERED,
    Parts,
    kind_at,
    names_of,
    optimizer_group,
    optimizer_state,
    role_at,
)
from spectra.sources.shapes import torch_order, torch_shape


def is_keras(value: object) -> bool:
    """Tell whether `value` is a Keras model or layer, without importing Keras for it.

    On the torch backend each of them is a torch module too: this is to be asked first.
    """
    layers = getattr(sys.modules.get("keras"), "layers", None)
    return layers is not None and isinstance(value, layers.Layer)


class KerasModel:
    """The weights of a live Keras model, under the names that they have in its file.

    Variables come as they are when they are read, kernels in torch's order of axes. What a layer
    saves in another form than it keeps (a kernel with Keras' own LoRA merged) is asked of the layer.

    Parameters
    ----------
    model : keras.Model or keras.Layer

    Attributes
    ----------
    variables : Mapping[str, keras.Variable]
        Those that are saved as they are, by the names of their tensors.

    Raises
    ------
    WeightError
        If the model has no weights yet, or is not of Keras 3.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - Keras has no types of its own
        self._model = model
        self._keras = sys.modules["keras"]
        kind = type(model).__name__
        if not hasattr(self._keras, "ops"):
            raise WeightError("E_TYPE", kind, "is of Keras 2, of which files are read", "save it")
        self._sync()
        self._homes: dict[str, tuple[Any, Parts]] = {}
        found: dict[Parts, tuple[Any, Any]] = {}
        states: dict[str, int] = {}
        ignored = []
        for path, saveable in _walk(model, (), set()):
            group = optimizer_group((*path, NUMBERED, ""))
            if group:  # not asked to save, which would copy twice the model
                states[group] = states.get(group, 0) + len(saveable.variables)
                continue
            for key, value in _saved_by(saveable).items():
                parts = (*path, NUMBERED, key)
                if not hasattr(value, "shape") or not hasattr(value, "dtype"):
                    ignored.append(Skipped(".".join(parts), (), "text or nothing"))
                else:
                    found[parts] = saveable, value
        if not found:
            advice = "call it on data, or give it an Input"
            raise WeightError("E_NO_TENSORS", kind, "the model has no weights yet", advice)
        names = names_of(list(found))
        tensors, variables = [], {}
        for parts in sorted(found, key=lambda parts: natural_key(names[parts])):
            (saveable, value), name = found[parts], names[parts]
            self._homes[name] = saveable, parts
            tensors.append(self._describe(name, parts, value))
            if isinstance(value, self._keras.Variable):
                variables[name] = value
        self.variables: Mapping[str, Any] = variables
        self.tensors = tuple(tensors)
        self.ignored: tuple[Skipped, ...] = (*ignored, *optimizer_state(states))
        self.info = SourceInfo(f"<{kind}>", "live Keras model", *totals(tensors))

    def read(self, name: str) -> Array:
        """Return one variable, convolution kernels in torch's order of axes."""
        parts = self._homes[name][1]
        values = self._numbers(self._value(name))
        return torch_order(values, role_at(parts, values.ndim))

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows of one variable, and fetch no others unless its axes are to be turned."""
        value = self._value(name)
        if role_at(self._homes[name][1], len(value.shape)) != "plain":
            return self.read(name)[begin:end]
        return self._numbers(value[begin:end])

    def is_frozen(self, name: str) -> bool:
        """Tell whether the layer that holds a variable is not trained now."""
        return not getattr(self._homes[name][0], "trainable", True)

    @property
    def on_cpu(self) -> bool:
        """Whether all variables lie in the memory of the CPU."""
        return all(
            "cpu" in str(getattr(variable.value, "device", "cpu")).lower()
            for variable in self.variables.values()
        )

    def _value(self, name: str) -> Any:  # noqa: ANN401 - a variable, or an array of some backend
        self._sync()
        if name in self.variables:
            return self.variables[name].value
        saveable, parts = self._homes[name]
        return _saved_by(saveable)[parts[-1]]

    def _sync(self) -> None:
        """Put the values that JAX holds apart while it trains back into the model's variables."""
        sync = getattr(self._model, "jax_state_sync", None)
        if sync is not None:
            sync()

    def _numbers(self, value: Any) -> Array:  # noqa: ANN401
        if memory.is_tensor(value):
            return memory.as_array(value)
        values = np.asarray(self._keras.ops.convert_to_numpy(value))
        # bfloat16 is no type of NumPy's own; every number of it is one of float32.
        return values.astype(np.float32) if values.dtype.name == "bfloat16" else values

    def _describe(self, name: str, parts: Parts, value: Any) -> Tensor:  # noqa: ANN401
        shape = tuple(int(size) for size in value.shape)
        dtype = str(self._keras.backend.standardize_dtype(value.dtype))
        role = role_at(parts, len(shape))
        tied = isinstance(value, self._keras.Variable) and 0 not in shape
        return Tensor(
            name,
            torch_shape(shape, role),
            dtype,
            int(np.prod(shape, dtype=np.int64)) * BYTES.get(dtype, 4),
            ("keras", id(value), role) if tied else None,
            kind=kind_at(parts),
        )


BYTES: Mapping[str, int] = {
    "float64": 8, "int64": 8, "uint64": 8, "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2,
    "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip


def _walk(saveable: Any, path: Parts, seen: set[int]) -> Iterator[tuple[Parts, Any]]:  # noqa: ANN401
    """Give all that keeps variables with its path in a file, in the order in which Keras saves."""
    if id(saveable) in seen:
        return
    seen.add(id(saveable))
    yield path, saveable
    for attribute, child in _keras("saving.saving_lib")._walk_saveable(saveable):
        below = (*path, attribute)
        if isinstance(child, _keras("saving.keras_saveable").KerasSaveable):
            yield from _walk(child, below, seen)
        elif isinstance(child, list | dict | tuple):
            yield from _walk_container(child, below, seen, set())


def _walk_container(
    container: Any,  # noqa: ANN401
    path: Parts,
    seen: set[int],
    around: set[int],
) -> Iterator[tuple[Parts, Any]]:
    """Give the members of a container: by their classes, those that come again numbered."""
    if id(container) in around:
        return
    around.add(id(container))
    used: dict[str, int] = {}
    for member in container.values() if isinstance(container, dict) else container:
        is_one = isinstance(member, _keras("saving.keras_saveable").KerasSaveable)
        if not is_one and not isinstance(member, list | dict | tuple):
            continue
        name = (
            _keras("utils.naming").to_snake_case(type(member).__name__) if is_one else "container"
        )
        count = used[name] = used.get(name, -1) + 1
        below = (*path, f"{name}_{count}" if count else name)
        if is_one:
            yield from _walk(member, below, seen)
        else:
            yield from _walk_container(member, below, seen, around)


def _keras(module: str) -> Any:  # noqa: ANN401
    """Return a module inside Keras that saving is made of; it was loaded with Keras."""
    return importlib.import_module(f"keras.src.{module}")


def _saved_by(saveable: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what a layer saves of itself, which is by reference until something writes it."""
    store: dict[str, Any] = {}
    save = getattr(saveable, "save_own_variables", None)
    if save is not None:
        save(store)
    return store
