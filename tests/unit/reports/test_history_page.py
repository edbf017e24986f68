"""The page of a run: its numbers are those of the record, and short or broken runs make pages too."""

import dataclasses
import math

import numpy as np
import pytest

import spectra
from spectra.reports import history_to_html
from spectra.reports.histories import history_to_dict
from spectra.reports.html.histories import figures, tables, texts
from spectra.trajectories import SignKind
from tests import made_pages
from tests.pages import parse, table_rows


@pytest.fixture(scope="module")
def history():
    return made_pages.history()


@pytest.fixture(scope="module")
def tree(history):
    return parse(history_to_html(history))


def test_every_checkpoint_has_its_row_with_the_numbers_of_the_record(history, tree):
    rows = table_rows(tree, tables.CHECKPOINTS)
    assert [row["step"].text for row in rows] == [str(step) for step in history.steps]
    for row, point in zip(rows, history.checkpoints, strict=True):
        assert float(row["alpha"].text) == pytest.approx(point.alpha, abs=0.006)
        assert row["share_over_trained"].text == f"{100 * point.share_over_trained:.0f} %"


def test_the_lead_says_where_alpha_begins_and_ends_and_which_sign_starts(history, tree):
    lead = tree.one("verdict").all("p", "lead")[0].text
    first, last = history.checkpoints[0], history.checkpoints[-1]
    assert f"from {first.alpha:.2f}" in lead
    assert f"to {last.alpha:.2f}" in lead
    assert history.signs
    assert f"Sign from epoch {history.signs[0].step}" in lead
    assert "below what well-trained layers have" in lead.lower()


def test_every_sign_and_every_change_is_in_its_table(history, tree):
    signs = table_rows(tree, tables.SIGNS)
    assert [row["step"].text for row in signs] == [str(sign.step) for sign in history.signs]
    changes = table_rows(tree, tables.CHANGES)
    assert [row["found"].text == "yes" for row in changes] == [
        change["found"] for change in history_to_dict(history)["change_points"]
    ]


def test_the_heat_map_has_a_cell_for_every_layer_at_every_checkpoint(history, tree):
    drawing = tree.one("layers").all("svg", "heat")[0]
    assert len(drawing.all("rect")) == len(history.layers) * len(history.checkpoints)
    titles = [x.text for x in drawing.all("title")]
    layer, report = history.reports[2].layers[5], history.checkpoints[2]
    name = layer.name.removesuffix(".weight")
    assert f"{name} at epoch {report.step}: alpha {layer.alpha:.2f}" in titles


def test_the_band_of_the_layers_is_their_tenth_and_ninetieth_percentile(history, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_area", lambda x, y, steps, low, high: drawn.append((low, high)))
    figures.alpha_over_run(history, banded=True)
    table = np.array([[layer.alpha for layer in report.layers] for report in history.reports])
    np.testing.assert_allclose(drawn[0], np.quantile(table, [0.1, 0.9], axis=1))


def test_roles_have_a_picture_each_and_other_numbers_too(history, tree):
    titles = [x["aria-label"] for x in tree.one("roles").all("svg")]
    assert sum(title.startswith("alpha: ") for title in titles) == 4
    assert any(title.startswith("stable rank") for title in titles)


def test_a_single_checkpoint_makes_a_whole_page():
    found = parse(history_to_html(spectra.history([made_pages.model()])))
    assert "that is no course" in found.one("verdict").text
    assert len(table_rows(found, tables.CHECKPOINTS)) == 1


def test_a_run_without_alphas_makes_a_page_and_draws_none():
    weights = {f"layers.{i}.weight": np.full((30, 30), np.nan) for i in range(3)}
    found = parse(history_to_html(spectra.history([spectra.analyze(weights)] * 3)))
    assert "No checkpoint has an alpha" in found.one("verdict").text
    assert not {"course", "layers"} & {section["id"] for section in found.all("section")}


def test_a_checkpoint_that_broke_leaves_a_gap(history):
    nothing = dict.fromkeys(("alpha", "alpha_low", "alpha_high", "ks", "log_norm"), math.nan)
    points = list(history.checkpoints)
    points[3] = dataclasses.replace(points[3], **nothing)
    broken = dataclasses.replace(history, checkpoints=tuple(points), reports=(), complete=False)
    found = parse(history_to_html(broken))
    assert len(found.one("course").all("path", "mark")) == 1 + 5  # one of them in the legend
    assert table_rows(found, tables.CHECKPOINTS)[3]["alpha"].text == "–"
    assert "interrupted" in found.one("verdict").all("p", "alert")[0].text


def test_estimators_without_a_band_are_held_against_none():
    reports = [
        spectra.analyze(made_pages.network(tail), estimator="hill_mid", replicates=0)
        for tail in (30, 3)
    ]
    found = parse(history_to_html(spectra.history(reports)))
    assert not found.all("rect", "band")
    assert not [x for x in found.all("section") if x["id"] == "layers"]
    assert "At its end" not in found.one("verdict").text


def test_the_words_cover_every_sign():
    assert set(texts.SIGN_NAMES) == set(SignKind)
