import dataclasses
import json
import math

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import spectra
from spectra import engine, spectra_files
from spectra.errors import AnalysisInterrupted, CheckpointError, SelectionError
from spectra.reports import files, to_dict
from spectra.saved import report_of
from spectra.sources import open_source


@pytest.fixture
def model(weights, rng):
    """Layers of every kind and fate, ties, and a name that only Python lets pass."""
    weights["nan.weight"] = np.full((30, 30), np.nan, np.float32)
    weights["zero.weight"] = np.zeros((30, 30), np.float32)
    weights["complex.weight"] = np.zeros((30, 30), np.complex64)
    weights["few.weight"] = rng.standard_normal((30, 12))
    weights["tied.weight"] = weights["layers.0.fc.weight"]
    weights["\ud800 [red]\x1b[31m"] = rng.standard_normal((40, 25))
    weights["__metadata__"] = rng.standard_normal((40, 25))
    return weights


def comparable(report):
    content = to_dict(report)
    del content["run"]
    return json.dumps(content)


@pytest.fixture(autouse=True)
def no_second_decomposition(monkeypatch, request):
    """Whatever reads a file of spectra decomposes nothing: once written, solving is forbidden."""

    def written(path, content):
        write(path, content)
        monkeypatch.setattr(engine, "decompose", forbidden)

    def forbidden(*_, **__):
        raise AssertionError("a file of spectra was decomposed")

    write = files.write_file
    monkeypatch.setattr(files, "write_file", written)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"estimator": "hill_mid"},
        {"estimator": "csn", "replicates": 3, "seed": 11},
        {"layers": "layers.*", "exclude": "*.10.*"},
    ],
)
def test_a_file_of_spectra_gives_the_report_of_the_weights(model, options, tmp_path):
    expected = spectra.analyze(model, **options)
    spectra.analyze(model).write(tmp_path / "model.spectra")
    found = spectra.analyze(tmp_path / "model.spectra", **options)
    assert comparable(found) == comparable(expected)
    assert (found.run["decompositions"], found.run["from_store"]) == (0, 0)


@pytest.mark.parametrize(
    "kept",
    [
        {"convention": "weightwatcher-0.7.7"},
        {"conv": "flatten"},
        {"precision": "fast"},
        {"precision": "svd"},
    ],
)
def test_every_way_to_decompose_can_be_kept_and_is_refused_to_others(weights, kept, tmp_path):
    expected = spectra.analyze(weights, **kept)
    expected.write(tmp_path / "model.spectra")
    assert comparable(spectra.analyze(tmp_path / "model.spectra", **kept)) == comparable(expected)
    (option, value), *_ = kept.items()
    with pytest.raises(SelectionError) as caught:
        spectra.analyze(tmp_path / "model.spectra")
    assert caught.value.code == "E_SPECTRA"
    assert f"give --{option} {value}, or analyze the weights" in caught.value.advice


def test_what_takes_weights_is_refused(weights, tmp_path):
    spectra.analyze(weights).write(tmp_path / "model.spectra")
    with pytest.raises(SelectionError, match="takes weights"):
        spectra.analyze(tmp_path / "model.spectra", evidence=True)
    with pytest.raises(CheckpointError, match="leave --base out"):
        spectra.analyze(tmp_path / "model.spectra", base=weights)


def test_the_choice_that_was_made_is_told(weights, tmp_path):
    expected = spectra.analyze(weights, layers="layers.*", exclude="*.2.*")
    expected.write(tmp_path / "model.spectra")
    assert comparable(spectra.analyze(tmp_path / "model.spectra")) == comparable(expected)
    fewer = spectra.analyze(tmp_path / "model.spectra", exclude="*.10.*")
    assert [layer.name for layer in fewer.layers] == ["layers.0.fc.weight"]
    assert fewer.options["layers"] == ("layers.*",)
    assert fewer.options["exclude"] == ("*.2.*", "*.10.*")
    assert fewer.coverage["tensors"] == expected.coverage["tensors"]
    with pytest.raises(SelectionError, match="matches none"):
        spectra.analyze(tmp_path / "model.spectra", layers="conv")


def test_eigenvalues_are_kept_as_they_were_before_the_convention(weights, tmp_path):
    report = spectra.analyze(weights)
    report.write(tmp_path / "model.spectra")
    arrays = load_file(tmp_path / "model.spectra")
    assert len(arrays) == len(report.layers)
    for position, layer in enumerate(report.layers):
        values = arrays[str(position)]
        scale = 0.5 if layer.kind == "conv2d" else 1.0
        assert values.dtype == np.float64
        assert (scale * values).tobytes() == layer.spectrum.eigenvalues.tobytes()


