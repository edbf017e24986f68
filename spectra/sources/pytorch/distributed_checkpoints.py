"""Folders of ``torch.distributed.checkpoint`` (FSDP, torchtitan, Megatron): ``.metadata``, ``*.distcp``.

Each tensor is in pieces, and each piece is a small zip archive somewhere in one of the files.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from spectra.errors import CheckpointError
from spectra.records import SourceInfo, Tensor
from spectra.sources.base import FLOAT_TYPES, Array, no_tensors, totals
from spectra.sources.folders import contained
from spectra.sources.pytorch.distributed_metadata import METADATA, Chunk, bad_shape, read_metadata
from spectra.sources.pytorch.stored_tensors import OTHER_TYPES, TENSOR_GLOBALS, tensor_of
from spectra.sources.pytorch.torch_archives import TorchArchive

SHOWN = 4  # missing files that an error names


def is_distributed(folder: Path) -> bool:
    """Tell whether a folder is a distributed checkpoint."""
    return (folder / METADATA).is_file()


class DistributedCheckpoint:
    """One folder; reading a tensor, or rows of it, touches only the pieces that hold them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        metadata = read_metadata(folder)
        if not metadata.tensors:
            raise no_tensors(folder)
        self.tensors = tuple(tensor for tensor, _ in metadata.tensors.values())
        self.ignored = metadata.ignored
        self._entries = metadata.tensors
        count = _check_files(folder, (c for _, chunks in self._entries.values() for c in chunks))
        notes: tuple[str, ...] = (f"tensors in pieces, in {count} files",)
        if metadata.root:
            notes += (f"state dict found under {metadata.root!r}",)
        self.info = SourceInfo(
            str(folder), "torch distributed checkpoint", *totals(self.tensors), notes
        )

    def read(self, name: str) -> Array:
        """Return one tensor, put together from its pieces."""
        tensor, chunks = self._entries[name]
        whole = self._empty(tensor, tensor.shape)
        if tensor.shape:
            return self._fill(whole, tensor, chunks, 0)
        for chunk in chunks:
            whole[...] = self._piece(tensor, chunk)
        return whole

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows of one tensor, from the pieces that cross them."""
        tensor, chunks = self._entries[name]
        begin, end, _ = slice(begin, end).indices(tensor.shape[0])
        rows = self._empty(tensor, (max(end - begin, 0), *tensor.shape[1:]))
        return self._fill(rows, tensor, chunks, begin)

    def _empty(self, tensor: Tensor, shape: tuple[int, ...]) -> Array:
        stored = FLOAT_TYPES.get(tensor.dtype) or OTHER_TYPES.get(tensor.dtype)
        if stored is None:
            reason = f"holds {tensor.name!r} as {tensor.dtype}, which is not read"
            raise CheckpointError("E_FORMAT", str(self._folder), reason, "save it as float32")
        kind = np.dtype("f4" if tensor.dtype == "bfloat16" else stored)
        return np.empty(shape, kind.newbyteorder("="))

    def _fill(self, rows: Array, tensor: Tensor, chunks: Iterable[Chunk], begin: int) -> Array:
        """Paste what the pieces hold of the rows from `begin` on."""
        for chunk in chunks:
            at = chunk.begin[0]
            first, last = max(at, begin), min(at + chunk.shape[0], begin + len(rows))
            if first < last:
                place = tuple(
                    slice(start, start + size)
                    for start, size in zip(chunk.begin[1:], chunk.shape[1:], strict=True)
                )
                piece = self._piece(tensor, chunk, first - at, last - at)
                rows[(slice(first - begin, last - begin), *place)] = piece
        return rows

    def _piece(self, tensor: Tensor, chunk: Chunk, begin: int = 0, end: int = 0) -> Array:
        archive = TorchArchive(self._folder / chunk.file, chunk.offset, chunk.length)
        stored = tensor_of(archive, archive.unpickle("data.pkl", TENSOR_GLOBALS))
        if stored is None or stored.shape != chunk.shape or stored.dtype != tensor.dtype:
            raise bad_shape(
                self._folder, tensor.name, f"has a piece of another shape or type in {chunk.file}"
            )
        return stored.read_rows(begin, end) if tensor.shape else stored.read()


def _check_files(folder: Path, chunks: Iterable[Chunk]) -> int:
    """Check that each chunk lies inside a file of the folder; return the number of files."""
    ends: dict[str, int] = {}
    sums: Counter[str] = Counter()
    for chunk in chunks:
        ends[chunk.file] = max(ends.get(chunk.file, 0), chunk.offset + chunk.length)
        sums[chunk.file] += chunk.length
    paths = {name: contained(folder, name) for name in ends}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        raise CheckpointError(
            "E_MISSING_SHARD",
            str(folder),
            f"lacks {len(missing)} of {len(paths)} files: {', '.join(missing[:SHOWN])}",
            "finish the download",
        )
    for name, path in paths.items():
        size = path.stat().st_size
        if ends[name] > size:
            reason = f"is cut short: {size:,} of {ends[name]:,} bytes"
            raise CheckpointError("E_TRUNCATED", str(path), reason, "download or copy it again")
        if sums[name] > size:
            reason = f"would hold {sums[name]:,} bytes in {size:,}: pieces share a place"
            raise CheckpointError("E_LIMIT", str(path), reason, "do not trust it")
    return len(paths)
