"""Flax's msgpack files: nested maps of arrays, listed without reading the arrays."""

import re
from pathlib import Path

import numpy as np

from spectra.errors import CheckpointError
from spectra.records import Skipped, SourceInfo, Tensor
from spectra.sources.base import Array, decode, no_tensors, totals
from spectra.sources.msgpack_headers import Keys, Reader, Stored, bad, itemsize_of, truncated, walk
from spectra.sources.shapes import elements, role_of, rows_between, torch_order, torch_shape
from spectra.sources.zips import stretch

CHUNKED = "__msgpack_chunked_array__"  # marks the map that an array too long for msgpack becomes
OPTIMIZER = re.compile(r"opt_states?|optimi[sz]ers?(_states?)?|param_states")


class FlaxFile:
    """A file of ``flax.serialization.to_bytes``; the keys of its maps are joined by dots."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found = _scan(path)
        self._arrays: dict[str, Stored] = {}
        tensors: list[Tensor] = []
        states: dict[str, int] = {}
        for keys, stored in found.items():
            state = _optimizer_state(keys)
            if state:
                states[state] = states.get(state, 0) + 1
                continue
            name = ".".join(keys) or "tensor"
            if name in self._arrays:
                raise bad(path, "E_DUPLICATE", f"names {name!r} twice")
            self._arrays[name] = stored
            tensors.append(
                Tensor(name, torch_shape(stored.shape, stored.role), stored.dtype, stored.nbytes)
            )
        if not tensors:
            raise no_tensors(path)
        self.tensors = tuple(tensors)
        self.ignored = tuple(
            Skipped(f"{state}.*", (), f"optimizer state ({count} tensors)", count)
            for state, count in states.items()
        )
        self.info = SourceInfo(str(path), "flax msgpack", *totals(tensors))

    def read(self, name: str) -> Array:
        """Return one tensor, convolution kernels in torch's order of axes."""
        stored = self._arrays[name]
        values = decode(self._bytes(name, 0, stored.nbytes), stored.dtype, stored.shape)
        return torch_order(values, stored.role)

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows, from their bytes alone where the axes are as stored."""
        stored = self._arrays[name]
        if stored.role != "plain":
            return self.read(name)[begin:end]
        offset, nbytes, shape = rows_between(stored.shape, stored.nbytes, begin, end)
        return decode(self._bytes(name, offset, nbytes), stored.dtype, shape)

    def _bytes(self, name: str, begin: int, nbytes: int) -> Array:
        """Gather a stretch of an array's bytes from the chunks it spans."""
        stored = self._arrays[name]
        if itemsize_of(stored.dtype) is None:
            reason = f"has {name!r} of type {stored.dtype}, which is not read"
            raise CheckpointError("E_FORMAT", str(self._path), reason, "save it as float32")
        raw = np.empty(nbytes, np.uint8)
        done, passed = 0, 0
        for offset, length in stored.spans:
            first = max(begin - passed, 0)
            count = min(length - first, nbytes - done)
            passed += length
            if count <= 0:
                continue
            part = stretch(self._path, offset + first, count)
            if part.size != count:
                raise truncated(self._path)
            raw[done : done + count] = part
            done += count
        return raw


def _optimizer_state(keys: Keys) -> str:
    """Return the entry of optimizer state that an array is part of, if it is."""
    path = _split(keys)
    for position, key in enumerate(path):
        # Flax's first optimizers kept the model itself in themselves, as their target.
        if OPTIMIZER.fullmatch(key) and path[position + 1 : position + 2] != ["target"]:
            return ".".join(path[: position + 1])
    return ""


def _split(keys: Keys) -> list[str]:
    """Return the whole path of an array, also where a flat map keeps it in one key."""
    return [part for key in keys for part in re.split(r"[./]", key)]


def _scan(path: Path) -> dict[Keys, Stored]:
    """Return every array of a file by its keys, chunked ones put together."""
    size = path.stat().st_size
    if not size:
        raise bad(path, "E_EMPTY", "is empty")
    arrays: dict[Keys, Stored] = {}
    sizes: dict[Keys, int] = {}
    chunked: set[Keys] = set()
    with path.open("rb") as file:
        reader = Reader(path, file, size)
        for keys, kind, value in walk(reader):
            if kind == "extension":
                stored = reader.array(*value)
                if stored is not None:
                    arrays[keys] = stored
            elif keys and keys[-1] == CHUNKED:
                chunked.add(keys[:-1])
            elif kind == "number" and keys[-2:-1] == ("shape",):
                sizes[keys] = value[0]
        if reader.position != size:
            raise bad(path, "E_TRAILING", f"has {size - reader.position:,} bytes after its data")
    joined = _join(path, arrays, sizes, chunked) if chunked else arrays
    return {keys: _with_role(keys, stored) for keys, stored in joined.items()}


def _join(
    path: Path, arrays: dict[Keys, Stored], sizes: dict[Keys, int], chunked: set[Keys]
) -> dict[Keys, Stored]:
    """Put the chunks of long arrays together, in the place of the first."""
    joined: dict[Keys, Stored] = {}
    parts: dict[Keys, dict[str, Stored]] = {}
    shapes: dict[Keys, dict[str, int]] = {}
    for keys, length in sizes.items():
        shapes.setdefault(keys[:-2], {})[keys[-1]] = length
    for keys, stored in arrays.items():
        if keys[-2:-1] == ("chunks",) and keys[:-2] in chunked:
            parts.setdefault(keys[:-2], {})[keys[-1]] = stored
            stored = joined.setdefault(keys[:-2], stored)
        else:
            joined[keys] = stored
    for keys, chunks in parts.items():
        axes = shapes.get(keys, {})
        try:
            shape = tuple(axes[str(axis)] for axis in range(len(axes)))
            ordered = [chunks[str(number)] for number in range(len(chunks))]
            whole = elements(shape) == sum(elements(chunk.shape) for chunk in ordered)
        except (KeyError, ValueError):
            whole = False
        if not whole or len({chunk.dtype for chunk in ordered}) != 1:
            raise bad(path, "E_HEADER", f"has {'.'.join(keys)!r} in chunks that do not fit")
        spans = tuple(span for chunk in ordered for span in chunk.spans)
        joined[keys] = Stored(shape, ordered[0].dtype, spans)
    return joined


def _with_role(keys: Keys, stored: Stored) -> Stored:
    role = role_of(_split(keys) or ["tensor"], len(stored.shape))
    return Stored(stored.shape, stored.dtype, stored.spans, role)
