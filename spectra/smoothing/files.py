"""The files of a smoothed copy: which there are, what may be copied, and their bytes one by one.

A safetensors file says in its header where every tensor lies, so the header is written before any
weight is read, and then tensor after tensor in the order of the source.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from spectra.errors import CheckpointError, SelectionError
from spectra.records import Tensor
from spectra.sources import Checkpoint, Source
from spectra.sources.base import CODE_TYPES, FLOAT_TYPES, Array, encode
from spectra.sources.derived import DerivedSource
from spectra.sources.folders import ENDINGS, INDEX_ENDING, ShardedSource, contained
from spectra.sources.memory import MemorySource
from spectra.sources.numpy_files import NumpyFile
from spectra.sources.pytorch.torch_files import TorchFile
from spectra.sources.quantized import QuantizedSource
from spectra.sources.safetensors_files import CODES, SafetensorsFile, header_of

ENDING = ".safetensors"
USUAL_NAME = f"model{ENDING}"
INDEX = ENDING + INDEX_ENDING
USUAL_INDEX = f"model{INDEX}"
METADATA_KEY = "spectra_smooth"
"""Where the metadata of every file that is written says what was done, as JSON."""

# What a model is loaded with, or may only be passed on with.
BESIDE = re.compile(
    r"(\w*config\w*|tokenizer|special_tokens_map|added_tokens|vocab|modules|chat_template|params)\.json"
    r"|\d+_\w+/config\.json"
    r"|(vocab|merges)\.txt|[\w.-]+\.(model|jinja|tiktoken)"
    r"|(modeling|configuration|tokenization|processing)_\w+\.py|(LICEN[CS]E|NOTICE)[\w.-]*"
)

Cut = Callable[[Tensor, Array], None]
"""Changes a tensor, handed over in the type and shape it is stored in, where it is to be cut."""


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file to be written: its tensors, in the order of their bytes, and where they come from."""

    name: str
    source: Source
    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str]


def check_source(opened: Checkpoint) -> None:
    """Refuse what is no set of named tensors of its own, or would lose its meaning as one.

    Raises
    ------
    CheckpointError
        ``E_SMOOTH``, or ``E_DTYPE`` for a type that the format does not hold.
    """
    source, address = opened.source, opened.info.address

    def refusal(reason: str, advice: str) -> CheckpointError:
        return CheckpointError("E_SMOOTH", address, reason, advice)

    if opened.is_far:
        raise refusal("is far away, and is read twice for this", "download it")
    if isinstance(source, QuantizedSource):
        reason = "holds quantised weights; what is cut is no longer on their grid"
        raise refusal(reason, "give the model that it was made from")
    if isinstance(source, DerivedSource):
        reason = "holds weights computed from others (weight_norm, spectral_norm, an adapter)"
        raise refusal(reason, "fold or merge them, and save that")
    if isinstance(source, SafetensorsFile) and source.holds_spectra:
        raise refusal("holds spectra, without the weights", "give the weights")
    for part in _parts(source):
        if not isinstance(part, SafetensorsFile | TorchFile | NumpyFile | MemorySource):
            reason = f"is {opened.info.format}, of which tensors alone are no copy"
            raise refusal(reason, "give safetensors, a torch state dict or a NumPy file")
        for tensor in part.tensors:
            if not isinstance(part, SafetensorsFile) and _numpy_type(tensor) is None:
                reason = f"is of type {tensor.dtype}, which safetensors files do not hold"
                raise CheckpointError("E_DTYPE", tensor.name, reason, "convert it first")


def _parts(source: Source) -> Sequence[Source]:
    return source.shards if isinstance(source, ShardedSource) else (source,)


def _numpy_type(tensor: Tensor) -> np.dtype[Any] | None:
    known = FLOAT_TYPES.get(tensor.dtype) or CODE_TYPES.get(tensor.dtype)
    return np.dtype(known) if known and tensor.dtype in CODES else None


def check_place(out: Path, opened: Checkpoint, given: object) -> None:
    """Refuse a place before the work: one that is taken, cannot be written, or is no fit.

    Raises
    ------
    CheckpointError, SelectionError
    """
    address = str(out)
    if address == "-":
        reason = "is standard output, and a copy is a file or a folder"
        raise SelectionError("E_OUT", address, reason, "name one")
    if not is_file(out) and out.name.endswith(ENDINGS):
        reason = "names another format than safetensors, which is what is written"
        raise SelectionError("E_OUT", address, reason, f"name it {out.stem}{ENDING}, or a folder")
    shards = len(_parts(opened.source))
    if is_file(out) and shards > 1:
        reason = f"is one file, and the source is {shards} of them"
        raise SelectionError("E_OUT", address, reason, "name a folder")
    try:
        taken = out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir())))
        writable = out.parent.is_dir() and os.access(out.parent, os.W_OK)
    except OSError as error:
        raise cannot_write(out, error) from error
    if taken:
        raise CheckpointError(
            "E_EXISTS", address, "is there already", "remove it, or choose another place"
        )
    if not writable:
        reason = "its folder is not there or not writable"
        raise CheckpointError("E_WRITE", address, reason, "choose another place")
    home = home_of(opened, given)
    if is_file(out) and home and not Path(str(given)).is_file() and out.resolve().parent == home:
        reason = "would lie in the folder that is read as one model"
        raise CheckpointError("E_WRITE", address, reason, "choose another place")


