"""Where weights come from: files and folders on disk, live modules, dicts of arrays.

``open_source`` looks at headers only. What a file is, its content says, not its name.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.errors import CheckpointError, WeightError
from spectra.records import Skipped, SourceInfo, Tensor
from spectra.sources import derived, formats, keras_models, live_adapters, memory, quantized
from spectra.sources.base import Array, Source

__all__ = ["Checkpoint", "Source", "open_source"]

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
MAX_CONFIG = 16 * 2**20


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

    @property
    def is_far(self) -> bool:
        """Whether reading is a transfer: the address is a URL, and no path that is here."""
        return "://" in self.source.info.address

    def expect(self, names: Sequence[str]) -> None:
        """Say which tensors will be read: a hint to far sources, which fetch neighbours together."""
        hint = getattr(self.source, "expect", None)
        if hint is not None:
            hint(names)

    def parts(self, name: str) -> tuple[str, ...]:
        """Return the names of the tensors that one is computed from; its own if it is stored."""
        source = self.source
        return source.parts(name) if isinstance(source, derived.DerivedSource) else (name,)

    def is_product(self, name: str) -> bool:
        """Tell whether a tensor is the core of a product, whose entries are those of no weight."""
        source = self.source
        return isinstance(source, derived.DerivedSource) and source.is_product(name)

    def product(self, name: str) -> derived.Product | None:
        """Return the factors of a tensor of which only what they add is read; None for others."""
        source = self.source
        return source.product(name) if isinstance(source, derived.DerivedSource) else None

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
    where : path, Mapping, torch.nn.Module or keras.Model
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
        if not getattr(
            source, "holds_spectra", False
        ):  # made of the weights beside it, or of others
            config, adapter = read_config(folder / CONFIG), _adapter_config(folder)
    elif isinstance(where, Mapping):
        source = memory.open_mapping(where)
    elif keras_models.is_keras(where):  # on the torch backend a torch module too
        source = keras_models.KerasModel(where)
    elif memory.is_module(where):
        source, config = memory.open_module(where), memory.config_of(where)
    else:
        raise WeightError(
            "E_TYPE",
            "source",
            f"expected a path, a module or a dict of arrays, got {type(where).__name__}",
        )
    source = derived.fold_parametrisations(quantized.resolve(source, config))
    if memory.is_module(where) and not keras_models.is_keras(where):
        source = live_adapters.live_deltas(where, source)
    if adapter is not None:
        below = None if base is None else open_source(base)
        source = derived.lora_deltas(source, adapter, below and below.source)
        config = below.config if below is not None else config
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
    if isinstance(where, str):
        if not where:
            raise CheckpointError("E_FORMAT", "''", "names no file", "give a file or folder")
        from spectra.sources import remote

        if "://" in where:
            return remote.open_url(where)
        # org/name is a repository only where no folder org is, so that a slip is told as such.
        if remote.REPOSITORY.fullmatch(where) and not formats.is_local(Path(where)):
            return remote.open_repository(where)
    return formats.open_path(Path(where), allow_partial=allow_partial)


def demo_model() -> Path:
    """Return the file of the shipped model: the SETOL paper's perceptron, trained on MNIST."""
    return Path(__file__).parents[1] / "data" / "mlp3_mnist.safetensors"


def demo_record() -> dict[str, Any]:
    """Return how the shipped model was trained, its errors, and its layers' alpha."""
    record: dict[str, Any] = json.loads(demo_model().with_suffix(".json").read_text("utf-8"))
    return record
