import dataclasses
import json

import numpy as np
import pytest

import spectra
from spectra.errors import CheckpointError
from spectra.reports import to_dict, to_json
from spectra.saved import is_report, read_report, report_of


def test_a_report_survives_being_written_and_read(weights, tmp_path):
    weights["nan"] = np.full((30, 30), np.nan)
    weights["named.weight"] = weights["layers.0.fc.weight"]
    report = spectra.analyze(weights, replicates=3, exclude="layers.2.*")
    report.write(tmp_path / "report.json")
    again = read_report(tmp_path / "report.json")
    assert is_report(tmp_path / "report.json")
    assert to_json(again) == to_json(report)
    assert again.source == report.source
    assert again.skipped == report.skipped
    assert again.complete is report.complete
    for old, new in zip(report.layers, again.layers, strict=True):
        for field in dataclasses.fields(old):
            if field.name not in ("spectrum", "fit", "metrics"):
                was, now = getattr(old, field.name), getattr(new, field.name)
                assert type(was) is type(now)
                assert was == now or (was != was and now != now)


def test_what_is_no_report_is_refused_in_one_line(weights, tmp_path):
    good = to_dict(spectra.analyze(weights))
    bad = {
        "empty": "",
        "text": "no json",
        "list": "[]",
        "other": '{"schema_version": 99}',
        "none": "{}",
        "deep": "[" * 100_000,
        "no layers": json.dumps({k: v for k, v in good.items() if k != "layers"}),
        "status": json.dumps(good | {"layers": [good["layers"][0] | {"status": "fine"}]}),
        "alpha": json.dumps(good | {"layers": [good["layers"][0] | {"alpha": "2"}]}),
        "layers": json.dumps(good | {"layers": [3]}),
        "name": json.dumps(good | {"layers": [good["layers"][0] | {"name": None}]}),
        "N": json.dumps(good | {"layers": [good["layers"][0] | {"N": [1]}]}),
        "averaged": json.dumps(good | {"layers": [good["layers"][0] | {"averaged": "abc"}]}),
    }
    for name, text in bad.items():
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(CheckpointError, match="no report of spectra"):
            read_report(tmp_path / "report.json")
        assert name
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_report(tmp_path / "absent.json")
    assert not is_report(tmp_path / "absent.json")
    assert not is_report(tmp_path / f"{'x' * 300}.json")


def test_a_report_of_a_custom_metric_keeps_it(weights):
    metrics = {**spectra.METRICS, "mine": spectra.Metric(lambda s, f: 1.5, "mine", "here")}
    report = spectra.analyze(weights, metrics=metrics)
    assert report_of(to_dict(report), "here").layers[0]["mine"] == 1.5
