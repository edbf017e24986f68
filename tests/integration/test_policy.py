"""The policy commands as users meet them."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from spectra.cli import main
from spectra.policies import Policy, Share
from spectra.reports.policies import pattern_of, to_file


def run(*arguments):
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ["policy", *map(str, arguments)])


@pytest.fixture
def model(tmp_path, rng):
    weights = {
        f"model.layers.{i}.{name}.weight": rng.standard_t(2.5 + i, shape).astype(np.float32)
        for i in range(4)
        for name, shape in {"self_attn.q_proj": (64, 64), "mlp.up_proj": (96, 64)}.items()
    }
    weights["model.embed_tokens.weight"] = rng.standard_normal((120, 64)).astype(np.float32)
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    return path


def test_data_goes_to_standard_output_and_the_table_to_standard_error(model):
    done = run("prune", model, "--target", "0.5")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["policy"] == "prune"
    assert found["target"] == 0.5
    assert found["estimator"] == "xmin_peak"
    assert len(found["ratios"]) == 8
    assert "50.0% of" in done.stderr
    assert max(map(len, done.output.splitlines())) < 200


def test_with_a_file_the_table_goes_to_standard_output(model, tmp_path):
    done = run("lora", model, "--rank", "4", "-o", tmp_path / "ranks.json")
    assert done.exit_code == 0
    assert "parameters in adapters of 8 layers" in done.stdout
    found = json.loads((tmp_path / "ranks.json").read_text("utf-8"))
    assert set(found) == {"r", "rank_pattern"}  # what LoraConfig takes, and nothing else
    assert found["r"] == 4
    assert set(found["rank_pattern"]) >= {"model.layers.0.mlp.up_proj"}


def test_layers_to_train_are_a_list_of_patterns(model):
    done = run("freeze", model, "--quiet")
    assert done.exit_code == 0
    assert done.stderr == ""
    head, *lines = done.stdout.splitlines()
    assert head == "unfrozen_parameters:"
    patterns = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    assert len(patterns) == 3  # the embedding and one of each type
    assert patterns[0] == "^model.embed_tokens.(weight|bias)$"
    assert all(re.fullmatch(r"- \^\S+|# \S+", line) for line in lines)
    assert "embed" not in run("freeze", model, "--quiet", "--layers-only").stdout


def test_what_is_read_is_not_written_over(model):
    before = model.read_bytes()
    for command in ("prune", "freeze", "lora"):
        for source in (model, model.parent):
            done = run(command, source, "-o", model)
            assert done.exit_code == 3
            assert "would be written over" in done.stderr
    assert model.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("prune", "absent.safetensors"), 3, "error[E_NOT_FOUND]"),
        (("prune", "MODEL", "--target", "2"), 2, "2 is not between 0 and 1"),
        (("prune", "MODEL", "--estimator", "xmin_peek"), 2, "did you mean xmin_peak"),
        (("freeze", "MODEL", "--fraction", "0.1"), 2, "take a larger one"),
        (("freeze", "MODEL", "--by", "alpha"), 2, "Invalid value for '--by'"),
        (("lora", "MODEL", "--budget", "5"), 2, "parameters more than there are"),
        (("lora", "MODEL", "-o", "/no/such/folder/x.json"), 3, "error[E_WRITE]"),
        (("prine", "MODEL"), 2, "Did you mean 'prune'"),
    ],
)
def test_a_slip_is_one_clear_line(model, arguments, code, words):
    done = run(*(model if word == "MODEL" else word for word in arguments))
    assert done.exit_code == code
    assert words in done.stderr
    assert "Traceback" not in done.output
    assert done.stdout == ""


def test_saved_json_is_a_source_too(model, tmp_path):
    saved = tmp_path / "report.json"
    CliRunner().invoke(main, ["analyze", str(model), "--json", str(saved), "--quiet"])
    assert run("lora", saved).stdout == run("lora", model).stdout
    assert run("prune", saved).exit_code == 2
    done = run("freeze", saved)
    assert done.exit_code == 3
    assert "holds no spectra" in done.stderr


HOSTILE = ["a\nb: [x].weight", "x\x1b[31m.weight", "#[0:3].weight", "ü(+)*.weight", "- .weight"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_one_item_that_matches_itself_alone(name):
    yaml = pytest.importorskip("yaml")
    shares = (Share(name, name, 1.0, 1, 10), Share("plain.weight", "g", 1.0, 1, 10))
    text = to_file(Policy("freeze", "s", {}, shares))
    patterns = yaml.safe_load(text)["unfrozen_parameters"]
    assert patterns == [pattern_of(name), pattern_of("plain.weight")]
    assert re.match(patterns[0], name)
    assert re.match(patterns[0], name.replace("weight", "bias"))
    assert not re.match(patterns[0], f"{name}2")
    assert not re.match(patterns[0], f"x{name}")
    ranks = json.loads(to_file(Policy("lora", "s", {"mean_rank": 4}, shares)))["rank_pattern"]
    key = next(iter(ranks))
    assert re.match(rf"(.*\.)?({key})$", name.removesuffix(".weight"))


def test_a_pattern_means_the_same_to_readers_that_escape_dots_themselves():
    pattern = pattern_of("model.layers.1.mlp.up_proj.weight")
    for form in (pattern, pattern.replace(".", r"\.")):
        assert re.match(form, "model.layers.1.mlp.up_proj.weight")
        assert not re.match(form, "model.layers.11.mlp.up_proj.weight")
        assert not re.match(form, "model.layers.1.mlp.up_proj_2.weight")
