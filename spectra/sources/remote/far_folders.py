"""Folders far away: which files make up the model, known by name alone, and its shards as one source.

Only safetensors are read from afar: their header says where every tensor lies, so that a layer costs its
own bytes. Everything else is named, with the advice to download it.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from spectra.errors import CheckpointError
from spectra.sources.base import Source, natural_key
from spectra.sources.blobs import Blob
from spectra.sources.folders import (
    INDEX_ENDING,
    NOT_WEIGHTS,
    SHARD,
    USUAL_INDEXES,
    ShardedSource,
    bad_index,
    shards_of,
    weight_map_of,
)
from spectra.sources.safetensors_files import SafetensorsFile

MAX_INDEX = 32 * 2**20  # of a far index; one of 100,000 tensors has 10 MB
MAX_SHARDS = 4096
AT_ONCE = 8  # shards opened at the same time
ENDING = ".safetensors"
KINDS: Mapping[bytes, str] = {
    b"PK\x03\x04": "a torch, Keras or NumPy archive",
    b"\x80": "a pickle",
    b"GGUF": "a GGUF file",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array file",
    b"version https://git-lfs": "a git-lfs pointer",
    b"<": "a web page",
    b"{": "a JSON text",
}


@dataclass(frozen=True, slots=True)
class FarFolder:
    """A folder far away: what is in it, where it says so, and how one of its files is opened."""

    address: str
    names: tuple[str, ...] | None
    open: Callable[[str], Blob]
    download: str = "download it and give the folder"


def open_far_file(folder: FarFolder, name: str, blob: Blob) -> Source:
    """Open one file: what it is, its first bytes say."""
    if blob.size == 0:
        raise CheckpointError("E_EMPTY", blob.address, "is empty", "upload it again")
    if name.endswith(INDEX_ENDING):
        return _open_index(folder, name, blob)
    head = blob.read(0, min(64, blob.size)).tobytes()
    kind = next((what for magic, what in KINDS.items() if head.startswith(magic)), None)
    # A length that begins like another format is still a length: the brace after it tells.
    if head[4:9] == b"\0\0\0\0{" or (name.endswith(ENDING) and kind is None):
        return SafetensorsFile(blob)
    code = "E_LFS_POINTER" if kind == "a git-lfs pointer" else "E_FORMAT"
    reason = f"is {kind or 'no safetensors file'}; from afar only safetensors are read"
    raise CheckpointError(code, blob.address, reason, "download it and give the file")


def open_far_folder(folder: FarFolder) -> Source:
    """Open the model a folder holds: an index before its shards, shards before a single file."""
    if folder.names is None:
        return _open_unlisted(folder)
    names = sorted((n for n in folder.names if "/" not in n), key=natural_key)
    indexes = [name for name in names if name.endswith(ENDING + INDEX_ENDING)]
    if indexes:
        index = min(indexes, key=lambda name: name not in USUAL_INDEXES)
        return _open_index(folder, index, folder.open(index))
    weights = [n for n in names if n.endswith(ENDING) and not NOT_WEIGHTS.match(n)]
    weights = [n for n in weights if not n.startswith("consolidated")] or weights
    if len(weights) == 1 and not SHARD.fullmatch(weights[0].removesuffix(ENDING)):
        return SafetensorsFile(folder.open(weights[0]))
    if weights:
        return _open_shards(folder, _complete(folder.address, weights), "shards without an index")
    inside = sorted({n.partition("/")[0] for n in folder.names if "/" in n and n.endswith(ENDING)})
    advice = f"its sub-folders do: {', '.join(inside[:5])}" if inside else folder.download
    reason = "holds no safetensors, and nothing else is read from afar"
    raise CheckpointError("E_NO_WEIGHTS", folder.address, reason, advice)


def _open_unlisted(folder: FarFolder) -> Source:
    """Try the usual names in a folder that does not say what it holds."""
    usual = (*(name for name in USUAL_INDEXES if name.startswith("model.")), f"model{ENDING}")
    for name in usual:
        try:
            blob = folder.open(name)
        except CheckpointError as error:
            # Stores that do not list their files to everyone deny also what is not there.
            if error.code not in ("E_NOT_FOUND", "E_ACCESS"):
                raise
            continue
        return open_far_file(folder, name, blob)
    reason = f"holds neither {' nor '.join(usual)}"
    raise CheckpointError("E_NO_WEIGHTS", folder.address, reason, "give the URL of one file")


def _complete(address: str, names: Sequence[str]) -> list[str]:
    """Return the files of the one set of numbered shards that these names are, none missing."""
    expected = shards_of(address, names)
    missing = [name for name in expected if name not in names]
    if missing:
        raise _missing(address, missing, len(expected))
    return expected


def _open_index(folder: FarFolder, name: str, blob: Blob) -> Source:
    """Open the shards an index names, all of them inside its folder."""
    if blob.size > MAX_INDEX:
        raise bad_index(blob.address, f"is too large for an index ({blob.size:,} bytes)")
    weight_map = weight_map_of(blob.address, blob.read(0, blob.size).tobytes())
    shards = sorted(set(weight_map.values()), key=natural_key)
    if len(shards) > MAX_SHARDS:
        raise CheckpointError("E_LIMIT", blob.address, f"names {len(shards):,} shards", "check it")
    for shard in shards:
        if not plain(shard):
            reason = f"names {shard!r}, which is no file of its own folder"
            raise CheckpointError("E_PATH", blob.address, reason, "do not trust it")
        if not shard.endswith(ENDING):
            reason = f"lists {shard!r}; from afar only safetensors are read"
            raise CheckpointError("E_FORMAT", blob.address, reason, folder.download)
    if folder.names is not None:
        missing = [shard for shard in shards if shard not in folder.names]
        if missing:
            raise _missing(folder.address, missing, len(shards))
    source = _open_shards(folder, shards, f"listed by {name}")
    absent = sorted(weight_map.keys() - {tensor.name for tensor in source.tensors})
    if absent:
        raise bad_index(
            blob.address, f"names {len(absent)} tensors its shards lack, first {absent[0]!r}"
        )
    return source


def _open_shards(folder: FarFolder, names: Sequence[str], note: str) -> ShardedSource:
    with ThreadPoolExecutor(min(AT_ONCE, len(names))) as pool:
        waiting = [pool.submit(_open_shard, folder, name, len(names)) for name in names]
        try:
            shards = [future.result() for future in waiting]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return ShardedSource(folder.address, shards, (f"{len(names)} shards, {note}",))


def _open_shard(folder: FarFolder, name: str, count: int) -> Source:
    try:
        return SafetensorsFile(folder.open(name))
    except CheckpointError as error:
        if error.code == "E_NOT_FOUND":
            raise _missing(folder.address, [name], count) from error
        raise


def plain(name: str) -> bool:
    """Whether a name stays in its folder, on every system and in every URL."""
    parts = name.split("/")
    return not any(c in name for c in '\\:?#%*"<>|\0') and not {"", ".", ".."} & set(parts)


def _missing(address: str, missing: Sequence[str], count: int) -> CheckpointError:
    reason = f"lacks {len(missing)} of {count} shards: {', '.join(missing[:4])}"
    return CheckpointError("E_MISSING_SHARD", address, reason, "upload the rest")
