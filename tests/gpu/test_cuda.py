"""On a CUDA device: the same numbers as on the CPU in float64."""

import numpy as np
import pytest
import torch

import spectra
from spectra.engine import cuda, make_plan, this_machine
from spectra.metrics import METRICS
from spectra.sources import demo_model
from tests.reference.engine import matrix_of, solve

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def test_the_shipped_model_gives_the_same_numbers_on_both():
    cpu, cuda_report = (spectra.analyze(demo_model(), device=device) for device in ("cpu", "cuda"))
    for here, there in zip(cpu.layers, cuda_report.layers, strict=True):
        assert here.status == there.status
        for name in METRICS:
            assert there[name] == pytest.approx(here[name], rel=1e-9, nan_ok=True), name


def test_batches_of_slices_give_the_same_spectra(rng):
    weights = {f"w{i}": rng.standard_t(3, (48, 32, 3, 3)) for i in range(4)}
    cpu, cuda_report = (spectra.analyze(weights, device=device) for device in ("cpu", "cuda"))
    for here, there in zip(cpu.layers, cuda_report.layers, strict=True):
        assert np.allclose(
            here.spectrum.eigenvalues, there.spectrum.eigenvalues, rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("precision", ["double", "fast", "svd"])
@pytest.mark.parametrize("shape", [(64, 64), (513, 300), (300, 513), (1200, 1100)])
def test_spectra_keep_their_stated_error_on_the_device(precision, shape, rng):
    arrays = {f"w{i}": rng.standard_t(4, shape).astype("f4") for i in range(3)}
    found = solve(arrays, machine=this_machine("cuda"), precision=precision)
    expected = solve(arrays, precision="svd")
    for name, spectrum in found.items():
        difference = np.abs(spectrum.eigenvalues - expected[name].eigenvalues).max()
        assert difference <= spectrum.error
        assert spectrum.solver != "svd" or precision == "svd"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gram_matrices_of_16_bit_weights_come_from_exact_products(dtype, rng):
    module = torch.nn.Linear(700, 500, bias=False).to(dtype)
    fast, double = (
        spectra.analyze(module, device="cuda", precision=precision).layers[0]
        for precision in ("fast", "double")
    )
    assert fast.alpha == pytest.approx(double.alpha, rel=1e-3)
    assert fast.solver == "gram_float32"


def test_a_matrix_larger_than_its_share_of_the_device_is_streamed(rng):
    import dataclasses

    weights = rng.standard_normal((20_000, 300))
    machine = dataclasses.replace(this_machine("cuda"), device_memory=20 * 10**6)
    assert make_plan([matrix_of("w", weights)], machine=machine).jobs[0].streamed
    found = solve({"w": weights}, machine=machine)["w"]
    expected = solve({"w": weights})["w"]
    assert np.allclose(found.eigenvalues, expected.eigenvalues, rtol=1e-9)


def test_the_probe_answers():
    assert cuda._is_batched("cuda") in (True, False)
