"""What a config.json says of the quantisation of its model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

METHODS = frozenset(
    ("", "fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "modelopt_fp4", "quark")
) | frozenset(("mxfp4", "bitsandbytes", "gptq", "awq", "deepseek_v4_fp8"))


@dataclass(frozen=True, slots=True)
class Settings:
    """What a config.json says of the quantisation; empty where it is silent or contradicts itself.

    ``unread`` names a method whose codes are not read.
    """

    method: str = ""
    unread: str = ""
    bits: int = 0
    group: int = 0
    block: object = None
    format: str = ""
    symmetric: bool = False

    @property
    def blocks(self) -> tuple[int, int] | None:
        """Rows and columns of a block, None if not stated; raises ValueError if they are none."""
        block = self.block
        if block is None:
            return None
        if isinstance(block, list | tuple) and len(block) == 2 and all(map(_is_count, block)):
            return block[0], block[1]
        raise ValueError(f"config.json states blocks of {str(block)[:40]}, which are none")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Return what a config.json says of the quantisation."""
    found = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(found, Mapping):
        found = config.get("quantization")
        mlx = isinstance(found, Mapping) and "bits" in found and "group_size" in found
        return Settings("mlx", "mlx") if mlx else Settings()
    method = str(found.get("quant_method") or "").lower().replace("compressed_", "compressed-")
    if method == "auto-round":  # which also writes the formats of the other two
        method = str(found.get("packing_format")).rpartition("auto_")[2]
        method = method if method in ("gptq", "awq") else "auto-round"
    form = str(found.get("checkpoint_format") or found.get("format") or "").lower()
    groups = found.get("config_groups")
    groups = groups.values() if isinstance(groups, Mapping) else ()
    weights = [
        group["weights"]
        for group in groups
        if isinstance(group, Mapping) and isinstance(group.get("weights"), Mapping)
    ]
    blocks = [found.get("weight_block_size"), *(w.get("block_structure") for w in weights)]
    mixed = isinstance(found.get("dynamic"), Mapping) and found["dynamic"]
    return Settings(
        method=method,
        unread=_unread(method, form, found),
        bits=0 if mixed else _one([found.get("bits"), *(w.get("num_bits") for w in weights)]),
        group=0 if mixed else _one([g.get("group_size") for g in (found, *weights)]),
        block=next((block for block in blocks if block is not None), None),
        format=form,
        symmetric=found.get("sym") is True,
    )


def _one(values: list[Any]) -> int:
    """Return the one number among some values, 0 if there is none or several."""
    numbers = {value for value in values if type(value) is int}
    return numbers.pop() if len(numbers) == 1 else 0


def _unread(method: str, form: str, found: Mapping[str, Any]) -> str:
    """Name a method, or a variant of a known one, whose codes are not read."""
    if method not in METHODS:
        return _word(method)
    if method == "gptq" and form not in ("", "gptq", "gptq_v2"):
        return f"gptq {_word(form)}"
    version = str(found.get("version") or form or "gemm").lower()
    if method == "awq" and version != "gemm":
        return f"awq {_word(version)}"
    sparsity = found.get("sparsity_config")
    sparse = str(sparsity.get("format") or "") if isinstance(sparsity, Mapping) else ""
    if method == "compressed-tensors" and (form == "marlin-24" or sparse not in ("", "dense")):
        return form if form == "marlin-24" else _word(sparse)
    return ""


def _word(text: str) -> str:
    return re.sub(r"[^\w.-]+", "?", text)[:40]
