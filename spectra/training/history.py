"""The file a monitor keeps: a line of JSON for each reading, without a gap or a repeat."""

import contextlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spectra import extras
from spectra.errors import CheckpointError
from spectra.training.readings import Reading, Subject
from spectra.writing import write_file

if TYPE_CHECKING:
    from io import FileIO

    import pyarrow as pa

logger = logging.getLogger(__name__)


class HistoryFile:
    """Readings of a run, oldest first; each is written to `path` as soon as it is there.

    Parameters
    ----------
    path : path, optional
        A file of JSON lines, made with its folder where they are missing; nothing is written when
        left out. What such a file holds already is gone on from: see `begin` and `resume`.

    Raises
    ------
    CheckpointError
        ``E_WRITE`` if it cannot be written, ``E_HISTORY`` if it holds anything else.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.readings: list[Reading] = []
        self.latest: dict[tuple[str, Subject], Reading] = {}
        self._file: FileIO | None = None
        self._size = 0
        self._unwritten = b""
        self._n_before: int | None = None  # readings found in the file, until the run begins
        if self.path is None:
            return
        _check_writable(self.path)  # told now, and not when the first reading comes
        self.hold(load(self.path))
        self._n_before = len(self.readings)

    def begin(self, step: int) -> None:
        """Keep what was read before `step`: the run is about to take it, for the first time or again.

        A file that holds more is set aside under a name of its own, since no state vouches for it.
        """
        n_before = len(self.readings) if self._n_before is None else self._n_before
        before, measured = self.readings[:n_before], self.readings[n_before:]
        again = {reading.step for reading in measured}
        kept = [one for one in before if one.step < step and one.step not in again]
        if self.path is not None and len(kept) < len(before):
            self.path.rename(_free_name(self.path))
        self._keep(kept + measured)

    def resume(self, count: int, step: int) -> None:
        """Keep the first `count` readings, those a saved state knows of; the rest will come again.

        Raises
        ------
        CheckpointError
            ``E_HISTORY`` if the file holds fewer, or others.
        """
        if self.path is not None and len(self.readings) < count:
            raise CheckpointError(
                "E_HISTORY",
                str(self.path),
                f"holds {len(self.readings)} readings, the saved state knows of {count}",
                "put the file of that run there, or name another for a new one",
            )
        kept = self.readings[:count]
        if any(reading.step > step for reading in kept):
            raise CheckpointError(
                "E_HISTORY",
                str(self.path),
                f"holds readings after step {step}, where the saved state ends",
                "put the file of that run there, or name another for a new one",
            )
        self._keep(kept)

    def _keep(self, readings: list[Reading]) -> None:
        self._n_before, self._unwritten = None, b""
        self.close()
        self.hold(readings)
        if self.path is None:
            return
        text = _lines(readings)
        write_file(self.path, text)
        self._file = self.path.open("r+b", buffering=0)
        self._size = len(text)

    def hold(self, readings: list[Reading]) -> None:
        """Take `readings` for those of the run; nothing is written."""
        self.readings = readings
        self.latest = {(reading.layer, reading.of): reading for reading in readings}

    def extend(self, readings: Iterable[Reading]) -> None:
        """Add readings, and hand them to the system at once."""
        added = list(readings)
        self.readings += added
        self.latest |= {(reading.layer, reading.of): reading for reading in added}
        if self._file is None or not added:
            return
        self._unwritten += _lines(added)
        try:
            # From where the last whole line ended: a disk that was full left part of one.
            self._file.seek(self._size)
            self._file.write(self._unwritten)
        except OSError as error:
            logger.warning("%s cannot be written, will be tried again: %s", self.path, error)
        else:
            self._size, self._unwritten = self._size + len(self._unwritten), b""

    def close(self) -> None:
        """Close the file; readings stay. Those of a run that never began, but was measured, are written."""
        if self._n_before is not None and len(self.readings) > self._n_before:
            self.begin(self.readings[-1].step + 1)
        if self._file is not None:
            self._file.close()
            self._file = None


def load(path: str | Path) -> list[Reading]:
    """Read a file of readings; the last line may be torn, as a kill leaves it.

    Raises
    ------
    CheckpointError
        ``E_HISTORY`` if another line is none, ``E_READ`` if the file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError("E_READ", str(path), f"cannot be read ({reason})") from error
    *lines, torn = text.split("\n")
    readings = []
    for number, line in enumerate(lines, 1):
        try:
            readings.append(Reading.from_json(line))
        except CheckpointError as error:
            raise CheckpointError("E_HISTORY", f"{path}, line {number}", error.reason) from error
    with contextlib.suppress(CheckpointError):
        readings += [Reading.from_json(torn)] if torn else []
    return readings


def to_arrow(readings: Sequence[Reading]) -> "pa.Table":
    """Return readings as an Arrow table, one row each; ``pyarrow.parquet`` writes it.

    Raises
    ------
    CheckpointError
        ``E_MISSING_PACKAGE`` without pyarrow.
    """
    arrow = extras.require("pyarrow", "frames", "make tables")
    rows = [reading.to_row() for reading in readings]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return arrow.table({name: [row.get(name) for row in rows] for name in columns})


def _check_writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError(
            "E_WRITE", str(path), f"cannot be written ({reason})", "choose another place"
        ) from error


def _lines(readings: Iterable[Reading]) -> bytes:
    return "".join(f"{reading.to_json()}\n" for reading in readings).encode()


def _free_name(path: Path) -> Path:
    number = 1
    while (found := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return found
