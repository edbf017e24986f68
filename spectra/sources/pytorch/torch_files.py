"""Files of ``torch.save`` (.pt .pth .th .bin .ckpt), always with ``weights_only=True``.

Large zip archives are listed without their data and read tensor by tensor, after a check that each
record is stored plainly and in full: torch's own memory-mapped path takes a short or compressed
record for numbers without a word (torch 2.13). Small and legacy ones are loaded whole.
"""

import argparse
import contextlib
import logging
import pathlib
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spectra.errors import CheckpointError
from spectra.records import Skipped, SourceInfo, Tensor
from spectra.sources import shards
from spectra.sources.base import Array, no_tensors, totals

if TYPE_CHECKING:
    import torch

LAZY_FROM = 64 * 2**20
"""Archives at least this large are read tensor by tensor; listing them costs about a second."""

MAX_RATIO = 100  # torch stores plainly; what unpacks to far more is a bomb
MAX_ENTRIES = 1_000_000
MAX_DEPTH = 50

ROOTS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "ema",
    "model_ema",
    "net",
    "network",
    "params",
    "weights",
)
OPTIMIZER_KEY = re.compile(r"optim|scheduler|scaler|^lr_", re.IGNORECASE)


class TorchFile:
    """One file of ``torch.save``; ``root`` names the entry in which the state dict was found."""

    def __init__(self, path: Path) -> None:
        self._path = path
        records = _check_archive(path) if zipfile.is_zipfile(path) else None
        if records is None and _begins_as_zip(path):
            raise CheckpointError(
                "E_TRUNCATED", str(path), "is half a zip archive", "download or copy it again"
            )
        lazy = records is not None and path.stat().st_size >= LAZY_FROM and _is_native(path)
        try:
            tree = _load(path, lazy=lazy)
        except CheckpointError:
            if not lazy:
                raise
            # Sparse and quantised tensors cannot be listed without their data.
            lazy, tree = False, _load(path, lazy=False)
        try:
            root, state, self.ignored = _find_state(tree)
            named = list(_flatten(state))
        except RecursionError:
            raise CheckpointError(
                "E_ARCHIVE", str(path), "is nested without end", "save a plain state dict"
            ) from None
        self._tensors = dict(named)
        if not self._tensors:
            raise no_tensors(path)
        if len(self._tensors) < len(named):
            raise CheckpointError(
                "E_DUPLICATE", str(path), "names a tensor twice", "save a flat state dict"
            )
        self.tensors = tuple(
            describe(name, tensor, str(path)) for name, tensor in self._tensors.items()
        )
        if lazy and records is not None:
            for name, tensor in self._tensors.items():
                if _is_plain(tensor):
                    _check_record(path, name, tensor, records)
        notes = (f"state dict found under {root!r}",) if root else ()
        self.info = SourceInfo(
            str(path),
            "torch zip" if records is not None else "torch legacy",
            *totals(self.tensors),
            notes,
        )
        self._lazy = lazy

    def read(self, name: str) -> Array:
        """Return one tensor, from the file where it was not loaded whole."""
        tensor = self._tensors[name]
        return to_array(_materialise(self._path, tensor) if self._lazy else tensor)

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows of one tensor, from the bytes they span where the file is read lazily."""
        rows = self._tensors[name][begin:end]
        return to_array(_materialise(self._path, rows) if self._lazy else rows)


def describe(name: str, tensor: "torch.Tensor", file: str = "") -> Tensor:
    """Return the header entry of a tensor; ``storage`` is equal for tied tensors."""
    import torch

    if isinstance(tensor, torch.nn.UninitializedParameter):
        return Tensor(name, (), "uninitialized", 0)
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_nested:
        return Tensor(name, (0,) * tensor.ndim, f"{dtype}, nested", 0)
    shape = tuple(int(size) for size in tensor.shape)
    if tensor.numel() == 0:
        return Tensor(name, shape, dtype, 0)
    if shards.is_dtensor(tensor):
        # Told apart as objects: an empty piece has no place, and all processes must agree on ties.
        return Tensor(name, shape, dtype, tensor.numel() * tensor.itemsize, (id(tensor),))
    if not _is_plain(tensor):
        how = "expanded or freed" if tensor.layout == torch.strided else str(tensor.layout)
        return Tensor(name, shape, f"{dtype}, {how.removeprefix('torch.')}", 0)
    offset = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    # A lazily listed tensor is known by its place in the file, a loaded one by that in memory.
    place = _data_pointer(tensor) if offset is None else (file, offset)
    key = (place, int(tensor.storage_offset()), shape, tensor.stride(), dtype)
    nbytes = tensor.numel() * tensor.itemsize
    return Tensor(name, shape, dtype, nbytes, None if place is None else key)


def _is_plain(tensor: "torch.Tensor") -> bool:
    """Tell whether a tensor is strided numbers that are all there: not sparse, quantised, expanded."""
    import torch

    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized:
        return False
    stored = tensor.untyped_storage().nbytes()
    return tensor.device.type == "meta" or 0 < tensor.numel() * tensor.itemsize <= stored


def _data_pointer(tensor: "torch.Tensor") -> int | None:
    if tensor.device.type == "meta":
        return None
    return tensor.untyped_storage().data_ptr()


def to_array(tensor: "torch.Tensor") -> Array:
    """Return a torch tensor as a NumPy array; half precisions go exactly to float32.

    Types of one byte or less that NumPy has no name for are given as their bytes.
    """
    import torch

    tensor = tensor.detach().cpu()
    if str(tensor.dtype).startswith(("torch.float8", "torch.float4")):
        tensor = tensor.contiguous().view(torch.uint8)
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.to(torch.float32)
    array: Array = tensor.resolve_conj().resolve_neg().numpy()
    return array


def _load(path: Path, *, lazy: bool) -> object:
    """Run torch's restricted unpickler; with `lazy`, tensors carry offsets instead of data."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    fake: contextlib.AbstractContextManager[object] = (
        FakeTensorMode() if lazy else contextlib.nullcontext()
    )
    device = None if lazy else "cpu"
    try:
        with torch.serialization.safe_globals(_harmless()), _quiet(), fake:
            return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise _explain(path, error) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from printing beside the one line that an error gets."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _harmless() -> list[Any]:
    """Classes that trainers put beside weights and that do nothing when unpickled."""
    kinds = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdg"}
    return [
        argparse.Namespace,
        pathlib.PurePosixPath,
        pathlib.PosixPath,
        np.dtype,
        np._core.multiarray.scalar,  # type: ignore[attr-defined]
        (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
        *kinds,
    ]


def _explain(path: Path, error: Exception) -> CheckpointError:
    text = str(error)
    if "TorchScript" in text:
        return CheckpointError(
            "E_FORMAT",
            str(path),
            "is a TorchScript program, which is not run",
            "save its state_dict() with torch.save, or as safetensors",
        )
    unsafe = re.findall(r"(?:global: GLOBAL|unsupported GLOBAL) (\S+)", text)
    if unsafe:
        return CheckpointError(
            "E_UNSAFE",
            str(path),
            f"asks to run code ({', '.join(sorted(set(unsafe)))}), which is never done",
            "save model.state_dict() instead of the whole object, or use safetensors",
        )
    if isinstance(error, EOFError) or "end of file" in text or "unexpected EOF" in text:
        return CheckpointError(
            "E_TRUNCATED", str(path), "ends too early", "download or copy it again"
        )
    return CheckpointError(
        "E_ARCHIVE",
        str(path),
        "is no torch file, or a damaged one",
        "check what it is, and save a state dict anew",
    )


def _begins_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _is_native(path: Path) -> bool:
    """Tell whether an archive's numbers are in this machine's byte order (unmarked ones are)."""
    with zipfile.ZipFile(path) as archive:
        marks = [name for name in archive.namelist() if name.endswith("/byteorder")]
        return all(archive.read(mark).decode("ascii", "replace") == sys.byteorder for mark in marks)


def _check_archive(path: Path) -> Mapping[int, zipfile.ZipInfo]:
    """Return the records of a zip archive by where their data begins."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise CheckpointError(
            "E_ARCHIVE", str(path), f"is a damaged zip archive ({error})", "save it anew"
        ) from error
    if sum(record.file_size for record in records) > MAX_RATIO * path.stat().st_size:
        raise CheckpointError(
            "E_LIMIT",
            str(path),
            f"unpacks to more than {MAX_RATIO} times its size",
            "do not trust it",
        )
    names = [record.filename for record in records]
    if not any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        kind = "a torch.export program" if any("archive_format" in n for n in names) else "a zip"
        raise CheckpointError(
            "E_FORMAT",
            str(path),
            f"is {kind}, not a torch checkpoint (no data.pkl inside)",
            "save a state dict with torch.save, or as safetensors",
        )
    starts = {}
    with path.open("rb") as file:
        for record in records:
            # The data begins after a local header whose extra field only that header knows.
            file.seek(record.header_offset + 26)
            sizes = file.read(4)
            begin = record.header_offset + 30 + int.from_bytes(sizes[:2], "little")
            starts[begin + int.from_bytes(sizes[2:], "little")] = record
    return starts


def _check_record(
    path: Path, name: str, tensor: "torch.Tensor", records: Mapping[int, zipfile.ZipInfo]
) -> None:
    storage = tensor.untyped_storage()
    record = records.get(storage._checkpoint_offset or -1)
    reach = (int(tensor.storage_offset()) + _span(tensor)) * tensor.itemsize
    plain = record is not None and record.compress_type == zipfile.ZIP_STORED
    if (
        not plain
        or record is None
        or record.flag_bits & 1
        or not reach <= storage.nbytes() == record.file_size
    ):
        raise CheckpointError(
            "E_ARCHIVE",
            str(path),
            f"the record of {name!r} is short, compressed or encrypted",
            "save it anew with torch.save",
        )


def _materialise(path: Path, tensor: "torch.Tensor") -> "torch.Tensor":
    """Read the stretch of storage that a lazily listed tensor spans."""
    import torch

    span = _span(tensor)
    begin = tensor.untyped_storage()._checkpoint_offset or 0
    begin += int(tensor.storage_offset()) * tensor.itemsize
    raw = np.fromfile(path, np.uint8, count=span * tensor.itemsize, offset=begin)
    if raw.size != span * tensor.itemsize:
        raise CheckpointError("E_TRUNCATED", str(path), "ends inside a tensor", "copy it again")
    flat = torch.from_numpy(raw).view(tensor.dtype)
    return flat.as_strided(tensor.shape, tensor.stride())


def _span(tensor: "torch.Tensor") -> int:
    """Return how many elements of its storage a tensor reaches over."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((int(size) - 1) * int(stride) for size, stride in steps)


def _find_state(tree: object) -> tuple[str, object, tuple[Skipped, ...]]:
    """Return the root's name, the state dict, and what else held tensors."""
    if not isinstance(tree, Mapping):
        return "", tree, ()
    # Trainers leave numbers (best accuracy, random state) beside the root; weights have two sides.
    direct = any(_is_tensor(value) and value.ndim >= 2 for value in tree.values())
    roots = [r for r in ROOTS if isinstance(tree.get(r), Mapping) and any(_flatten(tree[r]))]
    root = "" if direct or not roots else roots[0]
    ignored, kept = [], {}
    for key, value in tree.items():
        count = sum(1 for _ in _flatten(value))
        if root and key != root and count:
            what = "optimizer state" if OPTIMIZER_KEY.search(str(key)) else f"beside {root!r}"
        elif not root and count and not _is_tensor(value) and OPTIMIZER_KEY.search(str(key)):
            what = "optimizer state"
        else:
            kept[key] = value
            continue
        ignored.append(Skipped(f"{key}.*", (), f"{what} ({count} tensors)", count))
    if not root:
        return "", kept, tuple(ignored)
    inner, state, more = _find_state(tree[root])
    return f"{root}.{inner}" if inner else root, state, (*ignored, *more)


def _flatten(tree: object) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Walk nested dicts and lists, joining keys with dots; a bare tensor is called ``tensor``."""
    seen = 0
    pending: list[tuple[str, Any, int]] = [("", tree, 0)]
    while pending:
        name, value, depth = pending.pop()
        seen += 1
        if seen > MAX_ENTRIES or depth > MAX_DEPTH:
            raise RecursionError("a dict within itself, or nested without end")
        if _is_tensor(value):
            yield name or "tensor", value
            continue
        items: list[tuple[Any, Any]] = []
        if isinstance(value, Mapping):
            items = list(value.items())
        elif isinstance(value, list | tuple):
            items = list(enumerate(value))
        for key, child in reversed(items):
            pending.append((f"{name}.{key}" if name else str(key), child, depth + 1))


def _is_tensor(value: object) -> Any:  # noqa: ANN401 - a type guard for a type not imported here
    import torch

    return isinstance(value, torch.Tensor)
