"""history on the command line, on a real run and on runs made for the purpose."""

import csv
import functools
import json

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import spectra
from spectra.cli import main
from spectra.engine import cpu
from tests.conftest import real_weights


def run(*arguments):
    return CliRunner().invoke(main, ["history", *map(str, arguments)])


@functools.cache
def rotations(seed):
    rng = np.random.default_rng(seed)
    return [np.linalg.qr(rng.normal(size=(n, 120)))[0] for n in (160, 120)]


def with_exponent(alpha, seed):
    """Make weights whose eigenvalues are the quantiles of a power law: σ² ~ u^(-1/(alpha - 1))."""
    left, right = rotations(seed)
    u = (np.arange(120) + 0.5) / 120
    return ((left * u ** (-0.5 / (alpha - 1))) @ right.T).astype(np.float32)


def save_checkpoint(path, alphas):
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"layers.{i}.{kind}.weight" for i in range(3) for kind in ("q_proj", "down_proj")]
    save_file(
        {n: with_exponent(a, i) for i, (n, a) in enumerate(zip(names, alphas, strict=False))}, path
    )


@pytest.fixture(scope="module")
def sinking(tmp_path_factory):
    """Folders as trainers leave them, of a run whose tails get heavier until alpha is below 2."""
    folder = tmp_path_factory.mktemp("sinking")
    for i, alpha in enumerate((4.0, 3.5, 3.0, 2.6, 2.3, 1.8, 1.5, 1.4)):
        place = folder / f"checkpoint-{500 * i}"
        save_checkpoint(place / "model.safetensors", [alpha] * 5 + [3.0])
        (place / "optimizer.pt").write_bytes(b"not weights")
        (place / "config.json").write_text("{}")
    (folder / "trainer_state.json").write_text("{}")
    (folder / "runs").mkdir()
    return folder


