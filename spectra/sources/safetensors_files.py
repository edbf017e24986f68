"""safetensors: header first, then the bytes of one tensor at a time.

The safetensors library checks the header (sizes, offsets, overlap, cover); the bytes are then read at
the offsets it states, which needs neither torch nor a type NumPy knows. The file may be on disk or far
away: it is a `Blob`. See docs/decisions/0005-reading-checkpoints.md.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError, safe_open

from spectra.errors import CheckpointError
from spectra.records import Skipped, SourceInfo, Tensor
from spectra.sources.base import Array, decode, natural_key, totals
from spectra.sources.blobs import Blob, LocalBlob, RemoteBlob

MAX_HEADER = 100_000_000  # the format's own limit
MAX_FAR_HEADER = 25_000_000  # of a file far away: the hub's own limit

SPECTRA = "spectra-diagnostics"
"""The key of the metadata that makes a file one of spectra; that of a model without any has no tensors."""

DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E8M0": "float8_e8m0fnu",
        "F4": "float4_e2m1fn_x2",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U64": "uint64",
        "U32": "uint32",
        "U16": "uint16",
        "U8": "uint8",
        "BOOL": "bool",
        "C64": "complex64",
    }
)
CODES: Mapping[str, str] = MappingProxyType({name: code for code, name in DTYPES.items()})
METADATA = "__metadata__"
ALIGNMENT = 8  # of the data; the library pads the header with blanks to it


class SafetensorsFile:
    """One safetensors file; `read` touches only the bytes of the tensor asked for."""

    def __init__(self, where: Blob | Path) -> None:
        self._blob: Blob = LocalBlob(where) if isinstance(where, Path) else where
        header, data_start = _read_header(self._blob)
        self.metadata: Mapping[str, str] = header.get(METADATA, {})
        self._spans: dict[str, tuple[int, int]] = {}
        tensors = []
        for name in sorted(header.keys() - {METADATA}, key=natural_key):
            entry = header[name]
            begin, end = entry["data_offsets"]
            self._spans[name] = (data_start + begin, end - begin)
            dtype = DTYPES.get(entry["dtype"], entry["dtype"].lower())
            tensors.append(Tensor(name, tuple(entry["shape"]), dtype, end - begin))
        if not tensors and not self.holds_spectra:
            raise CheckpointError(
                "E_NO_TENSORS",
                self._blob.address,
                "holds no tensors",
                "give the file that holds the weights",
            )
        self.tensors = tuple(tensors)
        self._by_name = {tensor.name: tensor for tensor in tensors}
        self.ignored: tuple[Skipped, ...] = ()
        self.info = SourceInfo(self._blob.address, "safetensors", *totals(tensors))

    @property
    def as_stored(self) -> tuple[Tensor, ...]:
        """The tensors in the order of their bytes."""
        return tuple(sorted(self.tensors, key=lambda tensor: self._spans[tensor.name]))

    @property
    def holds_spectra(self) -> bool:
        """Whether it is a file of spectra, and not of weights, by its own word."""
        return SPECTRA in self.metadata

    def expect(self, names: Iterable[str]) -> None:
        """Say which tensors will be read, so that what lies together far away is fetched together."""
        if isinstance(self._blob, RemoteBlob):
            spans = (self._spans[name] for name in names if name in self._spans)
            self._blob.expect((begin, begin + size) for begin, size in spans)

    def read(self, name: str) -> Array:
        """Return one tensor; raises `CheckpointError` when the file has changed underneath."""
        tensor = self._by_name[name]
        offset, nbytes = self._spans[name]
        return decode(self._bytes(name, offset, nbytes), tensor.dtype, tensor.shape)

    def stored(self, name: str) -> Array:
        """Return the bytes of one tensor as they are."""
        return self._bytes(name, *self._spans[name])

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows of one tensor, from their bytes alone."""
        tensor = self._by_name[name]
        offset, nbytes = self._spans[name]
        row = nbytes // tensor.shape[0]
        raw = self._bytes(name, offset + begin * row, (end - begin) * row)
        return decode(raw, tensor.dtype, (end - begin, *tensor.shape[1:]))

    def _bytes(self, name: str, offset: int, nbytes: int) -> Array:
        try:
            return self._blob.read(offset, nbytes)
        except CheckpointError as error:
            reason = f"{error.reason} (tensor {name!r})"
            raise CheckpointError(error.code, error.subject, reason, error.advice) from error


