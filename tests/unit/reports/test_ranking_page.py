"""The page of a ranking: its numbers are those of the record, and its words are warranted by them."""

import dataclasses
import math

import pytest

import spectra
from spectra.ranking import MARK_TEXT, Mark
from spectra.reports import ranking_to_html
from spectra.reports.html.rankings import figures, page, tables, texts
from spectra.reports.ranking_cells import probability, told_apart
from tests import made_pages
from tests.pages import parse, table_rows


@pytest.fixture(scope="module")
def ranking():
    return made_pages.ranking()


@pytest.fixture(scope="module")
def tree(ranking):
    return parse(ranking_to_html(ranking))


def test_every_model_has_its_row_with_the_numbers_of_the_record(ranking, tree):
    rows = table_rows(tree, tables.TABLE)
    assert [row["name"].text for row in rows] == [model.name for model in ranking.models]
    for row, model in zip(rows, ranking.models, strict=True):
        assert float(row["value"].text) == pytest.approx(model.value, abs=0.0006)
        low, high = map(float, row["interval"].text.split(" to "))
        assert (low, high) == pytest.approx((model.value_low, model.value_high), abs=0.006)
        assert row["rank"].text.split()[0] == str(model.rank)
        assert row["n_layers"].text == str(model.n_layers)


def test_every_pair_has_its_probability_and_its_contrary(ranking, tree):
    rows = tree.all("table", "matrix")[0].all("tbody")[0].all("tr")
    shown = [[cell.text for cell in row.all("td")] for row in rows]
    for i, a in enumerate(ranking.models):
        for j, b in enumerate(ranking.models):
            expected = "" if i == j else probability(ranking.p_better(a.name, b.name))
            assert shown[i][j] == expected


def test_the_surer_a_pair_the_darker_its_cell_and_the_contrary_has_the_other_colour():
    assert figures.shade(0.96) == "h2"
    assert [figures.shade(p) for p in (0.5, 0.6, math.nan)] == ["", "", ""]
    blue, brown = {"h2", "h3", "h4"}, {"h0", "h1", "h5"}
    assert {figures.shade(p / 100) for p in range(65, 101)} == blue
    assert {figures.shade(1 - p / 100) for p in range(66, 101)} == brown


def test_the_verdict_counts_the_pairs_that_are_told_apart(ranking, tree):
    sure, pairs = told_apart(ranking)
    assert pairs == 6
    assert sure == sum(max(p.p_a_better, 1 - p.p_a_better) >= 0.95 for p in ranking.pairs)
    assert f"{sure} of 6 pairs" in tree.one("verdict").text


def test_scores_agreements_and_what_was_left_out_are_there(ranking, tree):
    rows = table_rows(tree, tables.AGREEMENTS)
    assert len(rows) == len(ranking.scores.agreements)
    for row, agreement in zip(rows, ranking.scores.agreements, strict=True):
        assert float(row["tau"].text) == pytest.approx(agreement.tau, abs=0.006)
    marks = tree.one("scores").all("svg", "chart")[0].all("path", "mark")
    assert len(marks) == len(ranking.models)
    assert "/nowhere/at/all.pt" in tree.one("left_out").text


def test_without_scores_and_with_two_models_the_parts_that_need_more_are_left_out(ranking):
    two = spectra.rank([made_pages.report(2.5, "a"), made_pages.report(30, "b")])
    found = parse(ranking_to_html(two))
    ids = {section["id"] for section in found.all("section")}
    assert ids == {"verdict", "order", "models", "depth", "provenance", "glossary"}
    said = "are told apart" if told_apart(two)[0] else "are not told apart"
    assert f"The two models {said}" in found.one("verdict").text


