import csv
import dataclasses
import io
import json
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from rich.console import Console

import spectra
from spectra import METRICS
from spectra.errors import CheckpointError, SelectionError
from spectra.records import STATUS_TEXT, Finding
from spectra.reports import cells, html_table, inventory_json, terminal, to_csv, to_json
from spectra.verdicts import DOUBTS
from tests.made import layer as layer_of
from tests.made import report as report_of

NASTY = [
    "<script>alert(1)</script>",
    "=HYPERLINK(1)",
    "a\x1b[31mred",
    "\u202eevil",
    "with,comma",
    "line\nbreak",
    "$x^2$",
    "[bold]markup[/bold]",
]


@pytest.fixture
def nasty(rng):
    return spectra.analyze({name: rng.standard_normal((40, 30)) for name in NASTY})


@pytest.fixture
def report(weights):
    return spectra.analyze(weights | {"bad": np.full((30, 30), np.nan)})


def shown(report, width=80, rows=60):
    console = Console(width=width, file=io.StringIO(), color_system=None, force_terminal=False)
    terminal.show_report(report, console, rows=rows)
    return console.file.getvalue()


def test_json_holds_every_number_of_the_report(report):
    data = json.loads(to_json(report))
    assert data["schema_version"] == 1
    assert [row["name"] for row in data["layers"]] == [x.name for x in report.layers]
    for row, layer in zip(data["layers"], report.layers, strict=True):
        for metric in METRICS:
            value = layer[metric]
            assert row[metric] == (None if math.isnan(value) else value)
    assert data["layers"][-1]["status"] == "non_finite"
    assert data["skipped"][0]["reason"]
    assert data["options"]["convention"] == "htsr"
    assert {"n_layers", "n_failed", "n_skipped", "alpha", "stable_rank"} <= set(data["summary"])


def test_two_runs_differ_in_nothing_but_the_run(weights):
    first, second = (json.loads(to_json(spectra.analyze(weights))) for _ in range(2))
    assert first.pop("run").keys() == second.pop("run").keys()
    assert json.dumps(first) == json.dumps(second)


def test_csv_is_one_row_a_layer_with_the_same_numbers(report):
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert [row["name"] for row in rows] == [x.name for x in report.layers]
    assert float(rows[0]["alpha"]) == report.layers[0].alpha
    assert rows[-1]["alpha"] == ""


FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "   =1",
    "\u00a0=1",
    "\ufeff=1",
    "\x00=1",
    "＝1",
    "'=1",
    '"=1"',
    ' "=1"',
    "x;=1",
    "x,=1",
    "x\n=1",
    "x| @y",
    "a;\t-1",
]


def cells_of(text):
    """Cut text into cells as a spreadsheet with any separator might, whatever it trims."""
    return [part.strip(' "\ufeff\x00') for part in re.split(r"[,;|\t\r\n]", text)]


@pytest.mark.parametrize("name", FORMULAS)
def test_csv_runs_nothing_in_a_spreadsheet(name):
    text = to_csv(report_of(dataclasses.replace(layer_of(name), aliases=("a", name))))
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    for cell in (row["name"], row["aliases"], row["tensor"]):
        assert not any(part[:1] in tuple("=+-@＝") for part in cells_of(cell)), cell
        assert not set(cell) & set("\t\r\x00\x1b")


def test_names_of_metrics_run_nothing_either():
    head = to_csv(report_of(layer_of("fc", **{"=1+1": 2.0}))).splitlines()[0]
    assert head.endswith(",'=1+1")


def test_negative_numbers_stay_numbers():
    text = to_csv(report_of(layer_of("-fc", alpha_hat=-0.5, erg_gap=-3)))
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["name"], row["alpha_hat"], row["erg_gap"]) == ("'-fc", "-0.5", "-3")


def test_ordinary_names_are_as_they_are():
    for name in (
        "layers.0.q-proj.weight[q,k]",
        "a b",
        "x-1",
        "line\nbreak",
        "层.weight",
        'quo"ted',
    ):
        (row,) = csv.DictReader(io.StringIO(to_csv(report_of(layer_of(name))), newline=""))
        assert row["name"] == name


def test_csv_is_read_back_alike_by_csv_pandas_and_polars(report, nasty):
    for made in (report, nasty):
        text = to_csv(made)
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        pandas = pd.read_csv(io.StringIO(text), keep_default_na=False, na_values={"alpha": [""]})
        polars = pl.read_csv(text.encode())
        assert list(pandas["name"]) == polars["name"].to_list() == [row["name"] for row in rows]
        for metric in ("alpha", "n_tail", "alpha_hat", "log_norm", "quality_spikes"):
            expected = [None if math.isnan(x[metric]) else x[metric] for x in made.layers]
            assert polars[metric].to_list() == expected
            assert [float(row[metric] or "nan") for row in rows] == pytest.approx(
                [math.nan if value is None else value for value in expected], nan_ok=True, abs=0
            )
        assert pandas["alpha"].dtype == np.float64
        np.testing.assert_array_equal(pandas["alpha"], [x["alpha"] for x in made.layers])


