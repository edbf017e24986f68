"""Pictures of a whole model: marks are where the numbers say."""

import dataclasses
import math
import re

import numpy as np
import pytest

import spectra
from spectra.naming import ROLES
from spectra.records import Finding, Kind, Verdict
from spectra.reports.concerns import BROKEN, badness, best, concerns
from spectra.reports.html import figures, marks
from spectra.reports.html.groups import entries_of, stack_of
from spectra.reports.html.heat_map import heat_map, step_of
from tests.pages import parse

BLOCKS = 4


@pytest.fixture
def layer(rng):
    return spectra.analyze({"w": rng.standard_t(3, (60, 40))})["w"]


@pytest.fixture
def model(layer, rng):
    """Twelve layers of three roles in four blocks, with alpha from 1.2 up."""
    roles = ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")
    report = spectra.analyze({"w": rng.standard_t(3, (60, 40))})
    layers = [
        remade(layer, f"model.layers.{i // 3}.{roles[i % 3]}.weight", 1.2 * 1.2**i)
        for i in range(3 * BLOCKS)
    ]
    return dataclasses.replace(report, layers=tuple(layers))


def remade(layer, name, alpha, **changes):
    metrics = {**layer.metrics, "alpha": alpha, "alpha_low": alpha * 0.9, "alpha_high": alpha * 1.1,
               "ks": 0.01 * alpha, "delta_lambda_min": alpha - 2, "erg_z": 0.0}  # fmt: skip
    verdict = Verdict.WELL_TRAINED
    warnings = ()
    if alpha < 2:
        verdict, warnings = Verdict.OVER_TRAINED, (Finding.OVER_TRAINED,)
    elif alpha > 6:
        verdict, warnings = Verdict.UNDER_TRAINED, (Finding.UNDER_TRAINED,)
    values = {"metrics": metrics, "verdict": verdict, "warnings": warnings, "averaged": True}
    return dataclasses.replace(layer, name=name, **(values | changes))


def hrefs(report):
    return {i: f"#layer-{i + 1}" for i in range(len(report.layers))}


def places(svg):
    """Where the marks of layers are, by the number of the layer."""
    found = {}
    for link in parse(svg).all("a"):
        x, y = re.match(r"M([\d.]+) ([\d.]+)", link.all("path")[0]["d"]).groups()
        found[int(link["href"].removeprefix("#layer-"))] = (float(x), float(y))
    return found


def test_every_layer_has_its_mark_in_order_and_at_its_height(model):
    found = places(figures.alpha_by_depth(entries_of(model), 3.0))
    assert list(found) == list(range(1, 13))
    x, y = np.array(list(found.values())).T
    assert np.diff(x) == pytest.approx(np.diff(x)[0], abs=0.11)
    # alpha rises by a constant factor and the axis is logarithmic
    assert np.diff(y) == pytest.approx(np.diff(y)[0], abs=0.11)
    assert np.diff(y)[0] < 0


def test_marks_of_the_scatter_are_at_their_ks(model):
    x, _ = np.array(list(places(figures.alpha_against_ks(entries_of(model))).values())).T
    ks = [layer.ks for layer in model.layers]
    slope, start = np.polyfit(ks, x, 1)
    assert x == pytest.approx(start + slope * np.array(ks), abs=0.1)


def test_the_ideal_of_the_erg_picture_is_where_alpha_is_two_and_the_gap_zero(model):
    entries = entries_of(dataclasses.replace(model, layers=(remade(model.layers[0], "w", 2.0),)))
    svg = figures.erg_picture(entries)
    (ideal,) = parse(svg).all("circle", "ideal")
    assert places(svg)[1] == pytest.approx((float(ideal["cx"]), float(ideal["cy"])), abs=0.1)


