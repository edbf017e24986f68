"""Markdown for pull requests, read by a parser of Markdown that is not ours."""

import dataclasses
import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from markdown_it import MarkdownIt

import spectra
from spectra.records import Finding, Status
from spectra.reports import to_markdown
from spectra.reports.markdown import MOST, ROWS, code, ranking_to_markdown
from tests.made import layer, report

HOSTILE = [
    "a|b",
    "a\\|b",
    "`code` ``more``",
    "<script>alert(1)</script>",
    "</details></code><img src=x onerror=alert(1)>",
    "**bold** _it_ ~~gone~~",
    "[link](https://example.com) ![image](https://example.com/x.png)",
    "https://www.example.com",
    "@everyone #1 GH-2",
    "line\nbreak | --- |\n\n# heading",
    "\x1b[31mred",
    "&lt;already&gt; &amp;",
    "\u202etxt.exe",
    "$x^2$ $`y`$",
    "\\",
    " spaces ",
    "-",
    "",
]


class Page(HTMLParser):
    """The tags of a page, and the text that stands as code."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.code, self.prose, self.open, self.rows = [], [], "", [], []
        page = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(text)
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        if tag == "code":
            self.code.append("")
        if tag == "tr":
            self.rows.append(0)
        if tag == "td":
            self.rows[-1] += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "code" in self.open:
            self.code[-1] += data
        else:
            self.prose += data


OURS = {"h3", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "sub", "strong"}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_is_read_as_markdown_or_html(name):
    made = report(layer(name), layer("fc"))
    page = Page(to_markdown(made))
    assert set(page.tags) <= OURS
    assert not page.open
    shown = name.encode("unicode_escape").decode() if not name.isprintable() else name
    assert shown in page.code
    assert page.rows[1:] == [8, 8]
    assert "@" not in page.prose


def test_plain_names_can_be_read_and_found_in_the_source_too():
    assert code("model.layers.0.self_attn.qkv_proj.weight[q]").startswith("`model.layers.0.self_")
    assert code("hf://org/name@main") == "<code>hf&#58;&#47;&#47;org&#47;name&#64;main</code>"
    assert html.unescape(code("a`b")) == "<code>a`b</code>"


def test_the_worst_layers_come_first_and_the_rest_is_folded():
    fine = [layer(f"fine.{i}", alpha=3.0) for i in range(30)]
    over = layer("over", alpha=1.2, warnings=[Finding.OVER_TRAINED])
    worse = layer("worse", alpha=9.0, warnings=[Finding.UNDER_TRAINED])
    text = to_markdown(report(*fine, over, layer("bad", status=Status.ZERO), worse))
    names = re.findall(r"^\| .*? \| `(\S+)` \|", text, re.MULTILINE)
    assert names[:3] == ["over", "worse", "bad"]
    assert names[3:] == [f"fine.{i}" for i in range(30)]
    head, fold = text.split("<details>")
    assert len(re.findall(r"^\| .*? \| `", head, re.MULTILINE)) == ROWS
    assert "13 more layers" in fold
    assert fold.rstrip().endswith("</details>")
    assert "Look first at `over` (alpha 1.20), `worse` (alpha 9.00)." in head
    assert Page(text).rows.count(8) == 33


def test_a_report_fits_a_comment_and_says_what_it_leaves_out():
    many = [layer(f"layers.{i}." + "<|>" * 40, alpha=3.0) for i in range(400)]
    text = to_markdown(report(*many, layer("worst", alpha=1.0)))
    assert MOST - 2000 < len(text) <= MOST
    shown = len(re.findall(r"^\| .*? \| <code>", text, re.MULTILINE))
    assert f"{400 - shown} more are left out" in text
    assert "`worst`" in text
    assert Page(text).tags.count("details") == 1


def test_verdicts_and_means_are_those_of_the_report(weights):
    made = spectra.analyze(weights | {"bad": np.full((30, 30), np.nan)}, replicates=0)
    text = to_markdown(made)
    said = next(line for line in text.splitlines() if line.startswith("7 layers"))
    counted = {word: int(n) for n, word in re.findall(r"(\d+) ([a-z-]+)", said.split(". Mean")[0])}
    judged = sum(made.summary[f"n_{v}"] for v in ("well_trained", "over_trained", "under_trained"))
    assert sum(counted.get(v, 0) for v in ("well", "over-trained", "under-trained")) == judged
    assert counted["embeddings"] == made.summary["n_left_out"] == 2
    assert counted["without"] == made.summary["n_failed"] == 1
    assert f"alpha {made.summary['alpha']:.3f}" in said
    assert "one-dimensional" in text


def test_empty_and_incomplete_reports_are_tables_too():
    assert "0 layers" in to_markdown(report())
    assert Page(to_markdown(report())).rows == [0]
    assert "**Incomplete" in to_markdown(report(layer("fc"), complete=False))


def test_a_ranking_names_the_best_and_escapes_the_others(rng):
    reports = []
    for tail, address in ((2.5, "good"), (30, "<b>@bad|<"), (8, "`third`")):
        made = spectra.analyze(
            {f"{i}": rng.standard_t(tail, (40, 30)) for i in range(9)}, replicates=0
        )
        reports.append(
            dataclasses.replace(made, source=dataclasses.replace(made.source, address=address))
        )
    scores = {"good": 3.0, "<b>@bad|<": 1.0, "`third`": 2.0}
    ranking = spectra.rank([*reports, "absent|<i>.pt"], scores=scores)
    text = ranking_to_markdown(ranking)
    page = Page(text)
    assert set(page.tags) <= OURS | {"ul", "li"}
    assert text.startswith("### spectra: 3 models by alpha\n")
    assert page.code.count("<b>@bad|<") >= 1
    assert "@" not in page.prose
    named = re.findall(r"^\| \d[^|]* \| (.*?) \|", text, re.MULTILINE)
    assert named == [code(model.name) for model in ranking.models]
    assert "not ranked" in page.prose
    assert "against known scores" in page.prose
