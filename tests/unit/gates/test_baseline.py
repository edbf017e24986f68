import json
import math

import pytest

import spectra
from spectra.errors import CheckpointError, SelectionError
from spectra.gates import (
    UNDIRECTED,
    WORSE,
    RuleError,
    parse_allowance,
    refuse_unlike,
    regressions,
    worse_by,
)
from spectra.records import Status
from spectra.reports import to_dict
from spectra.saved import report_of
from spectra.sources import demo_model
from tests.made import layer, report


def held(text, now, before):
    [found] = regressions(now, before, [parse_allowance(text)])
    return found


def alphas(*values, **options):
    return report(*(layer(f"w{i}", alpha=a) for i, a in enumerate(values)), **options)


def test_every_number_of_the_summary_has_a_direction_or_a_reason_why_not():
    summary = set(spectra.analyze(demo_model(), replicates=0).summary)
    assert set(WORSE) | set(UNDIRECTED) == summary
    assert not set(WORSE) & set(UNDIRECTED)


@pytest.mark.parametrize(
    ("before", "now", "worse"),
    [
        (3.0, 3.5, 0.5),
        (3.5, 3.0, 0.0),
        (2.5, 2.0, 0.0),
        (1.8, 1.5, 0.3),
        (1.5, 1.8, 0.0),
        (2.3, 1.7, 0.3),  # a mirror image of 2.3 in 2, and yet over-trained
        (1.7, 2.3, 0.3),
        (3.0, 3.0, 0.0),
    ],
)
def test_alpha_gets_worse_away_from_two_on_either_side(before, now, worse):
    assert worse_by("alpha", now, before) == pytest.approx(worse)


def test_an_allowance_is_an_amount_or_a_share_of_the_baseline():
    before = alphas(4.0, 4.0)
    assert not held("alpha=5%", alphas(4.0, 4.375), before).met
    assert held("alpha=5%", alphas(4.0, 4.5), before).met
    assert not held("alpha=0.25", alphas(4.0, 4.5), before).met
    found = held("alpha=0.2", alphas(4.0, 4.5), before)
    assert (found.met, found.value, found.limit) == (True, 0.25, 0.2)
    assert found.found == "alpha is 4.25, was 4: worse by 0.25, at most 0.2 allowed"


def test_nothing_is_worse_than_itself():
    made = spectra.analyze(demo_model(), replicates=0)
    for name in WORSE:
        found = held(f"{name}=0", made, made)
        assert (found.met, found.value, found.not_judged) == (False, 0.0, "")


def test_counts_have_their_own_directions():
    good, lost = layer("a"), layer("a", status=Status.ZERO)
    other = layer("b")
    assert held("n_failed=0", report(lost, other), report(good, other)).met
    assert not held("n_failed=1", report(lost, other), report(good, other)).met
    assert not held("n_failed=0", report(good, other), report(lost, other)).met


def test_a_mean_over_other_layers_is_not_judged():
    now = report(layer("a", alpha=2.5), layer("b", status=Status.NON_FINITE))
    found = held("alpha=5%", now, report(layer("a", alpha=2.5), layer("b", alpha=9.0)))
    assert (found.verdict, found.culprits) == ("not judged", ("b",))
    assert "1 now and 2 then" in found.not_judged


def test_a_missing_number_on_either_side_is_not_judged():
    nothing = report(layer("w0", alpha=math.nan))
    assert held("alpha=5%", nothing, nothing).not_judged == "alpha has no number"
    assert held("alpha=5%", nothing, alphas(3.0)).not_judged == "alpha has no number"
    assert (
        held("alpha=5%", alphas(3.0), nothing).not_judged == "alpha has no number in the baseline"
    )
    boundless = report_of({**to_dict(alphas(3.0)), "summary": {"alpha": math.inf}}, "made")
    assert held("alpha=5%", alphas(9.0), boundless).verdict == "not judged"


