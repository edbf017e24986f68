import math

import pytest

from spectra.errors import SelectionError
from spectra.naming import block_of
from spectra.training import (
    ALPHADECAY,
    ALPHADECAY_SIGMOID,
    LLR,
    TEMPBALANCE,
    LayerRule,
    multipliers,
)
from tests.reference import training as reference

ALPHAS = {
    "layers.0.q.weight": 2.31,
    "layers.0.k.weight": 1.87,
    "layers.0.v.weight": 4.6,
    "layers.1.q.weight": 3.3,
    "layers.1.k.weight": 9.25,
    "layers.1.v.weight": 2.9,
}
VALUES = list(ALPHAS.values())


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (TEMPBALANCE, reference.linear(VALUES, 0.5, 1.5)),
        (LLR, reference.linear(VALUES, 1, 3)),
        (ALPHADECAY, reference.linear(VALUES, 0.67, 5)),
        (LayerRule("linear", 1.5, 0.5), reference.linear(VALUES, 1.5, 0.5)),
        (LayerRule("step", 0.5, 1.5), reference.step(VALUES, 0.5, 1.5)),
        (LayerRule("sqrt"), reference.over_mean(VALUES, math.sqrt)),
        (LayerRule("log2"), reference.over_mean(VALUES, math.log2)),
        (ALPHADECAY_SIGMOID, reference.sigmoid(VALUES, [block_of(name) for name in ALPHAS])),
    ],
)
def test_a_map_is_that_of_its_paper(rule, expected):
    found = multipliers(ALPHAS, rule)
    assert list(found) == list(ALPHAS)
    assert list(found.values()) == pytest.approx(expected, rel=1e-13)


EVERY_MAP = [LayerRule(m) for m in ("linear", "step", "sqrt", "log2", "block_sigmoid")]


@pytest.mark.parametrize("rule", EVERY_MAP)
def test_what_has_no_exponent_keeps_one_and_has_no_say(rule):
    strange = {"a": math.nan, "b": math.inf, "c": 1.0, "d": -3.0}
    found = multipliers(strange | ALPHAS, rule)
    assert [found[name] for name in strange] == [1, 1, 1, 1]
    assert {name: found[name] for name in ALPHAS} == multipliers(ALPHAS, rule)


@pytest.mark.parametrize("rule", EVERY_MAP)
@pytest.mark.parametrize(
    "alphas", [{}, {"a": 3.0}, {"a": 3.0, "b": 3.0, "c": 3.0}, {"a": math.nan, "b": 2.0}]
)
def test_where_no_two_alphas_differ_all_keep_one(rule, alphas):
    assert multipliers(alphas, rule) == dict.fromkeys(alphas, 1.0)


@pytest.mark.parametrize("rule", EVERY_MAP)
def test_the_order_of_the_layers_changes_nothing_and_the_order_of_alphas_is_kept(rule):
    backwards = dict(reversed(ALPHAS.items()))
    found = multipliers(ALPHAS, rule)
    assert multipliers(backwards, rule) == pytest.approx(found, rel=1e-14)
    one_block = {name: v for name, v in found.items() if "layers.0" in name}
    assert sorted(one_block, key=one_block.get) == sorted(one_block, key=ALPHAS.get)


def test_equal_alphas_share_the_mean_of_their_ranks():
    found = multipliers({"a": 2.0, "b": 3.0, "c": 3.0, "d": 5.0}, LayerRule("step", 1.0, 2.0))
    assert found == {"a": 1.0, "b": 1.375, "c": 1.375, "d": 1.75}


def test_a_layer_far_below_its_block_still_has_a_finite_positive_share():
    alphas = {f"b.0.{i}.weight": 3.0 + i / 1e6 for i in range(9000)} | {"b.0.x.weight": 1.5}
    found = multipliers(alphas, ALPHADECAY_SIGMOID)
    assert 0 < found["b.0.x.weight"] < 1e-100


@pytest.mark.parametrize(
    ("choice", "word"),
    [
        ({"map": "liner"}, "linear"),
        ({"estimator": "hill_mit"}, "hill_mid"),
        ({"embeddings": "larger"}, "largest"),
        ({"low": 0.0}, "positive"),
        ({"high": math.inf}, "finite"),
        ({"high": math.nan}, "finite"),
        ({"ramp": -1}, "counts"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_with_a_word(choice, word):
    with pytest.raises(SelectionError, match=word):
        LayerRule(**choice)
