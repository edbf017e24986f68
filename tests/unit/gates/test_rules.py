import re

import pytest

from spectra.evidence import COLUMNS
from spectra.gates import RuleError, parse
from spectra.gates.reading import MAX_LENGTH
from spectra.gates.rules import EVIDENCE_OF, FIELDS, FINDINGS, KEYWORDS, STATUSES, Quantifier
from spectra.metrics import METRICS, Metric
from tests.conftest import ROOT


def shown(text, **options):
    """Return the error's first line, and the text from the caret on."""
    with pytest.raises(RuleError) as caught:
        parse(text, **options)
    first, excerpt, caret = str(caught.value).split("\n")
    assert caret.strip() == "^"
    return first, excerpt[len(caret) - 1 :]


def test_an_error_points_at_the_character():
    with pytest.raises(RuleError) as caught:
        parse("layers(alpha < two) > 5%", subject="--fail-on")
    assert f"error[{caught.value.code}] {caught.value}" == (
        "error[E_RULE] --fail-on: expected a number, found 'two'\n"
        "  layers(alpha < two) > 5%\n"
        "                 ^"
    )


@pytest.mark.parametrize(
    ("text", "words", "rest"),
    [
        ("", "expected a number of the summary, layers, any, all or none, found the end", ""),
        ("alpha", "expected a comparison", ""),
        ("alpha >", "expected a number, found the end", ""),
        ("alpha = 2", "expected a comparison (> >= < <= == !=), found '='", "= 2"),
        ("alpha ≥ 2", "found '≥'", "≥ 2"),
        ("alpha > nan", "expected a number, found 'nan'", "nan"),
        ("alpha > 1e999", "too large", "1e999"),
        ("alpha > 5%", "only a share of layers(...)", "%"),
        ("alpha > 5 6", "expected the end of the rule, found '6'", "6"),
        ("alhpa > 5", "did you mean alpha", "alhpa > 5"),
        ("layer(zero) > 5", "did you mean layers", "layer(zero) > 5"),
        ("ks > 0.1", "as any(ks > ...)", "ks > 0.1"),
        ("non_finite", "as any(non_finite)", "non_finite"),
        ("not any(zero)", "found 'not'", "not any(zero)"),
        ("layers > 3", "expected '(', found '>'", "> 3"),
        ("layers(alpha < 2) > 5.5", "a share of them is written with %", "5.5"),
        ("layers(alpha < 2) > -1", "a number of layers is whole", "-1"),
        ("layers(alpha < 2) > 101%", "between 0% and 100%", "101%"),
        ("layers(alpha < 2)", "expected a comparison", ""),
        ("any(alpha < 2) > 5%", "layers(...) is compared", "> 5%"),
        ("any()", "expected a metric, a status or a finding, found ')'", ")"),
        ("any(alpha)", "expected a comparison", ")"),
        ("any(alpha < 2", "expected 'and', 'or' or ')', found the end", ""),
        ("any((alpha < 2)", "expected 'and', 'or' or ')', found the end", ""),
        ("any(alpha < 2 && zero)", "expected 'and', 'or' or ')', found '&'", "&& zero)"),
        ("any(alpha < 2 and)", "found ')'", ")"),
        ("any(alpha < 2 and or zero)", "found 'or'", "or zero)"),
        ("any(zero > 3)", "zero is no number", "zero > 3)"),
        ("any(n_failed > 3)", "n_failed is a number of the model", "n_failed > 3)"),
        ("any(alhpa < 2)", "did you mean alpha", "alhpa < 2)"),
        ("any(non_finit)", "did you mean non_finite", "non_finit)"),
        ("any(2 < alpha)", "found '2'", "2 < alpha)"),
        ("all(alpha < ٣)", "expected a number", "٣)"),
        ("alpha\x1b[31m > 2", "expected a comparison", "\\x1b[31m > 2"),
        ("__import__('os')", "there is no number of the summary '__import__'", "__import__('os')"),
    ],
)
def test_what_is_wrong_is_said_where_it_is_wrong(text, words, rest):
    first, at = shown(text)
    assert words in first
    assert at == rest


