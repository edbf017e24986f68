"""Weights are decomposed once, whatever file they are in; and what may happen to what is kept."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file, save, save_file

import spectra
from spectra import evidence
from spectra.cli import main
from spectra.engine import cpu, planning
from spectra.store import Store
from tests.conftest import ROOT, packaged_weights
from tests.reference.matrices import pareto
from tests.servers import RangeServer


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def place(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("SPECTRA_CACHE", str(folder))
    return folder


@pytest.fixture
def checkpoint(weights, tmp_path):
    weights["nan.weight"] = np.full((30, 30), np.nan, np.float32)
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def unsolvable(monkeypatch):
    """From the call on, whatever decomposes anything raises; NaN is found before that."""

    def forbid():
        def decomposed(*_, **__):
            raise AssertionError("was decomposed again")

        monkeypatch.setattr(cpu, "_eigenvalues", decomposed)
        monkeypatch.setattr(cpu, "singular", decomposed)
        monkeypatch.setattr("scipy.linalg.eigvalsh_tridiagonal", decomposed)
        evidence.null_of_shape.cache_clear()

    return forbid


def report(*arguments):
    """The JSON of a command as text, without its run; and the run."""
    result = run(*arguments, "--quiet", "--json", "-")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    content = json.loads(result.stdout)
    origins = content.pop("run")
    return json.dumps(content), (origins["decompositions"], origins["from_store"])


def test_the_second_run_decomposes_nothing_and_says_the_same_to_the_byte(
    checkpoint, place, unsolvable
):
    plain, origins = report("analyze", checkpoint, "--no-cache")
    assert (origins, place.exists()) == ((6, 0), False)
    first, origins = report("analyze", checkpoint)
    assert (origins, first) == ((6, 0), plain)
    unsolvable()
    again, origins = report("analyze", checkpoint)
    assert (origins, again) == ((0, 6), plain)


@pytest.mark.parametrize(
    "options",
    [
        ["--estimator", "hill_mid"],
        ["--seed", "7", "--replicates", "0"],
        ["--layers", "layers.*"],
        ["--explain"],
        ["--convention", "weightwatcher-0.7.7"],
    ],
)
def test_other_choices_on_the_same_files_decompose_nothing(options, checkpoint, place, unsolvable):
    plain, _ = report("analyze", checkpoint, "--no-cache", *options)
    report("analyze", checkpoint)
    unsolvable()
    found, origins = report("analyze", checkpoint, *options)
    assert found == plain
    assert origins[0] == 0


def test_the_same_weights_in_another_file_format_and_place_decompose_nothing(
    checkpoint, place, unsolvable, weights, tmp_path
):
    report("analyze", checkpoint)
    others = {f"renamed.{name}": torch.from_numpy(array) for name, array in weights.items()}
    torch.save(others, tmp_path / "other.pt")
    np.savez(tmp_path / "other.npz", **weights)
    unsolvable()
    for name in ("other.pt", "other.npz"):
        assert report("analyze", tmp_path / name)[1] == (0, 6)


@pytest.mark.parametrize("precision", ["fast", "svd"])
def test_another_precision_is_decomposed_and_kept_by_itself(precision, checkpoint, place):
    report("analyze", checkpoint)
    plain, _ = report("analyze", checkpoint, "--no-cache", "--precision", precision)
    assert report("analyze", checkpoint, "--precision", precision) == (plain, (6, 0))
    assert report("analyze", checkpoint, "--precision", precision) == (plain, (0, 6))
    assert report("analyze", checkpoint)[1] == (0, 6)


def test_a_checkpoint_that_shares_tensors_costs_what_differs(checkpoint, place, weights, tmp_path):
    report("analyze", checkpoint)
    weights["layers.2.fc.weight"] = weights["layers.2.fc.weight"] + np.float32(0.01)
    save_file(weights, tmp_path / "step2.safetensors")
    assert report("analyze", tmp_path / "step2.safetensors")[1] == (1, 5)


def test_all_metrics_a_second_time_decompose_nothing_not_even_shuffled_matrices_and_noise(
    place, unsolvable, tmp_path, rng
):
    model = {"w": (rng.standard_t(3, (160, 140)) + 0.2).astype("f4")}  # with a trap
    save_file(model, tmp_path / "m.safetensors")
    options = ["analyze", tmp_path / "m.safetensors", "--metrics", "all", "--replicates", "2"]
    plain, _ = report(*options, "--no-cache")
    evidence.null_of_shape.cache_clear()
    assert report(*options) == (plain, (1, 0))
    unsolvable()
    assert report(*options) == (plain, (0, 1))
    assert json.loads(plain)["layers"][0]["n_traps"] > 0


def test_real_weights_a_second_time(place, unsolvable):
    path = packaged_weights("all-minilm-l6-v2")
    plain, _ = report("analyze", path, "--no-cache", "--replicates", "0")
    report("analyze", path, "--replicates", "0")
    unsolvable()
    assert report("analyze", path, "--replicates", "0")[0] == plain


def test_the_library_keeps_nothing_unless_told_to(checkpoint, place):
    assert spectra.analyze(checkpoint).run["decompositions"] == 6
    assert not place.exists()
    spectra.analyze(checkpoint, store=spectra.Store(place / "mine"))
    assert spectra.analyze(checkpoint, store=Store(place / "mine")).run["from_store"] == 6


KILLED = """
import os, signal, sys, threading
from spectra.cli import main
from spectra.engine import cpu
begun, solve, one = [], cpu.solve, threading.Lock()
def killed(*arguments, **options):
    with one:
        begun.append(1)
        if len(begun) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
    return solve(*arguments, **options)
