"""Weights to measure on: made from a fixed seed, heavy-tailed, in safetensors files."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SEED = 20261123


def heavy(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (0.02 * rng.standard_t(4, shape)).astype(np.float32)


def layers(*shapes: tuple[int, ...]) -> Callable[[Path], None]:
    """Write one linear layer a shape."""

    def write(path: Path) -> None:
        rng = np.random.default_rng(SEED)
        save_file({f"layers.{i}.weight": heavy(rng, *s) for i, s in enumerate(shapes)}, path)

    return write


def gpt2_shaped(path: Path) -> None:
    """Twelve blocks of width 768, as GPT-2 small, with its embeddings."""
    rng = np.random.default_rng(SEED)
    weights = {"wte.weight": heavy(rng, 50257, 768), "wpe.weight": heavy(rng, 1024, 768)}
    for i in range(12):
        weights[f"h.{i}.attn.c_attn.weight"] = heavy(rng, 2304, 768)
        weights[f"h.{i}.attn.c_proj.weight"] = heavy(rng, 768, 768)
        weights[f"h.{i}.mlp.c_fc.weight"] = heavy(rng, 3072, 768)
        weights[f"h.{i}.mlp.c_proj.weight"] = heavy(rng, 768, 3072)
    save_file(weights, path)


def packaged(package: str, file: str) -> Path | None:
    """Return real weights that an installed package holds."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / file


def sparse(path: Path, n_layers: int, side: int) -> int:
    """Write a file that claims `n_layers` of side² in float32 and occupies none of it on disk."""
    size = 4 * side * side
    header = {
        f"layers.{i}.weight": {
            "dtype": "F32",
            "shape": [side, side],
            "data_offsets": [i * size, (i + 1) * size],
        }
        for i in range(n_layers)
    }
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + n_layers * size)
    return n_layers * size


MADE = {
    "4 of 2048²": layers(*[(2048, 2048)] * 4),
    "1 of 4096²": layers((4096, 4096)),
    "200 of 1024×512": layers(*[(1024, 512)] * 200),
    "GPT-2-shaped": gpt2_shaped,
}
