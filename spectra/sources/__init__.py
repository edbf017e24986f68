"""Where weights come from: files and folders on disk, live modules, dicts of arrays.

``open_source`` looks at headers only. What a file is, its content says, not its name.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.errors import CheckpointError, WeightError
from spectra.records import Skipped, SourceInfo, Tensor
from spectra.sources import derived, folders, memory
from spectra.sources.base import Array, Source

__all__ = ["Checkpoint", "Source", "open_source"]

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
MAX_CONFIG = 16 * 2**20

LFS_POINTER = b"version https://git-lfs"
ZIP = b"PK\x03\x04"
# What other formats begin with: recognised to be named, and left to later readers.
FOREIGN = {
    b"GGUF": "a GGUF file",
    b"\x89HDF": "an HDF5 (Keras) file",
    b"\x93NUMPY": "a NumPy array file",
}
FOREIGN_ENDINGS = {".onnx": "an ONNX model", ".keras": "a Keras model", ".npz": "NumPy arrays"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A source as a model computes with it, and the configuration that lay beside it."""

    source: Source
    config: Mapping[str, Any]

    @property
    def info(self) -> SourceInfo:
        """What the source is and how much it holds."""
        return self.source.info

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor: dequantised, folded and with adapters applied."""
        return self.source.tensors

    @property
    def ignored(self) -> tuple[Skipped, ...]:
        """What is beside the weights, and what they were computed from."""
        return self.source.ignored

    def read(self, name: str) -> Array:
        """Return one tensor."""
        return self.source.read(name)

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows of one tensor."""
        return self.source.read_rows(name, begin, end)


def open_source(
    where: Any,  # noqa: ANN401 - the one door for everything users have
    *,
    base: Any = None,  # noqa: ANN401
    allow_partial: bool = False,
) -> Checkpoint:
    """Open weights by headers alone.

    Parameters
    ----------
    where : path, Mapping or torch.nn.Module
        A checkpoint file or folder, a state dict, a dict of arrays, or a live module.
    base : path, Mapping or torch.nn.Module, optional
        The model that a LoRA adapter belongs to: the merged matrices are then given, not the deltas.
    allow_partial : bool, default: False
        Take a folder from which shards are missing, and mark it.

    Returns
    -------
    Checkpoint
        Lists its tensors; ``read(name)`` gives one of them.

    Raises
    ------
    CheckpointError
        If a file is missing, damaged, unsafe or of a format that is not read.
    WeightError
        If an object in memory holds no weights.
    """
    if isinstance(where, Checkpoint):
        return where
    config: Mapping[str, Any] = {}
    adapter: Mapping[str, Any] | None = None
    if isinstance(where, str | Path):
        source = _open_address(where, allow_partial=allow_partial)
        home = Path(source.info.address)
        folder = home if home.is_dir() else home.parent
        config, adapter = read_config(folder / CONFIG), _adapter_config(folder)
    elif isinstance(where, Mapping):
        source = memory.open_mapping(where)
    elif memory.is_module(where):
        source, config = memory.open_module(where), memory.config_of(where)
    else:
        raise WeightError(
            "E_TYPE",
            "source",
            f"expected a path, a module or a dict of arrays, got {type(where).__name__}",
        )
    source = derived.fold_parametrisations(source)
    if adapter is not None:
        source = derived.lora_deltas(
            source, adapter, None if base is None else open_source(base).source
        )
    elif base is not None:
        raise CheckpointError(
            "E_LORA", source.info.address, "is no LoRA adapter", "leave --base out"
        )
    return Checkpoint(source, config)


