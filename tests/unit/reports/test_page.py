"""The page of one model: structure, numbers, names that are attacks, reports that lack things."""

import dataclasses
import json
import math
import re
from importlib import resources

import numpy as np
import pytest

import spectra
from spectra.records import Finding, Status, Verdict
from spectra.reports import to_html, to_json
from spectra.reports.html import texts
from spectra.reports.html.layer_table import DIGITS
from spectra.saved import read_report
from tests.pages import data_of, parse, table_rows

NASTY = [
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "' onclick='alert(1)",
    "</title></style></textarea><svg onload=alert(1)>",
    "javascript:alert(1)",
    "\u202eevil\u2066",
    "a\x1b[31mred\x00",
    "line\nbreak",
    "&lt;b&gt;",
    "${7*7}{{7*7}}",
    "x" * 5000,
    "layers.0.\ud800.weight",
]


@pytest.fixture
def report(weights):
    return spectra.analyze(weights | {"bad": np.full((30, 30), np.nan)})


@pytest.fixture
def page(report):
    return parse(to_html(report))


def tiny(rng, n, shape=(24, 20)):
    """A model of n layers in blocks of four roles."""
    roles = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
    return {
        f"model.layers.{i // 4}.{roles[i % 4]}.weight": rng.standard_t(3, shape) for i in range(n)
    }


def moe(rng, blocks, experts):
    weights = tiny(rng, 4 * blocks)
    for block in range(blocks):
        for e in range(experts):
            name = f"model.layers.{block}.mlp.experts.{e}.up_proj.weight"
            weights[name] = rng.standard_t(3, (24, 20))
    return weights


def layer_like(layer, **changes):
    metrics = {**layer.metrics, **changes.pop("metrics", {})}
    return dataclasses.replace(layer, metrics=metrics, **changes)


def test_the_page_is_one_whole_file(report, page):
    assert to_html(report).startswith("<!doctype html>\n<html lang=")
    assert page.all("title")[0].text == "Spectral report: weights in memory"
    assert len(page.all("h1")) == 1
    order = [x["id"] for x in page.all("section")]
    assert order[:4] == ["verdict", "numbers", "depth", "blocks"]
    assert order[4:] == ["spectra", "fit", "erg", "layers", "skipped", "provenance", "glossary"]
    assert all(x.all("h2") for x in page.all("section"))


def test_links_lead_somewhere_and_ids_are_unique(rng, report):
    for made in (report, spectra.analyze(moe(rng, 2, 150))):
        page = parse(to_html(made))
        ids = [x["id"] for x in page.all() if "id" in x.attributes]
        assert len(ids) == len(set(ids))
        assert {x["href"][1:] for x in page.all("a")} <= set(ids)


def test_style_and_script_are_small_and_travel_with_the_package():
    folder = resources.files("spectra.reports.html")
    assert len(folder.joinpath("page.js").read_bytes()) < 30_000
    assert len(folder.joinpath("style.css").read_bytes()) < 30_000


def test_every_number_of_the_table_is_that_of_the_json(report, page):
    layers = data_of(page, "report")["layers"]
    rows = table_rows(page)
    assert len(rows) == len(layers)
    shown = 0
    for place, (row, layer) in enumerate(zip(rows, layers, strict=True), start=1):
        assert row["position"].text == str(place)
        assert row["name"].text == layer["name"].removesuffix(".weight")
        assert row["shape"].text.split("×")[:2] == [str(layer["N"]), str(layer["M"])]
        for metric, digits in DIGITS.items():
            shown += agrees(row[metric].text, layer[metric], digits)
        low, _, high = row["interval"].text.partition("–")
        assert agrees(low or "–", layer["alpha_low"], 2) == agrees(
            high or "–", layer["alpha_high"], 2
        )
    assert shown > 5 * len(DIGITS)


def agrees(text, number, digits):
    """Hold a shown number against the one it stands for; tell whether there was one."""
    if number is None:
        assert text == "–"
        return False
    assert math.isclose(float(text), number, abs_tol=0.5001 * 10**-digits, rel_tol=0.005), text
    return True


def test_every_headline_number_is_that_of_the_json(report, page):
    data, found = data_of(page, "report"), data_of(page, "headline")
    averaged = [row for row in data["layers"] if row["averaged"]]
    shown = {x["data-headline"]: x.text for x in page.all("dd", "value")}
    assert set(shown) == {item["name"] for item in found}
    for item in found:
        if item["name"] in data["summary"]:
            assert item["value"] == pytest.approx(data["summary"][item["name"]])
        if item["name"] != "share_in_band":
            assert agrees(shown[item["name"]], item["value"], 1 if item["name"] == "erg_gap" else 2)
            assert item["n"] == len(averaged)
    by_name = {item["name"]: item for item in found}
    assert by_name["alpha_median"]["value"] == np.median([row["alpha"] for row in averaged])
    verdicts = [row["verdict"] for row in averaged]
    judged = sum(v in ("well_trained", "over_trained", "under_trained") for v in verdicts)
    share = by_name["share_in_band"]
    assert share["n"] == judged
    if judged:
        assert share["value"] == verdicts.count("well_trained") / judged
        assert shown["share_in_band"] == f"{100 * share['value']:.0f} %"


