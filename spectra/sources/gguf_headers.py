"""The header of a GGUF file, read under strict limits and without the data behind it.

The reader of the ``gguf`` package is not used: it maps the file, takes an offset that wraps around
for a good one, and walks through arrays that were never there. Types and blocks are the package's.
"""

import itertools
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Never

import numpy as np

from spectra.errors import CheckpointError
from spectra.extras import require
from spectra.records import Tensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # version 1 had counts of 32 bits and is long gone
MAX_HEADER = 128 * 2**20
MAX_TENSORS = 2**20
MAX_KEYS = 2**16
MAX_NAME = 64 * 2**10
MAX_STRING = 64 * 2**20
MAX_LISTED = 2**21  # texts in all arrays together; the largest vocabularies come to a million
MAX_DIMS = 4
MAX_ALIGNMENT = 2**20
DEFAULT_ALIGNMENT = 32

PLAIN: Mapping[str, str] = MappingProxyType(
    {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
    }
)

# Types of header values, by their number in the file; strings and arrays are the others.
SCALARS: Mapping[int, struct.Struct] = MappingProxyType(
    {number: struct.Struct("<" + code) for number, code in enumerate("BbHhIif?")}
    | {number: struct.Struct("<" + code) for number, code in enumerate("Qqd", start=10)}
)
UINT32, STRING, ARRAY = 4, 8, 9

ALIGNMENT = "general.alignment"
ARCHITECTURE = "general.architecture"
PART_NUMBER, PART_COUNT, PART_TENSORS = "split.no", "split.count", "split.tensors.count"
KEPT = (ALIGNMENT, ARCHITECTURE, PART_NUMBER, PART_COUNT, PART_TENSORS)

Value = int | float | str


@dataclass(frozen=True, slots=True)
class Coding:
    """A type of tensors: `block` numbers in every `nbytes` bytes, given as `dtype` when read."""

    name: str
    key: Any
    block: int
    nbytes: int
    dtype: str

    @property
    def is_quantised(self) -> bool:
        """Whether the bytes are codes for numbers."""
        return self.name not in PLAIN

    @property
    def is_readable(self) -> bool:
        """Whether the package knows how to turn codes of this type into numbers."""
        return not self.dtype.startswith("gguf")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the blocks of a tensor lie: `nbytes` of them, at an `offset` into the file."""

    tensor: Tensor
    coding: Coding
    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What one file says of itself; `values` holds only the keys of interest."""

    values: Mapping[str, Value]
    places: tuple[Place, ...]


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """Build the error for a file that the system does not give."""
    return CheckpointError("E_UNREADABLE", str(path), (error.strerror or str(error)).lower())


def refuse(path: Path, field: str, what: str) -> Never:
    """Raise the error for a field that no sound file has."""
    reason = f"is no valid GGUF file: {field} {what}"
    raise CheckpointError("E_GGUF", str(path), reason, "download it again, or convert it anew")