def test_layers_that_are_not_judged_are_hollow_and_those_without_alpha_are_crosses(model):
    first, second, *rest = model.layers
    doubtful = dataclasses.replace(first, warnings=(Finding.POOR_FIT,))
    failed = dataclasses.replace(
        second, status="zero", reason="all weights are zero", metrics={"alpha": math.nan}
    )
    entries = entries_of(dataclasses.replace(model, layers=(doubtful, failed, *rest)))
    tree = parse(figures.alpha_by_depth(entries, math.nan))
    drawn = [link.all("path")[0] for link in tree.all("a")]
    assert [bool("hollow" in path.classes) for path in drawn] == [True] + [False] * 11
    assert [bool("stroke" in path.classes) for path in drawn] == [False, True] + [False] * 10
    assert "no alpha (all weights are zero)" in drawn[1].text
    words = [text for _, text in marks.role_legend(entries)]
    assert "hollow: not judged" in words
    assert "no alpha" in words


def test_numbers_of_layers_outside_the_band_stand_beside_them(model):
    tree = parse(figures.alpha_by_depth(entries_of(model), math.nan))
    outside = {i + 1 for i, x in enumerate(model.layers) if not 2 <= x.alpha <= 6}
    named = {int(text.text[1:]) for text in tree.all("text", "strong")}
    assert named
    assert named <= outside


def test_absurd_numbers_stay_inside_the_picture(model):
    values = [1.0000001, 1e6, 3.0]
    layers = tuple(remade(model.layers[0], f"w{i}", alpha) for i, alpha in enumerate(values))
    entries = entries_of(dataclasses.replace(model, layers=layers))
    for svg in (figures.alpha_by_depth(entries, 1e5), figures.alpha_against_ks(entries),
                figures.erg_picture(entries)):  # fmt: skip
        size = [float(x) for x in parse(svg).all("svg")[0]["viewbox"].split()]
        for x, y in places(svg).values():
            assert 0 < x < size[2]
            assert 0 < y < size[3]
        assert "nan" not in svg
        assert "inf" not in svg


def test_the_heat_map_has_a_cell_for_every_role_in_every_block(model):
    tree = parse(heat_map(model.layers, hrefs(model)))
    cells = tree.all("a")
    assert len(cells) == 12
    labels = [text.text for text in tree.all("text") if not text.classes]
    assert labels == [ROLES["q"], ROLES["up"], ROLES["down"], *map(str, range(BLOCKS))]
    for cell in cells:
        alpha = model.layers[int(cell["href"].removeprefix("#layer-")) - 1].alpha
        assert cell.all("text")[0].text == f"{alpha:.1f}"
        assert f"h{step_of(alpha)}" in cell.all("rect")[0].classes
        assert bool(cell.all("path", "corner")) == (not 2 <= alpha <= 6)


def test_a_cell_is_the_median_of_its_layers_and_hollow_if_none_is_judged(model):
    base = model.layers[0]
    doubt = {"warnings": (Finding.POOR_FIT,), "verdict": Verdict.NOT_JUDGED}
    layers = (
        *(remade(base, f"b.0.conv{i}", alpha, kind="conv2d") for i, alpha in enumerate([3, 4, 9])),
        *(remade(base, f"b.1.conv{i}", 5.0, kind="conv2d", **doubt) for i in range(2)),
    )
    first, second = parse(heat_map(layers, hrefs(dataclasses.replace(model, layers=layers)))).all(
        "a"
    )
    assert first.all("text")[0].text == "4.0"
    assert first.all("path", "corner")
    assert not first.all("rect", "hollow")
    assert second.all("rect", "hollow")


def test_blocks_come_by_their_numbers_though_the_file_sorts_them_as_words(model):
    base = model.layers[0]
    names = [f"{kind}.layers.{i}.mlp.up_proj.weight" for kind in ("encoder", "decoder")
             for i in (0, 1, 10, 11, 2)]  # fmt: skip
    layers = tuple(remade(base, name, 2.0 + i / 10) for i, name in enumerate(names))
    report = dataclasses.replace(model, layers=layers)
    drawn = [int(cell["href"][7:]) for cell in parse(heat_map(layers, hrefs(report))).all("a")]
    assert drawn == [1, 2, 5, 3, 4, 6, 7, 10, 8, 9]
    assert list(places(figures.alpha_by_depth(entries_of(report), 3.0))) == drawn


