import html
import re

import pytest

from spectra.errors import printable
from spectra.gates import Outcome, annotations, markdown, sentence

HOSTILE = [
    "a|b",
    "<script>alert(1)</script>",
    "`code`",
    "**bold** _it_ ~~gone~~",
    "[link](https://example.com)",
    "![image](https://example.com/x.png)",
    "https://www.example.com",
    "@everyone #1",
    "line\nbreak | --- |",
    "\x1b[31mred",
    "&lt;already&gt;",
    "\u202etxt.exe",
    "\\|",
    "$x$ <!-- -->",
]


def met(*layers, rule="any(zero)", found="1 of 9 layers"):
    return Outcome(rule, True, 1.0, 1.0, found, layers)


def unknown(*layers):
    return Outcome("alpha > 3", False, 2.0, 3.0, "alpha is 2", (), layers, "alpha has no number")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_is_read_as_markdown_or_html(name):
    text = markdown([met(name)], title=name)
    row = text.splitlines()[-1]
    plain = re.sub(r"</?code>|&#\d+;", "", f"{text.splitlines()[0]}{row}")
    assert not re.search(r"[`*_~<>\[\]()!&\\$@/]", plain)
    assert row.count("|") == 5
    assert len(text.splitlines()) == 5
    shown = re.findall(r"<code>(.*?)</code>", row)[1]
    assert html.unescape(shown) == printable(name)


def test_the_summary_counts_what_became_of_the_rules():
    passed = Outcome("n_failed > 0", False, 0.0, 0.0, "n_failed is 0")
    text = markdown([met("fc"), unknown("a", "b"), passed, passed], title="model")
    assert text.splitlines()[0] == "### spectra: 1 fail, 1 not judged, 2 pass in <code>model</code>"
    assert text.count("✅ pass") == 2
    assert "<code>a</code>, <code>b</code>" in text


def test_ten_layers_are_named_and_the_others_counted():
    outcome = met(*(f"w{i}" for i in range(13)))
    assert sentence(outcome).endswith("w8, w9, 3 more")
    assert "<code>w9</code>, 3 more" in markdown([outcome], title="m")
    assert sentence(met(*(f"w{i}" for i in range(10)))).endswith("w9")


def test_long_names_are_cut():
    [line] = annotations([met("x" * 100_000 + "end")])
    assert len(line) < 200
    assert line.endswith("xend")


def test_a_workflow_command_is_one_line_whatever_the_name():
    lines = annotations([met("a%0Ab\r\n::error::no", rule="layers(zero) > 5%"), unknown("c")])
    assert lines == (
        "::error title=spectra::layers(zero) > 5%25: 1 of 9 layers: a%250Ab\\r\\n::error::no",
        "::warning title=spectra::alpha > 3: alpha has no number: c",
    )


def test_nothing_is_annotated_where_all_passes():
    assert annotations([Outcome("n_failed > 0", False, 0.0, 0.0, "n_failed is 0")]) == ()
