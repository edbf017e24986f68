"""msgpack as Flax writes it: a walk over its tokens that passes over the contents of arrays.

An array is an extension of type 1 (3 for a scalar) whose payload is the msgpack of its shape, type
name and bytes. The msgpack package would need the whole file in memory and cannot say
where an array lies; walked like this, only headers are read, and no count is allocated for.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from spectra.errors import CheckpointError
from spectra.sources.base import CODE_TYPES, FLOAT_TYPES
from spectra.sources.shapes import MAX_AXES, Role, elements

MAX_DEPTH = 64
MAX_NAME = 1024
MAX_ENTRIES = 300_000
ARRAY, SCALAR = 1, 3

Keys = tuple[str, ...]
Kind = Literal["map", "array", "text", "bytes", "extension", "number", "nothing"]


@dataclass(frozen=True, slots=True)
class Stored:
    """An array as it lies in the file: in one span of bytes, or in several chunks."""

    shape: tuple[int, ...]
    dtype: str
    spans: tuple[tuple[int, int], ...]
    role: Role = "plain"

    @property
    def nbytes(self) -> int:
        """Return how many bytes its numbers take."""
        return sum(length for _, length in self.spans)


@dataclass(slots=True)
class _Level:
    """A map or array being walked: how many of its items are still to come."""

    keys: Keys
    left: int
    is_map: bool
    passed: int = 0
    seen: set[str] = field(default_factory=set)


def walk(reader: "Reader") -> Iterator[tuple[Keys, Kind, tuple[int, int, int]]]:
    """Give each leaf of the tree with its keys, descending without recursion."""
    levels = [_Level((), 1, is_map=False)]
    n_entries = 0
    while levels:
        level = levels[-1]
        if not level.left:
            levels.pop()
            continue
        level.left -= 1
        n_entries += 1
        if n_entries > MAX_ENTRIES:
            raise bad(reader.path, "E_LIMIT", f"holds more than {MAX_ENTRIES:,} entries")
        keys = level.keys
        if level.is_map:
            key = reader.key()
            if key in level.seen:
                raise bad(reader.path, "E_DUPLICATE", f"has the key {key!r} twice in one map")
            level.seen.add(key)
            keys = (*keys, key)
        elif len(levels) > 1:
            keys = (*keys, str(level.passed))
        level.passed += 1
        kind, value = reader.token()
        if kind in ("map", "array"):
            if len(levels) > MAX_DEPTH or sum(map(len, keys)) > MAX_NAME:
                raise bad(reader.path, "E_LIMIT", f"is nested deeper than {MAX_DEPTH} levels")
            levels.append(_Level(keys, value[0], kind == "map"))
        else:
            yield keys, kind, value


class Reader:
    """Tokens of msgpack from a file, long contents passed over."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path = path
        self._file = file
        self._size = size
        self.position = 0

    def _take(self, count: int) -> bytes:
        raw = self._file.read(count) if self.position + count <= self._size else b""
        if len(raw) != count:
            raise truncated(self.path)
        self.position += count
        return raw

    def _number(self, count: int) -> int:
        return int.from_bytes(self._take(count), "big")

    def _skip(self, count: int) -> None:
        if self.position + count > self._size:
            raise truncated(self.path)
        self.position += count
        self._file.seek(self.position)

    def token(self, *, keep: bool = False) -> tuple[Kind, tuple[int, int, int]]:
        """Read one token: its kind; then (items, 0, 0), (number, 0, 0) or (begin, length, type).

        With `keep` the file is left at the beginning of a text's or array's bytes.
        """
        kind, first, second = self._head()
        if kind in ("map", "array"):
            # Each item takes a byte at least: a count beyond the file is no file's.
            if first > self._size - self.position:
                raise truncated(self.path)
            return kind, (first, 0, 0)
        if kind in ("text", "bytes", "extension"):
            begin = self.position
            if not keep:
                self._skip(first)
            return kind, (begin, first, second)
        return kind, (first, 0, 0)

    def _head(self) -> tuple[Kind, int, int]:
        """Read a token's first byte and length: its kind, its length or number, its extension."""
        tag = self._number(1)
        if tag <= 0x7F or tag >= 0xE0:
            return "number", tag if tag <= 0x7F else tag - 0x100, 0
        if tag <= 0x9F:
            return ("map" if tag <= 0x8F else "array"), tag & 0x0F, 0
        if tag <= 0xBF:
            return "text", tag & 0x1F, 0
        if tag in (0xC0, 0xC2, 0xC3):
            return "nothing", 0, 0
        if 0xC4 <= tag <= 0xC6:
            return "bytes", self._number(1 << tag - 0xC4), 0
        if 0xC7 <= tag <= 0xC9:
            length = self._number(1 << tag - 0xC7)
            return "extension", length, self._number(1)
        if tag in (0xCA, 0xCB):
            self._skip(4 if tag == 0xCA else 8)
            return "nothing", 0, 0
        if 0xCC <= tag <= 0xCF:
            return "number", self._number(1 << tag - 0xCC), 0
        if 0xD0 <= tag <= 0xD3:
            return "number", int.from_bytes(self._take(1 << tag - 0xD0), "big", signed=True), 0
        if 0xD4 <= tag <= 0xD8:
            return "extension", 1 << tag - 0xD4, self._number(1)
        if 0xD9 <= tag <= 0xDB:
            return "text", self._number(1 << tag - 0xD9), 0
        if 0xDC <= tag <= 0xDF:
            return ("array" if tag <= 0xDD else "map"), self._number(2 if tag % 2 == 0 else 4), 0
        raise bad(self.path, "E_FORMAT", "is no msgpack")

    def key(self) -> str:
        """Read the key of a map's item."""
        kind, (begin, length, _) = self.token(keep=True)
        if kind == "number":
            return str(begin)
        if kind not in ("text", "bytes"):
            raise bad(self.path, "E_HEADER", f"has a {kind} as the key of a map")
        if length > MAX_NAME:
            raise bad(self.path, "E_LIMIT", f"has a key of {length:,} bytes")
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise bad(self.path, "E_HEADER", "has a key that is no UTF-8") from None

    def array(self, begin: int, length: int, kind: int) -> Stored | None:
        """Read the header of the array that an extension holds, leaving its bytes; None if none."""
        if kind not in (ARRAY, SCALAR):
            return None
        after = begin + length
        self.position = begin
        self._file.seek(begin)
        try:
            return self._array(after)
        except ValueError:
            raise bad(self.path, "E_HEADER", "has an array whose header makes no sense") from None
        finally:
            self.position = after
            self._file.seek(after)

    def _array(self, after: int) -> Stored:
        if self.token() != ("array", (3, 0, 0)):
            raise ValueError("not shape, type and bytes")
        kind, (axes, _, _) = self.token()
        if kind != "array" or axes > MAX_AXES:
            raise ValueError("no shape")
        sizes = [self.token() for _ in range(axes)]
        dtype = self.key()
        shape = tuple(value[0] for _, value in sizes)
        kind, (begin, length, _) = self.token()
        itemsize = itemsize_of(dtype)
        count = elements(shape)
        if (
            any(size_kind != "number" for size_kind, _ in sizes)
            or kind != "bytes"
            or begin + length != after
            or (itemsize is not None and count * itemsize != length)
        ):
            raise ValueError("shape, type and bytes do not agree")
        return Stored(shape, dtype, ((begin, length),))


def itemsize_of(dtype: str) -> int | None:
    """Return the bytes an element takes; None for a type that is not known."""
    known = FLOAT_TYPES.get(dtype) or CODE_TYPES.get(dtype)
    if known is not None:
        return np.dtype(known).itemsize
    return 1 if re.fullmatch(r"float8_\w+", dtype) else None


def truncated(path: Path) -> CheckpointError:
    """Build the error for a file that ends inside something."""
    return CheckpointError("E_TRUNCATED", str(path), "ends too early", "download or copy it again")


def bad(path: Path, code: str, reason: str) -> CheckpointError:
    """Build the error for a file that cannot be believed."""
    return CheckpointError(code, str(path), reason, "download it again, or save it anew")