def header_of(tensors: Iterable[Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return what a safetensors file begins with: all before the bytes of its tensors, in this order.

    Raises
    ------
    CheckpointError
        ``E_NAME`` if a tensor has the name that the format keeps for the metadata.
    """
    header: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for tensor in tensors:
        if tensor.name == METADATA:
            reason = "is what the format calls its metadata"
            raise CheckpointError("E_NAME", METADATA, reason, "rename the tensor")
        begin, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": CODES.get(tensor.dtype, tensor.dtype.upper()),
            "shape": tensor.shape,
            "data_offsets": (begin, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _read_header(blob: Blob) -> tuple[dict[str, Any], int]:
    """Return the checked header and the position at which the data begins."""
    size = blob.size
    prefix = blob.read(0, min(8, size)).tobytes()
    length = int.from_bytes(prefix, "little")
    most = MAX_HEADER if isinstance(blob, LocalBlob) else MAX_FAR_HEADER
    if len(prefix) == 8 and length > most:
        raise _bad(blob, "E_HEADER_SIZE", f"claims a header of {length:,} bytes")
    if len(prefix) < 8 or 8 + length > size:
        raise _truncated(blob, size, 8 + length)
    raw = blob.read(8, length).tobytes()
    with _checkable(blob, prefix, raw) as path:
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise _explain(blob, str(error), raw) from None
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
    except _DuplicateKeyError as error:
        raise _bad(blob, "E_DUPLICATE", f"names {error.args[0]!r} twice in its header") from None
    return header, 8 + length


@contextlib.contextmanager
def _checkable(blob: Blob, *start: bytes) -> Iterator[Path]:
    """Give the library a file to check: the blob itself, or its header and a hole as long as the rest.

    The hole takes no room on the disk, nor the library any time: it looks at the header and the size.
    """
    if isinstance(blob, LocalBlob):
        yield blob.path
        return
    with tempfile.TemporaryDirectory(prefix="spectra-") as folder:
        path = Path(folder) / "header.safetensors"
        try:
            with path.open("wb") as file:
                file.writelines(start)
                file.truncate(blob.size)
        except OSError as error:
            reason = f"cannot be checked at {blob.size:,} bytes ({error.strerror})"
            raise CheckpointError("E_LIMIT", blob.address, reason, "download it") from error
        yield path


def _explain(blob: Blob, error: str, raw: bytes) -> CheckpointError:
    """Turn the library's refusal into our words; only then is a bad header looked into."""
    if "not fully covered" in error:
        surplus = blob.size - 8 - len(raw) - _data_end(json.loads(raw))
        if surplus < 0:
            return _truncated(blob, blob.size, blob.size - surplus)
        return _bad(blob, "E_TRAILING", f"has {surplus} bytes after its last tensor")
    reason = error.removeprefix("Error while deserializing header: ")
    return _bad(blob, "E_HEADER", f"is no valid safetensors file ({reason})")


class _DuplicateKeyError(ValueError):
    """A key given twice in one JSON object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(key)
            seen.add(key)
    return table


def _data_end(header: dict[str, Any]) -> int:
    """Where the last tensor ends, by the word of a header whose entries the library has parsed."""
    entries = (entry for name, entry in header.items() if name != METADATA)
    return max((int(entry["data_offsets"][1]) for entry in entries), default=0)


def _truncated(blob: Blob, have: int, need: int) -> CheckpointError:
    reason = f"is cut short: {have:,} of {need:,} bytes"
    return CheckpointError("E_TRUNCATED", blob.address, reason, "download or copy it again")


def _bad(blob: Blob, code: str, reason: str) -> CheckpointError:
    return CheckpointError(code, blob.address, reason, "download it again, or save it anew")