def read_config(path: Path) -> dict[str, Any]:
    """Return a configuration, empty if there is none or it is no JSON object of a sensible size."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_CONFIG:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    text = found.get("text_config")  # of models that see as well as read
    return {**text, **found} if isinstance(text, dict) else found


def _adapter_config(folder: Path) -> dict[str, Any] | None:
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return None
    found = read_config(path)
    if str(found.get("peft_type", "LORA")).upper() != "LORA":
        reason = f"is a {found['peft_type']} adapter, of which only LoRA is read"
        raise CheckpointError(
            "E_FORMAT", str(folder), reason, "merge it into its base and save that"
        )
    return found


def _open_address(where: str | Path, *, allow_partial: bool) -> Source:
    if isinstance(where, str) and (not where or "://" in where):
        reason = "is a URL, which is not read yet" if where else "names no file"
        raise CheckpointError("E_FORMAT", where or "''", reason, "give a file or folder")
    return _open_path(Path(where), allow_partial=allow_partial)


def _open_path(path: Path, *, allow_partial: bool = False) -> Source:
    try:
        if path.is_dir():
            return folders.open_folder(path, _open_file, allow_partial=allow_partial)
        if path.name.endswith(folders.INDEX_ENDING) and path.is_file():
            return folders.open_index(path, _open_file, allow_partial=allow_partial)
        return _open_file(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(
            "E_UNREADABLE", str(path), reason.lower(), "check the path and its permissions"
        ) from error


def _open_file(path: Path) -> Source:
    if not path.exists():
        raise _not_found(path)
    if not path.is_file():
        raise CheckpointError(
            "E_NOT_A_FILE", str(path), "is neither a file nor a folder", "give a checkpoint"
        )
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise CheckpointError("E_EMPTY", str(path), "is empty", "download or copy it again")
    if head.startswith(LFS_POINTER):
        raise CheckpointError(
            "E_LFS_POINTER", str(path), "is a git-lfs pointer, not the file", "run: git lfs pull"
        )
    # A safetensors file begins with the length of its header, below 2^32, and then its brace.
    if head[4:9] == b"\0\0\0\0{":
        return _open_safetensors(path)
    foreign = next((what for magic, what in FOREIGN.items() if head.startswith(magic)), None)
    foreign = foreign or FOREIGN_ENDINGS.get(path.suffix)
    if foreign:
        reason = f"is {foreign}, which is not read yet"
        raise CheckpointError("E_FORMAT", str(path), reason, "convert it to safetensors")
    text = head.lstrip().lower()
    if text.startswith((b"<", b"{", b"[")):
        what = "a web page" if text.startswith(b"<") else "a JSON text"
        raise CheckpointError(
            "E_NOT_A_CHECKPOINT", str(path), f"is {what}, not weights", "download the file again"
        )
    if path.suffix == ".safetensors" and not head.startswith(ZIP):
        return _open_safetensors(path)
    if head.startswith((ZIP, b"\x80")) or path.suffix in folders.TORCH_ENDINGS:
        from spectra.sources.torch_files import TorchFile

        return TorchFile(path)
    raise CheckpointError(
        "E_NOT_A_CHECKPOINT",
        str(path),
        f"begins with {head[:12]!r}, which is no known checkpoint",
        f"expected safetensors or {' '.join(folders.TORCH_ENDINGS)}",
    )


def _open_safetensors(path: Path) -> Source:
    from spectra.sources.safetensors_files import SafetensorsFile

    return SafetensorsFile(path)


def _not_found(path: Path) -> CheckpointError:
    parent = path.parent
    close: list[str] = []
    if parent.is_dir():
        others = [p.name for p in parent.iterdir() if p.name != path.name]
        close = difflib.get_close_matches(path.name, others, n=2)
    advice = f"did you mean {' or '.join(close)}?" if close else "give a file or folder"
    return CheckpointError("E_NOT_FOUND", str(path), "does not exist", advice)


def demo_model() -> Path:
    """Return the file of the shipped model: the SETOL paper's perceptron, trained on MNIST."""
    return Path(__file__).parents[1] / "data" / "mlp3_mnist.safetensors"


def demo_record() -> dict[str, Any]:
    """Return how the shipped model was trained, its errors, and its layers' alpha."""
    record: dict[str, Any] = json.loads(demo_model().with_suffix(".json").read_text("utf-8"))
    return record
