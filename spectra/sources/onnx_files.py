"""ONNX models: initialisers and the tensors of constant nodes, in sub-graphs and functions as well.

The graph is never run. Data outside the model file is read by our own lines, from plain files of its
folder alone and only when a tensor is asked for.
"""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spectra.errors import CheckpointError
from spectra.extras import require
from spectra.records import Skipped, SourceInfo, Tensor
from spectra.sources.base import CODE_TYPES, FLOAT_TYPES, Array, decode, no_tensors, totals
from spectra.sources.folders import contained
from spectra.sources.onnx_graphs import (
    EXTERNAL,
    TEXT,
    TYPES,
    Found,
    Proto,
    check_messages,
    inline,
    inline_size,
    is_sparse,
    tensors_of,
    tied_copies,
    training_of,
    unique_names,
    values_of,
)
from spectra.sources.shapes import elements, rows_between

MAX_FILE = 2**31  # protobuf's own limit; larger models keep their weights outside
NUMBER = re.compile(r"[0-9]{1,18}")


class OnnxFile:
    """An ONNX model; tensors keep their own names, after those of the nodes above where needed.

    A name that occurs in several branches is prefixed by the names of the nodes and attributes that
    lead to it. Matrices of one name and the same bytes share their ``storage``. Lists of numbers
    that a node carries as plain attributes have one dimension and are left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        model = _load(path)
        self._entries: dict[str, _Entry] = {}
        ignored = []
        try:
            found = list(tensors_of(path, model))
            tied = tied_copies(found)
            for name, one in zip(unique_names(path, found), found, strict=True):
                if values_of(one.proto).data_type == TEXT:
                    ignored.append(Skipped(name, tuple(one.proto.dims), "text"))
                else:
                    self._entries[name] = _entry(path, name, one, tied.get(id(one)))
            n_training = sum(1 for _ in training_of(path, model))
        except CheckpointError:
            raise
        except Exception as error:
            raise _bad(path, "E_ARCHIVE", "is no ONNX model, or a damaged one") from error
        if not self._entries:
            raise no_tensors(path)
        if n_training:
            reason = f"training graphs ({n_training} tensors)"
            ignored.append(Skipped("training_info.*", (), reason, n_training))
        self.tensors = tuple(entry.tensor for entry in self._entries.values())
        self.ignored = tuple(ignored)
        outside = sorted({e.outside.path.name for e in self._entries.values() if e.outside})
        notes = (f"data in {len(outside)} files beside it, first {outside[0]}",) if outside else ()
        self.info = SourceInfo(str(path), "onnx", *totals(self.tensors), notes)

    def read(self, name: str) -> Array:
        """Return one tensor, from the model or from the file it keeps it in."""
        entry = self._readable(name)
        raw = self._bytes(entry, 0, entry.tensor.nbytes)
        return decode(raw, entry.tensor.dtype, entry.tensor.shape)

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows of one tensor, from their bytes alone."""
        entry = self._readable(name)
        tensor = entry.tensor
        offset, nbytes, shape = rows_between(tensor.shape, tensor.nbytes, begin, end)
        return decode(self._bytes(entry, offset, nbytes), tensor.dtype, shape)

    def _readable(self, name: str) -> "_Entry":
        entry = self._entries[name]
        dtype = entry.tensor.dtype
        whole = dtype in FLOAT_TYPES or dtype in CODE_TYPES or dtype.startswith("float8_")
        if not whole or "," in dtype:
            reason = f"has {name!r} of type {dtype}, which is not read"
            raise CheckpointError("E_FORMAT", str(self._path), reason, "save it as float32")
        return entry

    def _bytes(self, entry: "_Entry", begin: int, nbytes: int) -> Array:
        if entry.outside is None:
            return inline(entry.proto, entry.tensor.dtype)[begin : begin + nbytes]
        path = entry.outside.path
        try:
            # The check of the listing may be long ago: a link in its place is refused here too.
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            with os.fdopen(handle, "rb") as file:
                offset = entry.outside.offset + begin
                raw = np.fromfile(file, np.uint8, count=nbytes, offset=offset)
        except OSError as error:
            raise CheckpointError("E_UNREADABLE", str(path), str(error)) from error
        if raw.size != nbytes:
            raise _truncated(self._path, path.name, offset + nbytes, offset + raw.size)
        return raw