def test_a_report_without_layers_is_a_line_of_columns():
    text = to_csv(report_of())
    assert text.splitlines() == [to_csv(report_of(layer_of("fc"))).splitlines()[0]]
    assert pd.read_csv(io.StringIO(text)).shape[0] == 0


def test_notebooks_get_a_small_escaped_table(nasty):
    page = html_table(nasty)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert nasty._repr_html_() == page


def test_terminal_shows_hostile_names_as_text(nasty):
    text = shown(nasty)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]markup[/bold]" in text


def test_terminal_fits_eighty_columns(report):
    assert max(len(line.rstrip()) for line in shown(report).splitlines()) <= 80


def test_terminal_marks_the_worst_and_counts_the_skipped(report, rng):
    noise = spectra.analyze({"noise": rng.standard_normal((784, 300)), "bias": np.ones(3)})
    assert noise["noise"].alpha > 6
    text = shown(noise)
    assert "? noise" in text
    assert "1 of 1 (?)" in text
    assert "1 like random weights" in " ".join(text.split())
    assert "well-trained" not in text
    assert "1 one-dimensional" in text
    assert "1 holds NaN or infinite weights" in shown(report)
    heavy = spectra.analyze({"heavy": rng.standard_t(1.2, (400, 200))})
    text = shown(heavy)
    assert "! heavy" in text
    assert "from 2 to 6" not in text
    assert "1 below 2 (over-trained)" in text
    assert "look first at  heavy" in text


def test_long_tables_keep_the_layers_that_need_a_look(rng):
    weights = {f"w{i}": rng.standard_t(3, (60, 40)) for i in range(8)}
    weights["noise"] = rng.standard_normal((784, 300))
    text = shown(spectra.analyze(weights), rows=3)
    assert "noise" in text
    assert "6 more layers" in text


def test_every_finding_has_a_note_for_the_table():
    assert set(cells.CODES) == set(Finding)
    assert set(DOUBTS) < set(Finding)
    assert set(cells.FAILED) <= set(STATUS_TEXT)


def test_a_report_prints_as_its_table(report):
    assert "layers.10.fc" in str(report)
    assert "not judged" in str(report)
    assert repr(report) == "<ModelReport of <dict>: 7 layers>"
    assert "alpha nan" in repr(report["bad"])


def test_names_are_shortened_by_words_and_keep_their_numbers():
    name = "encoder.layer.10.attention.self.query.weight"
    assert terminal.shorten(name, 80) == "encoder.layer.10.attention.self.query"
    assert terminal.shorten(name, 30) == "e.l.10.attention.self.query"
    assert terminal.shorten(name, 20) == "e.l.10.a.self.query"
    assert terminal.shorten(name, 10) == "…a.s.query"
    assert len(terminal.shorten("x" * 300, 20)) == 20
    assert terminal.shorten("fc.weight", 20) == "fc"


@pytest.mark.parametrize("ending", [".json", ".csv", ".html", ".md"])
def test_reports_write_themselves(report, tmp_path, ending):
    path = tmp_path / f"out{ending}"
    report.write(path)
    assert "layers.0.fc" in path.read_text("utf-8")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_pipes_and_devices_are_written_into_not_replaced(report, tmp_path):
    pipe = tmp_path / "out.json"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(pipe.read_text)
        report.write(pipe)
        assert json.loads(reading.result(timeout=10))["schema_version"] == 1
    assert pipe.is_fifo()


def test_writing_elsewhere_or_otherwise_is_refused(report, tmp_path):
    with pytest.raises(SelectionError, match=r"\.json or \.csv or \.html or \.md or \.parquet"):
        report.write(tmp_path / "out.xyz")
    with pytest.raises(CheckpointError, match="cannot be written"):
        report.write(tmp_path / "absent" / "out.json")


@pytest.mark.parametrize("ending", [".json", ".csv", ".md", ".parquet"])
def test_what_cannot_be_replaced_stays_as_it_was(report, tmp_path, monkeypatch, ending):
    path = tmp_path / f"out{ending}"
    path.write_text("as it was")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CheckpointError, match="no space left on device"):
        report.write(path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["as it was"]


@pytest.mark.parametrize("ending", [".json", ".csv", ".md", ".parquet"])
def test_names_too_long_for_the_file_system_are_one_line(report, tmp_path, ending):
    for path in (tmp_path / f"{'x' * 300}{ending}", tmp_path / ("x" * 300) / f"out{ending}"):
        with pytest.raises(CheckpointError, match="file name too long"):
            report.write(path)
    long = tmp_path / f"{'x' * (255 - len(ending))}{ending}"
    report.write(long)
    assert list(tmp_path.iterdir()) == [long]


def test_an_inventory_is_json_too(weights):
    data = json.loads(inventory_json(spectra.describe(weights)))
    assert [row["name"] for row in data["layers"]][:2] == ["embed_tokens.weight", "conv.weight"]
    assert data["working_bytes"] > 0


def test_wide_names_leave_the_numbers_their_room(rng):
    weights = {"层" * 60 + ".weight": rng.standard_t(3, (60, 40)), "fc.weight": np.eye(30)}
    report = spectra.analyze(weights)
    text = str(report)
    assert f"{report.layers[0].alpha:.2f}" in text
    assert "60×40" in text
