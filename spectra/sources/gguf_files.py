"""GGUF (llama.cpp): one file, or all parts of a split model, dequantised on reading.

The ``gguf`` package turns codes into numbers; what of a header is believed is in ``gguf_headers``.
"""

import math
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from spectra.errors import CheckpointError
from spectra.extras import require
from spectra.records import Skipped, SourceInfo
from spectra.sources.base import Array, decode, no_tensors, totals
from spectra.sources.folders import contained
from spectra.sources.gguf_headers import (
    ARCHITECTURE,
    PART_COUNT,
    PART_NUMBER,
    PART_TENSORS,
    Header,
    Place,
    read_header,
    refuse,
    unreadable,
)

CHUNK = 2**18  # numbers dequantised at a time: what stays in the cache is done fastest

SPLIT = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


class GgufFile:
    """A GGUF file, or all parts of a split model when given any of them.

    Tensors keep the order of the file, their names, and the usual order of axes (GGUF counts them
    backwards). Quantised ones are listed as the float32 that reading gives, ``nbytes`` included;
    ``info.nbytes`` is what they take in the file.
    """

    def __init__(self, path: Path) -> None:
        require("gguf", "gguf")
        parts = _read_parts(path)
        places = [place for header in parts.values() for place in header.places]
        if not places:
            raise no_tensors(path)
        self._places: dict[str, Place] = {}
        for place in places:
            other = self._places.setdefault(place.tensor.name, place)
            if other is not place:
                raise CheckpointError(
                    "E_DUPLICATE",
                    str(path),
                    f"{place.tensor.name!r} is in {other.path.name} and again in {place.path.name}",
                    "split the model anew",
                )
        self.tensors = tuple(place.tensor for place in places)
        self.ignored: tuple[Skipped, ...] = ()
        self.info = SourceInfo(
            str(path),
            "gguf, sharded" if len(parts) > 1 else "gguf",
            totals(self.tensors)[0],
            sum(place.nbytes for place in places),
            _notes(list(parts.values())),
        )

    def read(self, name: str) -> Array:
        """Return one tensor; a quantised one as float32."""
        return self.read_rows(name, 0, self._places[name].tensor.shape[0])

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows of one tensor, from the blocks that hold them."""
        place = self._places[name]
        tensor, coding = place.tensor, place.coding
        if not coding.is_readable:
            raise CheckpointError(
                "E_FORMAT",
                str(place.path),
                f"holds {name!r} in {coding.name}, which the gguf package cannot dequantise",
                "quantise it to another type",
            )
        row = math.prod(tensor.shape[1:])
        shape = (end - begin, *tensor.shape[1:])
        # Rows are made of whole blocks; only a stretch of a vector can begin or end inside one.
        first, last = begin * row // coding.block, -(-end * row // coding.block)
        try:
            with place.path.open("rb") as file:
                if not coding.is_quantised:
                    return decode(_fetch(file, place, first, last), tensor.dtype, shape)
                numbers = _dequantise(file, place, first, last)
        except OSError as error:
            raise unreadable(place.path, error) from error
        before = begin * row - first * coding.block
        return numbers[before : before + math.prod(shape)].reshape(shape)


def _notes(headers: list[Header]) -> tuple[str, ...]:
    notes = [f"{len(headers)} parts"] if len(headers) > 1 else []
    # Only the first part of a split model has more to say than its number.
    architecture = headers[0].values.get(ARCHITECTURE)
    if isinstance(architecture, str):
        notes.append(f"architecture {architecture[:64]}")
    return tuple(notes)


def _fetch(file: BinaryIO, place: Place, first: int, last: int) -> Array:
    """Return the bytes of a tensor's blocks, from `first` until before `last`."""
    size = (last - first) * place.coding.nbytes
    file.seek(place.offset + first * place.coding.nbytes)
    raw = np.fromfile(file, np.uint8, count=size)
    if raw.size != size:
        raise CheckpointError(
            "E_TRUNCATED",
            str(place.path),
            f"ends inside {place.tensor.name!r}: {raw.size} of {size} bytes",
            "was it replaced during the run?",
        )
    return raw


def _dequantise(file: BinaryIO, place: Place, first: int, last: int) -> Array:
    """Return the numbers of some blocks of a tensor, computed a few blocks at a time."""
    quants, block = require("gguf", "gguf").quants, place.coding.block
    numbers = np.empty((last - first) * block, np.float32)
    with np.errstate(all="ignore"):  # scales may be infinite; whoever reads looks at the numbers
        for begin in range(first, last, CHUNK // block):
            end = min(begin + CHUNK // block, last)
            raw = _fetch(file, place, begin, end)
            # One long row: the package cuts many short ones into groups of sixteen.
            part = quants.dequantize(raw[np.newaxis], place.coding.key)[0]
            numbers[(begin - first) * block : (end - first) * block] = part
    return numbers


def _read_parts(path: Path) -> dict[Path, Header]:
    """Return the headers of a file and of the parts that go with it, in their order."""
    given = read_header(path)
    match = SPLIT.fullmatch(path.name)
    count = int(match["count"]) if match else 1
    if not match or not 1 <= int(match["number"]) <= count:
        declared = given.values.get(PART_COUNT, 1)
        if isinstance(declared, int) and declared > 1:
            raise CheckpointError(
                "E_MISSING_SHARD",
                str(path),
                f"is one of {declared} parts, and its name does not say how the others are called",
                f"let it end in -00001-of-{declared:05d}.gguf, or in its own number",
            )
        return {path: given}
    names = [f"{match['stem']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    present = _files_beside(path)
    missing = [name for name in names if name not in present]
    if missing:
        raise CheckpointError(
            "E_MISSING_SHARD",
            str(path),
            f"lacks {len(missing)} of {count} parts beside it: {', '.join(missing[:4])}",
            "finish the download",
        )
    headers = {
        path.parent / name: given if name == path.name else _read_part(path, name) for name in names
    }
    total = sum(len(header.places) for header in headers.values())
    for position, (part, header) in enumerate(headers.items()):
        expected = {PART_NUMBER: position, PART_COUNT: count, PART_TENSORS: total}
        for key, value in expected.items():
            if header.values.get(key, value) != value:
                refuse(part, f"key {key!r}", f"is {header.values[key]!r}, expected {value}")
    return headers


def _files_beside(path: Path) -> set[str]:
    # One look at the folder, since a name may promise ninety-nine thousand parts.
    try:
        return {entry.name for entry in path.parent.iterdir() if entry.is_file()}
    except OSError as error:
        raise unreadable(path.parent, error) from error


def _read_part(path: Path, name: str) -> Header:
    """Read the header of the file called `name` beside `path`, unless a link leads elsewhere."""
    # A hub cache links the files of a snapshot, in its sub-folders too, to the repository's blobs.
    folder = path.absolute().parent
    roots = (root for root in (folder, *folder.parents) if root.parent.name == "snapshots")
    root = next(roots, folder)
    contained(root, str((folder / name).relative_to(root)))
    return read_header(path.parent / name)
