import csv
import dataclasses
import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

import spectra
from spectra.comparing import subspaces
from spectra.comparing.matching import match
from spectra.comparing.records import alpha_interval
from spectra.errors import SelectionError
from spectra.reports.comparing_terminal import show_comparison
from spectra.reports.comparisons import FIELDS, comparison_to_csv, comparison_to_json
from tests.reference.matrices import pareto, with_eigenvalues


def layers_of(names, rng):
    return spectra.analyze(
        {name: rng.standard_normal((30, 25)) for name in names}, replicates=0
    ).layers


def matched(base, other, rng):
    found = match(layers_of(base, rng), layers_of(other, rng))
    return [(one.name, two.name) for one, two in found.pairs], found


@pytest.mark.parametrize("prefix", ["model.", "transformer.model.", "bert."])
def test_what_wrappers_put_before_names_is_left_out(rng, prefix):
    plain = ["layers.0.fc.weight", "layers.1.fc.weight"]
    wrapped = [prefix + name for name in plain]
    pairs, found = matched(plain, wrapped, rng)
    assert pairs == list(zip(plain, wrapped, strict=True))
    assert found.notes == (f"names of OTHER are taken without {prefix!r}",)
    assert matched(wrapped, plain, rng)[0] == list(zip(wrapped, plain, strict=True))


def test_what_peft_puts_before_names_is_left_out_of_the_analysis_already(rng):
    plain = ["layers.0.fc.weight", "layers.1.fc.weight"]
    pairs, found = matched(plain, [f"base_model.model.{name}" for name in plain], rng)
    assert pairs == list(zip(plain, plain, strict=True))
    assert found.notes == ()
    pairs, found = matched(plain, [f"base_model.model.model.{name}" for name in plain], rng)
    assert pairs == [(name, f"model.{name}") for name in plain]
    assert found.notes == ("names of OTHER are taken without 'model.'",)


def test_a_prefix_is_left_out_though_a_head_stands_beside_it(rng):
    base = ["model.layers.0.fc.weight", "model.layers.1.fc.weight", "lm_head.weight"]
    pairs, found = matched(base, ["layers.0.fc.weight", "layers.1.fc.weight"], rng)
    assert len(pairs) == 2
    assert [item.name for item in found.only_in_base] == ["lm_head.weight"]


def test_names_of_gguf_are_said_to_be_others(rng):
    gguf, hub = ["blk.0.attn_q.weight"], ["model.layers.0.self_attn.q_proj.weight"]
    pairs, found = matched(hub, gguf, rng)
    assert pairs == []
    assert found.notes == (
        "OTHER has the names of GGUF (blk.0.), BASE has others: they are not translated",
    )
    assert matched(gguf, hub, rng)[1].notes[0].startswith("BASE has the names of GGUF")
    assert matched(gguf, gguf, rng)[1].notes == ()


def test_halves_that_end_alike_share_no_prefix(rng):
    pairs, found = matched(["encoder.fc.weight", "decoder.fc.weight"], ["fc.weight"], rng)
    assert pairs == []
    assert len(found.only_in_base) == 2


def test_names_that_agree_are_left_as_they_are(rng):
    names = ["model.a.weight", "model.b.weight"]
    pairs, found = matched(names, names, rng)
    assert len(pairs) == 2
    assert found.notes == ()


def test_layers_of_one_side_and_of_other_shapes_are_listed(rng):
    w = rng.standard_normal((40, 30))
    comparison = spectra.compare(
        {"a.weight": w, "b.weight": w.copy(), "c.weight": w.copy()},
        {"a.weight": w, "b.weight": w[:35], "d.weight": w.copy()},
    )
    assert [layer.name for layer in comparison.layers] == ["a.weight"]
    assert [item.name for item in comparison.only_in_base] == ["c.weight"]
    assert [item.name for item in comparison.only_in_other] == ["d.weight"]
    (shape,) = comparison.other_shape
    assert (shape.base_shape, shape.other_shape) == ((40, 30), (35, 30))


