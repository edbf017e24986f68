"""The command line as a person or a script meets it."""

import csv
import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as parquet
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import spectra
from spectra.cli import main
from spectra.reports import to_markdown
from tests.conftest import ROOT


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def checkpoint(weights, tmp_path):
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_analyze_prints_a_table_and_a_summary(checkpoint):
    result = run("analyze", checkpoint)
    assert result.exit_code == 0
    for text in ("layers.10.fc", "alpha", "mean of 4", "embeddings and output heads", "skipped"):
        assert text in result.stdout


def test_the_command_gives_the_numbers_of_the_library(checkpoint, tmp_path):
    out = tmp_path / "out.json"
    assert run("analyze", checkpoint, "--json", out, "--csv", tmp_path / "out.csv").exit_code == 0
    data, report = json.loads(out.read_text()), spectra.analyze(checkpoint)
    assert data["summary"] == dict(report.summary)
    assert [row["alpha"] for row in data["layers"]] == [x.alpha for x in report.layers]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [float(row["alpha"]) for row in rows] == [x.alpha for x in report.layers]


def test_a_page_is_written_whole_to_a_file_or_to_standard_output(checkpoint, tmp_path):
    out = tmp_path / "out.html"
    result = run("analyze", checkpoint, "--html", out, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    again = run("analyze", checkpoint, "--html", "-")
    for text in (out.read_text("utf-8"), again.stdout):
        assert text.startswith("<!doctype html>")
        assert text.endswith("</html>\n")
    assert "layers.10.fc" in again.stderr  # the table goes where a person looks
    assert run("demo", "--html", "-").stdout.startswith("<!doctype html>")


def test_a_page_that_cannot_be_written_is_said_before_the_work(checkpoint, tmp_path):
    result = run("analyze", checkpoint, "--html", tmp_path / "absent" / "out.html")
    assert result.exit_code == 3
    assert result.stderr.startswith("error[E_WRITE] ")
    assert len(result.stderr.splitlines()) == 1
    result = run("analyze", checkpoint, "--html", "-", "--json", "-")
    assert result.exit_code == 2
    assert "--json and --html cannot both write" in result.stderr


def test_standard_output_is_data_alone(checkpoint):
    result = run("analyze", checkpoint, "--json", "-")
    assert json.loads(result.stdout)["summary"]["n_layers"] == 6
    assert "mean of" in result.stderr
    result = run("analyze", checkpoint, "--csv", "-", "--quiet")
    assert len(list(csv.DictReader(io.StringIO(result.stdout)))) == 6
    assert result.stderr == ""


def test_a_table_of_types_and_a_summary_for_pull_requests(checkpoint, tmp_path):
    files = [tmp_path / "out.parquet", tmp_path / "out.md"]
    result = run("analyze", checkpoint, "--parquet", files[0], "--markdown", files[1])
    assert result.exit_code == 0
    report = spectra.analyze(checkpoint)
    table = parquet.read_table(files[0])
    assert table.column("alpha").to_pylist() == [x.alpha for x in report.layers]
    assert table.column("model").to_pylist() == [str(checkpoint)] * 6
    assert files[1].read_text() == to_markdown(report)


def test_binary_data_goes_through_pipes(checkpoint):
    result = run("analyze", checkpoint, "--parquet", "-")
    table = parquet.read_table(io.BytesIO(result.stdout_bytes))
    assert table.num_rows == 6
    assert "mean of 4" in result.stderr


def test_a_missing_package_is_told_before_the_work(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(spectra.analysis, "analyze", None)
    result = run("analyze", checkpoint, "--parquet", tmp_path / "out.parquet")
    assert result.exit_code == 3
    assert result.stderr == (
        "error[E_MISSING_PACKAGE] pyarrow: is needed to make tables and is not installed;"
        " install it: pip install 'spectra-diagnostics[frames]'\n"
    )


def test_plots_are_written(checkpoint, tmp_path):
    result = run("analyze", checkpoint, "--plots", tmp_path / "figures", "--layers", "layers.*")
    assert result.exit_code == 0
    assert len(list((tmp_path / "figures").iterdir())) == 5


@pytest.mark.parametrize("command", ["analyze", "rank"])
def test_pictures_have_the_format_asked_for_and_without_pictures_that_is_a_slip(
    checkpoint, tmp_path, command
):
    sources = [checkpoint] if command == "analyze" else [checkpoint, checkpoint]
    result = run(command, *sources, "--plots", tmp_path / "p", "--format", "svg", "--quiet")
    assert result.exit_code == 0
    assert {path.suffix for path in (tmp_path / "p").iterdir()} == {".svg"}
    result = run(command, *sources, "--format", "svg")
    assert result.exit_code == 2
    assert "--plots" in result.stderr


def test_describe_lists_without_analysing(checkpoint, tmp_path):
    result = run("describe", checkpoint, "--json", tmp_path / "d.json")
    assert result.exit_code == 0
    assert "6 layers to analyse" in result.stdout
    assert "GFLOP" in result.stdout
    data = json.loads((tmp_path / "d.json").read_text())
    assert data["layers"][0]["name"] == "conv.weight"


def test_demo_needs_no_argument():
    result = run("demo")
    assert result.exit_code == 0
    assert "2.47" in result.stdout
    assert "test error" in result.stdout


def test_doctor_finds_this_machine_sound():
    result = run("doctor")
    assert result.exit_code == 0
    assert "FAIL" not in result.stdout
    assert "torch" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--layers", "nothing.*"], 2, "error[E_NO_MATCH]"),
        (["--convention", "htsl"], 2, "did you mean htsr"),
        (["--estimator", "hil"], 2, "error[E_NAME]"),
        (["--device", "cuda:77"], 2, "error[E_DEVICE]"),
        (["--device", "gpu"], 2, "use auto, cpu"),
        (["--rows", "-1"], 2, "rows"),
        (["--nonsense"], 2, "No such option"),
        (["--json", "-", "--csv", "-"], 2, "cannot both"),
        (["--markdown", "-", "--parquet", "-"], 2, "--markdown and --parquet cannot both"),
        (["--parquet", "/nowhere/out.parquet"], 3, "error[E_WRITE]"),
        (["--markdown", "/tmp/" + "x" * 300], 3, "file name too long"),
        (["--markdown", "/tmp/" + "x" * 300 + "/out.md"], 3, "file name too long"),
        (["--json", "/nowhere/out.json"], 3, "error[E_WRITE]"),
        (["--strict"], 0, ""),
    ],
)
def test_exit_codes_and_one_line_errors(checkpoint, arguments, code, words):
    result = run("analyze", checkpoint, *arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_strict_fails_when_a_layer_has_no_numbers(weights, tmp_path):
    save_file(weights | {"bad": np.full((30, 30), np.nan)}, tmp_path / "m.safetensors")
    assert run("analyze", tmp_path / "m.safetensors").exit_code == 0
    assert run("analyze", tmp_path / "m.safetensors", "--strict").exit_code == 4


def test_a_missing_file_is_answered_with_a_close_name(checkpoint):
    result = run("analyze", checkpoint.with_name("modle.safetensors"))
    assert result.exit_code == 3
    assert result.stderr.strip().endswith("did you mean model.safetensors?")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["analyze", "describe", "demo", "doctor", "cache"])
