"""Zip archives of torch as records of plain bytes, read without torch and without running pickles.

For what ``torch.load`` refuses or would run: programs, and the pieces of distributed checkpoints.
"""

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spectra.errors import CheckpointError
from spectra.sources.base import Array
from spectra.sources.pytorch.inert_pickles import MAX_PICKLE, read_pickle
from spectra.sources.pytorch.torch_files import MAX_ENTRIES, MAX_RATIO
from spectra.sources.zips import Window

MAX_DEFLATED = 64 * 2**20  # torch stores plainly; what was packed anew is unpacked whole, in memory

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    OverflowError,
    struct.error,
    zlib.error,
)


class TorchArchive:
    """The records of a zip archive, which may be a stretch of a larger file.

    Records go by their names without the folder that torch puts around all of them.
    """

    def __init__(self, path: Path, begin: int = 0, length: int | None = None) -> None:
        self._path, self._begin = path, begin
        self._length = path.stat().st_size - begin if length is None else length
        self.place = (str(path), begin)
        try:
            with self._open() as archive:
                records = archive.infolist()
        except _ZIP_ERRORS as error:
            raise self._no_archive(str(error)) from None
        if min((record.header_offset for record in records), default=0) != 0:
            # Cut before its directory, a file may end with one of an archive that was inside it.
            raise self._no_archive("its directory is not its own")
        if len(records) > MAX_ENTRIES:
            raise self.bad(f"has {len(records):,} records", "E_LIMIT")
        if sum(r.file_size for r in records) > max(MAX_DEFLATED, MAX_RATIO * self._length):
            raise self.bad(f"unpacks to more than {MAX_RATIO} times its size", "E_LIMIT")
        folders = {record.filename.partition("/")[0] for record in records}
        root = f"{folders.pop()}/" if len(folders) == 1 else ""
        self._records = {record.filename.removeprefix(root): record for record in records}
        if len(self._records) < len(records):
            raise self.bad("has two records of one name")
        self._starts: dict[str, int] = {}
        order = self.text("byteorder") if "byteorder" in self._records else "little"
        if order != "little":
            raise self.bad(f"holds numbers in {order}-endian order", "E_FORMAT")

    @property
    def names(self) -> tuple[str, ...]:
        """The records, in their order in the archive."""
        return tuple(self._records)

    def bad(self, reason: str, code: str = "E_ARCHIVE") -> CheckpointError:
        """Build the error for a damaged archive."""
        return CheckpointError(code, str(self._path), reason, "copy it again, or save it anew")

    def size(self, record: str) -> int:
        """Return how many bytes a record holds, unpacked."""
        found = self._records.get(record)
        if found is None:
            raise self.bad(f"lacks its record {record!r}")
        return found.file_size

    def read(self, record: str, begin: int = 0, count: int | None = None) -> bytes | Array:
        """Return some bytes of a record."""
        size = self.size(record)
        count = size - begin if count is None else count
        if begin < 0 or count < 0 or begin + count > size:
            raise self.bad(f"has a short record {record!r}")
        if self._records[record].compress_type != zipfile.ZIP_STORED:
            return self._inflate(record)[begin : begin + count]
        raw = np.fromfile(self._path, np.uint8, count, offset=self._start(record) + begin)
        if raw.size < count:
            raise self.bad(f"ends inside its record {record!r}", "E_TRUNCATED")
        return raw

    def text(self, record: str) -> str:
        """Return a record that is a text; it and pickles are small beside the weights."""
        try:
            return self._whole(record).decode()
        except UnicodeDecodeError:
            raise self.bad(f"has a record {record!r} that is no text") from None

    def unpickle(self, record: str, known: frozenset[str], prefix: str | None = None) -> object:
        """Return what a record's pickle describes, nothing of it run."""
        advice = "save model.state_dict() instead, or use safetensors"
        return read_pickle(self._whole(record), self._path, known, prefix=prefix, advice=advice)

    def is_encrypted(self, record: str) -> bool:
        """Tell whether a record cannot be read without a password."""
        return bool(self._records[record].flag_bits & 1)

    def nested(self, record: str) -> "TorchArchive":
        """Open a record that is an archive itself."""
        size = self.size(record)
        if self._records[record].compress_type != zipfile.ZIP_STORED:
            raise self.bad(f"has a compressed archive {record!r} inside")
        return TorchArchive(self._path, self._start(record), size)

    def _no_archive(self, why: str) -> CheckpointError:
        with Window(self._path, self._begin, self._length) as window:
            if window.read(4) == b"PK\3\4":
                return self.bad("is half a zip archive", "E_TRUNCATED")
        return self.bad(f"is no zip archive, or a damaged one ({why})")

    @contextlib.contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        with (
            Window(self._path, self._begin, self._length) as window,
            zipfile.ZipFile(window) as archive,
        ):
            yield archive

    def _whole(self, record: str) -> bytes:
        if self.size(record) > MAX_PICKLE:
            raise self.bad(f"has a record {record!r} of {self.size(record):,} bytes", "E_LIMIT")
        return bytes(self.read(record))

    def _inflate(self, record: str) -> bytes:
        if self.size(record) > MAX_DEFLATED:
            raise self.bad(
                f"has a compressed record {record!r} above {MAX_DEFLATED:,} bytes", "E_LIMIT"
            )
        try:
            with self._open() as archive:
                raw = archive.read(self._records[record])
        except _ZIP_ERRORS as error:
            raise self.bad(f"has a damaged record {record!r} ({error})") from None
        if len(raw) != self.size(record):
            raise self.bad(f"has a short record {record!r}")
        return raw

    def _start(self, record: str) -> int:
        """Return where in the file a plain record's data begins, which its local header knows."""
        if record not in self._starts:
            info = self._records[record]
            with self._path.open("rb") as file:
                file.seek(self._begin + max(info.header_offset, 0))
                head = file.read(30)
            names = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
            begin = info.header_offset + 30 + names
            plain = info.compress_size == info.file_size and not info.flag_bits & 1
            if not head.startswith(b"PK\3\4") or info.header_offset < 0 or not plain:
                raise self.bad(f"has a record {record!r} that is short or encrypted")
            if begin + info.file_size > self._length:
                raise self.bad(f"ends inside its record {record!r}", "E_TRUNCATED")
            self._starts[record] = self._begin + begin
        return self._starts[record]
