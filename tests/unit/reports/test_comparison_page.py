"""The page of a comparison: its numbers are those of the record, whatever the record lacks."""

import dataclasses

import numpy as np
import pytest

import spectra
from spectra.comparing import Change
from spectra.reports import comparison_to_html
from spectra.reports.html.comparisons import figures, page, tables, texts
from tests import made_pages
from tests.pages import parse, table_rows


@pytest.fixture(scope="module")
def comparison():
    return made_pages.comparison()


@pytest.fixture(scope="module")
def tree(comparison):
    return parse(comparison_to_html(comparison))


def test_every_layer_has_its_row_with_the_numbers_of_the_record(comparison, tree):
    rows = table_rows(tree, tables.TABLE)
    assert len(rows) == len(comparison.layers)
    for row, layer in zip(rows, comparison.layers, strict=True):
        assert row["name"].text == layer.name.removesuffix(".weight")
        assert float(row["delta_norm"].text) == pytest.approx(layer.delta.norm, rel=0.05)
        assert float(row["alpha_base"].text) == pytest.approx(layer.base.alpha, abs=0.006)
        change = row["alpha_change"].text
        assert change.endswith("*") == layer.alpha_moved
        assert float(change.rstrip("*")) == pytest.approx(layer.alpha_change, abs=0.006)


def test_the_verdict_is_that_of_the_record_and_counts_every_layer_once(comparison, tree):
    verdict = tree.one("verdict")
    assert verdict.all("p", "lead")[0].text == comparison.verdict
    chips = [item.text.split()[0] for item in verdict.all("ul", "counts")[0].all("li")]
    assert sum(map(int, chips)) == len(comparison.layers)


def test_alphas_come_most_changed_first_and_those_that_moved_before_others(comparison, tree):
    words = tree.one("alphas").all("text")
    drawn = [x.text for x in words if x.attributes.get("text-anchor") == "end"]
    by_name = {layer.name.removesuffix(".weight"): layer for layer in comparison.layers}
    keys = [
        (not by_name[name.removesuffix(" *")].alpha_moved,
         -abs(by_name[name.removesuffix(" *")].alpha_change))
        for name in drawn
    ]  # fmt: skip
    assert len(keys) == len(comparison.layers)
    assert keys == sorted(keys)


def test_sizes_and_overlaps_are_drawn_for_every_layer_that_has_them(comparison, tree):
    sizes = tree.one("sizes").all("svg", "wide")[0]
    assert len(sizes.all("path", "mark")) == len(comparison.layers)
    assert len(sizes.all("path", "hollow")) == 1  # the one that is identical
    overlaps = tree.one("overlaps").all("svg", "wide")[0]
    known = [layer for layer in comparison.layers if layer.overlap is not None]
    assert len(overlaps.all("path", "mark")) == len(known)


def test_groups_and_layers_without_a_counterpart_are_listed(comparison, tree):
    rows = table_rows(tree, "role-table")
    groups = [group for group in comparison.groups if group.by == "role"]
    assert [row["n_layers"].text for row in rows] == [str(group.n_layers) for group in groups]
    assert "base only" in tree.one("unmatched").text


def test_saved_reports_make_a_page_of_numbers_alone():
    base, other = made_pages.report(3.0, "a"), made_pages.report(2.2, "b", seed=1)
    found = parse(comparison_to_html(spectra.compare(base, other)))
    ids = {section["id"] for section in found.all("section")}
    assert "alphas" in ids
    assert not {"sizes", "overlaps"} & ids
    assert "12 layers have no ΔW" in found.one("verdict").text


def test_a_model_against_itself_makes_a_page():
    weights = made_pages.network(3.0)
    found = parse(comparison_to_html(spectra.compare(weights, weights, replicates=0)))
    marks = found.one("sizes").all("svg", "wide")[0].all("path", "mark")
    assert len(marks) == 12
    assert all("hollow" in mark.classes for mark in marks)


def test_layers_without_an_alpha_make_a_page_without_that_picture(rng):
    base = {"a.weight": np.eye(30), "b.weight": rng.normal(size=(5, 5))}
    other = {"a.weight": 2 * np.eye(30), "b.weight": rng.normal(size=(5, 5))}
    found = parse(comparison_to_html(spectra.compare(base, other, replicates=0)))
    assert not [x for x in found.all("section") if x["id"] == "alphas"]
    assert {row["alpha_base"].text for row in table_rows(found)} == {"–"}


def test_nothing_in_common_is_a_page_that_says_so(comparison):
    empty = dataclasses.replace(comparison, layers=(), groups=())
    found = parse(comparison_to_html(empty))
    assert table_rows(found) == []
    assert not {"alphas", "sizes", "overlaps", "groups"} & {x["id"] for x in found.all("section")}


def test_models_are_called_by_what_tells_them_apart(comparison):
    named = dataclasses.replace(comparison, base="runs/a/model.pt", other="runs/b/model.pt")
    assert parse(comparison_to_html(named)).all("h1")[0].text == "a/model → b/model"
    assert page.reproduce(named) == (
        "spectra compare runs/a/model.pt runs/b/model.pt --replicates 0 --html comparison.html"
    )


def test_layers_in_one_line_say_what_happened_to_them(comparison):
    same = next(layer for layer in comparison.layers if layer.change is Change.IDENTICAL)
    assert figures.describe(same).endswith("ΔW 0 of W, identical")


def test_the_words_cover_every_change():
    assert set(texts.CHANGES) == set(Change)
