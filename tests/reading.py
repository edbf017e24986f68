"""Markdown as the tests read it: fenced blocks, links, the anchors that headings give."""

import re
from collections.abc import Iterator
from typing import NamedTuple

FENCE = re.compile(
    r"^(?P<before>[^\n]*\n)?(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=fence)`*[ ]*$",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
LINK = re.compile(r"\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)\)")


class Block(NamedTuple):
    language: str
    text: str
    runs: bool


def blocks(text: str) -> Iterator[Block]:
    """Fenced blocks; one after the line ``<!-- not run: REASON -->`` is not to be run."""
    for found in FENCE.finditer(text):
        before = found["before"] or ""
        yield Block(found["language"].strip(), found["text"], not NOT_RUN.fullmatch(before.strip()))


def links(text: str) -> list[str]:
    """Targets of links and pictures, without what stands in code."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    return LINK.findall(prose)


def anchors(text: str) -> set[str]:
    """Anchors of the headings of a page, as repositories and the site make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        twins = sum(
            anchor == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", anchor) is not None
            for anchor in found
        )
        found.add(f"{slug}-{twins}" if twins else slug)
    return found