cpu.solve = killed
main(["analyze", sys.argv[1], "--quiet"])
"""


def test_a_process_killed_in_the_middle_costs_what_it_was_solving(
    place, rng, tmp_path, monkeypatch
):
    model = {f"w{i:02}": rng.standard_normal((80 + i, 60)).astype("f4") for i in range(12)}
    save_file(model, tmp_path / "m.safetensors")
    path = str(tmp_path / "m.safetensors")
    killed = subprocess.run([sys.executable, "-c", KILLED, path], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    kept = len(list(Store(place).entries()))
    assert 1 <= kept <= 4
    assert Store(place).verify().damaged == ()
    solve, solved = cpu.solve, []
    monkeypatch.setattr(cpu, "solve", lambda *a, **k: solved.append(1) or solve(*a, **k))
    assert report("analyze", path)[1] == (12 - kept, kept)
    assert len(solved) == 12 - kept


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from spectra.cli import main
main(["analyze", sys.argv[1], "--quiet", "--json", "-"])
"""


def test_a_disk_without_room_costs_one_line_and_no_number(checkpoint, place):
    plain, _ = report("analyze", checkpoint, "--no-cache")
    command = [sys.executable, "-c", LIMITED, str(checkpoint)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.pop("run")["decompositions"] == 6
    assert json.dumps(found) == plain
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("going on without keeping spectra")
    assert [path for path in place.rglob("*") if path.is_file()] == []


def test_damaged_entries_are_decomposed_again_and_replaced(checkpoint, place):
    plain, _ = report("analyze", checkpoint)
    entries = sorted(place.rglob("*.spectrum"))
    entries[0].write_bytes(b"")
    entries[1].write_bytes(entries[2].read_bytes())
    spoilt = bytearray(entries[3].read_bytes())
    spoilt[-5] ^= 4
    entries[3].write_bytes(spoilt)
    assert report("analyze", checkpoint) == (plain, (3, 3))
    assert report("analyze", checkpoint) == (plain, (0, 6))


def test_weights_far_away_travel_once_though_they_are_hashed_and_solved(monkeypatch, rng, place):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(planning, "STREAM_BYTES", 0)
    large = {name: rng.standard_normal((1500, 1024)).astype("f4") for name in "ab"}
    options = {"replicates": 0}
    with RangeServer() as server:
        server.files["/m.safetensors"] = save(large)
        url = f"{server.url}/m.safetensors"
        plain = spectra.analyze(url, **options)
        alone = server.nbytes
        first = spectra.analyze(url, store=Store(), **options)
        assert server.nbytes == 2 * alone
        again = spectra.analyze(url, store=Store(), **options)
        assert server.nbytes == 3 * alone
    assert plain.layers == first.layers == again.layers
    assert (first.run["from_store"], again.run["from_store"]) == (0, 2)


def test_a_file_of_spectra_can_be_far_away(monkeypatch, checkpoint, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    expected = spectra.analyze(checkpoint)
    expected.write(tmp_path / "m.spectra")
    with RangeServer() as server:
        server.files["/m.spectra"] = (tmp_path / "m.spectra").read_bytes()
        found = spectra.analyze(f"{server.url}/m.spectra")
        assert len(server.requests) <= 2
    assert found.source == expected.source
    assert [layer.alpha for layer in found.layers if layer.status == "ok"] == [
        layer.alpha for layer in expected.layers if layer.status == "ok"
    ]


def test_cache_list_counts_and_sums_up(checkpoint, place):
    assert run("cache", "list").stdout == f"{place}: 0 spectra, 0.0 kB\n"
    report("analyze", checkpoint)
    result = run("cache", "list", "--json", "-")
    listed = json.loads(result.stdout)
    assert listed["path"] == str(place)
    assert len(listed["entries"]) == 6
    assert {(e["N"], e["M"], e["n_matrices"]) for e in listed["entries"]} == {
        (300, 40, 1),
        (24, 12, 9),
        (96, 64, 1),
        (80, 60, 1),
    }
    total = sum(path.stat().st_size for path in place.rglob("*.spectrum"))
    assert sum(entry["nbytes"] for entry in listed["entries"]) == total
    result = run("cache", "list", "--rows", "2")
    assert f"6 spectra, {total / 1e3:,.1f} kB" in result.stdout
    assert "2 more shapes; --rows 0 shows all" in result.stdout
    table = run("cache", "list", "--rows", "0").stdout
    assert re.search(r"^ +24×12×9 +1 ", table, re.MULTILINE)
    assert re.search(r"^ +96×64 +2 ", table, re.MULTILINE)


def test_cache_clear_removes_by_age_and_says_what(checkpoint, place):
    report("analyze", checkpoint)
    month_ago = time.time() - 31 * 86400
    for path in sorted(place.rglob("*.spectrum"))[:2]:
        os.utime(path, (month_ago, month_ago))
    result = run("cache", "clear", "--older-than", "30d")
    assert (result.exit_code, "removed 2 spectra" in result.stdout) == (0, True)
    assert "removed 4 spectra" in run("cache", "clear").stdout
    assert "removed 0 spectra" in run("cache", "clear").stdout
    assert report("analyze", checkpoint)[1] == (6, 0)


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1 month", "1e9d", "٣d", "nan", ""])
def test_an_age_that_is_none_is_wrong_usage(age, place):
    result = run("cache", "clear", f"--older-than={age}")
    assert result.exit_code == 2
    assert "is no age" in result.stderr


@pytest.mark.parametrize(("age", "left"), [("7200s", 1), ("90m", 0), ("1.5h", 0), ("2w", 1)])
def test_ages_are_in_the_units_they_say(age, left, checkpoint, place):
    report("analyze", checkpoint, "--layers", "conv")
    (path,) = place.rglob("*.spectrum")
    moment = time.time() - 6000
    os.utime(path, (moment, moment))
    run("cache", "clear", "--older-than", age)
    assert len(list(place.rglob("*.spectrum"))) == left


def test_cache_verify_names_what_is_damaged(checkpoint, place):
    assert run("cache", "verify").stdout == f"{place}: 0 spectra checked, all intact\n"
    report("analyze", checkpoint)
    assert run("cache", "verify").exit_code == 0
    bad = sorted(place.rglob("*.spectrum"))[2]
    bad.write_bytes(b"")
    result = run("cache", "verify")
    assert result.exit_code == 1
    assert result.stdout == f"{bad}: is no entry\n{place}: 6 spectra checked, 1 damaged\n"
    result = run("cache", "verify", "--remove")
    assert (result.exit_code, "1 damaged and removed" in result.stdout) == (0, True)
    assert not bad.exists()
    assert run("cache", "verify").stdout == f"{place}: 5 spectra checked, all intact\n"


def test_what_cannot_be_removed_is_an_error(checkpoint, place, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "denied")

    report("analyze", checkpoint)
    monkeypatch.setattr("pathlib.Path.unlink", denied)
    result = run("cache", "clear")
    assert result.exit_code == 3
    assert "6 spectra could not be removed" in result.stderr


def test_a_cache_without_a_home_is_one_line(monkeypatch):
    monkeypatch.setattr("spectra.store.default_path", lambda: None)
    for command in ("list", "clear", "verify"):
        result = run("cache", command)
        assert result.exit_code == 3
        assert result.stderr.startswith("error[E_CACHE]")
        assert result.stderr.count("\n") == 1


def test_a_name_of_the_place_cannot_drive_the_terminal(monkeypatch, tmp_path):
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "a\x1b[31mb"))
    assert "\x1b" not in run("cache", "list").stdout + run("cache", "clear").stdout