@dataclass(frozen=True, slots=True)
class _Outside:
    """Bytes in another file."""

    path: Path
    offset: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor as listed, and what its numbers are read from."""

    tensor: Tensor
    proto: Proto
    outside: _Outside | None


def _load(path: Path) -> Proto:
    onnx = require("onnx", "onnx")
    size = path.stat().st_size
    if not size:
        raise _bad(path, "E_EMPTY", "is empty")
    if size >= MAX_FILE:
        raise _bad(path, "E_LIMIT", f"is {size:,} bytes, more than protobuf can hold")
    raw = path.read_bytes()
    check_messages(path, raw, onnx.ModelProto.DESCRIPTOR)
    try:
        # From its bytes: by a file's ending, the package would also read text and JSON.
        model = onnx.load_model_from_string(raw, format="protobuf")
    except Exception as error:
        raise _bad(path, "E_ARCHIVE", "is no ONNX model, or a damaged one") from error
    if not model.HasField("graph"):
        raise _bad(path, "E_FORMAT", "holds no ONNX graph")
    return model


def _entry(path: Path, name: str, one: Found, tied: tuple[object, ...] | None) -> _Entry:
    """List a tensor, after holding its shape against the bytes there are for it."""
    proto, shown = one.proto, values_of(one.proto)
    shape = tuple(int(size) for size in proto.dims)
    dtype, bits = TYPES.get(shown.data_type, (f"onnx type {shown.data_type}", 0))
    try:
        count = elements(shape)
        n_stored = elements(shown.dims)
    except ValueError as error:
        raise _bad(path, "E_HEADER", f"declares {name!r} as {shape}: {error}") from None
    nbytes = (n_stored * bits + 7) // 8
    if shown.data_location == EXTERNAL:
        outside, key = _outside(path, name, shown, nbytes)
        tensor = Tensor(name, shape, dtype, nbytes, key if nbytes else None)
        return _Entry(tensor, proto, outside)
    have = inline_size(shown, dtype, bits)
    if bits and have != nbytes:
        if have < nbytes:
            raise _truncated(path, name, nbytes, have)
        raise _bad(path, "E_HEADER", f"has {have:,} bytes for {name!r}, which takes {nbytes:,}")
    if is_sparse(proto):
        if n_stored > count:
            raise _bad(path, "E_HEADER", f"has more numbers in {name!r} than it has places")
        dtype = f"{dtype}, sparse"
    return _Entry(Tensor(name, shape, dtype, have, tied), proto, None)


def _outside(
    path: Path, name: str, proto: Proto, nbytes: int
) -> tuple[_Outside, tuple[object, ...]]:
    """Check where a tensor outside the model lies: a plain file below its folder, long enough."""
    entries = {entry.key: entry.value for entry in proto.external_data}
    location = entries.get("location", "")
    offset, length = entries.get("offset", "0"), entries.get("length", str(nbytes))
    if not NUMBER.fullmatch(offset) or not NUMBER.fullmatch(length):
        raise _bad(path, "E_HEADER", f"gives no place for {name!r} in {location!r}")
    begin = int(offset)
    if int(length) != nbytes:
        raise _bad(path, "E_HEADER", f"gives {int(length):,} bytes for {name!r}, not {nbytes:,}")
    target = contained(path.parent, location)
    step = path.parent
    try:
        for part in Path(location).parts:
            step = step / part
            if step.is_symlink():
                raise _no_file(path, location)
        status = target.stat()
    except FileNotFoundError:
        reason = f"keeps {name!r} in {location!r}, which is not there"
        raise CheckpointError("E_MISSING_SHARD", str(path), reason, "finish the download") from None
    except OSError:
        raise _no_file(path, location) from None
    if not stat.S_ISREG(status.st_mode):
        raise _no_file(path, location)
    if begin + nbytes > status.st_size:
        raise _truncated(path, f"{location}, {name}", begin + nbytes, status.st_size)
    return _Outside(target, begin), (str(target), begin, nbytes)


def _no_file(path: Path, location: str) -> CheckpointError:
    reason = f"keeps data in {location!r}, which is no plain file"
    return CheckpointError("E_PATH", str(path), reason, "do not trust it")


def _truncated(path: Path, what: str, need: int, have: int) -> CheckpointError:
    reason = f"ends inside {what!r}: {have:,} of {need:,} bytes"
    return CheckpointError("E_TRUNCATED", str(path), reason, "download or copy it again")


def _bad(path: Path, code: str, reason: str) -> CheckpointError:
    return CheckpointError(code, str(path), reason, "download it again, or save it anew")