def test_it_is_told_by_its_content_not_its_name(weights, tmp_path):
    expected = spectra.analyze(weights)
    for name in ("model.safetensors", "model.bin", "model", "model.json"):
        expected.write(tmp_path / "model.spectra")
        (tmp_path / "model.spectra").rename(tmp_path / name)
        assert comparable(spectra.analyze(tmp_path / name)) == comparable(expected)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "exl2"}}')
    assert comparable(spectra.analyze(tmp_path / "model")) == comparable(expected)


def test_describe_lists_what_is_kept(weights, tmp_path):
    whole = spectra.describe(weights)
    spectra.analyze(weights).write(tmp_path / "model.spectra")
    found = spectra.describe(tmp_path / "model.spectra", exclude="conv")
    names = [matrix.name for matrix in whole.matrices if matrix.name != "conv.weight"]
    assert [matrix.name for matrix in found.matrices] == names
    assert found.source == whole.source
    assert found.coverage["tensors"] == whole.coverage["tensors"]
    assert (found.operations, found.plan().jobs) == (0, ())
    with pytest.raises(SelectionError, match="tensors cut as in htsr"):
        spectra.describe(tmp_path / "model.spectra", convention="weightwatcher-0.7.7")


@pytest.mark.parametrize("left", [{}, {"w": np.full((30, 30), np.nan)}])
def test_a_model_without_a_spectrum_can_be_kept_too(left, tmp_path):
    source = left | {"bias": np.zeros(7)}
    expected = spectra.analyze(source)
    expected.write(tmp_path / "model.spectra")
    assert comparable(spectra.analyze(tmp_path / "model.spectra")) == comparable(expected)


def test_an_interrupted_analysis_is_kept_as_such(weights, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(AnalysisInterrupted) as caught:
        spectra.analyze(weights, progress=stop)
    caught.value.report.write(tmp_path / "model.spectra")
    found = spectra.analyze(tmp_path / "model.spectra")
    assert not found.complete
    assert comparable(found) == comparable(caught.value.report)


def test_a_partial_checkpoint_stays_partial(weights, tmp_path):
    save_file({"a": weights["layers.0.fc.weight"]}, tmp_path / "m-00001-of-00002.safetensors")
    expected = spectra.analyze(tmp_path, allow_partial=True)
    expected.write(tmp_path / "kept.spectra")
    found = spectra.analyze(tmp_path / "kept.spectra")
    assert not found.complete
    assert comparable(found) == comparable(expected)


def test_a_report_without_spectra_cannot_be_kept(weights, tmp_path):
    report = report_of(to_dict(spectra.analyze(weights)), "report.json")
    with pytest.raises(
        SelectionError, match="holds no spectra that could be written; analyze the weights again"
    ):
        report.write(tmp_path / "model.spectra")
    assert not (tmp_path / "model.spectra").exists()
    with pytest.raises(CheckpointError, match="cannot be written"):
        spectra.analyze(weights).write(tmp_path / "absent" / "model.spectra")


def test_a_file_of_spectra_can_be_written_again(weights, tmp_path):
    spectra.analyze(weights).write(tmp_path / "one.spectra")
    spectra.analyze(tmp_path / "one.spectra").write(tmp_path / "two.spectra")
    assert (tmp_path / "one.spectra").read_bytes() == (tmp_path / "two.spectra").read_bytes()


def parts(path):
    with safe_open(path, framework="np") as file:
        return load_file(path), json.loads(file.metadata()["spectra-diagnostics"])


def changed(content, where, value):
    """The description with one item replaced, or left out for None."""
    copy = json.loads(json.dumps(content))
    *path, last = where
    place = copy
    for step in path:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return copy


DESCRIPTIONS = {
    "a newer schema": (("schema_version",), 2),
    "no schema": (("schema_version",), ...),
    "no source": (("source",), ...),
    "a source that is text": (("source",), "here"),
    "an address that is none": (("source", "address"), 7),
    "a negative size": (("source", "nbytes"), -1),
    "true for a number": (("source", "n_tensors"), True),
    "notes that are no texts": (("source", "notes"), [1]),
    "no cut": (("cut",), ...),
    "a cut of no resolution": (("cut", "resolution"), -1.0),
    "no precision": (("precision",), ...),
    "patterns that are none": (("layers",), "abc"),
    "matrices that are none": (("matrices",), {}),
    "a matrix that is none": (("matrices", 0), 3),
    "a matrix too few": (("matrices", 5), ...),
    "a name twice": (("matrices", 0, "name"), "layers.0.fc.weight"),
    "an unknown kind": (("matrices", 0, "kind"), "cube"),
    "a shape of texts": (("matrices", 0, "shape"), ["1"]),
    "a negative side": (("matrices", 0, "shape"), [-1, 3]),
    "sides in the wrong order": (("matrices", 0, "N"), 1),
    "no side": (("matrices", 0, "M"), 0),
    "a huge side": (("matrices", 0, "N"), 10**30),
    "another number of slices": (("matrices", 0, "n_matrices"), 10**12),
    "a fraction of a slice": (("matrices", 0, "n_matrices"), 1.5),
    "no spectrum": (("matrices", 0, "spectrum"), ...),
    "a negative norm": (("matrices", 0, "spectrum", "squared_norm"), -1.0),
    "a norm that is not the sum": (("matrices", 0, "spectrum", "squared_norm"), 1.0),
    "a norm without end": (("matrices", 0, "spectrum", "squared_norm"), math.inf),
    "a residual that is none": (("matrices", 0, "spectrum", "residual"), math.nan),
    "an unknown solver": (("matrices", 0, "spectrum", "solver"), "guess"),
    "a failure that is none": (("matrices", 0, "failure"), {"status": "ok", "reason": ""}),
    "an unknown failure": (("matrices", 0, "failure"), {"status": "tired", "reason": ""}),
    "skipped that is none": (("skipped",), [None]),
    "a negative count": (("skipped", 0, "count"), -3),
}


def refused(path):
    with pytest.raises(CheckpointError) as caught:
        spectra.analyze(path)
    assert caught.value.code == "E_SPECTRA"
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError):
        spectra.describe(path)


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_description_that_is_not_sound_is_refused(name, weights, tmp_path):
    path = tmp_path / "model.spectra"
    spectra.analyze(weights, replicates=0).write(path)
    arrays, content = parts(path)
    text = json.dumps(changed(content, *DESCRIPTIONS[name]))
    save_file(arrays, path, {"spectra-diagnostics": text})
    refused(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 100_000, '{"schema_version": 1e999}', "1" * 5000]
)
def test_a_description_that_is_no_json_object_is_refused(text, tmp_path):
    save_file({"0": np.ones(30)}, tmp_path / "m", {"spectra-diagnostics": text})
    refused(tmp_path / "m")