class _Reader:
    """Reads a header forwards; nothing is asked of the file that it cannot hold."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size = path, file, size
        self.at = 0
        self.listed = 0

    def room(self, nbytes: int, field: str) -> None:
        """Refuse a field that is longer than what is left of the file, or of a header."""
        if self.at + nbytes > self.size:
            refuse(self.path, field, f"needs {nbytes:,} bytes, {self.size - self.at:,} are left")
        if self.at + nbytes > MAX_HEADER:
            refuse(self.path, field, f"lies beyond the first {MAX_HEADER:,} bytes")

    def take(self, nbytes: int, field: str) -> bytes:
        self.room(nbytes, field)
        raw = self.file.read(nbytes)
        if len(raw) != nbytes:
            refuse(self.path, field, "is cut short")
        self.at += nbytes
        return raw

    def skip(self, nbytes: int, field: str) -> None:
        self.room(nbytes, field)
        self.file.seek(nbytes, 1)
        self.at += nbytes

    def number(self, width: int, field: str) -> int:
        return int.from_bytes(self.take(width, field), "little")

    def count(self, limit: int, least: int, field: str) -> int:
        """Return a count of things of which each takes at least so many bytes."""
        count = self.number(8, field)
        if count > limit:
            refuse(self.path, field, f"is {count:,}, above the limit of {limit:,}")
        self.room(count * least, field)
        return count

    def text(self, limit: int, field: str) -> str:
        raw = self.take(self.count(limit, 1, f"the length of {field}"), field)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            refuse(self.path, field, f"is no UTF-8: {raw[:40]!r}")

    def value(self, kind: int, field: str, *, kept: bool) -> Value | None:
        """Return a number, or a text if it is to be `kept`; step over everything else."""
        if kind in SCALARS:
            form = SCALARS[kind]
            scalar: Value = form.unpack(self.take(form.size, field))[0]
            return scalar
        if kind == STRING and kept:
            return self.text(MAX_STRING, field)
        if kind == STRING:
            self.skip(self.count(MAX_STRING, 1, f"the length of {field}"), field)
        elif kind == ARRAY:
            self.array(field)
        else:
            refuse(self.path, field, f"is of the unknown type {kind}")
        return None

    def array(self, field: str) -> None:
        kind, length = self.number(4, field), f"the length of {field}"
        if kind in SCALARS:
            width = SCALARS[kind].size
            self.skip(self.count(MAX_HEADER, width, length) * width, field)
        elif kind == STRING:
            count = self.count(MAX_LISTED - self.listed, 8, length)
            self.listed += count
            self.strings(count, field)
        else:
            what = "arrays" if kind == ARRAY else f"the unknown type {kind}"
            refuse(self.path, field, f"is an array of {what}")

    def strings(self, count: int, field: str) -> None:
        """Step over texts by their lengths; half a million of them are usual."""
        read, seek, begin = self.file.read, self.file.seek, self.at
        at, end = begin, min(self.size, MAX_HEADER)
        for _ in range(count):
            nbytes = int.from_bytes(read(8), "little")
            at += 8 + nbytes
            if at > end:
                break
            seek(nbytes, 1)
        self.room(at - begin, field)
        self.at = at


def read_header(path: Path) -> Header:
    """Read and check what one file says before its data."""
    try:
        size = path.stat().st_size
        with path.open("rb", buffering=2**16) as file:
            reader = _Reader(path, file, size)
            _check_version(reader)
            n_tensors = reader.count(MAX_TENSORS, 32, "the number of tensors")
            n_keys = reader.count(MAX_KEYS, 13, "the number of keys")
            values = _read_values(reader, n_keys)
            return Header(values, _read_places(reader, n_tensors, values))
    except OSError as error:
        raise unreadable(path, error) from error


def _check_version(reader: _Reader) -> None:
    if not reader.size:
        raise CheckpointError("E_EMPTY", str(reader.path), "is empty", "download or copy it again")
    magic = reader.take(4, "the magic number")
    version = b"" if magic != MAGIC else reader.take(4, "the version")
    if not version:
        what = f"is no GGUF file, it begins with {magic!r}"
    elif int.from_bytes(version, "big") in (1, *VERSIONS):
        what = "is a big-endian GGUF file, which is not read"
    elif int.from_bytes(version, "little") not in VERSIONS:
        what = f"is GGUF of version {int.from_bytes(version, 'little')}; 2 and 3 are read"
    else:
        return
    raise CheckpointError("E_FORMAT", str(reader.path), what, "convert the model anew")


def _read_values(reader: _Reader, count: int) -> dict[str, Value]:
    """Return the values of interest, by their keys."""
    values: dict[str, Value] = {}
    seen: set[str] = set()
    for index in range(count):
        key = reader.text(MAX_NAME, f"the name of key {index}")
        field = f"key {key!r}"
        if key in seen:
            refuse(reader.path, field, "is there twice")
        seen.add(key)
        kind = reader.number(4, field)
        value = reader.value(kind, field, kept=key in KEPT)
        if key == ALIGNMENT:
            good = isinstance(value, int) and 0 < value <= MAX_ALIGNMENT and value.bit_count() == 1
            if kind != UINT32 or not good:
                what = f"is {value!r}, expected a power of two up to {MAX_ALIGNMENT:,} as uint32"
                refuse(reader.path, field, what)
        if key in KEPT and value is not None:
            values[key] = value
    return values


def _read_places(reader: _Reader, count: int, values: Mapping[str, Value]) -> tuple[Place, ...]:
    """Read the list of tensors; each must lie inside the file, and none in another."""
    path = reader.path
    listed: dict[str, tuple[Coding, tuple[int, ...], int]] = {}
    for index in range(count):
        name = reader.text(MAX_NAME, f"the name of tensor {index}")
        if name in listed:
            refuse(path, f"tensor {name!r}", "is there twice")
        listed[name] = _read_entry(reader, f"tensor {name!r}")
    alignment = int(values.get(ALIGNMENT, DEFAULT_ALIGNMENT))
    begin = -(-reader.at // alignment) * alignment
    places = []
    for name, (coding, shape, offset) in listed.items():
        size = math.prod(shape)
        nbytes = size // coding.block * coding.nbytes
        if offset % alignment:
            refuse(path, f"tensor {name!r}", f"has offset {offset:,}, not aligned to {alignment:,}")
        if begin + offset + nbytes > reader.size:
            what = f"ends at byte {begin + offset + nbytes:,}, the file at {reader.size:,}"
            refuse(path, f"tensor {name!r}", what)
        origin = coding.name if coding.is_quantised and coding.is_readable else ""
        given = 4 * size if origin else nbytes
        tensor = Tensor(name, shape, coding.dtype, given, dequantised_from=origin)
        places.append(Place(tensor, coding, path, begin + offset, nbytes))
    ordered = sorted(places, key=lambda place: place.offset)
    for one, next_one in itertools.pairwise(ordered):
        if one.offset + one.nbytes > next_one.offset:
            what = f"overlaps tensor {one.tensor.name!r}"
            refuse(path, f"tensor {next_one.tensor.name!r}", what)
    return tuple(places)


def _read_entry(reader: _Reader, field: str) -> tuple[Coding, tuple[int, ...], int]:
    """Return type, shape and offset of the next tensor."""
    n_dims = reader.number(4, field)
    if not 1 <= n_dims <= MAX_DIMS:
        refuse(reader.path, field, f"has {n_dims:,} dimensions, expected 1 to {MAX_DIMS}")
    sides = struct.unpack(f"<{n_dims}Q", reader.take(8 * n_dims, field))
    number, offset = struct.unpack("<IQ", reader.take(12, field))
    if 0 in sides:
        refuse(reader.path, field, f"has the shape {sides[::-1]}, a side of it 0")
    coding = _coding(number)
    if coding is None:
        refuse(reader.path, field, f"is of type {number}, unknown to the gguf package")
    if sides[0] % coding.block:
        what = f"has rows of {sides[0]:,}, no multiple of the {coding.block} in a block"
        refuse(reader.path, field, f"{what} of {coding.name}")
    return coding, sides[::-1], offset


@lru_cache
def _coding(number: int) -> Coding | None:
    """Look up a type by its number in the file, and whether it can be dequantised."""
    package = require("gguf", "gguf")
    try:
        key = package.GGMLQuantizationType(number)
        block, nbytes = package.GGML_QUANT_SIZES[key]
    except (ValueError, KeyError):
        return None
    dtype = PLAIN.get(key.name, "float32")
    if key.name not in PLAIN:
        try:
            package.quants.dequantize(np.zeros((1, nbytes), np.uint8), key)
        except NotImplementedError:
            dtype = f"gguf {key.name.lower()}"
    return Coding(key.name, key, block, nbytes, dtype)