def test_length_and_depth_have_limits():
    assert "longer than" in shown("any(" + "(" * 100_000)[0]
    for opening in ("(", "not "):
        text = f"any({opening * 60}zero"
        assert "nested deeper than 20" in shown(text)[0]
    deep = f"any({'(' * 20}zero{')' * 20})"
    assert str(parse(deep)) == "any(zero)"


def test_a_rule_that_would_be_too_long_in_full_is_refused():
    text = f"any({'or '.join(['alpha<9e14 '] * 60)})"
    assert len(text) < MAX_LENGTH
    assert "too long" in shown(text)[0]


def test_the_excerpt_of_a_long_text_keeps_its_caret_on_the_screen():
    text = f"any({'zero or ' * 100}nonsense)"
    with pytest.raises(RuleError) as caught:
        parse(text)
    _, excerpt, caret = str(caught.value).split("\n")
    assert len(excerpt) <= 78
    assert excerpt[len(caret) - 1 :] == "nonsense)"
    assert excerpt.startswith("  …")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("alpha_hat>6", "alpha_hat > 6"),
        ("  n_failed == 0.0 ", "n_failed == 0"),
        ("alpha_hat > -.5e-3", "alpha_hat > -0.0005"),
        ("layers( alpha<2 )>=5.50 %", "layers(alpha < 2) >= 5.5%"),
        ("layers(zero) != 3", "layers(zero) != 3"),
        ("any(alpha < 2 and ks < .1 or zero)", "any(alpha < 2 and ks < 0.1 or zero)"),
        ("any(alpha < 2 and (ks < .1 or zero))", "any(alpha < 2 and (ks < 0.1 or zero))"),
        ("none(not (zero))", "none(not zero)"),
        ("all(not (zero or ok))", "all(not (zero or ok))"),
        ("any((zero))", "any(zero)"),
        ("any(zero\nor\tok)", "any(zero or ok)"),
    ],
)
def test_a_rule_is_printed_in_its_plainest_form(text, plain):
    assert str(parse(text)) == plain
    assert parse(plain) == parse(text)
    assert parse(text).text == text


def test_and_binds_closer_than_or_and_not_closer_than_both():
    assert parse("any(zero or ok and zero)") == parse("any(zero or (ok and zero))")
    assert parse("any(not zero and ok)") == parse("any((not zero) and ok)")
    assert parse("any(zero or ok and zero)") != parse("any((zero or ok) and zero)")
    assert parse("any(not zero and ok)") != parse("any(not (zero and ok))")


def test_what_needs_evidence_is_refused_where_there_will_be_none():
    for condition in (*(f"{column} > 1" for column in COLUMNS), *EVIDENCE_OF):
        assert parse(f"any({condition})")
        first, at = shown(f"any(ok or {condition})", evidence=False)
        assert "--metrics all" in first
        assert at == f"{condition})"


def test_every_finding_of_the_evidence_is_known_to_need_it():
    glossary = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    rows = {code: re.search(rf"^\| `{code}` \|.*$", glossary, re.MULTILINE)[0] for code in FINDINGS}
    assert {code for code, row in rows.items() if "--metrics all" in row} == set(EVIDENCE_OF)


def test_a_metric_of_ones_own_may_stand_in_a_rule():
    mine = {**METRICS, "mine": Metric(lambda s, f: 1.0, "mine", "here", in_summary=True)}
    assert str(parse("any(mine > 1)", metrics=mine)) == "any(mine > 1)"
    assert str(parse("mine > 1", metrics=mine)) == "mine > 1"
    assert "there is no" in shown("mine > 1")[0]


def test_no_two_things_in_a_rule_share_a_name():
    names = [*METRICS, *COLUMNS, *FIELDS, *STATUSES, *FINDINGS, *KEYWORDS, *Quantifier]
    assert len(names) == len(set(names))