def test_spectra_kept_by_a_command_are_a_source_for_others(checkpoint, place, tmp_path):
    kept = tmp_path / "kept"
    plain, _ = report("analyze", checkpoint, "--estimator", "hill_mid")
    assert run("analyze", checkpoint, "--quiet", "--spectra", kept).exit_code == 0
    checkpoint.unlink()
    assert report("analyze", kept, "--estimator", "hill_mid") == (plain, (0, 0))
    result = run("describe", kept)
    assert "7 layers to analyse from their spectra, without weights" in result.stdout
    assert {
        row["route"] for row in json.loads(run("describe", kept, "--json", "-").stdout)["layers"]
    } == {"kept"}
    assert len(load_file(kept)) == 6
    assert run("demo", "--quiet", "--spectra", kept).exit_code == 0
    assert "2.47" in run("analyze", kept).stdout


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--spectra", "-", "--json", "-"], 2, "cannot both write"),
        (["--spectra", "/nowhere/m.spectra"], 3, "error[E_WRITE]"),
    ],
)
def test_a_place_for_spectra_that_is_none_is_told_before_the_work(options, code, words, checkpoint):
    result = run("analyze", checkpoint, *options)
    assert (result.exit_code, words in result.stderr) == (code, True)
    assert result.stdout == ""


@pytest.mark.parametrize(
    "options",
    [
        ["--convention", "weightwatcher-0.7.7"],
        ["--conv", "flatten"],
        ["--precision", "fast"],
        ["--metrics", "all"],
    ],
)
def test_what_spectra_cannot_give_is_wrong_usage(options, checkpoint, tmp_path):
    kept = tmp_path / "kept.spectra"
    run("analyze", checkpoint, "--quiet", "--spectra", kept)
    result = run("analyze", kept, *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("error[E_SPECTRA]")
    assert result.stderr.count("\n") == 1
    assert str(checkpoint) in result.stderr


def test_a_hostile_file_of_spectra_is_refused_in_one_line(tmp_path):
    text = json.dumps({"schema_version": 1, "matrices": "\x1b[31m"})
    values = {"0": np.sort(pareto(3, 30, np.random.default_rng(1)))}
    save_file(values, tmp_path / "m", {"spectra-diagnostics": text})
    for command in ("analyze", "describe"):
        result = run(command, tmp_path / "m")
        assert result.exit_code == 3
        assert result.stderr.startswith("error[E_SPECTRA]")
        assert result.stderr.count("\n") == 1
        assert "\x1b" not in result.stderr
