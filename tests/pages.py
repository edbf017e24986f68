"""A page taken apart with the standard library's parser, for tests that look at its structure."""

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "br", "input", "link", "hr", "col", "img", "wbr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list["Element | str"] = field(default_factory=list)

    def __getitem__(self, name: str) -> str:
        return self.attributes[name]

    @property
    def text(self) -> str:
        """All text below, scripts and styles too."""
        return "".join(x if isinstance(x, str) else x.text for x in self.children)

    @property
    def classes(self) -> set[str]:
        return set(self.attributes.get("class", "").split())

    def all(self, tag: str = "", class_: str = "") -> list["Element"]:
        """Elements below, in document order."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                if tag in ("", child.tag) and (not class_ or class_ in child.classes):
                    found.append(child)
                found += child.all(tag, class_)
        return found

    def one(self, key: str) -> "Element":
        """The element with an id."""
        (found,) = [x for x in self.all() if x.attributes.get("id") == key]
        return found


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(page: str) -> Element:
    """Return the page as a tree; tags that do not nest are an error."""
    builder = _Builder()
    builder.feed(page)
    builder.close()
    assert builder.open == [builder.root], "a tag is left open"
    return builder.root


def data_of(tree: Element, key: str) -> Any:
    """Return a JSON block of the page."""
    return json.loads(tree.one(key).text)


def table_rows(tree: Element, key: str = "layer-table") -> list[dict[str, Element]]:
    """Return the rows of a table, that of the layers if none is named, each a mapping of column to cell."""
    table = tree.one(key)
    heads = [x["data-column"] for x in table.all("thead")[0].all("th")]
    rows = []
    for row in table.all("tbody")[0].all("tr"):
        cells = [x for x in row.children if isinstance(x, Element)]
        rows.append(dict(zip(heads, cells, strict=True)))
    return rows
