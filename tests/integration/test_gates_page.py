"""The page on gates holds what the code holds: grammar, examples, directions, exit codes."""

import re

import pytest
from click.testing import CliRunner

from spectra.cli import exits, main
from spectra.cli.analyzing import analyze
from spectra.gates import UNDIRECTED, WORSE, parse, parse_allowance
from spectra.gates.reading import MAX_LENGTH
from spectra.gates.rules import KEYWORDS, MAX_DEPTH, OPERATORS, Quantifier
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "gates.md").read_text("utf-8")


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


RULES = "".join(blocks("rules")).splitlines()
QUOTED = re.findall(r"--fail-on '([^']*)'", "".join(blocks("sh") + blocks("yaml")))
LIMITS = re.findall(r"--max-regress (\S+)", "".join(blocks("sh") + blocks("yaml")))


@pytest.mark.parametrize("text", [*RULES, *QUOTED])
def test_every_example_is_a_rule_in_its_plainest_form(text):
    assert str(parse(text)) == text


@pytest.mark.parametrize("text", LIMITS)
def test_every_limit_can_be_read(text):
    assert str(parse_allowance(text)) == text


def test_the_page_shows_enough_of_both():
    assert len(RULES) > 5
    assert QUOTED
    assert LIMITS


def test_rules_within_the_text_are_rules_too():
    inline = re.findall(r"`((?:layers|any|all|none)\([^`]*)`", PAGE)
    assert inline
    for text in inline:
        if "..." not in text:
            parse(text)


def test_every_flag_of_the_page_exists():
    known = {flag for option in analyze.params for flag in option.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE)) <= known


def test_the_grammar_names_every_word_and_sign_and_no_other():
    [grammar] = blocks("ebnf")
    words = {*Quantifier, *KEYWORDS, *OPERATORS, "(", ")", "%", "+", "-", ".", "e", "E", "_"}
    assert set(re.findall(r'"([^"]+)"', grammar)) == words


def test_the_limits_of_a_rule_are_on_the_page():
    assert f"At most {MAX_LENGTH} characters, nested at most {MAX_DEPTH} deep" in PAGE


def test_the_error_is_the_real_one():
    [shown] = blocks("text")
    rule = shown.splitlines()[1].strip()
    assert CliRunner().invoke(main, ["demo", "--fail-on", rule]).stderr == shown


def test_every_direction_is_on_the_page_and_every_reason_why_there_is_none():
    for name, direction in WORSE.items():
        assert f"| `{name}` | {direction} |" in PAGE
    for name, why in UNDIRECTED.items():
        assert re.search(rf"^\| .*`{name}`.* \| {re.escape(why)} \|$", PAGE, re.MULTILINE), name


def test_every_exit_code_is_on_the_page():
    codes = {value for name, value in vars(exits).items() if name.isupper()}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)} == codes
