"""How the site is made of the repository's own Markdown; `make docs` builds it.

The source is the repository's root, so that a link which works there works on the site. Navigation is
docs/README.md: its headings and its lists of links.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "spectra"
copyright = "spectra contributors"
extensions = ["myst_parser", "notebook_pages"]
root_doc = "docs/README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**.md",
    "notebooks/*.ipynb",
]
exclude_patterns = [".*", "site", "docs/site", "tests", "spectra", "benchmarks", "build", "dist"]
myst_heading_anchors = 4
myst_enable_extensions: list[str] = []
suppress_warnings = ["misc.highlighting_failure"]  # a text output need not be valid code

html_theme = "furo"
html_title = "spectra"
html_show_sourcelink = False
html_copy_source = False
templates_path = ["templates"]
html_additional_pages = {"index": "to_start.html"}

LINK = re.compile(r"^- \[([^\]]+)\]\(([^)#:]+\.(?:md|ipynb))\)", re.MULTILINE)


def add_navigation(app, docname: str, source: list[str]) -> None:
    """Make a table of contents of the links that the page of a folder lists, a part a heading."""
    if not docname.startswith("docs/") or not docname.endswith("README"):
        return
    trees = []
    for section in re.split(r"^## ", source[0], flags=re.MULTILINE):
        caption = section.partition("\n")[0] if section is not source[0] else ""
        entries = [f"{title} <{target}>" for title, target in LINK.findall(section)]
        if entries:
            options = ":hidden:\n" + (f":caption: {caption}\n" if docname == root_doc else "")
            trees.append("```{toctree}\n" + options + "\n" + "\n".join(entries) + "\n```")
    source[0] = "\n\n".join([source[0], *trees])


def setup(app) -> None:
    app.connect("source-read", add_navigation)
