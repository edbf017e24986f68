"""Folders of checkpoint files: which files make up the model, and the shards of one as one source."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from spectra.errors import CheckpointError
from spectra.records import Skipped, SourceInfo
from spectra.sources.base import Array, Source, natural_key, totals

INDEX_ENDING = ".index.json"
MAX_INDEX = 256 * 2**20
USUAL_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
TORCH_ENDINGS = (".bin", ".pt", ".pth", ".th", ".ckpt")
GGUF_ENDING = ".gguf"
# What a folder may hold the same model in, best first.
CHOICES = (
    (".safetensors",),
    TORCH_ENDINGS,
    (GGUF_ENDING,),
    (".keras", ".h5"),
    (".onnx",),
    (".msgpack",),
    (".npz",),
)
ENDINGS = tuple(ending for endings in CHOICES for ending in endings)
SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})")
# Training leaves these beside the model; none of them holds its weights.
NOT_WEIGHTS = re.compile(
    r"^(optimizer|scheduler|training_args|rng_state|scaler|random_states|mmproj)"
)

Opener = Callable[[Path], Source]


class ShardedSource:
    """Several files of one checkpoint as one source."""

    def __init__(
        self,
        folder: Path | str,
        shards: Sequence[Source],
        notes: tuple[str, ...],
        *,
        index: Path | None = None,
        partial: bool = False,
    ) -> None:
        self.shards = tuple(shards)
        self.index = index
        self._home: dict[str, Source] = {}
        tensors = []
        for shard in shards:
            for tensor in shard.tensors:
                if tensor.name in self._home:
                    other = self._home[tensor.name].info.address
                    raise CheckpointError(
                        "E_DUPLICATE",
                        str(folder),
                        f"{tensor.name!r} is in {Path(other).name} and again in"
                        f" {Path(shard.info.address).name}",
                        "give the file that holds the model",
                    )
                self._home[tensor.name] = shard
                tensors.append(tensor)
        self.tensors = tuple(sorted(tensors, key=lambda tensor: natural_key(tensor.name)))
        self.ignored: tuple[Skipped, ...] = tuple(s for shard in shards for s in shard.ignored)
        self.info = SourceInfo(
            str(folder), f"{shards[0].info.format}, sharded", *totals(tensors), notes, partial
        )

    def home(self, name: str) -> Path | None:
        """Return the file that holds a tensor."""
        shard = self._home.get(name)
        return None if shard is None else Path(shard.info.address)

    def expect(self, names: Sequence[str]) -> None:
        """Say which tensors will be read; each shard takes those it holds."""
        for shard in set(self._home.values()):
            hint = getattr(shard, "expect", None)
            if hint is not None:
                hint(names)

    def read(self, name: str) -> Array:
        """Return one tensor from the shard that holds it."""
        return self._home[name].read(name)

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows of one tensor from the shard that holds it."""
        return self._home[name].read_rows(name, begin, end)


def open_folder(folder: Path, open_file: Opener, *, allow_partial: bool = False) -> Source:
    """Open the checkpoint a folder holds: safetensors before torch files, an index before its shards."""
    files = sorted(
        (p for p in folder.iterdir() if p.is_file() or p.is_symlink()),
        key=lambda p: natural_key(p.name),
    )
    for endings in CHOICES:
        indexes = [p for p in files if p.name.endswith(tuple(e + INDEX_ENDING for e in endings))]
        if indexes:
            index = min(indexes, key=lambda p: p.name not in USUAL_INDEXES)
            return open_index(contained(folder, index.name), open_file, allow_partial=allow_partial)
        weights = [p for p in files if p.name.endswith(endings) and not NOT_WEIGHTS.match(p.name)]
        if weights:
            return _open_loose(folder, weights, open_file, allow_partial=allow_partial)
    inside = [p.name for p in sorted(folder.iterdir()) if p.is_dir() and _holds_weights(p)]
    advice = (
        f"its sub-folders do: {', '.join(inside[:5])}"
        if inside
        else f"expected {', '.join(ENDINGS)}"
    )
    raise CheckpointError("E_NO_WEIGHTS", str(folder), "holds no weight files", advice)


def _holds_weights(folder: Path) -> bool:
    try:
        return any(p.name.endswith(ENDINGS) for p in folder.iterdir())
    except OSError:
        return False


def _open_loose(
    folder: Path, weights: Sequence[Path], open_file: Opener, *, allow_partial: bool
) -> Source:
    """Open weight files that no index describes: one file, or a complete set of shards."""
    # Some repositories ship the same model twice, as model*.safetensors and as consolidated*.
    preferred = [p for p in weights if not p.name.startswith("consolidated")] or weights
    matches = [SHARD.fullmatch(p.stem) for p in preferred]
    if len(preferred) == 1 and not matches[0]:
        return open_file(contained(folder, preferred[0].name))
    expected = shards_of(str(folder), [p.name for p in preferred])
    if preferred[0].suffix == GGUF_ENDING:
        return open_file(preferred[0])  # which opens the parts that go with it
    note = "shards without an index"
    return _open_shards(folder, expected, open_file, note=note, allow_partial=allow_partial)


