"""The small tables of notebooks: escaped, without script or colours, the layers to look at kept."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import spectra
from spectra.records import Finding, Status
from tests.made import layer, report


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.rows, self.caption, self.open = [], [], [], "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "caption" in self.open:
            self.caption += data
        else:
            self.rows[-1][-1] += data


HOSTILE = ["<script>alert(1)</script>", "</table>", "&amp;", '"><b onclick="x">', "$\\href{x}{y}$"]


def test_names_are_text_and_mathjax_keeps_out():
    page = Page(report(*map(layer, HOSTILE), layer("a\x1b[31m\u202eb"))._repr_html_())
    assert set(page.tags) <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "b"}
    assert [row[0] for row in page.rows[1:]] == [*HOSTILE, "a\\x1b[31m\\u202eb"]
    assert page.attributes == [("class", "tex2jax_ignore mathjax_ignore")], "no style, no colour"


def test_fifty_rows_at_most_and_the_worst_among_them_in_checkpoint_order():
    layers = [layer(f"fine.{i}", alpha=3.0) for i in range(80)]
    layers[70] = layer("worst", alpha=1.0, warnings=[Finding.OVER_TRAINED])
    page = Page(report(*layers)._repr_html_())
    names = [row[0] for row in page.rows[1:]]
    assert len(names) == 50
    assert names[-1] == "worst"
    assert names[:3] == ["fine.0", "fine.1", "fine.2"]
    assert "80 layers" in page.caption
    assert "the 50 shown are those that most need a look" in page.caption


def test_the_caption_counts_the_verdicts(rng):
    made = spectra.analyze(
        {"noise": rng.standard_normal((300, 200)), "bad": np.full((30, 30), np.nan)}, replicates=0
    )
    caption = Page(made._repr_html_()).caption
    assert "2 layers: 1 random-like, 1 without alpha" in caption


def test_a_layer_without_numbers_says_why_and_shows_dashes():
    page = Page(report(layer("bad", status=Status.ZERO))._repr_html_())
    row = dict(zip(*page.rows, strict=True))
    assert row["verdict"] == "zero"
    assert row["alpha"] == row["n_tail"] == "–"


@pytest.mark.parametrize("made", [report(), report(layer("fc"), complete=False)])
def test_empty_and_incomplete_reports_are_tables_too(made):
    page = Page(made._repr_html_())
    assert len(page.rows) == 1 + len(made.layers)
    assert ("incomplete" in page.caption) is not made.complete


def test_a_ranking_is_a_table_best_first(rng):
    reports = []
    for tail, address in ((30, "<i>noise</i>"), (2.5, "good")):
        weights = {f"{i}": rng.standard_t(tail, (60, 40)) for i in range(9)}
        made = spectra.analyze(weights, replicates=0)
        source = dataclasses.replace(made.source, address=address)
        reports.append(dataclasses.replace(made, source=source))
    ranking = spectra.rank(reports)
    page = Page(ranking._repr_html_())
    assert [row[1] for row in page.rows] == ["model", *(x.name for x in ranking.models)]
    assert "2 models by alpha" in page.caption
    assert re.search(r"(Best|First): good", page.caption)
