"""What the ``.metadata`` of a ``torch.distributed.checkpoint`` says, read as data.

torch reads that file with a plain unpickler, which runs whatever it says. Here nothing in it is run
or built; what it says of shapes is checked before anyone relies on it.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spectra.errors import CheckpointError
from spectra.records import Skipped, Tensor
from spectra.sources.folders import contained
from spectra.sources.pytorch.inert_pickles import MAX_PICKLE, Call, Global, read_pickle
from spectra.sources.pytorch.stored_tensors import ITEM_SIZES, is_possible, whole_numbers
from spectra.sources.pytorch.torch_files import OPTIMIZER_KEY, ROOTS

METADATA = ".metadata"
MAX_CHUNKS = 32_768
"""Pieces of one tensor; there are no more of them than devices that trained it."""

_MODULE = "torch.distributed.checkpoint."
_OLD = "torch.distributed._shard.sharded_tensor.metadata."  # up to torch 2.1
_RECORDS = (
    "Metadata",
    "TensorStorageMetadata",
    "TensorProperties",
    "ChunkStorageMetadata",
    "BytesStorageMetadata",
    "MetadataIndex",
    "StorageMeta",
    "_MEM_FORMAT_ENCODING",
)
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
KNOWN = frozenset(
    {
        *(f"{_MODULE}metadata.{name}" for name in _RECORDS),
        f"{_MODULE}filesystem._StorageInfo",
        f"{_OLD}TensorProperties",
        f"{_OLD}MEM_FORMAT_ENCODING",
        "megatron.core.dist_checkpointing.strategies.torch.MCoreMetadata",
        "collections.OrderedDict",
        "torch.Size",
        "torch.serialization._get_layout",
        *(f"torch.{name}" for name in ITEM_SIZES),
        *(f"pathlib.{way}{name}" for way in ("", "_local.") for name in _PATHS),
    }
)
"""What a ``.metadata`` of torch mentions. None of it is built, so that a name here is no risk."""

ROOT_KEYS = ("app", *ROOTS)
OPTIMIZER_PART = re.compile(r"(max_)?exp_avg(_sq)?|momentum_buffer|optim(izer)?(_states?)?")

_Sizes = tuple[int, ...]
_Block = tuple[_Sizes, _Sizes]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A block of a tensor from `begin` on, and the stretch of a file it is said to lie in."""

    begin: _Sizes
    shape: _Sizes
    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Metadata:
    """The model's tensors with their chunks, what is beside them, and the root they were under."""

    tensors: Mapping[str, tuple[Tensor, tuple[Chunk, ...]]]
    ignored: tuple[Skipped, ...]
    root: str


def read_metadata(folder: Path) -> Metadata:
    """Read a folder's ``.metadata``; every tensor is covered exactly once by its chunks.

    Raises
    ------
    CheckpointError
        ``E_UNSAFE`` where it asks to run anything, ``E_SHAPE`` where chunks overlap or leave a hole,
        other codes where it is no metadata.
    """
    path = contained(folder, METADATA)
    size = path.stat().st_size
    if size > MAX_PICKLE:
        raise CheckpointError("E_LIMIT", str(path), f"has {size:,} bytes", "check the file")
    if not size:
        raise CheckpointError("E_EMPTY", str(path), "is empty", "finish the download")
    advice = "do not trust it; torch itself would run it"
    tree = read_pickle(path.read_bytes(), path, KNOWN, advice=advice)
    top = _fields(tree, "Metadata", "MCoreMetadata")
    table, places = top.get("state_dict_metadata"), top.get("storage_data")
    if not isinstance(table, dict) or not isinstance(places, dict):
        raise _bad(folder, "lists no tensors")
    entries = {key: e for key, e in table.items() if isinstance(key, str) and isinstance(e, Call)}
    if len(entries) < len(table):
        raise _bad(folder, "lists what are no tensors")
    where = _places(folder, places)
    names, ignored, root = _sort_out(entries, top.get("planner_data"))
    tensors = {}
    for key, name in names.items():
        tensor, blocks = _describe(folder, key, name, entries[key])
        chunks = tuple(_chunk(folder, key, block, where) for block in blocks)
        item = ITEM_SIZES[tensor.dtype]
        if any(math.prod(chunk.shape) * item > chunk.length for chunk in chunks):
            raise bad_shape(folder, key, "has a piece larger than its place in the file")
        tensors[name] = (tensor, chunks)
    return Metadata(tensors, ignored, root)