def test_layers_of_one_architecture_are_held_against_each_other(ranking, tree):
    alike = [model for model in ranking.models if model.group == ranking.models[0].group]
    alike = alike if len(alike) > 1 else [m for m in ranking.models if m.group != alike[0].group]
    caption = tree.one("depth").all("figcaption")[0].text
    assert alike[0].name in caption
    reports = dict(zip([m.name for m in ranking.models], ranking.reports, strict=True))
    first, second = (reports[model.name].layers for model in alike[:2])
    lower = sum(a.alpha < b.alpha for a, b in zip(first, second, strict=True))
    assert f"In {lower} of 12 layers" in caption


def test_a_ranking_without_its_reports_makes_a_page_without_the_layers(ranking):
    found = parse(ranking_to_html(dataclasses.replace(ranking, reports=())))
    assert not [section for section in found.all("section") if section["id"] == "depth"]


def test_over_trained_models_are_hollow_and_held_against_no_sound_one(ranking):
    last = dataclasses.replace(ranking.models[-1], warnings=(Mark.OVER_TRAINED,))
    marked = dataclasses.replace(ranking, models=(*ranking.models[:-1], last))
    found = parse(ranking_to_html(marked))
    assert len(found.one("order").all("a")[-1].all("path", "hollow")) == 1
    rows = found.all("table", "matrix")[0].all("tbody")[0].all("tr")
    assert [row.all("td")[-1].text for row in rows[:-1]] == ["–"] * 3
    assert MARK_TEXT[Mark.OVER_TRAINED] in found.one("verdict").text


def test_widths_that_differ_by_factors_are_warned_of(rng):
    wide = spectra.analyze(
        {f"layers.{i}.weight": rng.standard_t(3, (200, 160)) for i in range(12)}, replicates=0
    )
    ranking = spectra.rank([made_pages.report(3.0, "narrow"), wide])
    assert any("factor of 2.7" in words for words in page.cautions(ranking))
    alike = spectra.rank([made_pages.report(3.0, "a"), made_pages.report(4.0, "b")])
    assert not any("factor" in words for words in page.cautions(alike))


def test_a_first_model_that_is_marked_is_the_first_thing_to_doubt(ranking):
    first = dataclasses.replace(ranking.models[0], warnings=(Mark.MOSTLY_RANDOM_LIKE,))
    marked = dataclasses.replace(ranking, models=(first, *ranking.models[1:]))
    said = f"The first model is marked: {MARK_TEXT[Mark.MOSTLY_RANDOM_LIKE]}."
    assert page.cautions(marked)[0] == said
    plain = dataclasses.replace(ranking.models[0], warnings=())
    sound = dataclasses.replace(ranking, models=(plain, *ranking.models[1:]))
    assert said not in page.cautions(sound)


def test_a_paradox_is_said_in_the_verdict(ranking):
    scores = dataclasses.replace(ranking.scores, paradox="Simpson's paradox: of these")
    found = parse(ranking_to_html(dataclasses.replace(ranking, scores=scores)))
    assert "Simpson's paradox: of these." in found.one("verdict").text
    assert "Simpson's paradox: of these." in found.one("scores").all("p", "alert")[0].text


def test_only_groups_of_several_models_have_a_colour_of_their_own(ranking):
    words = [text for _, text in figures.order_legend(ranking)]
    sizes = [text.split(": ")[1] for text in words if text.startswith("group")]
    assert sizes == ["3 of the same layer shapes"]
    assert "alone with its layer shapes" in words


def test_values_without_an_interval_are_drawn_without_one(ranking):
    nothing = {"value_low": math.nan, "value_high": math.nan}
    models = tuple(dataclasses.replace(model, **nothing) for model in ranking.models)
    found = parse(ranking_to_html(dataclasses.replace(ranking, models=models)))
    assert not found.one("order").all("path", "interval")
    assert {row["interval"].text for row in table_rows(found, tables.TABLE)} == {"–"}


def test_models_that_are_all_alike_make_a_page(rng):
    same = made_pages.report(3.0, "a")
    found = parse(ranking_to_html(spectra.rank([same, same, same])))
    assert len(table_rows(found, tables.TABLE)) == 3
    assert "nan" not in found.one("order").text


def test_the_words_cover_every_mark():
    assert set(texts.MARKS) == set(Mark)
