import copy
import dataclasses
import pickle

import numpy as np
import pytest

import spectra
from spectra.errors import SelectionError
from spectra.records import FINDING_TEXT, STATUS_TEXT, Finding, Status


@pytest.fixture
def report(weights):
    return spectra.analyze(weights)


def test_layers_are_looked_up_by_name_and_metrics_by_key_or_attribute(report):
    layer = report["layers.2.fc.weight"]
    assert layer["alpha"] == layer.alpha == layer.metrics["alpha"]


def test_mistyped_names_are_answered_with_close_ones(report):
    with pytest.raises(SelectionError, match=r"layers\.2\.fc\.weight"):
        report["layers.2.fc.wieght"]
    with pytest.raises(SelectionError, match="alpha_hat"):
        report.layers[0]["alphahat"]
    with pytest.raises(AttributeError, match="alpha_hat"):
        _ = report.layers[0].alphahat


def test_tied_layers_are_found_by_either_name():
    array = np.random.default_rng(1).standard_normal((40, 30))
    tied = spectra.analyze({"embed": array, "out": array})
    assert tied["out"] is tied["embed"]


def test_reports_can_be_copied_pickled_and_are_frozen(report):
    layer = report.layers[0]
    assert copy.deepcopy(layer).metrics == layer.metrics
    again = pickle.loads(pickle.dumps(report))
    assert again.summary == report.summary
    assert again.layers[0].alpha == layer.alpha
    assert dataclasses.asdict(report)["summary"] == report.summary
    with pytest.raises(AttributeError):
        layer.name = "other"


def test_every_status_and_finding_is_explained():
    assert set(STATUS_TEXT) == set(Status)
    assert set(FINDING_TEXT) == set(Finding)


def test_errors_survive_pickling():
    error = SelectionError("E_NAME", "layer", "no such", "try another")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "layer: no such; try another"
    assert again.code == "E_NAME"