def test_names_without_blocks_make_no_heat_map(model):
    layers = tuple(dataclasses.replace(x, name=f"fc{i}") for i, x in enumerate(model.layers))
    assert heat_map(layers, hrefs(model)) is None


def test_every_role_has_a_mark_of_its_own():
    assert set(marks.MARKS) == set(ROLES)
    assert len(set(marks.MARKS.values())) == len(ROLES)


def test_noise_lies_where_the_nulls_say_or_where_it_does_for_all_shapes(model):
    assert figures.noise_band(entries_of(model)) == (1.2, 3.1)
    null = {"delta_lambda_min_null": 1.5, "delta_lambda_min_null_sd": 0.1}
    first = model.layers[0]
    with_null = dataclasses.replace(first, metrics={**first.metrics, **null})
    entries = entries_of(dataclasses.replace(model, layers=(with_null,)))
    assert figures.noise_band(entries) == pytest.approx((1.3, 1.7))


@pytest.mark.parametrize(
    ("name", "layout", "stack"),
    [
        ("layers.3.mlp.experts.17.w1.weight", "", "layers.3.mlp.experts.*.w1.weight"),
        ("blk.3.ffn_up_exps.weight[5]", "a stack of 8 experts", "blk.3.ffn_up_exps.weight[*]"),
        (
            "layers.1.experts.gate_up[5,gate]",
            "8 experts; fused",
            "layers.1.experts.gate_up[*,gate]",
        ),
        ("layers.3.mlp.shared_expert.w1.weight", "", ""),
        ("h.0.attn.c_attn.weight[q]", "thirds", ""),
        ("h.0.attn.weight[3]", "head by head", ""),
    ],
)
def test_experts_are_told_by_their_names(layer, name, layout, stack):
    assert stack_of(dataclasses.replace(layer, name=name, layout=layout)) == stack


def test_only_large_models_show_experts_together(layer, model):
    layers = tuple(
        remade(layer, f"layers.{i % 3}.experts.{i // 3}.w1.weight", 2 + i) for i in range(12)
    )
    report = dataclasses.replace(model, layers=layers)
    assert len(entries_of(report)) == 12
    entries = entries_of(report, most=11)
    assert [entry.position for entry in entries] == [0, 1, 2]
    assert [i for i, _ in entries[1].members] == [1, 4, 7, 10]
    assert entries[1].value("alpha") == np.median([3, 6, 9, 12])
    assert entries[1].name == "layers.1.experts.*.w1.weight"


def test_the_best_layers_are_well_trained_and_nearest_two(model):
    found = [layer.alpha for _, layer in best(model.layers)]
    assert found == sorted(x.alpha for x in model.layers if 2 <= x.alpha <= 6)


def test_concerns_agree_with_the_order_of_the_table(model):
    found = [concern.layer for concern in concerns(model.layers)]
    assert found == sorted(found, key=badness, reverse=True)
    assert {x.name for x in found} == {x.name for x in model.layers if not 2 <= x.alpha <= 6}


def test_sure_concerns_come_before_borderline_ones_and_distance_is_that_of_intervals(layer):
    def with_interval(name, alpha, low, high):
        made = remade(layer, name, alpha)
        ends = {"alpha_low": low, "alpha_high": high}
        return dataclasses.replace(made, metrics={**made.metrics, **ends})

    layers = [
        with_interval("far but unsure", 12.0, 3.0, 40.0),
        with_interval("just above", 6.5, 6.1, 7.0),
        with_interval("far below", 1.4, 1.2, 1.7),  # ln(alpha - 1) is 0.92 away, of 6.5 only 0.10
    ]
    found = concerns(layers)
    assert [concern.layer.name for concern in found] == [
        "far below",
        "just above",
        "far but unsure",
    ]
    assert [concern.borderline for concern in found] == [False, False, True]


def test_broken_weights_of_embeddings_are_a_concern_and_their_alpha_is_none(layer):
    kind: Kind = "embedding"
    scaled = remade(layer, "embed", 9.0, kind=kind, averaged=False)
    broken = dataclasses.replace(scaled, status=next(iter(BROKEN)))
    assert concerns([scaled]) == ()
    assert [concern.layer for concern in concerns([broken])] == [broken]