def test_an_incomplete_report_is_not_held_against_anything():
    found = held("alpha=5%", alphas(3.0, complete=False), alphas(3.0))
    assert found.not_judged == "the report is incomplete"
    with pytest.raises(CheckpointError, match="incomplete"):
        held("alpha=5%", alphas(3.0), alphas(3.0, complete=False))


@pytest.mark.parametrize(
    "option",
    [{"convention": "weightwatcher-0.7.7"}, {"estimator": "clip_xmax"}, {"conv": "flatten"}],
)
def test_reports_by_other_rules_are_not_compared(option):
    [(name, value)] = option.items()
    with pytest.raises(SelectionError, match=f"its {name} is .*, not {value}"):
        held("alpha=5%", alphas(3.0, **option), alphas(3.0))


def test_evidence_matters_only_to_verdicts():
    assert held("alpha=5%", alphas(3.0, evidence=True), alphas(3.0)).verdict == "pass"
    with pytest.raises(SelectionError, match="its evidence is False, not True"):
        held("n_well_trained=5", alphas(3.0, evidence=True), alphas(3.0))


def test_reports_of_other_layers_are_not_compared():
    before = report(*(layer(name) for name in ("a", "b", "c", "d", "e\x1b[2J")))
    with pytest.raises(SelectionError) as caught:
        held("alpha=5%", report(layer("a", side=60), layer("new")), before)
    text = str(caught.value)
    assert "4 only in the baseline (b, c, d, …)" in text
    assert "1 not in the baseline (new)" in text
    assert "1 of another shape (a)" in text
    with pytest.raises(SelectionError) as caught:
        held("alpha=5%", report(*before.layers[:-1]), before)
    assert "\x1b" not in str(caught.value)


def test_an_estimator_without_a_band_has_no_direction():
    made = alphas(3.0, estimator="hill_mid")
    for name in ("alpha", "alpha_hat", "n_over_trained"):
        with pytest.raises(SelectionError, match="hill_mid"):
            held(f"{name}=1", made, made)
    assert held("n_failed=0", made, made).verdict == "pass"


def test_a_baseline_without_the_number_is_refused():
    content = to_dict(alphas(3.0))
    del content["summary"]["alpha"]
    with pytest.raises(CheckpointError, match="has no alpha"):
        held("alpha=5%", alphas(3.0), report_of(content, "made"))


def test_a_baseline_of_boundless_integers_is_no_report():
    content = to_dict(alphas(3.0))
    content["summary"]["alpha"] = json.loads("1" + "0" * 400)
    with pytest.raises(CheckpointError, match="alpha"):
        report_of(content, "made")


def test_an_unlike_baseline_is_refused_before_the_work():
    with pytest.raises(SelectionError, match="its convention"):
        refuse_unlike(alphas(3.0), {"convention": "other"}, [])


@pytest.mark.parametrize(
    ("text", "words", "position"),
    [
        ("", "expected a number of the summary", 0),
        ("alhpa=5%", "did you mean alpha", 0),
        ("alpha", "expected '='", 5),
        ("alpha>5", "expected '=', found '>'", 5),
        ("alpha=x", "expected a number", 6),
        ("alpha=-1", "not negative", 6),
        ("alpha=5%%", "expected the end", 8),
        ("alpha_hat=5%", "alpha_hat is a logarithm", 11),
        ("n_failed=5%", "n_failed is a count", 10),
        ("log_norm=1", "misleads within one architecture", 0),
        ("stable_rank=1", "neither way", 0),
        ("erg_gap=1", "ideal at zero", 0),
    ],
)
def test_an_allowance_that_makes_no_sense_is_refused_where_it_does_not(text, words, position):
    with pytest.raises(RuleError, match=words) as caught:
        parse_allowance(text)
    assert caught.value.position == position


def test_an_allowance_is_printed_as_it_is_read():
    for text in ("alpha=5%", "alpha=0.1", "n_failed=0"):
        assert str(parse_allowance(text)) == text
        assert parse_allowance(f" {text.replace('=', ' = ')} ") == parse_allowance(text)
