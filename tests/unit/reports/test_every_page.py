"""What holds for every page: of a model, of a ranking, of a run, of a comparison."""

import base64
import hashlib
import json
import re

import pytest

from tests.made_pages import KINDS
from tests.pages import data_of, parse

NASTY = (
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "' onclick='alert(1)",
    "</title></style></textarea><svg onload=alert(1)>",
    "javascript:alert(1)",
    "\u202eevil\u2066",
    "a\x1b[31mred",
    "line\nbreak",
    "&lt;b&gt;",
    "x" * 3000,
)


@pytest.fixture(scope="module", params=KINDS)
def page(request):
    """The id of its data, the text of a page, its tree, and the JSON of its record."""
    make, to_page, to_json = KINDS[request.param]
    record = make()
    text = to_page(record)
    return request.param, text, parse(text), to_json(record)


def test_a_page_is_one_whole_file_with_a_heading_for_every_part(page):
    _, text, tree, _ = page
    assert text.startswith("<!doctype html>\n<html lang=")
    assert len(tree.all("h1")) == 1
    assert tree.all("section")[0]["id"] == "verdict"
    assert all(section.all("h2") for section in tree.all("section"))
    assert tree.one("verdict").all("p", "lead")[0].text.endswith(".")


def test_the_numbers_of_a_page_are_the_json_word_for_word(page):
    key, _, tree, expected = page
    assert data_of(tree, key) == json.loads(expected)


def test_nothing_outside_a_page_is_named(page):
    _, text, tree, _ = page
    for element in tree.all():
        assert not element.attributes.keys() & {"src", "srcset", "action", "formaction", "style"}
        assert not any(name.startswith("on") for name in element.attributes)
        assert element.attributes.get("href", "#").startswith("#")
    style = tree.all("style")[0].text
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?:", text)


def test_links_lead_somewhere_and_ids_are_unique(page):
    tree = page[2]
    ids = [x["id"] for x in tree.all() if "id" in x.attributes]
    assert len(ids) == len(set(ids))
    assert {x["href"][1:] for x in tree.all("a")} <= set(ids)
    listed = [x["href"][1:] for x in tree.all("nav")[0].all("a")]
    order = [x["id"] for x in tree.all("section")]
    assert set(listed) <= set(order)


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(page):
    tree = page[2]
    (policy,) = [x["content"] for x in tree.all("meta") if "http-equiv" in x.attributes]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    (script,) = [x for x in tree.all("script") if "type" not in x.attributes]
    (style,) = tree.all("style")
    for rule, text in (("script-src", script.text), ("style-src", style.text)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert set(rules) == {"default-src", "script-src", "style-src", "base-uri", "form-action"}


def test_every_picture_has_a_label_and_every_figure_says_what_it_shows(page):
    tree = page[2]
    assert tree.all("svg", "chart")
    assert all(x["aria-label"] for x in tree.all("svg") if x.attributes.get("role") == "img")
    assert all("role" in x.attributes or "aria-hidden" in x.attributes for x in tree.all("svg"))
    for figure in tree.all("figure"):
        captions = figure.all("figcaption")
        assert captions[0].text if captions else figure.all("svg")[0]["aria-label"]


def test_every_term_says_when_it_misleads(page):
    glossary = page[2].one("glossary")
    terms = glossary.all("dt")
    assert len(terms) >= 6
    assert glossary.text.count("When it misleads: ") == len(terms)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_names_are_text_everywhere(kind):
    make, to_page, to_json = KINDS[kind]
    record = make(names=NASTY, addresses="/tmp/<script>alert(2)</script>\u202e\x1b{}")
    text = to_page(record)
    tree = parse(text)
    assert {x.tag for x in tree.all()} & {"img", "textarea", "b"} == set()
    assert len([x for x in tree.all("script") if "type" not in x.attributes]) == 1
    assert not [name for x in tree.all() for name in x.attributes if name.startswith("on")]
    assert not [x for x in tree.all("svg") if "viewbox" not in x.attributes]
    for bad in ("\u202e", "\u2066", "\x1b", "\x00"):
        assert bad not in text
    longest = max(len(x.text) for x in tree.all("td") + tree.all("th") + tree.all("text"))
    assert longest < 500
    assert data_of(tree, kind) == json.loads(to_json(record))