def test_untied_weights_are_said_to_have_been_tied(rng):
    w = rng.standard_normal((40, 30))
    comparison = spectra.compare(
        {"embed.weight": w, "lm_head.weight": w},
        {"embed.weight": w.copy(), "lm_head.weight": w.copy()},
    )
    assert len(comparison.layers) == 1
    assert comparison.only_in_other[0].reason == "in BASE tied to embed.weight"


def test_weights_that_were_tied_since_are_said_to_be_and_beside_the_verdict_too(rng):
    w = rng.standard_normal((40, 30))
    comparison = spectra.compare(
        {"embed.weight": w, "lm_head.weight": 3 * w},
        {f"model.{name}.weight": w for name in ("embed", "lm_head")},
    )
    (head,) = comparison.only_in_base
    assert (head.name, head.reason) == ("lm_head.weight", "in OTHER tied to model.embed.weight")
    assert f"lm_head.weight has no partner: {head.reason}." in comparison.verdict


def test_models_without_a_common_layer_are_compared_to_that_end(rng):
    w = rng.standard_normal((40, 30))
    comparison = spectra.compare({"a": w}, {"b": w})
    assert comparison.layers == ()
    assert "No layer" in comparison.verdict
    assert json.loads(comparison_to_json(comparison))["layers"] == []
    assert comparison_to_csv(comparison) == ",".join(FIELDS) + "\n"


def test_the_interval_of_a_change_combines_two_independent_ones(rng):
    report = spectra.analyze({"w": rng.standard_t(3, (90, 60))})

    def layer(alpha, low, high):
        metrics = {"alpha": alpha, "alpha_low": low, "alpha_high": high}
        return dataclasses.replace(report.layers[0], metrics=metrics)

    change, low, high = alpha_interval(layer(3.0, 2.6, 3.8), layer(4.0, 3.7, 4.6))
    assert change == pytest.approx(1.0)
    assert low == pytest.approx(1.0 - math.hypot(0.3, 0.8))
    assert high == pytest.approx(1.0 + math.hypot(0.6, 0.4))
    unknown = alpha_interval(layer(3.0, math.nan, math.nan), layer(4.0, 3.7, 4.6))
    assert math.isnan(unknown[1])
    assert math.isnan(unknown[2])


@pytest.mark.slow
def test_alpha_is_marked_as_moved_where_it_moved_and_not_where_it_did_not(rng):
    def drawn(alpha):
        return {"w": with_eigenvalues(pareto(alpha, 200, rng), 240, rng)}

    def moved(one, two):
        return spectra.compare(drawn(one), drawn(two), subspaces=False)["w"].alpha_moved

    assert sum(moved(2.5, 2.5) for _ in range(10)) <= 1
    assert sum(moved(2.2, 4.5) for _ in range(5)) == 5


def test_reports_are_compared_by_their_numbers(weights, tmp_path):
    path = tmp_path / "base.json"
    spectra.analyze(weights).write(path)
    comparison = spectra.compare(path, weights)
    assert "numbers alone" in comparison.notes[0]
    assert all(layer.delta is None for layer in comparison.layers)
    assert all(layer.changes["stable_rank"] == 0 for layer in comparison.layers)
    assert spectra.compare(spectra.analyze(weights), path).summary["n_matched"] == len(
        comparison.layers
    )


def test_numbers_of_other_rules_are_not_compared(weights):
    report = spectra.analyze(weights, convention="weightwatcher-0.7.7")
    with pytest.raises(SelectionError, match=r"its convention is weightwatcher.*analyze them"):
        spectra.compare(weights, report)


def test_numbers_of_another_precision_are_not_compared(weights):
    with pytest.raises(SelectionError, match=r"its precision is fast"):
        spectra.compare(weights, spectra.analyze(weights, precision="fast"))


def test_too_large_layers_are_passed_over_and_counted(weights, monkeypatch):
    monkeypatch.setattr(subspaces, "MAX_SIDE", 50)
    other = {name: 2 * w for name, w in weights.items()}
    comparison = spectra.compare(weights, other)
    large = [layer for layer in comparison.layers if layer.M > 50]
    assert large
    assert all(layer.overlap is None for layer in large)
    assert f"{len(large)} layers" in comparison.notes[0]


