"""On a CUDA device: the same numbers as on the CPU in float64."""

import numpy as np
import pytest
import torch

import spectra
from spectra.metrics import METRICS
from spectra.sources import demo_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def test_the_shipped_model_gives_the_same_numbers_on_both():
    cpu, cuda = (spectra.analyze(demo_model(), device=device) for device in ("cpu", "cuda"))
    for here, there in zip(cpu.layers, cuda.layers, strict=True):
        assert here.status == there.status
        for name in METRICS:
            assert there[name] == pytest.approx(here[name], rel=1e-9, nan_ok=True), name


def test_batches_of_slices_give_the_same_spectra(rng):
    weights = {f"w{i}": rng.standard_t(3, (48, 32, 3, 3)) for i in range(4)}
    cpu, cuda = (spectra.analyze(weights, device=device) for device in ("cpu", "cuda"))
    for here, there in zip(cpu.layers, cuda.layers, strict=True):
        assert np.allclose(
            here.spectrum.eigenvalues, there.spectrum.eigenvalues, rtol=1e-9, atol=1e-12
        )
