"""compare on the command line, and real models of which it is known how they differ."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from spectra.cli import main
from spectra.comparing import subspaces
from spectra.engine import cpu
from tests.conftest import packaged_weights, real_weights


def run(*arguments):
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ["compare", *map(str, arguments)])


def content_of(*arguments):
    result = run(*arguments, "--json", "-", "--quiet", "--replicates", "0")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_one_model_in_two_formats_is_identical():
    content = content_of(real_weights("ultraface-pth"), real_weights("ultraface-onnx"))
    assert content["change"] == "identical"
    assert content["summary"]["n_identical"] == len(content["layers"]) == 34


@pytest.mark.parametrize("epochs", [(80, 100), (0, 100)])
def test_checkpoints_of_one_run_are_trained_further(epochs):
    content = content_of(*(real_weights(f"rfb-{epoch}") for epoch in epochs))
    assert content["change"] == "fine_tuned"


def test_networks_of_other_depths_share_no_more_than_their_shapes():
    content = content_of(real_weights("resnet20"), real_weights("resnet32"))
    assert content["change"] == "unrelated"
    assert len(content["only_in_other"]) == 12
    assert not content["only_in_base"]


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    """One block of a real language model, and what became of it."""
    folder = tmp_path_factory.mktemp("block")
    weights = {
        name: values
        for name, values in load_file(packaged_weights("all-minilm-l6-v2")).items()
        if "layer.3." in name and values.ndim == 2
    }
    rng = np.random.default_rng(20260714)
    rounded, merged = {}, dict(weights)
    for name, values in weights.items():
        step = np.abs(values).max(axis=1, keepdims=True) / 127
        rounded[name] = (np.round(values / step) * step).astype(np.float32)
        if "query" in name or "value" in name:
            change = rng.standard_normal((len(values), 8)) @ rng.standard_normal(
                (8, values.shape[1])
            )
            size = 0.02 * np.linalg.norm(values) / np.linalg.norm(change)
            merged[name] = (values + size * change).astype(np.float32)
    for name, model in (("base", weights), ("rounded", rounded), ("merged", merged)):
        save_file(model, folder / f"{name}.safetensors")
    return folder


@pytest.mark.slow
def test_eight_bits_are_told_from_training(block):
    content = content_of(block / "base.safetensors", block / "rounded.safetensors")
    assert content["change"] == "noise_like"
    assert all(layer["overlap_left"] > 0.99 for layer in content["layers"])


@pytest.mark.slow
def test_a_merged_adapter_is_told_with_its_rank_and_where(block):
    content = content_of(block / "base.safetensors", block / "merged.safetensors")
    assert content["change"] == "low_rank"
    assert "1 q, 1 v" in content["verdict"]
    ranks = {layer["role"]: layer["delta_rank"] for layer in content["layers"]}
    assert ranks == {"q": 8, "k": 0, "v": 8, "o": 0, "up": 0, "down": 0}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    rng = np.random.default_rng(5)
    base = {f"layers.{i}.fc.weight": rng.standard_t(3, (60, 50)) for i in range(3)}
    save_file(base, folder / "base.safetensors")
    save_file({k: 1.1 * v for k, v in base.items()}, folder / "other.safetensors")
    return folder / "base.safetensors", folder / "other.safetensors"


def test_the_table_fits_80_columns_and_files_are_written(pair, tmp_path):
    result = run(*pair, "--csv", tmp_path / "c.csv")
    assert result.exit_code == 0
    assert "Rescaled: all 3 layers" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 4
    result = run(*pair, "--json", "-", "--no-subspaces")
    assert json.loads(result.stdout)["layers"][0]["overlap_left"] is None
    assert "Rescaled" in result.stderr


def test_exit_codes(pair, tmp_path):
    base, other = pair
    assert run(base).exit_code == 2
    missing = run(base, tmp_path / "absent.pt")
    assert missing.exit_code == 3
    assert missing.stderr.startswith("error[E_NOT_FOUND]")
    assert run(base, other, "--layers", "nothing*").exit_code == 2
    assert run(base, other, "--json", "-", "--csv", "-").exit_code == 2
    assert run(base, other, "--json", tmp_path / "no" / "x.json").exit_code == 3
    broken = {k: v.copy() for k, v in load_file(other).items()}
    broken["layers.1.fc.weight"][0, 0] = np.nan
    save_file(broken, tmp_path / "broken.safetensors")
    assert run(base, tmp_path / "broken.safetensors").exit_code == 0
    assert run(base, tmp_path / "broken.safetensors", "--strict").exit_code == 4


def test_a_second_comparison_decomposes_nothing_and_says_the_same(tmp_path, rng, monkeypatch):
    base = {f"{i}.weight": rng.standard_t(3, (80, 60)).astype(np.float32) for i in range(2)}
    other = {
        name: w + 0.1 * rng.standard_normal(w.shape).astype(np.float32) for name, w in base.items()
    }
    save_file(base, tmp_path / "a.safetensors")
    save_file(other, tmp_path / "b.safetensors")
    files = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    first = run(*files, "--json", "-", "--quiet")
    monkeypatch.setattr(cpu, "solve", None)  # called, they would raise
    monkeypatch.setattr(subspaces, "overlap", None)
    second = run(*files, "--json", "-", "--quiet")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout == second.stdout
    assert '"overlap_left"' in first.stdout
    assert isinstance(run(*files, "--quiet", "--no-cache").exception, TypeError)
