"""NumPy's own files: one array (.npy), or a zip archive of them (.npz). Nothing is ever unpickled.

A header is compared with the bytes that follow it before anything is allocated.
"""

import ast
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spectra.errors import CheckpointError
from spectra.records import Skipped, SourceInfo, Tensor
from spectra.sources import zips
from spectra.sources.base import CODE_TYPES, FLOAT_TYPES, Array, no_tensors, totals
from spectra.sources.shapes import elements, rows_between

MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000  # as numpy.load itself allows
ENDING = ".npy"
NO_NUMBERS = {"S": "text", "U": "text", "M": "dates", "m": "dates"}


@dataclass(frozen=True, slots=True)
class _Header:
    """What precedes an array's bytes; ``start`` is where these begin."""

    shape: tuple[int, ...]
    dtype: "np.dtype[np.generic]"
    fortran: bool
    start: int
    nbytes: int


class NumpyFile:
    """A file of ``numpy.save``, ``savez`` or ``savez_compressed``; the array of a .npy is ``tensor``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            alone = file.read(len(MAGIC)) == MAGIC
        self._members: dict[str, zips.Member] = {}
        self._headers: dict[str, _Header] = {}
        ignored, tensors = [], []
        if alone:
            self._headers["tensor"] = self._header("tensor", path.stat().st_size)
        else:
            for member in zips.members(path):
                name = member.name.removesuffix(ENDING)
                if name == member.name:
                    ignored.append(Skipped(name, (), "no array"))
                    continue
                self._members[name] = member
                self._headers[name] = self._header(name, member.nbytes)
        for name, header in self._headers.items():
            what = NO_NUMBERS.get(header.dtype.kind)
            if what:
                ignored.append(Skipped(name, header.shape, what))
                continue
            compound = header.dtype.names is not None or header.dtype.subdtype is not None
            kind = "structured" if compound else header.dtype.name
            tensors.append(Tensor(name, header.shape, kind, header.nbytes))
        if not tensors:
            raise no_tensors(path)
        self.tensors = tuple(tensors)
        self._dtypes = {tensor.name: tensor.dtype for tensor in tensors}
        self.ignored = tuple(ignored)
        self.info = SourceInfo(str(path), "npy" if alone else "npz", *totals(tensors))

    def read(self, name: str) -> Array:
        """Return one array; raises `CheckpointError` where its type is no plain number."""
        header = self._readable(name)
        raw = self._bytes(name, header.start, header.nbytes)
        flat = np.frombuffer(raw, header.dtype)
        turned = header.shape[::-1] if header.fortran else header.shape
        values: Array = flat.astype(flat.dtype.newbyteorder("="), copy=False).reshape(turned)
        return values.T if header.fortran else values

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows, from their bytes alone where rows lie together."""
        header = self._readable(name)
        if header.fortran:
            return self.read(name)[begin:end]
        offset, nbytes, shape = rows_between(header.shape, header.nbytes, begin, end)
        raw = self._bytes(name, header.start + offset, nbytes)
        flat = np.frombuffer(raw, header.dtype)
        values: Array = flat.astype(flat.dtype.newbyteorder("="), copy=False)
        return values.reshape(shape)

    def _readable(self, name: str) -> _Header:
        dtype = self._dtypes[name]
        if dtype not in FLOAT_TYPES and dtype not in CODE_TYPES:
            reason = f"has {name!r} of type {dtype}, which is not read"
            raise CheckpointError("E_FORMAT", str(self._path), reason, "save it as float32")
        return self._headers[name]

    def _bytes(self, name: str, begin: int, nbytes: int) -> Array:
        if name in self._members:
            return self._members[name].read(begin, nbytes)
        raw = zips.stretch(self._path, begin, nbytes)
        if raw.size != nbytes:
            reason = f"ends early: {raw.size:,} of {nbytes:,} bytes"
            raise _bad(self._path, "E_TRUNCATED", reason)
        return raw

    def _header(self, name: str, size: int) -> _Header:
        """Read a header, and hold it against the size of what it heads."""
        start, text = self._header_text(name, size)
        shape, dtype, fortran = _parse(self._path, name, text)
        try:
            nbytes = elements(shape) * dtype.itemsize
        except ValueError as error:
            reason = f"declares {name!r} as {shape}: {error}"
            raise _bad(self._path, "E_HEADER", reason) from None
        if nbytes != size - start:
            code = "E_TRUNCATED" if nbytes > size - start else "E_TRAILING"
            reason = f"declares {nbytes:,} bytes for {name!r} and holds {size - start:,}"
            raise _bad(self._path, code, reason)
        return _Header(shape, dtype, fortran, start, nbytes)

    def _header_text(self, name: str, size: int) -> tuple[int, str]:
        prefix = self._bytes(name, 0, min(size, 12)).tobytes()
        if len(prefix) < 12 or not prefix.startswith(MAGIC):
            raise _bad(self._path, "E_HEADER", f"has {name!r}, which is no NumPy array")
        major, minor = prefix[6:8]
        if major not in (1, 2, 3) or minor != 0:
            version = f"{major}.{minor}"
            raise _bad(self._path, "E_HEADER", f"has {name!r} in version {version} of the format")
        begin = 10 if major == 1 else 12
        length = int.from_bytes(prefix[8:begin], "little")
        if length > MAX_HEADER:
            raise _bad(self._path, "E_LIMIT", f"claims a header of {length:,} bytes for {name!r}")
        if begin + length > size:
            raise _bad(self._path, "E_TRUNCATED", f"ends inside the header of {name!r}")
        raw = self._bytes(name, begin, length).tobytes()
        try:
            return begin + length, raw.decode("utf-8" if major == 3 else "latin-1")
        except UnicodeDecodeError:
            raise _bad(self._path, "E_HEADER", f"has a header of {name!r} in no UTF-8") from None


def _parse(
    path: Path, name: str, text: str
) -> tuple[tuple[int, ...], "np.dtype[np.generic]", bool]:
    """Return shape, type and order from a header, a Python literal of exactly three entries."""
    try:
        with warnings.catch_warnings():
            # What Python or NumPy only warn of here was written by no numpy.save.
            warnings.simplefilter("error")
            entries = ast.literal_eval(text)
            if not isinstance(entries, dict) or entries.keys() != {
                "descr",
                "fortran_order",
                "shape",
            }:
                raise TypeError("not the three entries of a header")  # noqa: TRY301
            shape, fortran = entries["shape"], entries["fortran_order"]
            if type(shape) is not tuple or any(type(size) is not int for size in shape):
                raise TypeError("no shape")  # noqa: TRY301
            if type(fortran) is not bool:
                raise TypeError("no order")  # noqa: TRY301
            dtype = np.lib.format.descr_to_dtype(entries["descr"])
    except Exception as error:
        raise _bad(path, "E_HEADER", f"has a header of {name!r} that makes no sense") from error
    if dtype.hasobject:
        raise CheckpointError(
            "E_UNSAFE",
            str(path),
            f"holds {name!r} as Python objects, which are never unpickled",
            "save plain arrays of numbers",
        )
    return shape, dtype, fortran


def _bad(path: Path, code: str, reason: str) -> CheckpointError:
    return CheckpointError(code, str(path), reason, "download it again, or save it anew")
