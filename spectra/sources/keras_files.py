"""Keras' HDF5 files, by h5py alone: legacy .h5, .weights.h5, and the one inside a .keras archive.

Keras itself is never loaded, nor is anything built from the configuration beside the weights. HDF5
can point anywhere: only what lies in the file itself, by hard links, is followed.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spectra.errors import CheckpointError
from spectra.extras import require
from spectra.records import Skipped, SourceInfo, Tensor
from spectra.sources import zips
from spectra.sources.base import (
    CODE_TYPES,
    FLOAT_TYPES,
    Array,
    decode,
    natural_key,
    no_tensors,
    totals,
)
from spectra.sources.keras_names import (
    LEGACY_ROOT,
    Parts,
    kind_at,
    names_of,
    optimizer_group,
    optimizer_state,
    role_at,
    without_root,
)
from spectra.sources.shapes import elements, torch_order, torch_shape

MAX_DEPTH = 64
MAX_OBJECTS = 1_000_000
MAX_NAME = 4096
MAX_ORDER = 2**20  # bytes of the attribute that names the layers in order
MAX_RATIO, SMALL = zips.MAX_RATIO, zips.SMALL  # the same for HDF5's own compression

ZIP = b"PK\x03\x04"
# deflate, shuffle, checksum, n-bit, scale-offset, LZF: others would load a plug-in of this machine.
FILTERS = frozenset({1, 2, 3, 5, 6, 32000})


class KerasFile:
    """The weights of a Keras model.

    Variables are called by their layers' names joined with dots; convolution kernels come in
    torch's order of axes, by the rule of `shapes.role_of`. Layers keep the model's order where the
    file says it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._member = _weights_member(path)
        self._size = path.stat().st_size if self._member is None else self._member.nbytes
        with self._opened() as file:
            variables = list(_variables(path, file))
            order = _layer_order(file)
            states: dict[str, int] = {}
            found: dict[Parts, Tensor] = {}
            ignored = []
            for parts, dataset in variables:
                group = optimizer_group(parts)
                if group:
                    states[group] = states.get(group, 0) + 1
                elif dataset.shape is None or dataset.dtype.kind in "OSU":
                    ignored.append(Skipped(".".join(parts), (), "text or nothing"))
                else:
                    found[parts] = self._describe(parts, dataset)
        if not found:
            raise no_tensors(path)
        names = names_of(list(found))
        ordered = sorted(
            found,
            key=lambda p: (order.get(without_root(p)[0], len(order)), natural_key(names[p])),
        )
        self._parts = {names[parts]: parts for parts in ordered}
        self.tensors = tuple(_renamed(found[parts], names[parts]) for parts in ordered)
        self._by_name = {tensor.name: tensor for tensor in self.tensors}
        self.ignored = (*ignored, *optimizer_state(states))
        kind = "keras hdf5" if self._member is None else "keras archive"
        self.info = SourceInfo(str(path), kind, *totals(self.tensors))

    def read(self, name: str) -> Array:
        """Return one variable, convolution kernels in torch's order of axes."""
        return self._values(name, slice(None))

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows, and read no others unless the axes are to be turned first."""
        return self._values(name, slice(begin, end))

    def _values(self, name: str, rows: slice) -> Array:
        parts, tensor = self._parts[name], self._by_name[name]
        if tensor.dtype not in FLOAT_TYPES and tensor.dtype not in CODE_TYPES:
            reason = f"has {name!r} of type {tensor.dtype}, which is not read"
            raise CheckpointError("E_FORMAT", str(self._path), reason, "save it as float32")
        with self._opened() as file:
            dataset = file["/".join(parts)]
            if _renamed(self._describe(parts, dataset), name) != tensor:
                raise _bad(self._path, "E_TRUNCATED", "was replaced during the run")
            role = role_at(parts, len(tensor.shape))
            whole = role != "plain" or not tensor.shape
            values = np.asarray(dataset[()] if whole else dataset[rows])
        if tensor.dtype == "bfloat16":
            values = decode(values.tobytes(), tensor.dtype, values.shape)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        turned = torch_order(values, role)
        return turned[rows] if role != "plain" else turned

    def _describe(self, parts: Parts, dataset: Any) -> Tensor:  # noqa: ANN401 - h5py.Dataset
        shape = tuple(int(size) for size in dataset.shape)
        dtype = _dtype_name(dataset)
        nbytes = _check_storage(self._path, self._size, ".".join(parts), dataset)
        role = role_at(parts, len(shape))
        # The same bytes turned in two ways are two tensors.
        key = (str(self._path), _address(dataset), role) if nbytes else None
        return Tensor("", torch_shape(shape, role), dtype, nbytes, key, kind=kind_at(parts))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        """Open the HDF5 file; whatever h5py finds wrong with it becomes one line."""
        h5py = require("h5py", "keras")
        try:
            with contextlib.ExitStack() as stack:
                if self._member is None:
                    # Nobody writes to a finished checkpoint, and read-only disks have no locks.
                    file = stack.enter_context(h5py.File(self._path, "r", locking=False))
                else:
                    inner = stack.enter_context(self._member.open())
                    file = stack.enter_context(h5py.File(inner, "r"))
                yield file
        except CheckpointError:
            raise
        except Exception as error:
            if "truncated" in str(error):
                raise _bad(self._path, "E_TRUNCATED", "is cut short") from error
            if "signature not found" in str(error):
                raise _bad(self._path, "E_FORMAT", "is no HDF5 file") from error
            raise _bad(self._path, "E_ARCHIVE", "is a damaged HDF5 file") from error


def _weights_member(path: Path) -> zips.Member | None:
    """Return the weights inside a .keras archive; None for a plain HDF5 file."""
    with path.open("rb") as file:
        head = file.read(len(ZIP))
    if not head:
        raise _bad(path, "E_EMPTY", "is empty")
    if head != ZIP:
        return None
    for member in zips.members(path):
        if member.name == zips.KERAS_MEMBER:
            return member
    raise _bad(path, "E_FORMAT", f"holds no {zips.KERAS_MEMBER}, so is no Keras model")


def _variables(path: Path, file: Any) -> Iterator[tuple[Parts, Any]]:  # noqa: ANN401 - h5py.File
    """Give every dataset with its path, each group visited once, links followed inside only."""
    h5py = require("h5py", "keras")
    pending: list[tuple[Parts, Any]] = [((), file)]
    seen = {_address(file)}
    count = 0
    while pending:
        parts, group = pending.pop()
        below: list[tuple[Parts, Any]] = []
        for name in group:
            count += 1
            here = (*parts, name)
            if count > MAX_OBJECTS or len(here) > MAX_DEPTH or sum(map(len, here)) > MAX_NAME:
                raise _bad(path, "E_LIMIT", "holds too many objects, or too deep ones")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                reason = f"has {'.'.join(here)!r} as a link, which may lead anywhere"
                raise CheckpointError("E_PATH", str(path), reason, "do not trust it")
            child = group[name]
            if isinstance(child, h5py.Group):
                address = _address(child)
                if address not in seen:
                    seen.add(address)
                    below.append((here, child))
            elif isinstance(child, h5py.Dataset):
                if child.external or child.is_virtual:
                    reason = f"keeps {'.'.join(here)!r} in another file"
                    raise CheckpointError("E_PATH", str(path), reason, "do not trust it")
                yield here, child
        pending.extend(reversed(below))


def _address(held: Any) -> int:  # noqa: ANN401 - h5py.Group or Dataset
    """Return where in the file an object is, the same by whichever name it was reached."""
    h5o = require("h5py.h5o", "keras")
    return int(h5o.get_info(held.id).addr)


def _check_storage(path: Path, size: int, name: str, dataset: Any) -> int:  # noqa: ANN401
    """Return a dataset's size, after holding it against the bytes that the file has for it."""
    stored = dataset.id.get_storage_size()
    if stored > size:
        raise _bad(path, "E_TRUNCATED", f"ends before {name!r}")
    try:
        nbytes: int = elements(dataset.shape) * dataset.dtype.itemsize
    except ValueError as error:
        raise _bad(path, "E_HEADER", f"declares {name!r} as {dataset.shape}: {error}") from None
    # HDF5 unpacks whole chunks, however little of one is asked for.
    chunk = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
    if max(nbytes, chunk) > max(SMALL, MAX_RATIO * stored):
        reason = f"declares {nbytes:,} bytes for {name!r} and stores {stored:,}"
        raise CheckpointError("E_LIMIT", str(path), reason, "do not trust it")
    return nbytes


