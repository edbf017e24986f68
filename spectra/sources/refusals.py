"""Formats that are recognised and not read, each with the way to one that is.

``REFUSALS`` is the one table: errors and documentation both iterate over it.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from spectra.errors import CheckpointError

MAX_LISTED = 100_000  # entries of a folder that are looked at
MAX_FOLDERS = 100  # sub-folders that are looked into
WEIGHT_FILE = re.compile(
    r"(.*\.(safetensors|gguf|onnx|keras|h5|npz|msgpack|pth|th|ckpt)|(pytorch_|adapter_)model.*\.bin)"
    r"(\.index\.json)?"
)
"""Beside such files a foreign format is a leftover of training, and the files are read."""

_GATHER = (
    "gather it first: torch.distributed.checkpoint.state_dict.get_model_state_dict(model, options="
    "StateDictOptions(full_state_dict=True)), and save that"
)
_ZERO = "run in its folder: python zero_to_fp32.py . OUT --safe_serialization"
_ORBAX = (
    "restore it with orbax.checkpoint.PyTreeCheckpointer().restore(FOLDER) and save the arrays with"
    " numpy.savez or safetensors.flax.save_file"
)
_TF = (
    "run: python -c \"import numpy as n, tensorflow as t; r = t.train.load_checkpoint('{}');"
    " n.savez('weights.npz', **{{k: r.get_tensor(k) for k in r.get_variable_to_shape_map()}})\""
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A format that is refused: its name, how it is recognised in words, and what to do.

    The patterns are what the words say, each for a whole name. ``folder`` holds alternatives, of
    which each is a set of entries that are all there; so are ``inside`` for a sub-folder of any
    name, ``file`` for the name of a file, ``members`` for records of a zip archive without the
    folder around them all. ``tensor`` is a tensor's name that gives the format away, ``every`` one
    that all tensors have.
    """

    what: str
    recognised: str
    advice: str
    folder: tuple[tuple[str, ...], ...] = ()
    inside: tuple[tuple[str, ...], ...] = ()
    file: str = ""
    members: tuple[str, ...] = ()
    tensor: str = ""
    every: str = ""

    def error(self, path: Path) -> CheckpointError:
        """Build the error for a path of this format."""
        return CheckpointError("E_FORMAT", str(path), f"is {self.what}, not read", self.advice)


REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "a DeepSpeed ZeRO checkpoint",
        "`zero_to_fp32.py` in the folder, files named `*zero_pp_rank_*`, or tensors under"
        " `single_partition_of_fp32_groups` or `fp32_flat_groups`",
        _ZERO,
        folder=((r"zero_to_fp32\.py",), (r".*zero_pp_rank_\d+_mp_rank_\d+_.*\.pt",)),
        file=r".*zero_pp_rank_\d+_mp_rank_\d+_.*\.pt",
        tensor=r"(.*\.)?(single_partition_of_fp32_groups|fp32_flat_groups)(\..*)?",
    ),
    Refusal(
        "a shard of FSDP's flat parameters",
        "tensors named `_flat_param` or `flat_param_0`: each is a slice of many weights in one row",
        _GATHER,
        tensor=r"(.*\.)?_?flat_param(_\d+)?",
    ),
    Refusal(
        "a TensorFlow SavedModel",
        "`saved_model.pb` or `saved_model.pbtxt` in the folder",
        _TF.format("FOLDER/variables/variables"),
        folder=((r"saved_model\.pb(txt)?",),),
        file=r"saved_model\.pb(txt)?",
    ),
    Refusal(
        "a TensorFlow checkpoint",
        "`NAME.index` beside `NAME.data-00000-of-00001`",
        _TF.format("FOLDER/NAME"),
        folder=((r".*\.data-\d{5}-of-\d{5}", r".*\.index"),),
        file=r".*\.data-\d{5}-of-\d{5}",
    ),
    Refusal(
        "a torch.package archive",
        "a zip archive with `.data/extern_modules` inside",
        "its pickles run code by design: load it where you trust it, and save model.state_dict()",
        members=(r"\.data/extern_modules",),
    ),
    Refusal(
        "an Orbax checkpoint",
        "`_CHECKPOINT_METADATA`, `orbax.checkpoint`, `manifest.ocdbt`, `ocdbt.process_0`, or"
        " `_METADATA` beside `_sharding`, in the folder or in a folder of it",
        _ORBAX,
        folder=(
            (r"_CHECKPOINT_METADATA",),
            (r"orbax\.checkpoint",),
            (r"manifest\.ocdbt",),
            (r"ocdbt\.process_\d+",),
            (r"_METADATA", r"_sharding"),
        ),
        inside=((r"_CHECKPOINT_METADATA",), (r"orbax\.checkpoint",), (r"manifest\.ocdbt",)),
        file=r"manifest\.ocdbt|_CHECKPOINT_METADATA",
    ),
    Refusal(
        "optimizer state without a model",
        "every tensor is a moment or a step: `exp_avg`, `exp_avg_sq`, `momentum_buffer`, `step`",
        "give the file that holds the model",
        every=r"(.*\.)?(max_)?(exp_avg(_sq)?|exp_inf|momentum_buffer|step|square_avg|grad_avg)(\..*)?",
    ),
)
"""What is recognised and refused, in the order in which it is looked for."""


def refuse_folder(folder: Path) -> CheckpointError | None:
    """Return the error for a folder of a format that is not read, None for any other.

    A folder that also holds ordinary weight files is not refused.
    """
    names = [path.name for path in _paths(folder)]
    if any(WEIGHT_FILE.fullmatch(name) for name in names):
        return None
    for refusal in REFUSALS:
        if _holds(names, refusal.folder):
            return refusal.error(folder)
    if any(name.endswith((".pt", ".bin")) for name in names):
        return None
    folders = (path for path in _paths(folder) if path.is_dir() and not path.is_symlink())
    for below in islice(folders, MAX_FOLDERS):
        inside = [path.name for path in _paths(below)]
        for refusal in REFUSALS:
            if _holds(inside, refusal.inside):
                return refusal.error(folder)
    return None


def refuse_archive(path: Path, member_names: Collection[str]) -> CheckpointError | None:
    """Return the error for a file of a format that is not read, by its name and its zip records.

    Give no names for a file that is no zip archive.
    """
    inner = {name.partition("/")[2] for name in member_names} | set(member_names)
    for refusal in REFUSALS:
        named = bool(refusal.file and re.fullmatch(refusal.file, path.name))
        if named or any(re.fullmatch(p, name) for p in refusal.members for name in inner):
            return refusal.error(path)
    return None


def refuse_names(path: Path, tensor_names: Collection[str]) -> CheckpointError | None:
    """Return the error for tensors that are no weights of a layer each, by their names."""
    for refusal in REFUSALS:
        if refusal.tensor and any(re.fullmatch(refusal.tensor, name) for name in tensor_names):
            return refusal.error(path)
        if refusal.every and tensor_names:
            pattern = re.compile(refusal.every)
            if all(pattern.fullmatch(name) for name in tensor_names):
                return refusal.error(path)
    return None


def _paths(folder: Path) -> list[Path]:
    """Return what is in a folder, nothing where it is none or may not be looked into."""
    try:
        return list(islice(folder.iterdir(), MAX_LISTED))
    except OSError:
        return []


def _holds(names: Collection[str], alternatives: Collection[tuple[str, ...]]) -> bool:
    return any(
        all(any(re.fullmatch(part, name) for name in names) for part in parts)
        for parts in alternatives
    )