def middle(values, value):
    spoilt = values.copy()
    spoilt[values.size // 2] = value
    return spoilt


SPECTRA = {
    "NaN": lambda x: middle(x, np.nan),
    "infinite": lambda x: middle(x, np.inf),
    "negative": lambda x: np.concatenate([[-1e-9], x[1:]]),
    "unsorted": lambda x: x[::-1].copy(),
    "one of another place": lambda x: middle(x, x[-1]),
    "too many": lambda x: np.concatenate([x, x[-1:]]),
    "too few": lambda x: x[1:].copy(),
    "none": lambda x: x[:0].copy(),
    "float32": lambda x: x.astype("f4"),
    "a matrix": lambda x: x.reshape(2, -1).copy(),
    "of twice the size": lambda x: 2 * x,
    "beyond float64": lambda x: np.full_like(x, 1.7e308),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_eigenvalues_that_are_none_are_refused(name, weights, tmp_path):
    path = tmp_path / "model.spectra"
    spectra.analyze(weights, replicates=0).write(path)
    arrays, content = parts(path)
    arrays["2"] = SPECTRA[name](arrays["2"])
    save_file(arrays, path, {"spectra-diagnostics": json.dumps(content)})
    refused(path)


@pytest.mark.parametrize("change", ["missing", "more", "renamed"])
def test_a_file_that_lacks_a_spectrum_or_holds_more_is_refused(change, weights, tmp_path):
    path = tmp_path / "model.spectra"
    spectra.analyze(weights, replicates=0).write(path)
    arrays, content = parts(path)
    if change != "more":
        arrays.pop("2")
    if change != "missing":
        arrays["7"] = np.ones(3)
    save_file(arrays, path, {"spectra-diagnostics": json.dumps(content)})
    refused(path)


def test_a_file_of_spectra_says_where_it_lies_and_what_it_is_of(weights, tmp_path):
    spectra.analyze(weights, exclude="conv").write(tmp_path / "model.spectra")
    kept = spectra_files.read(open_source(tmp_path / "model.spectra"))
    assert kept.address == str(tmp_path / "model.spectra")
    assert kept.source.address == "<dict>"
    assert (kept.convention, kept.precision, kept.exclude) == ("htsr", "double", ("conv",))
    assert dataclasses.astuple(kept.cut) == (False, "slices", float(np.finfo(np.float32).eps))
