import math

import pytest

import spectra
from spectra.gates import RuleError, check, parse
from spectra.records import Finding, Status
from tests.made import layer, report, with_evidence


def outcome(text, *layers, **options):
    return check(report(*layers, **options), parse(text))


LOST = layer("lost", status=Status.NON_FINITE)
SMALL = layer("small", status=Status.TOO_FEW_EIGENVALUES, side=10, log_norm=0.5)


@pytest.mark.parametrize(
    ("sign", "met"),
    [(">", (0, 0, 1)), (">=", (0, 1, 1)), ("<", (1, 0, 0)), ("<=", (1, 1, 0)), ("==", (0, 1, 0))],
)
def test_a_number_of_the_summary_is_compared(sign, met):
    for alpha, expected in zip((2.0, 3.0, 4.0), met, strict=True):
        found = outcome(f"alpha {sign} 3", layer("a", alpha=alpha))
        assert (found.met, found.value, found.limit) == (bool(expected), alpha, 3.0)
        assert found.verdict == ("fail" if expected else "pass")


def test_a_share_is_one_of_the_layers_that_the_summary_averages():
    layers = [layer(f"w{i}", alpha=1.0 if i == 0 else 3.0) for i in range(20)]
    others = [
        layer("e", kind="embedding", alpha=1.0),
        layer("h", kind="head", alpha=1.0),
        SMALL,
    ]
    found = outcome("layers(alpha < 2) > 5%", *layers, *others)
    assert (found.met, found.value, found.layers) == (False, 5.0, ("w0",))
    assert found.found == "1 of 20 averaged layers, 5 %"
    assert outcome("layers(alpha < 2) >= 5%", *layers, *others).met
    assert outcome("layers(alpha < 2) > 4.9%", *layers, *others).met


def test_every_share_is_exact():
    for total in range(1, 120):
        layers = [layer(f"w{i}", alpha=float(i)) for i in range(total)]
        made = report(*layers)
        for percent in (1, 2, 4, 5, 10, 20, 25, 50, 75, 100):
            if percent * total % 100 == 0:
                n = percent * total // 100
                assert check(made, parse(f"layers(alpha < {n}) == {percent}%")).met


def test_a_status_is_looked_for_in_every_layer():
    head = layer("head", kind="head", status=Status.NON_FINITE)
    found = outcome("any(non_finite)", layer("a"), head)
    assert (found.met, found.layers, found.found) == (True, ("head",), "1 of 2 layers")
    assert not outcome("any(zero)", layer("a"), head).met


@pytest.mark.parametrize(
    ("text", "alphas", "met"),
    [
        ("any(alpha < 2)", (1, 3), True),
        ("any(alpha < 2)", (3, 3), False),
        ("all(alpha < 2)", (1, 3), False),
        ("all(alpha < 2)", (1, 1), True),
        ("none(alpha < 2)", (3, 3), True),
        ("none(alpha < 2)", (1, 3), False),
        ("layers(alpha < 2) >= 2", (1, 1), True),
        ("layers(alpha < 2) >= 2", (1, 3), False),
        ("layers(alpha < 2) != 1", (1, 3), False),
    ],
)
def test_quantifiers_mean_what_they_say(text, alphas, met):
    layers = [layer(f"w{i}", alpha=float(alpha)) for i, alpha in enumerate(alphas)]
    found = outcome(text, *layers)
    assert (found.met, found.not_judged) == (met, "")


def test_a_missing_number_meets_neither_a_comparison_nor_its_opposite():
    for condition in ("alpha < 2", "alpha >= 2", "not alpha < 2", "alpha != 1"):
        found = outcome(f"any({condition})", layer("a", alpha=math.nan))
        assert (found.met, found.lacking, found.layers) == (False, ("a",), ())
        assert found.not_judged == "1 layer with no number to tell by"
        assert found.culprits == ("a",)


def test_a_rule_is_judged_where_the_missing_numbers_cannot_matter():
    one, good = layer("one", alpha=1.0), layer("good", alpha=3.0)
    assert outcome("any(alpha < 2)", one, LOST).met
    assert outcome("all(alpha < 2)", good, LOST).verdict == "pass"
    assert outcome("none(alpha < 2)", one, LOST).verdict == "pass"
    assert outcome("layers(alpha < 2) > 50%", good, good, good, LOST).verdict == "pass"
    assert outcome("layers(alpha < 2) > 20%", good, good, good, LOST).verdict == "not judged"
    assert outcome("any(alpha < 2 and non_finite)", good, LOST).verdict == "not judged"
    assert outcome("any(alpha < 2 and zero)", good, LOST).verdict == "pass"
    assert outcome("any(alpha < 2 or non_finite)", good, LOST).met


def test_a_layer_too_small_by_its_shape_lacks_nothing():
    found = outcome("any(alpha < 2)", layer("a", alpha=3.0), SMALL)
    assert (found.verdict, found.found) == ("pass", "0 of 1 averaged layer")
    found = outcome("any(alpha < 2 or non_finite)", layer("a", alpha=3.0), SMALL)
    assert (found.verdict, found.found) == ("pass", "0 of 1 layer")
    collapsed = layer("b", status=Status.TOO_FEW_EIGENVALUES, side=100)
    assert outcome("any(alpha < 2)", layer("a", alpha=3.0), collapsed).lacking == ("b",)
    broken = layer("c", status=Status.NON_FINITE, side=10)
    assert outcome("any(alpha < 2)", layer("a", alpha=3.0), broken).lacking == ("c",)


