"""The site builds of what is in the repository, asks nothing of the network, and stops at a bad link."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.reading import links

pytestmark = pytest.mark.slow

# What a browser fetches by itself, as against links that a reader follows.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|object|embed)\b[^>]*?\b(?:src|srcset|data)\s*=\s*["']?(?P<a>[^"'\s>]+)"""
    r"""|<link\b(?![^>]*rel=["'](?:canonical|next|prev|index|search|author)["'])[^>]*?\bhref\s*=\s*["']?(?P<b>[^"'\s>]+)""",
    re.IGNORECASE,
)
FAR = re.compile(r"^(?:[a-z]+:)?//", re.IGNORECASE)


def build(source, out):
    return subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"),
            *("-c", ROOT / "docs" / "site", "-d", out.with_suffix(".doctrees")),
            *("-D", "run_notebooks=0", source, out),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "site"
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_of_the_contents_is_built(site):
    for target in links((ROOT / "docs" / "README.md").read_text("utf-8")):
        page = (site / "docs" / target).resolve()
        assert page.with_suffix(".html").is_file(), target
    assert 'url=docs/README.html"' in (site / "index.html").read_text("utf-8")


def test_no_page_fetches_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    found = [
        (page.name, match["a"] or match["b"])
        for page in pages
        for match in FETCHED.finditer(page.read_text("utf-8"))
    ]
    assert len(found) > len(pages)
    assert [(page, target) for page, target in found if FAR.match(target)] == []
    for sheet in site.rglob("*.css"):
        text = sheet.read_text("utf-8")
        assert not re.search(r"url\(\s*[\"']?(?:[a-z]+:)?//", text), sheet.name
        assert not re.search(r"@import\s+(?:url\()?[\"']?(?:[a-z]+:)?//", text), sheet.name


def test_the_index_of_the_search_is_a_script_that_needs_no_server(site):
    assert 'src="searchindex.js"' in (site / "search.html").read_text("utf-8")
    index = (site / "searchindex.js").read_text("utf-8")
    assert index.startswith("Search.setIndex(")
    for word in ("erg_gap", "shuffl", "baselin"):  # of tables, of prose; stems
        assert f'"{word}":' in index or f"{word}:" in index, word


@pytest.mark.parametrize("target", ["missing.md", "page.md#no-such-part", "missing.png"])
def test_a_link_that_leads_nowhere_stops_the_build(tmp_path, target):
    docs = tmp_path / "source" / "docs"
    docs.mkdir(parents=True)
    picture = "!" if target.endswith("png") else ""
    (docs / "README.md").write_text(f"# A\n\n- [page](page.md)\n\n{picture}[x]({target})\n")
    (docs / "page.md").write_text("# Page\n")
    done = build(tmp_path / "source", tmp_path / "out")
    assert done.returncode != 0
    assert target.partition("#")[2] or target in done.stderr