def cannot_write(out: Path, error: OSError) -> CheckpointError:
    """Build the error for what the system does not let be written."""
    reason = f"cannot be written ({(error.strerror or str(error)).lower()})"
    return CheckpointError("E_WRITE", str(out), reason, "choose another place")


def is_file(out: Path) -> bool:
    """Tell by its name whether a copy is to be a file; all else is a folder."""
    return out.suffix == ENDING


def home_of(opened: Checkpoint, given: object) -> Path | None:
    """Return the folder that the source lies in, or is; None for weights in memory."""
    if not isinstance(given, str | Path):
        return None
    address = Path(opened.info.address).absolute()
    return (address if address.is_dir() else address.parent).resolve()


def weight_files(opened: Checkpoint, done: Mapping[str, object]) -> tuple[WeightFile, ...]:
    """List the files of weights to be written: one for each of the source, `done` in the metadata."""
    says = {METADATA_KEY: json.dumps(done)}
    parts = _parts(opened.source)
    files = []
    for part in parts:
        name = USUAL_NAME if len(parts) == 1 else _shard_name(part, opened)
        if isinstance(part, SafetensorsFile):
            own = Path(part.info.address).name
            name = own if len(parts) == 1 and own.endswith(ENDING) else name
            files.append(WeightFile(name, part, part.as_stored, {**part.metadata, **says}))
            continue
        tensors = tuple(replace(tensor, nbytes=_nbytes(tensor)) for tensor in part.tensors)
        # Loaders of the hub read no file that does not say for which library it was written.
        files.append(WeightFile(name, part, tensors, {"format": "pt", **says}))
    return tuple(files)


def _shard_name(shard: Source, opened: Checkpoint) -> str:
    path = Path(shard.info.address).relative_to(opened.info.address)
    return str(path.with_name(path.stem.replace("pytorch_model", "model") + ENDING))


def _nbytes(tensor: Tensor) -> int:
    known = _numpy_type(tensor)
    return 0 if known is None else math.prod(tensor.shape) * known.itemsize


def write(path: Path, file: WeightFile, cut: Cut) -> None:
    """Write a file of weights, holding one tensor at a time.

    Raises
    ------
    CheckpointError
        If the source cannot be read, or the format does not hold its names.
    OSError
        If the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as stream:
        stream.write(header_of(file.tensors, file.metadata))
        for tensor in file.tensors:
            raw = _stored(file.source, tensor)
            if tensor.dtype in FLOAT_TYPES:
                cut(tensor, raw.view(FLOAT_TYPES[tensor.dtype]).reshape(tensor.shape))
            stream.write(raw.data)
    try:
        SafetensorsFile(path)  # which holds the header against the file's size
    except CheckpointError as error:
        reason = f"holds names or sizes that safetensors files do not take ({error.reason})"
        raise CheckpointError("E_SMOOTH", file.source.info.address, reason, "rename them") from None


def _stored(source: Source, tensor: Tensor) -> Array:
    """Return the bytes of a tensor: those of the source, or those that its numbers would have there."""
    if isinstance(source, SafetensorsFile):
        return source.stored(tensor.name)
    values = encode(source.read(tensor.name), tensor.dtype)
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def write_beside(folder: Path, home: Path | None) -> tuple[str, ...]:
    """Copy what lies beside the weights and a model is loaded with, and return the names.

    Raises
    ------
    CheckpointError
        ``E_PATH`` if a link among it leads out of the source.
    """
    if home is None:
        return ()
    paths = [path for path in (*home.glob("*"), *home.glob("*/config.json")) if path.is_file()]
    names = sorted(path.relative_to(home).as_posix() for path in paths)
    beside = tuple(name for name in names if BESIDE.fullmatch(name))
    for name in beside:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(contained(home, name), folder / name)
    return beside


def write_index(folder: Path, files: Sequence[WeightFile], opened: Checkpoint) -> tuple[str, ...]:
    """Write which shard each tensor is in, as the source has it if it can be said so; return its name."""
    if len(files) == 1:
        return ()
    index = opened.source.index if isinstance(opened.source, ShardedSource) else None
    if index is not None and index.name.endswith(INDEX):
        shutil.copyfile(index, folder / index.name)
        return (index.name,)
    content = {
        "metadata": {"total_size": sum(t.nbytes for file in files for t in file.tensors)},
        "weight_map": {tensor.name: file.name for file in files for tensor in file.tensors},
    }
    (folder / USUAL_INDEX).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return (USUAL_INDEX,)