def bad_shape(folder: Path, key: str, reason: str) -> CheckpointError:
    """Build the error for chunks that do not make up their tensor."""
    return CheckpointError(
        "E_SHAPE", str(folder), f"has a tensor {key!r} that {reason}", "save the checkpoint anew"
    )


def _fields(value: object, *names: str) -> Mapping[object, object]:
    """Return the attributes of an object of one of torch's classes, nothing for anything else."""
    if not isinstance(value, Call) or value.name.rpartition(".")[2] not in names:
        return {}
    return value.state if isinstance(value.state, dict) else {}


def _size(value: object) -> _Sizes | None:
    if isinstance(value, Call) and value.name == "torch.Size":
        value = value.args[0] if value.args else ()
    return whole_numbers(value)


def _places(folder: Path, table: Mapping[object, object]) -> dict[tuple[str, _Sizes], object]:
    """Return where pieces lie, by the key of their tensor and where in it they begin."""
    found: dict[tuple[str, _Sizes], object] = {}
    for index, info in table.items():
        fields = _fields(index, "MetadataIndex")
        key, offset = fields.get("fqn"), fields.get("offset")
        begin = () if offset is None else _size(offset)
        if not isinstance(key, str) or begin is None:
            raise _bad(folder, "gives places to what are no tensors")
        if (key, begin) in found:
            raise _bad(folder, f"gives two places to a piece of {key!r}")
        found[key, begin] = info
    return found


def _chunk(
    folder: Path, key: str, block: _Block, places: Mapping[tuple[str, _Sizes], object]
) -> Chunk:
    begin, shape = block
    fields = _fields(places.get((key, begin)), "_StorageInfo")
    file = fields.get("relative_path")
    stretch = whole_numbers((fields.get("offset"), fields.get("length")))
    if not isinstance(file, str) or stretch is None:
        raise _bad(folder, f"does not say where a piece of {key!r} lies")
    if fields.get("transform_descriptors"):
        raise CheckpointError(
            "E_FORMAT",
            str(folder),
            "was written through an extension (compressed, or encrypted)",
            "save it without extensions",
        )
    return Chunk(begin, shape, file, stretch[0], stretch[1])


def _describe(folder: Path, key: str, name: str, entry: Call) -> tuple[Tensor, list[_Block]]:
    """Return the header entry of a tensor and its blocks, checked to cover it exactly once."""
    fields = _fields(entry, "TensorStorageMetadata")
    properties, chunks = fields.get("properties"), fields.get("chunks")
    state = properties.state if isinstance(properties, Call) else None
    kind = state[0] if isinstance(state, tuple) and state else None
    dtype = kind.name.removeprefix("torch.") if isinstance(kind, Global) else ""
    shape = _size(fields.get("size"))
    if shape is None or dtype not in ITEM_SIZES or not isinstance(chunks, list):
        raise _bad(folder, f"does not describe {key!r}")
    if not is_possible(shape):
        raise bad_shape(folder, key, f"no memory could hold, of shape {shape}")
    if len(chunks) > MAX_CHUNKS:
        reason = f"has {key!r} in {len(chunks):,} pieces"
        raise CheckpointError("E_LIMIT", str(folder), reason, "do not trust it")
    blocks = []
    for chunk in chunks:
        parts = _fields(chunk, "ChunkStorageMetadata")
        begin, sizes = _size(parts.get("offsets")), _size(parts.get("sizes"))
        if begin is None or sizes is None or not len(begin) == len(sizes) == len(shape):
            raise bad_shape(folder, key, "has a piece that is no block of it")
        if any(b + s > n for b, s, n in zip(begin, sizes, shape, strict=True)):
            raise bad_shape(folder, key, "has a piece that reaches beyond it")
        if math.prod(sizes):  # a device may have got no rows
            blocks.append((begin, sizes))
    volume = sum(math.prod(sizes) for _, sizes in blocks)
    if volume != math.prod(shape):
        how = "leave a hole" if volume < math.prod(shape) else "overlap"
        raise bad_shape(folder, key, f"has pieces that {how}")
    if len(blocks) > 1 and _overlap(blocks):
        raise bad_shape(folder, key, "has pieces that overlap")
    return Tensor(name, shape, dtype, volume * ITEM_SIZES[dtype]), blocks


