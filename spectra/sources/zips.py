"""Zip archives of arrays: a checked list of members, and their bytes with nothing unpacked to disk."""

import contextlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from spectra.errors import CheckpointError
from spectra.sources.base import Array

MAX_RATIO = 100
"""What unpacks to more than this many times its size is a bomb, ..."""

SMALL = 64 * 2**20
"""... unless it stays below this: zeros, as of fresh biases, shrink a thousandfold."""

MAX_MEMBERS = 100_000
KERAS_MEMBER = "model.weights.h5"
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
LOCAL_HEADER = 30  # bytes before the name, which the extra field and the data follow


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside an archive; ``begin`` is where its bytes lie plainly, None if compressed."""

    archive: Path
    name: str
    nbytes: int
    begin: int | None
    info: zipfile.ZipInfo

    def read(self, begin: int, nbytes: int) -> Array:
        """Return some of its bytes, read or unpacked no further than they reach."""
        if self.begin is not None:
            raw = stretch(self.archive, self.begin + begin, nbytes)
        else:
            with _opened(self.archive) as archive, archive.open(self.info) as file:
                file.seek(begin)
                raw = np.frombuffer(bytearray(file.read(nbytes)), np.uint8)
        if raw.size != nbytes:
            raise CheckpointError(
                "E_TRUNCATED",
                str(self.archive),
                f"ends inside {self.name!r}: {raw.size:,} of {nbytes:,} bytes",
                "download or copy it again",
            )
        return raw

    def open(self) -> BinaryIO:
        """Return it as a file to seek in; only a compressed one is held in memory."""
        if self.begin is None:
            return io.BytesIO(self.read(0, self.nbytes).tobytes())
        return io.BufferedReader(Window(self.archive, self.begin, self.nbytes))


class Window(io.RawIOBase):
    """A stretch of a file as a file of its own."""

    def __init__(self, path: Path, begin: int, nbytes: int) -> None:
        self._file = path.open("rb")
        self._begin, self._nbytes, self._position = begin, nbytes, 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be moved in."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position of the stretch."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._nbytes}[whence]
        if base + offset < 0:
            raise ValueError("before the beginning")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position in the stretch."""
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read into a buffer, never beyond the stretch."""
        left = max(0, self._nbytes - self._position)
        self._file.seek(self._begin + self._position)
        count = self._file.readinto(memoryview(buffer)[:left])
        self._position += count
        return count

    def close(self) -> None:
        """Close the file beneath."""
        self._file.close()
        super().close()


def stretch(path: Path, offset: int, nbytes: int) -> Array:
    """Return some bytes of a file, fewer where it ends."""
    try:
        return np.fromfile(path, np.uint8, count=nbytes, offset=offset)
    except OSError as error:
        raise CheckpointError("E_UNREADABLE", str(path), str(error)) from error


def members(path: Path) -> tuple[Member, ...]:
    """List an archive's files in its order, refusing bombs, names given twice and odd methods.

    Raises
    ------
    CheckpointError
        If the archive is damaged, or anything in it cannot be trusted.
    """
    size = path.stat().st_size
    with _opened(path) as archive:
        infos = [info for info in archive.infolist() if not info.filename.endswith("/")]
    if len(infos) > MAX_MEMBERS:
        raise _bad(path, "E_LIMIT", f"has more than {MAX_MEMBERS:,} members")
    if sum(info.file_size for info in infos) > max(SMALL, MAX_RATIO * size):
        raise _bad(path, "E_LIMIT", f"unpacks to more than {MAX_RATIO} times its size")
    found: dict[str, Member] = {}
    with path.open("rb") as file:
        for info in infos:
            if info.filename in found:
                raise _bad(path, "E_DUPLICATE", f"holds {info.filename!r} twice")
            if info.flag_bits & 1 or info.compress_type not in METHODS:
                raise _bad(path, "E_ARCHIVE", f"has {info.filename!r} encrypted or oddly packed")
            begin = _data_begin(file, info)
            if begin is None or begin + info.compress_size > size:
                raise _bad(path, "E_ARCHIVE", f"has {info.filename!r} beyond its end")
            stored = info.compress_type == zipfile.ZIP_STORED
            if stored and info.compress_size != info.file_size:
                raise _bad(path, "E_ARCHIVE", f"gives two sizes for {info.filename!r}")
            place = begin if stored else None
            found[info.filename] = Member(path, info.filename, info.file_size, place, info)
    return tuple(found.values())


def _data_begin(file: BinaryIO, info: zipfile.ZipInfo) -> int | None:
    """Return where a member's data begins, which only its local header tells."""
    if info.header_offset < 0:
        return None
    file.seek(info.header_offset)
    header = file.read(LOCAL_HEADER)
    if len(header) < LOCAL_HEADER or not header.startswith(b"PK\x03\x04"):
        return None
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return info.header_offset + LOCAL_HEADER + lengths


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds, by what is damaged
        raise _bad(path, "E_ARCHIVE", f"is a damaged zip archive ({error})") from error


def _bad(path: Path, code: str, reason: str) -> CheckpointError:
    return CheckpointError(code, str(path), reason, "download it again, or save it anew")
