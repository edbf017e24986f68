"""Gates as continuous integration meets them: exit codes, what is printed, what is written."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import spectra
from spectra.cli import main
from spectra.errors import AnalysisInterrupted

HOSTILE = "  ::add-mask::fc\n::set-env name=x::y|<b>.weight"


@pytest.fixture
def checkpoint(weights, tmp_path):
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def broken(weights, tmp_path):
    save_file(weights | {HOSTILE: np.full((64, 64), np.nan, "f4")}, tmp_path / "b.safetensors")
    return tmp_path / "b.safetensors"


def run(*arguments, **env):
    runner = CliRunner(env={"COLUMNS": "80", "GITHUB_STEP_SUMMARY": None} | env)
    return runner.invoke(main, [str(a) for a in arguments])


def analyze(source, *arguments, **env):
    return run("analyze", source, "--replicates", "0", *arguments, **env)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--fail-on", "alpha > 0"], 1, "FAIL: alpha > 0: alpha is"),
        (["--fail-on", "alpha < 0"], 0, "pass: alpha < 0: alpha is"),
        (["--fail-on", "alpha<0", "--fail-on", "n_layers>5"], 1, "FAIL: n_layers > 5"),
        (["--fail-on", "layers(alpha > 0) == 100%"], 1, "4 of 4 averaged layers, 100 %: "),
        (["--fail-on", "any(non_finite)", "--strict"], 0, "pass: any(non_finite): 0 of 6 layers"),
    ],
)
def test_a_rule_that_is_met_is_exit_code_1(checkpoint, arguments, code, words):
    result = analyze(checkpoint, "--quiet", *arguments)
    assert result.exit_code == code
    assert words in result.stdout
    assert result.stderr == ""
    assert result.stdout.count("\n") == arguments.count("--fail-on")


def test_a_rule_that_cannot_be_judged_is_exit_code_4(broken):
    result = analyze(broken, "--quiet", "--fail-on", "any(alpha < 0)")
    assert result.exit_code == 4
    assert result.stdout.startswith("not judged: any(alpha < 0): 1 layer with no number")
    result = analyze(broken, "--quiet", "--fail-on", "any(alpha < 0)", "--fail-on", "n_failed > 0")
    assert result.exit_code == 1
    assert analyze(broken, "--strict", "--fail-on", "n_failed > 0").exit_code == 1


def test_the_table_of_rules_follows_the_table_of_layers(checkpoint):
    result = analyze(checkpoint, "--fail-on", "layers(alpha > 0) > 5%", "--fail-on", "alpha > 99")
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    at = lines.index("FAIL  layers(alpha > 0) > 5%: 4 of 4 averaged layers, 100 %")
    assert at > next(i for i, line in enumerate(lines) if line.startswith("mean of"))
    assert lines[at + 1] == "      conv, layers.0.fc, layers.2.fc, layers.10.fc"
    assert lines[at + 2].startswith("pass  alpha > 99: alpha is ")
    assert all(len(line) <= 80 for line in lines[at:])


def test_standard_output_stays_data(broken):
    result = analyze(broken, "--json", "-", "--quiet", "--fail-on", "any(non_finite)")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["summary"]["n_failed"] == 1
    assert result.stderr.startswith("FAIL: any(non_finite): 1 of 7 layers: ")
    assert result.stderr.count("\n") == 1


def test_files_are_written_whatever_the_rules_say(checkpoint, tmp_path):
    base, out = tmp_path / "base.json", tmp_path / "out.json"
    assert analyze(checkpoint, "--json", base, "--fail-on", "alpha > 0").exit_code == 1
    result = analyze(
        checkpoint,
        *("--json", out, "--layers", "layers.*", "--baseline", base, "--max-regress", "alpha=1%"),
    )
    assert result.exit_code == 2
    assert json.loads(base.read_text())["complete"]
    assert json.loads(out.read_text())["summary"]["n_layers"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fail-on", "layers(alpha < two) > 5%"], "expected a number, found 'two'"),
        (["--fail-on", "any(n_traps > 0)"], "only with --metrics all"),
        (["--max-regress", "alpha=5%"], "need each other"),
        (["--baseline", "b.json"], "need each other"),
        (["--github"], "--github needs a rule"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_source_is_opened(arguments, words):
    result = run("analyze", "nowhere.safetensors", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_the_caret_is_below_the_character(checkpoint):
    result = analyze(checkpoint, "--fail-on", "layers(alpha < two) > 5%")
    assert result.stderr == (
        "error[E_RULE] --fail-on: expected a number, found 'two'\n"
        "  layers(alpha < two) > 5%\n"
        "                 ^\n"
    )


@pytest.mark.parametrize(
    ("baseline", "code", "words"),
    [("absent.json", 3, "cannot be read"), ("other.json", 3, "is no report of spectra")],
)
def test_a_baseline_that_is_none_is_input(checkpoint, tmp_path, baseline, code, words):
    (tmp_path / "other.json").write_text("{}")
    result = analyze(checkpoint, "--baseline", tmp_path / baseline, "--max-regress", "alpha=5%")
    assert result.exit_code == code
    assert words in result.stderr


def test_a_model_is_held_against_its_baseline(weights, checkpoint, tmp_path, rng):
    base = tmp_path / "base.json"
    analyze(checkpoint, "--json", base, "--quiet")
    limits = ("--quiet", "--baseline", base, "--max-regress", "alpha=0%")
    same = analyze(checkpoint, *limits)
    assert (same.exit_code, same.stdout.split(":")[0]) == (0, "pass")
    worse = weights | {"layers.0.fc.weight": rng.standard_normal((96, 64)).astype("f4")}
    save_file(worse, tmp_path / "worse.safetensors")
    result = analyze(tmp_path / "worse.safetensors", *limits)
    assert result.exit_code == 1
    assert "FAIL: alpha=0%: alpha is" in result.stdout
    assert "worse by" in result.stdout
    for option in (["--estimator", "xmin_peak"], ["--conv", "flatten"], ["--exclude", "conv*"]):
        result = analyze(checkpoint, *limits, *option)
        assert result.exit_code == 2
        assert "error[E_BASELINE]" in result.stderr


def test_an_interrupted_analysis_is_130_whatever_the_rules_say(checkpoint, tmp_path, monkeypatch):
    report = dataclasses.replace(spectra.analyze(checkpoint, replicates=0), complete=False)

    def interrupted(*_args, **_options):
        raise AnalysisInterrupted(report)

    base, out = tmp_path / "base.json", tmp_path / "out.json"
    analyze(checkpoint, "--json", base, "--quiet")
    monkeypatch.setattr("spectra.analysis.analyze", interrupted)
    arguments = ("--quiet", "--json", out, "--baseline", base, "--max-regress", "alpha=1%")
    result = analyze(checkpoint, *arguments, "--fail-on", "alpha > 99", "--fail-on", "alpha > 0")
    assert result.exit_code == 130
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [
        "not judged",
        "FAIL",
        "not judged",
    ]
    assert json.loads(out.read_text())["complete"] is False


def test_an_unfinished_download_does_not_pass(weights, tmp_path):
    save_file(weights, tmp_path / "model-00001-of-00002.safetensors")
    result = analyze(tmp_path, "--quiet", "--allow-partial", "--fail-on", "alpha > 99")
    assert result.exit_code == 4
    assert "not judged: alpha > 99: the report is incomplete" in result.stdout
    result = analyze(tmp_path, "--quiet", "--allow-partial", "--fail-on", "alpha > 0")
    assert result.exit_code == 1


def test_the_summary_of_github_is_appended_to(broken, tmp_path):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    rules = ("--fail-on", "any(non_finite)", "--fail-on", "alpha > 0", "--fail-on", "n_layers > 99")
    result = analyze(broken, "--github", *rules, GITHUB_STEP_SUMMARY=str(summary))
    assert result.exit_code == 1
    text = summary.read_text("utf-8")
    assert text.startswith("before\n### spectra: 2 fail, 1 pass in <code>")
    assert "add-mask" not in text
    assert "<b>" not in text
    assert text.count("\n") == 8
    commands = [line for line in result.stdout.splitlines() if line.startswith("::error")]
    assert len(commands) == 2
    assert commands[0].startswith("::error title=spectra::any(non_finite): 1 of 7 layers: ")


def test_names_cannot_command_the_runner(broken):
    for arguments in (("--quiet",), ("--json", "-")):
        result = analyze(broken, "--github", *arguments, "--fail-on", "any(non_finite)")
        lines = (result.stderr if "-" in arguments else result.stdout).splitlines()
        token = lines[0].removeprefix("::stop-commands::")
        assert len(token) == 32
        end = lines.index(f"::{token}::")
        obeyed = [line for line in lines[end + 1 :] if line.lstrip().startswith("::")]
        assert all(line.startswith("::error title=spectra::any(non_finite)") for line in obeyed)
        assert len(obeyed) == 1


def test_commands_are_obeyed_again_after_an_error(tmp_path):
    result = analyze(tmp_path / "absent.pt", "--github", "--fail-on", "alpha > 6")
    assert result.exit_code == 3
    first, last = result.stdout.splitlines()
    assert last == f"::{first.removeprefix('::stop-commands::')}::"


def test_without_a_place_for_the_summary_that_is_said(checkpoint, tmp_path):
    result = analyze(checkpoint, "--quiet", "--github", "--fail-on", "alpha > 99")
    assert result.exit_code == 0
    assert result.stderr == "--github: GITHUB_STEP_SUMMARY is not set, so no summary is written\n"
    result = analyze(
        checkpoint, "--github", "--fail-on", "alpha > 99", GITHUB_STEP_SUMMARY=str(tmp_path)
    )
    assert result.exit_code == 3
    assert "error[E_WRITE]" in result.stderr


def test_the_shipped_model_passes_what_a_good_model_should():
    result = run("demo", "--quiet", "--fail-on", "layers(alpha < 2 or alpha > 6) > 0%")
    assert (result.exit_code, result.stdout) == (
        0,
        "pass: layers(alpha < 2 or alpha > 6) > 0%: 0 of 2 averaged layers, 0 %\n",
    )