def _dtype_name(dataset: Any) -> str:  # noqa: ANN401 - h5py.Dataset
    """Return the type by the name it has elsewhere; bfloat16, opaque to HDF5, by Keras' mark."""
    dtype = dataset.dtype
    plan = dataset.id.get_create_plist()
    foreign = {plan.get_filter(n)[0] for n in range(plan.get_nfilters())} - FILTERS
    if foreign:
        return f"{dtype.name}, packed by filter {min(foreign)}"
    if dtype.kind == "V":
        marked = dtype.itemsize == 2 and dataset.attrs.get("dtype") == "bfloat16"
        return "bfloat16" if marked else "structured"
    return str(dtype.name)


def _layer_order(file: Any) -> dict[str, int]:  # noqa: ANN401 - h5py.File
    """Return the place of each layer in the model, which legacy files tell."""
    group = file.get(LEGACY_ROOT, file)
    names: list[str] = []
    for key in ("layer_names", *(f"layer_names{n}" for n in range(100))):
        if key not in group.attrs:
            continue
        attribute = group.attrs.get_id(key)
        if attribute.dtype.kind == "S" and attribute.get_storage_size() <= MAX_ORDER:
            listed = np.ravel(group.attrs[key])
            names.extend(bytes(name).decode("utf-8", "replace") for name in listed)
    return {name.split("/")[0]: place for place, name in reversed(list(enumerate(names)))}


def _renamed(tensor: Tensor, name: str) -> Tensor:
    return dataclasses.replace(tensor, name=name)


def _bad(path: Path, code: str, reason: str) -> CheckpointError:
    return CheckpointError(code, str(path), reason, "download it again, or save it anew")