def shards_of(address: str, names: Sequence[str]) -> list[str]:
    """Return the files of the one set of numbered shards that `names` belong to, missing ones too.

    Raises
    ------
    CheckpointError
        If they are several sets, none, or more files than the set counts.
    """
    matches = [SHARD.fullmatch(name.rpartition(".")[0]) for name in names]
    sets = {(m["stem"], m["count"]) for m in matches if m}
    if None in matches or len(sets) != 1:
        listed = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        reason = f"holds {len(names)} checkpoints: {listed}"
        raise CheckpointError("E_AMBIGUOUS", address, reason, "give one file")
    stem, count = sets.pop()
    ending = names[0].rpartition(".")[2]
    expected = [f"{stem}-{n:05d}-of-{count}.{ending}" for n in range(1, int(count) + 1)]
    surplus = sorted(set(names) - set(expected))
    if surplus:
        reason = f"holds {', '.join(surplus)}, more than its own count of shards"
        raise CheckpointError("E_AMBIGUOUS", address, reason, "give one file, or remove it")
    return expected


def weight_map_of(address: str, raw: bytes) -> Mapping[str, str]:
    """Return which shard an index says each tensor is in.

    Raises
    ------
    CheckpointError
        ``E_INDEX`` if it is no index.
    """
    try:
        weight_map = json.loads(raw)["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError):
        weight_map = None
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise bad_index(address, "has no weight_map")
    if not all(
        isinstance(name, str) and not name.endswith(INDEX_ENDING) for name in weight_map.values()
    ):
        raise bad_index(address, "has a weight_map whose values are no weight files")
    return weight_map


def open_index(index: Path, open_file: Opener, *, allow_partial: bool = False) -> Source:
    """Open the shards an index names, all of them inside its folder and none missing."""
    if index.stat().st_size > MAX_INDEX:
        raise CheckpointError("E_INDEX", str(index), "is too large for an index", "check the file")
    if not index.is_file():
        raise bad_index(str(index), "is no regular file")
    with index.open("rb") as file:
        raw = file.read(MAX_INDEX + 1)
    weight_map = weight_map_of(str(index), raw)
    names = sorted(set(weight_map.values()), key=natural_key)
    note = f"listed by {index.name}"
    source = _open_shards(
        index.parent, names, open_file, note=note, index=index, allow_partial=allow_partial
    )
    absent = sorted(
        name for name, shard in weight_map.items() if source.home(name) != index.parent / shard
    )
    if absent and not source.info.partial:
        raise bad_index(
            str(index), f"names {len(absent)} tensors its shards lack, first {absent[0]!r}"
        )
    return source


def _open_shards(
    folder: Path,
    names: Sequence[str],
    open_file: Opener,
    *,
    note: str,
    index: Path | None = None,
    allow_partial: bool,
) -> ShardedSource:
    paths = [contained(folder, name) for name in names]
    missing = [name for name, path in zip(names, paths, strict=True) if not path.is_file()]
    if missing and (not allow_partial or len(missing) == len(names)):
        raise CheckpointError(
            "E_MISSING_SHARD",
            str(folder),
            f"lacks {len(missing)} of {len(names)} shards: {', '.join(missing[:4])}",
            "finish the download, or analyze what is there with --allow-partial",
        )
    notes = [f"{len(names)} shards, {note}"]
    if missing:
        notes.append(f"PARTIAL: {len(missing)} of {len(names)} shards are missing")
    shards = [open_file(path) for path in paths if path.is_file()]
    return ShardedSource(folder, shards, tuple(notes), index=index, partial=bool(missing))


def contained(folder: Path, name: str) -> Path:
    """Return ``folder / name``, refusing whatever would leave the folder.

    Symbolic links may leave it only as a hub cache lays them: from a snapshot to its ``blobs``.
    """
    path = folder / name
    try:
        home, target = folder.resolve(), path.resolve()
    except (ValueError, RuntimeError) as error:  # a NUL in the name, links in a circle
        raise _outside(folder, name) from error
    allowed = [home]
    snapshots = next((p for p in home.parents if p.name == "snapshots"), None)
    if snapshots is not None:  # the folder itself, or one inside the snapshot
        allowed.append(snapshots.parent / "blobs")
    plain = not Path(name).is_absolute() and ".." not in Path(name).parts
    windows = "\\" in name or re.match(r"[A-Za-z]:", name)
    if not plain or windows or not any(target.is_relative_to(root) for root in allowed):
        raise _outside(folder, name)
    return path


def _outside(folder: Path, name: str) -> CheckpointError:
    reason = f"names {name!r}, which is no file of its own folder"
    return CheckpointError("E_PATH", str(folder), reason, "do not trust it")


def bad_index(address: str, reason: str) -> CheckpointError:
    """Build the error for an index that is none."""
    return CheckpointError("E_INDEX", address, reason, "download it again")