@pytest.mark.parametrize("scale", [1e-140, 1e140])
def test_no_scale_is_too_small_or_too_large(scale, rng):
    base, other = (rng.standard_t(3, (60, 40)) for _ in range(2))
    (plain,) = spectra.compare({"w": base}, {"w": other}).layers
    (scaled,) = spectra.compare({"w": scale * base}, {"w": scale * other}).layers
    assert scaled.delta.cosine == pytest.approx(plain.delta.cosine)
    assert scaled.delta.norm == pytest.approx(plain.delta.norm)
    assert scaled.change is plain.change


def test_progress_goes_to_the_end_and_never_back(weights):
    seen = []
    other = {name: 2 * w for name, w in weights.items()}
    spectra.compare(weights, other, progress=lambda done, total, name: seen.append(done / total))
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)


def test_data_are_valid_json_and_one_csv_row_a_layer(weights, rng):
    other = {name: w + 0.01 * rng.standard_normal(w.shape) for name, w in weights.items()}
    other["layers.2.fc.weight"][:] = np.nan
    comparison = spectra.compare(weights, other)
    content = json.loads(comparison_to_json(comparison))
    assert content["schema_version"] == 1
    rows = {row["name"]: row for row in content["layers"]}
    assert len({tuple(row) for row in rows.values()}) == 1
    assert rows["layers.2.fc.weight"]["delta_norm"] is None
    assert rows["layers.0.fc.weight"]["delta_structure"] == pytest.approx(1, abs=0.2)
    assert all(tuple(row)[: len(FIELDS)] == FIELDS for row in rows.values())
    table = list(csv.DictReader(io.StringIO(comparison_to_csv(comparison))))
    assert [row["name"] for row in table] == [layer.name for layer in comparison.layers]


def test_no_heading_of_the_csv_runs_in_a_spreadsheet(weights):
    comparison = spectra.compare(weights, weights)
    layer = dataclasses.replace(comparison.layers[0], changes={"\x1b=1+1": 0.0})
    text = comparison_to_csv(dataclasses.replace(comparison, layers=(layer,)))
    assert "\x1b" not in text


def test_alpha_of_a_low_rank_difference_is_no_number(weights, rng):
    other = {
        name: w + np.outer(rng.standard_normal(len(w)), np.ones(w.shape[1]))
        for name, w in weights.items()
        if w.ndim == 2
    }
    content = json.loads(comparison_to_json(spectra.compare(weights, other)))
    assert {row["delta_rank"] for row in content["layers"]} == {1}
    assert {row["delta_alpha"] for row in content["layers"]} == {None}


def test_the_table_fits_and_shows_names_as_text(rng):
    names = [
        "\x1b[31m[bold]evil.weight",
        "encoder.layers.11.attention.self.query.projection.weight",
    ]
    base = {name: rng.standard_t(3, (60, 50)) for name in names}
    other = {name: w + 0.2 * rng.standard_t(3, w.shape) for name, w in base.items()}
    console = Console(width=80, file=io.StringIO(), color_system=None)
    show_comparison(spectra.compare(base, other), console)
    text = console.file.getvalue()
    assert "\x1b" not in text
    assert "[bold]evil" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_most_changed_layers_come_first_and_the_rest_is_counted(weights, rng):
    other = {
        name: w + 0.01 * (i + 1) * rng.standard_normal(w.shape)
        for i, (name, w) in enumerate(weights.items())
    }
    comparison = spectra.compare(weights, other)
    console = Console(width=80, file=io.StringIO(), color_system=None)
    show_comparison(comparison, console, rows=2)
    text = console.file.getvalue()
    largest = max(comparison.layers, key=lambda layer: layer.delta.norm)
    table = text[text.index("layer ") :].splitlines()
    assert largest.name.removesuffix(".weight") in table[1]
    assert f"{len(comparison.layers) - 2} more layers" in text