def test_hostile_names_are_text_everywhere(rng):
    weights = {name: rng.standard_t(3, (30, 25)) for name in NASTY}
    weights[NASTY[0] + "nan"] = np.full((30, 30), np.nan)
    weights[NASTY[1] + "bias"] = np.ones(3)
    report = spectra.analyze(weights, exclude=[NASTY[3]])
    source = dataclasses.replace(
        report.source, address="/tmp/<script>alert(2)</script>", notes=(NASTY[1],)
    )
    text = to_html(dataclasses.replace(report, source=source))
    page = parse(text)
    assert {x.tag for x in page.all()} & {"img", "textarea", "b"} == set()
    assert len([x for x in page.all("script") if "type" not in x.attributes]) == 1
    assert not [name for x in page.all() for name in x.attributes if name.startswith("on")]
    assert not [x for x in page.all("svg") if "viewbox" not in x.attributes]
    for bad in ("\u202e", "\u2066", "\x1b", "\x00", "\ud800"):
        assert bad not in text
    shown = [row["name"].text for row in table_rows(page)]
    assert NASTY[0] in shown
    assert "\\u202eevil\\u2066" in shown
    assert max(map(len, shown)) <= 60
    names = [row["name"] for row in data_of(page, "report")["layers"]]
    assert set(names) == {*NASTY, NASTY[0] + "nan"} - {NASTY[3]}


def test_three_hundred_layers_stay_below_three_megabytes(rng):
    report = spectra.analyze(tiny(rng, 300, (100, 80)), replicates=2)
    text = to_html(report)
    assert len(text.encode()) < 3_000_000
    page = parse(text)
    assert len(table_rows(page)) == 300
    assert len(page.one("spectra").all("figure")) == 300
    assert not page.one("spectra").text.count("not drawn")


def test_experts_of_large_models_share_a_row_and_a_mark(rng):
    report = spectra.analyze(moe(rng, 2, 150), replicates=2)
    page = parse(to_html(report))
    rows = table_rows(page)
    assert len(rows) == 8 + 2
    stack = next(row for row in rows if "experts" in row["name"].text)
    assert stack["name"].text == "model.layers.0.mlp.experts.*.up_proj"
    alphas = [
        x.alpha for x in report.layers if "layers.0.mlp.experts" in x.name and x.status == "ok"
    ]
    assert agrees(stack["alpha"].text, float(np.median(alphas)), 2)
    low, high = np.quantile(alphas, [0.1, 0.9])
    assert stack["interval"].text == f"{low:.2f}–{high:.2f}"
    counted = sum(int(x.split()[1]) for x in re.findall(r"\S+ \d+ \w", stack["verdict"].text))
    assert counted == 150
    assert "8 more are not drawn" in page.one("spectra").text
    assert "2 marks stand for a stack of experts" in page.one("depth").text


def test_an_empty_report_says_so(report):
    empty = dataclasses.replace(
        report, layers=(), skipped=(), summary=dict.fromkeys(report.summary, 0)
    )
    page = parse(to_html(empty))
    assert "No layer was analysed" in page.one("verdict").text
    assert table_rows(page) == []
    assert not [x for x in page.all("section") if x["id"] in ("depth", "blocks", "fit", "erg")]
    assert {x.text for x in page.all("dd", "value")} == {"–"}


def test_a_single_layer_makes_a_whole_page(rng):
    page = parse(to_html(spectra.analyze({"only.weight": rng.standard_t(1.5, (400, 300))})))
    assert "The one layer that can be judged looks" in page.one("verdict").text
    assert page.all("dd", "spread")[0].text == "1 layer, no interval"
    assert len(table_rows(page)) == 1


def test_a_model_that_failed_altogether_makes_a_whole_page():
    bad = {"nan": np.full((30, 30), np.nan), "zero": np.zeros((30, 30)), "small": np.eye(5)}
    page = parse(to_html(spectra.analyze(bad)))
    assert "3 layers have no alpha" in page.one("verdict").text
    concerns = [x.text for x in page.one("verdict").all("li", "concern")]
    assert [("nan" in text, "zero" in text) for text in concerns] == [(True, False), (False, True)]
    assert "Its weights are broken: all weights are zero" in concerns[1]
    assert not [x for x in page.all("section") if x["id"] == "depth"]


def test_a_report_read_back_has_all_but_the_spectra(report, tmp_path):
    report.write(tmp_path / "r.json")
    page = parse(to_html(read_report(tmp_path / "r.json")))
    assert page.one("spectra").text.endswith(texts.NO_SPECTRA)
    assert not page.one("layers").all("a")
    assert data_of(page, "report") == json.loads(to_json(report))
    whole = parse(to_html(report))
    for part in ("numbers", "depth", "blocks", "fit", "erg"):
        assert page.one(part) == whole.one(part)