def test_help_teaches(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout
    assert all(len(line) <= 90 for line in result.stdout.splitlines())


def test_the_launcher_runs_from_a_checkout(checkpoint):
    done = subprocess.run(
        [sys.executable, "cli.py", "analyze", str(checkpoint), "--quiet", "--json", "-"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["summary"]["n_layers"] == 6


def test_a_closed_pipe_costs_no_files(checkpoint, tmp_path):
    out = tmp_path / "out.json"
    process = subprocess.Popen(
        [sys.executable, "cli.py", "analyze", str(checkpoint), "--json", str(out)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert json.loads(out.read_text())["summary"]["n_layers"] == 6


def test_a_terminal_without_greek_gets_question_marks(checkpoint):
    done = subprocess.run(
        [sys.executable, "cli.py", "analyze", str(checkpoint)],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=True,
    )
    assert b"Traceback" not in done.stderr
    assert b"layers.10.fc" in done.stdout


@pytest.mark.parametrize(("source", "words"), [("", "names no file"), ("nope://b/m", "nope")])
def test_what_is_no_path_is_named(source, words):
    result = run("analyze", source)
    assert result.exit_code == 3
    assert words in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("presses", [1, 2])
def test_an_interrupted_run_writes_what_is_done_and_marks_it(presses, tmp_path, rng):
    """Ctrl-C once the bar shows a finished layer: exit 130, a report, the rest `not_reached`.

    The first press lets the layers in hand finish, the second does not wait for them.
    """
    weights = {f"w{i:02}": rng.standard_normal((900 + i, 900)).astype("f4") for i in range(80)}
    save_file(weights, tmp_path / "m.safetensors")
    out = tmp_path / "out.json"
    ours, theirs = os.openpty()
    command = ["analyze", str(tmp_path / "m.safetensors"), "--json", str(out), "--no-cache"]
    process = subprocess.Popen(
        [sys.executable, "cli.py", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"COLUMNS": "80", "TERM": "xterm"},
    )
    os.close(theirs)
    bar = b""
    while b"w" not in bar.replace(b"reading", b""):
        bar += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    while b"again" not in bar:
        bar += os.read(ours, 4096)
    if presses == 2:
        process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    table = process.stdout.read().decode()
    process.stdout.close()
    assert process.wait(timeout=60) == 130
    os.close(ours)
    assert b"Traceback" not in bar
    data = json.loads(out.read_text())
    assert data["complete"] is False
    assert {row["status"] for row in data["layers"]} == {"ok", "not_reached"}
    assert "INTERRUPTED" in table


def test_a_file_in_place_of_a_command_gets_a_hint(checkpoint):
    result = run(checkpoint)
    assert result.exit_code == 2
    assert f"did you mean: spectra analyze {checkpoint}" in result.stderr


def test_strict_names_what_it_stumbled_over_even_when_quiet(tmp_path):
    np.save(tmp_path / "small.npy", np.eye(5, dtype=np.float32))
    result = run("analyze", tmp_path / "small.npy", "--strict", "--quiet")
    assert result.exit_code == 4
    assert result.stderr.startswith("--strict: 1 layer has no alpha: tensor (")


def test_nothing_that_is_read_is_written_over(checkpoint, tmp_path):
    before = checkpoint.read_bytes()
    for option in ("--json", "--spectra", "--html"):
        result = run("analyze", checkpoint, option, checkpoint)
        assert (result.exit_code, "would be written over" in result.stderr) == (3, True)
    assert run("analyze", tmp_path, "--csv", checkpoint).exit_code == 3
    ranked = run("rank", checkpoint, checkpoint, "--json", checkpoint)
    assert (ranked.exit_code, "would be written over" in ranked.stderr) == (3, True)
    assert checkpoint.read_bytes() == before


def test_two_outputs_in_one_file_are_refused(checkpoint, tmp_path):
    twice = run("analyze", checkpoint, "--json", tmp_path / "x", "--csv", tmp_path / "." / "x")
    assert (twice.exit_code, "given for two outputs" in twice.stderr) == (2, True)
    assert not (tmp_path / "x").exists()


def test_a_report_beside_the_weights_may_be_written_again(checkpoint):
    report = checkpoint.parent / "report.json"
    for _ in range(2):
        assert run("analyze", checkpoint.parent, "--json", report, "--quiet").exit_code == 0
