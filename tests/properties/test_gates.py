"""Rules: any text is read or refused in place, printing is the inverse of reading, judging is sound."""

import dataclasses
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra.errors import SelectionError
from spectra.gates import RuleError, check, parse, parse_allowance
from spectra.gates.rules import And, Code, Comparison, Count, Not, Or, Quantifier, Rule
from spectra.records import Finding, Status
from tests.made import layer, report

METRICS = ("alpha", "ks", "n_tail")
CODES = ("poor_fit", "short_tail", "non_finite", "ok")
SIGNS = (">", ">=", "<", "<=", "==", "!=")
PIECES = (*METRICS, *CODES, *SIGNS, *Quantifier, "and", "or", "not", "(", ")", "%", "1", "-2.5e1")
PIECES = (*PIECES, "n_failed", " ", "\n", "x", "٣", "=", "\x1b", "\udc80", "n_traps")

finite = st.floats(allow_nan=False, allow_infinity=False)
small = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 2.5])


def comparisons(numbers):
    return st.builds(Comparison, st.sampled_from(METRICS), st.sampled_from(SIGNS), numbers)


def several(kind, inner):
    return st.builds(kind, st.lists(inner, min_size=2, max_size=3).map(tuple))


def conditions(numbers, codes=CODES):
    leaves = comparisons(numbers) | st.builds(Code, st.sampled_from(codes))
    return st.recursive(
        leaves,
        lambda inner: st.builds(Not, inner) | several(And, inner) | several(Or, inner),
        max_leaves=8,
    )


def counts(condition):
    shares = st.builds(
        Count,
        st.just(Quantifier.LAYERS),
        condition,
        st.sampled_from(SIGNS),
        st.integers(0, 100).map(float),
        st.just(True),
    )
    numbers = st.builds(
        Count,
        st.just(Quantifier.LAYERS),
        condition,
        st.sampled_from(SIGNS),
        st.integers(0, 5).map(float),
        st.just(False),
    )
    short = st.sampled_from(["any", "all", "none"])
    return shares | numbers | st.builds(_in_short, short, condition)


def _in_short(name, condition):
    return parse(f"{name}({condition})").claim


@settings(deadline=None, max_examples=400)
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
    | st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join)
)
def test_any_text_is_read_or_refused_at_a_place_within_it(text):
    for read in (parse, parse_allowance):
        found, error = outcome_of(read, text)
        if error is None:
            assert read(str(found)) == found
            continue
        assert isinstance(error, RuleError)
        assert 0 <= error.position <= len(text)
        first, excerpt, caret = str(error).split("\n")
        assert first.isprintable()
        assert excerpt.isprintable()
        assert len(caret) <= len(excerpt) + 1
        assert caret.strip() == "^"


def outcome_of(read, text):
    try:
        return read(text), None
    except SelectionError as error:
        return None, error


@settings(deadline=None, max_examples=200)
@given(
    counts(conditions(finite))
    | st.builds(Comparison, st.just("alpha"), st.sampled_from(SIGNS), finite)
)
def test_reading_what_is_printed_gives_the_same_rule(claim):
    rule = Rule("", claim)
    again = parse(str(rule))
    assert again == rule
    assert str(again) == str(rule)


numbers = st.tuples(*[small | st.just(math.nan)] * len(METRICS))
findings = st.lists(st.sampled_from([Finding.POOR_FIT, Finding.SHORT_TAIL]), unique=True)
rows = st.lists(st.tuples(numbers, findings), min_size=1, max_size=4)


def made_of(rows):
    return report(
        *(
            layer(f"w{i}", warnings=warned, **dict(zip(METRICS, values, strict=True)))
            for i, (values, warned) in enumerate(rows)
        )
    )


def meets(made, claim):
    """Judge a rule on layers by Python's own reading of it; the oracle of ``check``."""
    n = total = 0
    for row in made.layers:
        total += 1
        names = {metric: row[metric] for metric in METRICS}
        names |= {code: code in (*row.warnings, row.status) for code in CODES}
        n += bool(eval(str(claim.condition), {}, names))
    if claim.quantifier is not Quantifier.LAYERS:
        return {"any": n > 0, "all": n == total, "none": n == 0}[claim.quantifier]
    if claim.share:
        return eval(f"{100 * n} {claim.operator} {int(claim.limit)} * {total}")
    return eval(f"{n} {claim.operator} {claim.limit}")


@settings(deadline=None, max_examples=300)
@given(rows, counts(conditions(small)))
def test_a_rule_is_judged_as_python_would_and_only_if_missing_numbers_cannot_matter(rows, claim):
    made, rule = made_of(rows), Rule("", claim)
    found = check(made, rule)
    gaps = [(i, j) for i, (values, _) in enumerate(rows) for j, x in enumerate(values) if x != x]
    if not gaps:
        assert not found.not_judged
        assert found.met == meets(made, claim)
    elif not found.not_judged:
        for fillings in itertools.islice(
            itertools.product([-3.0, 0.5, 2.0, 7.0], repeat=len(gaps)), 64
        ):
            filled = [list(values) for values, _ in rows]
            for (i, j), value in zip(gaps, fillings, strict=True):
                filled[i][j] = value
            whole = made_of(list(zip(filled, [warned for _, warned in rows], strict=True)))
            assert meets(whole, claim) == found.met


@settings(deadline=None, max_examples=60)
@given(rows, counts(conditions(small, codes=("poor_fit",))))
def test_losing_a_layer_never_turns_a_judged_rule_into_its_opposite(rows, claim):
    made, rule = made_of(rows), Rule("", claim)
    before = check(made, rule)
    nothing = dict.fromkeys(made.layers[0].metrics, math.nan)
    lost = dataclasses.replace(
        made.layers[0], status=Status.NON_FINITE, warnings=(), averaged=False, metrics=nothing
    )
    after = check(report(lost, *made.layers[1:]), rule)
    assert after.not_judged or (not before.not_judged and after.met == before.met)


def test_a_hundred_thousand_brackets_are_no_recursion():
    for text in ("(" * 100_000, "any(" * 100_000, "any(" + "not " * 100_000, "%" * 100_000):
        with pytest.raises(RuleError):
            parse(text)