def test_alpha_falls_and_noise_vanishes_over_a_real_run(tmp_path):
    folder = real_weights("rfb-0").parent
    result = run(folder, "--json", "-", "--plots", tmp_path / "p", "--csv", tmp_path / "layers.csv")
    assert result.exit_code == 0
    content = json.loads(result.stdout)
    points = content["checkpoints"]
    assert (content["schema_version"], content["unit"]) == (1, "epoch")
    assert [point["step"] for point in points] == [0, 20, 40, 60, 80, 100]
    alphas = [point["alpha"] for point in points]
    assert alphas == sorted(alphas, reverse=True)
    assert points[0]["share_random_like"] > 0.9 > 0.2 > points[-1]["share_random_like"]
    assert content["signs"] == []
    assert not any(change["found"] for change in content["change_points"])  # six are too few
    with (tmp_path / "layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 34
    assert {row["step"] for row in rows} == {"0", "20", "40", "60", "80", "100"}
    assert (tmp_path / "p" / "history.png").is_file()


def test_over_training_is_told_with_its_step_and_the_layers(sinking):
    result = run(sinking, "--json", "-", "--quiet")
    signs = json.loads(result.stdout)["signs"]
    (rising,) = [sign for sign in signs if sign["kind"] == "over_trained_rising"]
    assert rising["step"] == 2500
    assert rising["p_value"] == pytest.approx(0.5**5)
    sunk = {sign["layer"]: sign["step"] for sign in signs if sign["kind"] == "left_band"}
    assert len(sunk) == 5
    assert "layers.2.down_proj.weight" not in sunk
    assert set(sunk.values()) <= {2500, 3000, 3500}


def test_the_table_fits_80_columns_and_says_what_was_skipped(sinking, tmp_path):
    result = run(sinking, "--plots", tmp_path)
    assert result.exit_code == 0
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert "8 checkpoints · 6 of 6 layers compared" in result.stdout
    assert "Sign from step 2500: more layers are below alpha 2" in result.stdout
    assert "trainer_state.json" in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.png", "roles.png"]
    few = run(sinking, "--rows", 3).stdout
    assert "… 5 more between" in few


def test_saved_reports_are_a_run_too_and_give_the_same_history(sinking, tmp_path):
    for place in sinking.glob("checkpoint-*"):
        spectra.analyze(place).write(tmp_path / f"{place.name}.json")
    first = run(sinking, "--json", "-", "--quiet").stdout
    (tmp_path / "history.json").write_text(first)  # is no checkpoint, a second time around
    one, two = json.loads(first), json.loads(run(tmp_path, "--json", "-", "--quiet").stdout)
    assert [x["source"] for x in two["skipped"]] == ["history.json"]
    for key in ("checkpoints", "trajectories", "change_points", "signs", "options", "layers"):
        assert one[key] == two[key]


def test_exit_codes_and_one_line_errors(sinking, tmp_path):
    assert run().exit_code == 2
    assert run(sinking, "--json", "-", "--csv", "-").exit_code == 2
    assert run(sinking, "--json", tmp_path / "no" / "x.json").exit_code == 3
    assert run(sinking, "--estimator", "cns").exit_code == 2
    empty = run(tmp_path)
    assert empty.exit_code == 3
    assert empty.stderr.startswith("error[E_NO_CHECKPOINTS]")
    assert len(empty.stderr.splitlines()) == 1
    assert run(tmp_path / "absent").exit_code == 3


def test_a_fall_that_comes_to_rest_is_a_change_at_its_step(tmp_path):
    rng = np.random.default_rng(8)
    for i, alpha in enumerate([4.4, 4.1, 3.8, 3.5, 3.2, 2.9] + 7 * [2.6]):
        alphas = alpha + 0.02 * rng.normal(size=6)
        save_checkpoint(tmp_path / f"epoch{i:02}.safetensors", alphas)
    result = run(tmp_path, "--json", tmp_path / "h.json", "--replicates", 0)
    assert "Change: alpha falls by" in result.stdout
    assert " an epoch until epoch 6" in result.stdout
    changes = json.loads((tmp_path / "h.json").read_text())["change_points"]
    (alpha,) = [x for x in changes if (x["metric"], x["role"]) == ("alpha", "")]
    assert alpha["found"]
    assert alpha["p_value"] <= alpha["p_adjusted"] <= 0.05
    assert alpha["rate_before"] == pytest.approx(-0.3, abs=0.05)


def test_two_architectures_and_a_damaged_file_in_one_folder(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path / f"step_{step}.safetensors", [3.0] * 6)
    save_checkpoint(tmp_path / "step_3.safetensors", [3.0] * 4)
    (tmp_path / "step_4.safetensors").write_bytes(b"\x40")
    result = run(tmp_path)
    assert result.exit_code == 0
    assert "left out: step_3: another architecture: 4 layers, not 6" in result.stdout
    assert "left out: step_4:" in result.stdout
    assert run(tmp_path, "--strict", "--quiet").exit_code == 4


def test_hostile_names_drive_no_terminal_and_no_spreadsheet(tmp_path):
    for name in ("=cmd\x1b[31m", "[bold]b"):
        save_checkpoint(tmp_path / f"{name}.safetensors", [3.0] * 6)
    (tmp_path / "\x1b]0;x.txt").write_text("")
    result = run(tmp_path, "--csv", tmp_path / "out.csv", "--plots", tmp_path / "p")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "[bold]b" in result.stdout
    with (tmp_path / "out.csv").open(newline="") as file:
        assert all(not row["checkpoint"].startswith("=") for row in csv.DictReader(file))


def test_a_run_that_diverges_is_drawn_and_told(tmp_path):
    for step in range(1, 4):
        save_checkpoint(tmp_path / f"step_{step}.safetensors", [3.0] * 6)
    weights = {f"layers.{i}.{k}.weight": np.full((160, 120), np.nan, np.float32)
               for i in range(3) for k in ("q_proj", "down_proj")}  # fmt: skip
    save_file(weights, tmp_path / "step_4.safetensors")
    result = run(tmp_path, "--plots", tmp_path / "p")
    assert result.exit_code == 0
    assert "Sign from step 4: 6 layers: holds NaN" in result.stdout


def test_traps_that_appear_are_told_with_all_metrics(tmp_path):
    rng = np.random.default_rng(3)
    for step in range(1, 4):
        weights = {"fc.weight": rng.normal(size=(90, 60)).astype(np.float32)}
        if step == 3:
            weights["fc.weight"] += 0.8
        save_file(weights, tmp_path / f"step_{step}.safetensors")
    arguments = ("--metrics", "all", "--replicates", "2")
    content = json.loads(run(tmp_path, *arguments, "--json", "-", "--quiet").stdout)
    assert [point["n_traps"] for point in content["checkpoints"]] == [0, 0, 1]
    (sign,) = [sign for sign in content["signs"] if sign["kind"] == "correlation_trap"]
    assert (sign["step"], sign["layer"]) == (3, "fc.weight")
    assert " traps " in run(tmp_path, *arguments).stdout


def test_dated_checkpoints_come_in_the_order_of_time_and_a_choice_is_told(tmp_path):
    names = ["run-2024-01-20", "run-2024-02-01", "run-2024-02-10"]
    for name in names:
        save_checkpoint(tmp_path / "days" / f"{name}.safetensors", [3.0] * 6)
        save_checkpoint(tmp_path / "times" / f"{name}-{name[-2:]}0000.safetensors", [3.0] * 6)
    days = json.loads(run(tmp_path / "days", "--json", "-", "--quiet").stdout)
    assert [point["name"] for point in days["checkpoints"]] == names
    assert days["choice"] == ""
    times = run(tmp_path / "times", "--json", tmp_path / "h.json")
    content = json.loads((tmp_path / "h.json").read_text())
    assert [point["name"][:14] for point in content["checkpoints"]] == names
    assert content["choice"].startswith("the date 2024-01-20, then 200000, as in run-2024-01-20")
    assert "ordered by the date 2024-01-20, then 200000" in times.stdout


def test_a_run_in_which_nothing_moves_says_so(tmp_path):
    for step in range(8):
        save_checkpoint(tmp_path / f"step_{step}.safetensors", [3.0] * 6)
    assert "Changes: none; nothing moved." in run(tmp_path, "--replicates", 0).stdout


def test_a_second_history_decomposes_nothing_and_says_the_same(tmp_path, rng, monkeypatch):
    for step in (100, 200):
        weights = {"fc.weight": rng.standard_t(3, (80, 60)).astype(np.float32)}
        save_file(weights, tmp_path / f"step_{step}.safetensors")
    arguments = ["history", str(tmp_path), "--json", "-", "--quiet"]
    first = CliRunner().invoke(main, arguments)
    monkeypatch.setattr(cpu, "solve", None)  # called, it would raise
    second = CliRunner().invoke(main, arguments)
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout == second.stdout
    assert isinstance(CliRunner().invoke(main, [*arguments, "--no-cache"]).exception, TypeError)