def test_a_lost_head_is_missed_only_where_heads_are_averaged():
    head = layer("head", kind="head", status=Status.NON_FINITE)
    assert outcome("any(alpha < 2)", layer("a", alpha=3.0), head).verdict == "pass"
    found = outcome("any(alpha < 2)", layer("a", alpha=3.0), head, convention="weightwatcher-0.7.7")
    assert found.verdict == "not judged"


def test_what_nobody_looked_at_may_hold_anything():
    unread = layer("a", status=Status.OVER_BUDGET)
    assert outcome("any(non_finite)", layer("b"), unread).verdict == "not judged"
    assert outcome("any(over_budget)", layer("b"), unread).met
    assert outcome("any(fit_failed)", layer("b"), unread).verdict == "pass"
    assert outcome("layers(ok) < 100%", layer("b"), unread).met


def test_a_summary_that_leaves_layers_out_can_fail_a_gate_but_not_pass_it():
    assert outcome("alpha > 2", layer("a", alpha=3.0), LOST).met
    found = outcome("alpha > 4", layer("a", alpha=3.0), LOST)
    assert (found.verdict, found.culprits) == ("not judged", ("lost",))
    assert outcome("alpha > 4", layer("a", alpha=3.0), SMALL).verdict == "pass"
    assert outcome("n_failed > 1", layer("a", alpha=3.0), LOST).verdict == "pass"


def test_a_number_that_is_not_there_is_not_judged():
    found = outcome("alpha > 4", SMALL)
    assert (found.verdict, found.not_judged) == ("not judged", "alpha has no number")
    assert math.isnan(found.value)


@pytest.mark.parametrize("text", ["any(zero)", "all(alpha < 2)", "layers(ok) > 5%", "none(ok)"])
def test_no_layer_at_all_passes_no_gate(text):
    found = outcome(text)
    assert (found.verdict, found.not_judged) == ("not judged", "there is no layer to ask")


def test_an_incomplete_report_can_fail_a_gate_but_not_pass_it():
    for text in ("any(alpha < 2)", "alpha > 2", "layers(alpha < 2) > 5%", "n_failed > 0"):
        found = outcome(text, layer("a", alpha=2.0), complete=False)
        assert (found.verdict, found.not_judged) == ("not judged", "the report is incomplete"), text
    assert outcome("any(alpha < 2)", layer("a", alpha=1.0), complete=False).met
    assert outcome("alpha > 2", layer("a", alpha=3.0), complete=False).met


def test_findings_that_were_not_looked_for_are_not_known():
    sure = with_evidence(layer("a", warnings=[Finding.CORRELATION_TRAP]), n_traps=1.0)
    clean = with_evidence(layer("b"))
    unread = with_evidence(layer("c"), n_traps=math.nan)
    found = outcome("any(correlation_trap)", sure, clean)
    assert (found.met, found.layers) == (True, ("a",))
    assert outcome("any(correlation_trap)", clean).verdict == "pass"
    assert outcome("any(correlation_trap)", clean, unread).lacking == ("c",)
    with pytest.raises(RuleError, match="--metrics all") as caught:
        outcome("any(ok or correlation_trap)", layer("a"))
    assert caught.value.position == len("any(ok or ")


def test_the_band_is_not_held_against_estimators_without_one():
    wild = layer("a", alpha=9.0, warnings=[Finding.NO_BAND])
    assert outcome("any(under_trained)", wild, estimator="hill_mid").verdict == "not judged"
    assert outcome("n_under_trained > 0", wild, estimator="hill_mid").verdict == "not judged"
    assert outcome("any(alpha > 6)", wild, estimator="hill_mid").met
    assert outcome("any(poor_fit)", wild, estimator="hill_mid").verdict == "pass"


def test_a_metric_that_the_report_lacks_is_refused():
    mine = {**spectra.METRICS, "mine": spectra.Metric(lambda s, f: 1.0, "x", "y", in_summary=True)}
    for text in ("any(mine > 1)", "mine > 1"):
        with pytest.raises(RuleError, match="no mine"):
            check(report(layer("a")), parse(text, metrics=mine))


def test_fields_of_a_layer_are_numbers_too():
    wide = layer("wide", side=500)
    assert outcome("any(N > 400 and n_eigenvalues == 500)", layer("a"), wide).layers == ("wide",)


def test_real_weights_are_judged(weights):
    made = spectra.analyze(weights, replicates=0)
    alphas = [row.alpha for row in made.layers if row.averaged]
    low = sum(alpha < 3 for alpha in alphas)
    found = check(made, parse("layers(alpha < 3) > 5%"))
    assert found.value == 100 * low / len(alphas)
    assert check(made, parse("alpha > 0")).value == pytest.approx(sum(alphas) / len(alphas))