def test_the_layers_to_look_at_are_named_with_their_reasons(report):
    fine = report["layers.0.fc.weight"]
    numbers = {"alpha": 1.4, "alpha_low": 1.2, "alpha_high": 1.7}
    over = layer_like(fine, name="over", metrics=numbers, verdict=Verdict.OVER_TRAINED,
                      warnings=(Finding.OVER_TRAINED,))  # fmt: skip
    unsure = layer_like(over, name="unsure", metrics={"alpha": 1.9, "alpha_high": 2.6})
    noise = layer_like(fine, name="noise", verdict=Verdict.RANDOM_LIKE,
                       warnings=(Finding.RANDOM_LIKE, Finding.POOR_FIT))  # fmt: skip
    trap = layer_like(fine, name="trap", warnings=(Finding.CORRELATION_TRAP,))
    broken = layer_like(fine, name="broken", status=Status.NON_FINITE, reason="3 of 9 are NaN",
                        averaged=False, verdict=Verdict.NO_NUMBERS)  # fmt: skip
    embedding = layer_like(over, name="embedding", kind="embedding", averaged=False)
    layers = (fine, trap, noise, embedding, unsure, over, broken)
    page = parse(to_html(dataclasses.replace(report, layers=layers)))
    items = page.one("verdict").all("li", "concern")
    named = [item.all("code")[0].text for item in items]
    assert named == ["broken", "over", "unsure", "noise", "trap"]
    assert [bool(item.all(class_="borderline")) for item in items] == [False] * 2 + [True] + [
        False
    ] * 2
    assert "3 of 9 are NaN" in items[0].text
    assert "Its alpha is 1.40 (likely 1.20 to 1.70), below 2." in items[1].text
    assert "may be chance" in items[2].text
    assert "Also noted: KS distance above 0.1" in items[3].text
    assert "survives shuffling" in items[4].text
    spectra_shown = page.one("spectra").all("div", "gallery")[0].all("figure")
    assert [figure.all("code")[0].text for figure in spectra_shown][:2] == ["broken", "over"]


def test_the_verdict_counts_every_layer_once(report, page):
    lead = page.one("verdict").all("p", "lead")[0].text
    assert "2 embeddings or heads are listed only." in lead
    assert "1 layer has no alpha: " in lead
    assert lead.endswith("1 tensor was skipped: one-dimensional (bias, norm or scale).")
    chips = page.one("verdict").all("ul", "counts")[0].all("li")
    assert sum(int(chip.text.split()[0]) for chip in chips) == len(report.layers) - 2


def test_an_interrupted_report_is_marked(report):
    page = parse(to_html(dataclasses.replace(report, complete=False)))
    assert "interrupted" in page.one("verdict").all("p", "alert")[0].text
    source = dataclasses.replace(report.source, partial=True)
    page = parse(to_html(dataclasses.replace(report, complete=False, source=source)))
    assert "files of the checkpoint are missing" in page.one("verdict").text
    assert "--allow-partial" not in page.one("provenance").all("pre")[0].text  # was in memory


def test_estimators_without_a_band_are_held_against_none(weights):
    page = parse(to_html(spectra.analyze(weights, estimator="hill_mid")))
    assert "belongs to csn, not to this estimator" in page.one("verdict").all("p", "lead")[0].text
    assert not page.all("rect", "band")
    assert not {"fit", "erg", "blocks"} & {x["id"] for x in page.all("section")}
    assert not any(reading in page.one("numbers").text for reading in texts.READINGS)


def test_reports_of_other_metrics_leave_out_what_they_lack(weights):
    metrics = {"log_norm": spectra.METRICS["log_norm"]}
    page = parse(to_html(spectra.analyze(weights, metrics=metrics)))
    assert [x["data-headline"] for x in page.all("dd", "value")] == ["share_in_band", "log_norm"]
    assert "alpha" not in table_rows(page)[0]
    assert page.one("spectra").all("path", "bars")
    assert not page.one("spectra").all("path", "law")


def test_layers_without_an_interval_are_drawn_without_one(report):
    nothing = {"alpha_low": math.nan, "alpha_high": math.nan}
    layers = tuple(layer_like(layer, metrics=nothing) for layer in report.layers)
    page = parse(to_html(dataclasses.replace(report, layers=layers)))
    assert {row["interval"].text for row in table_rows(page)} == {"–"}
    assert not page.one("depth").all("path", "interval")
    assert page.one("depth").all("path", "mark")
    assert "nan" not in page.one("verdict").text + page.one("spectra").text


def test_the_words_cover_every_verdict_and_finding():
    assert set(texts.VERDICTS) == set(Verdict)
    assert set(texts.NOTES) == set(Finding)


def test_an_average_of_random_weights_is_not_called_that_of_well_trained_layers(rng):
    noise = spectra.analyze(
        {f"layers.{i}.fc.weight": rng.standard_normal((120, 80)) for i in range(6)}
    )
    assert noise.summary["n_random_like"] >= 4
    page = to_html(noise)
    assert texts.HARDLY in page
    assert not any(reading in page for reading in texts.READINGS)