def _overlap(blocks: Sequence[_Block]) -> bool:
    """Tell whether any two blocks share an element."""
    begins = np.array([begin for begin, _ in blocks])
    if not begins.shape[1]:
        return True
    ends = begins + np.array([sizes for _, sizes in blocks])
    # A sweep along the axis that is cut most often: each block meets few others there.
    axis = max(range(begins.shape[1]), key=lambda a: np.unique(begins[:, a]).size)
    order = np.argsort(begins[:, axis], kind="stable")
    begins, ends = begins[order], ends[order]
    reach = np.searchsorted(begins[:, axis], ends[:, axis])
    for n in np.flatnonzero(reach > np.arange(1, len(blocks) + 1)):
        near = slice(n + 1, int(reach[n]))
        apart = (begins[near] >= ends[n]) | (ends[near] <= begins[n])
        if not apart.any(axis=1).all():
            return True
    return False


def _sort_out(
    entries: Mapping[str, Call], nesting: object
) -> tuple[dict[str, str], tuple[Skipped, ...], str]:
    """Return the model's tensors by key with their names, the rest, and the root they were under."""
    paths: dict[str, tuple[str, ...]] = {}
    ignored: list[Skipped] = []
    optimizer: Counter[str] = Counter()
    for key, entry in entries.items():
        path = _path(key, nesting)
        state = _optimizer_part(key, path)
        if state:
            optimizer[state] += 1
        elif entry.name.endswith(".BytesStorageMetadata"):
            ignored.append(Skipped(key, (), "not a tensor"))
        else:
            paths[key] = path
    for part, count in optimizer.items():
        ignored.append(Skipped(f"{part}.*", (), f"optimizer state ({count} entries)", count))
    root: list[str] = []
    while found := _root(entries, paths, len(root)):
        beside = [key for key, path in paths.items() if path[len(root)] != found]
        ignored += [Skipped(key, (), f"beside {found!r}") for key in beside]
        paths = {key: path for key, path in paths.items() if path[len(root)] == found}
        root.append(found)
    names = {key: ".".join(path[len(root) :]) for key, path in paths.items()}
    return names, tuple(ignored), ".".join(root)


def _path(key: str, nesting: object) -> tuple[str, ...]:
    """Return the keys of dicts within dicts that were joined to one; a module's own dots stay."""
    path = nesting.get(key) if isinstance(nesting, dict) else None
    if not isinstance(path, tuple) or not all(isinstance(part, str | int) for part in path):
        return (key,)
    parts = tuple(map(str, path))
    return parts if ".".join(parts) == key else (key,)


def _root(
    entries: Mapping[str, Call], paths: Mapping[str, tuple[str, ...]], depth: int
) -> str | None:
    """Return the dict that holds the model, by the rules for files of ``torch.save``."""
    nested = {path[depth] for path in paths.values() if len(path) > depth + 1}
    for key, path in paths.items():
        shape = _size(_fields(entries[key], "TensorStorageMetadata").get("size")) or ()
        if len(path) == depth + 1 and len(shape) >= 2:
            return None
    return next((root for root in ROOT_KEYS if root in nested), None)


def _optimizer_part(key: str, path: Sequence[str]) -> str:
    """Return the part of a key under which optimizer state lies, or nothing."""
    for depth, part in enumerate(path[:-1]):
        if OPTIMIZER_KEY.search(part):
            return ".".join(path[: depth + 1])
    parts = key.split(".")
    hit = next((n for n, part in enumerate(parts) if OPTIMIZER_PART.fullmatch(part)), None)
    if hit is None:
        return ""
    return f"*.{parts[hit]}" if hit else parts[0]


def _bad(folder: Path, reason: str) -> CheckpointError:
    path = folder / METADATA
    return CheckpointError("E_HEADER", str(path), reason, "copy it again, or save it anew")
