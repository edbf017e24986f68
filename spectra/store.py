"""A store of spectra on this machine, by what they are the spectra of.

One file an entry, whole or absent, under a name that is its key; several processes may share a store
without locks, since what two of them write under one key is the same. Nothing read here is trusted: what
fails its checksum is as good as absent. See docs/decisions/0019-result-store.md.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np

from spectra.errors import printable
from spectra.records import Spectrum
from spectra.writing import TEMPORARY, replace_file

MAGIC = b"spectra\0"
FORMAT = 1
"""Of a file: magic, format, SHA-256 of the key and all that follows, length of the header, header (JSON),
eigenvalues (float64, little-endian)."""
CHECKSUM, LENGTH, HEADER = 12, 44, 48  # where they begin
MAX_HEADER = 4096
MAX_BYTES = 2**30
ENDING = ".spectrum"
ABANDONED = 3600.0
"""Seconds after which a temporary file is taken for that of a process that was killed."""

KEY = re.compile(r"[0-9a-f]{64}")
SHARD = re.compile(r"[0-9a-f]{2}")
NAME = re.compile(rf"[0-9a-f]{{62}}{re.escape(ENDING)}")
LEFTOVER = re.compile(re.escape(TEMPORARY).replace(r"\{\}", "[0-9a-f]+"))

logger = logging.getLogger(__name__)


def key_of(**what: str | int | float | None) -> str:
    """Return the key of a spectrum: a digest of everything that decides its numbers.

    Examples
    --------
    >>> key_of(content="ab", precision="double") == key_of(precision="double", content="ab")
    True
    >>> key_of(rows=2) == key_of(rows=2.0)
    False
    """
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """What the header of an entry says; ``time`` is when it was written, in seconds of the epoch."""

    key: str
    nbytes: int
    time: float
    N: int
    M: int
    n_matrices: int
    solver: str


@dataclass(frozen=True, slots=True)
class Verification:
    """How many entries were checked, and which are damaged: their files, with what is wrong."""

    n_checked: int
    damaged: tuple[tuple[Path, str], ...]


@dataclass(frozen=True, slots=True)
class Clearance:
    """How many entries were removed, their bytes, and how many could not be."""

    n_removed: int
    nbytes: int
    n_left: int


class Store:
    """Spectra by key, in a folder.

    Parameters
    ----------
    path : path, optional
        The folder, made when it is first written to; ``$SPECTRA_CACHE`` when left out, else
        ``$XDG_CACHE_HOME/spectra``, else ``~/.cache/spectra``.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> store, key = Store(folder.name), key_of(content="some weights")
    >>> store.put(key, Spectrum(np.array([1.0, 4.0]), 3, 2, 1, 5.0, 0.0, "gram"))
    >>> store.get(key).eigenvalues.tolist(), store.get(key_of(content="others"))
    ([1.0, 4.0], None)
    >>> folder.cleanup()
    """

    key = staticmethod(key_of)

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = default_path() if path is None else Path(path)
        self._is_written = True
        self._failing = threading.Lock()

    def get(self, key: str) -> Spectrum | None:
        """Return a spectrum as it was put, or None; what cannot be read or trusted is not there."""
        path = self._file(key)
        if path is None:
            return None
        try:
            return _decode(key, _content(path))
        except (OSError, ValueError):
            return None

    def put(self, key: str, spectrum: Spectrum) -> None:
        """Keep a spectrum as it was computed, before any convention, in place of what is there.

        Where that fails (no space, no permission, no home) one warning is logged, and no more is written.
        """
        path = self._file(key)
        if not self._is_written:
            return
        if path is None:
            self._stop_writing("there is no home directory; set SPECTRA_CACHE to a folder")
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, _encode(key, spectrum))
        except OSError as error:
            self._stop_writing(f"{self.path}: {(error.strerror or str(error)).lower()}")

    def entries(self) -> Iterator[Entry]:
        """List what is kept, by headers alone, in the order of the keys; what has none is left out."""
        for path in self._files():
            try:
                status = path.stat()
                with path.open("rb") as file:
                    header = _header(file.read(HEADER + MAX_HEADER))
                yield Entry(
                    key=_key(path),
                    nbytes=status.st_size,
                    time=status.st_mtime,
                    N=header["N"],
                    M=header["M"],
                    n_matrices=header["n_matrices"],
                    solver=header["solver"],
                )
            except (OSError, ValueError):
                continue

    def verify(self, *, remove: bool = False) -> Verification:
        """Read every entry and check it, all of it; those of newer versions are left alone.

        Parameters
        ----------
        remove : bool, default: False
            Remove what is damaged.
        """
        n_checked, damaged = 0, []
        for path in self._files():
            try:
                _decode(_key(path), _content(path))
            except _NewerError:
                continue
            except FileNotFoundError:
                continue  # removed meanwhile
            except OSError as error:
                damaged.append((path, f"cannot be read ({(error.strerror or str(error)).lower()})"))
            except ValueError as error:
                damaged.append((path, str(error)))
            n_checked += 1
        if remove:
            for path, _ in damaged:
                with contextlib.suppress(OSError):
                    path.unlink()
        return Verification(n_checked, tuple(damaged))

    def clear(self, older_than: float | None = None) -> Clearance:
        """Remove entries, and what killed processes left; nothing else that may lie in the folder.

        Parameters
        ----------
        older_than : float, optional
            Only entries written more than so many seconds ago.
        """
        now = time.time()
        n_removed = nbytes = n_left = 0
        for path in self._files():
            try:
                status = path.stat()
                if older_than is not None and now - status.st_mtime <= older_than:
                    continue
                path.unlink()
            except FileNotFoundError:
                continue
            except OSError:
                n_left += 1
                continue
            n_removed += 1
            nbytes += status.st_size
        for path in self._files(LEFTOVER):
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > ABANDONED:
                    path.unlink()
        return Clearance(n_removed, nbytes, n_left)

    def _file(self, key: str) -> Path | None:
        if not KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key; make one with key_of")
        return None if self.path is None else self.path / key[:2] / f"{key[2:]}{ENDING}"

    def _files(self, name: re.Pattern[str] = NAME) -> Iterator[Path]:
        """Yield the files of the store; links are followed to the folder itself, not from within it."""
        for shard in _listed(self.path):
            if SHARD.fullmatch(shard.name) and shard.is_dir(follow_symlinks=False):
                for file in _listed(shard):
                    if name.fullmatch(file.name) and file.is_file(follow_symlinks=False):
                        yield Path(file)

    def _stop_writing(self, reason: str) -> None:
        with self._failing:
            if self._is_written:
                self._is_written = False
                logger.warning("going on without keeping spectra: %s", printable(reason))


def default_path() -> Path | None:
    """Return where spectra are kept unless one says otherwise; None where there is no home."""
    own, caches = os.environ.get("SPECTRA_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    if own:
        return Path(own)
    if Path(caches).is_absolute():  # a relative one is to be ignored, says its specification
        return Path(caches) / "spectra"
    try:
        return Path.home() / ".cache" / "spectra"
    except RuntimeError:
        return None


class _NewerError(ValueError):
    """A file in a format that this version does not know."""


def _encode(key: str, spectrum: Spectrum) -> bytes:
    header = {
        "N": spectrum.N,
        "M": spectrum.M,
        "n_matrices": spectrum.n_matrices,
        "squared_norm": spectrum.squared_norm,
        "residual": spectrum.residual,
        "solver": spectrum.solver,
        "error": spectrum.error,
    }
    text = json.dumps(header, allow_nan=False).encode()  # digits enough for every bit
    body = len(text).to_bytes(4, "little") + text + spectrum.eigenvalues.astype("<f8").tobytes()
    return MAGIC + FORMAT.to_bytes(4, "little") + _checksum(key, body) + body


def _checksum(key: str, body: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(body)
    return digest.digest()


def _content(path: Path) -> bytes:
    """Read a file that is one, and no larger than an entry can be."""
    status = path.stat()
    if not S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
        raise ValueError("is no entry")
    return path.read_bytes()


def _header(content: bytes) -> dict[str, Any]:
    """Return the header of an entry, which nothing vouches for yet."""
    if content[: len(MAGIC)] != MAGIC or len(content) < HEADER:
        raise ValueError("is no entry")
    form = int.from_bytes(content[len(MAGIC) : CHECKSUM], "little")
    if form != FORMAT:
        raise _NewerError("is of a newer version") if form > FORMAT else ValueError("is no entry")
    length = int.from_bytes(content[LENGTH:HEADER], "little")
    try:
        header = json.loads(content[HEADER : HEADER + min(length, MAX_HEADER)])
        good = all(type(header[name]) is int for name in ("N", "M", "n_matrices"))
        good = good and isinstance(header["solver"], str)
    except (ValueError, RecursionError, KeyError, TypeError):
        good = False
    if not good:
        raise ValueError("has a damaged header")
    return dict(header)


def _decode(key: str, content: bytes) -> Spectrum:
    """Return the spectrum of an entry; `ValueError` says what is wrong with it."""
    header = _header(content)
    if content[CHECKSUM:LENGTH] != _checksum(key, memoryview(content)[LENGTH:]):
        raise ValueError("fails its checksum")
    length = int.from_bytes(content[LENGTH:HEADER], "little")
    values = np.frombuffer(content, "<f8", offset=HEADER + length).astype(np.float64)
    if values.size != header["n_matrices"] * header["M"] or not _is_spectrum(values):
        raise ValueError("holds no spectrum")
    try:
        return Spectrum(eigenvalues=values, stored=True, **header)
    except TypeError:
        raise ValueError("holds another spectrum") from None


def _is_spectrum(values: np.ndarray) -> bool:
    """Tell whether values are what eigenvalues are: there, finite, not negative, ascending."""
    ascend = values.size > 0 and values[0] >= 0 and (np.diff(values) >= 0).all()
    return bool(ascend and np.isfinite(values[-1]))


def _key(path: Path) -> str:
    return path.parent.name + path.name.removesuffix(ENDING)


def _listed(folder: "os.PathLike[str] | None") -> list[os.DirEntry[str]]:
    """Return what is in a folder in the order of names, nothing where it cannot be looked into."""
    if folder is None:
        return []
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError:
        return []
