"""What pages are put together from: sections, cards, figures, tables, a glossary."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spectra.records import Verdict
from spectra.reports.html.markup import Child, Markup, tag
from spectra.reports.html.texts import VERDICTS, Term
from spectra.reports.names import shorten

LONGEST = 400  # letters of a name that are shown at all; the JSON block has the rest


@dataclass(frozen=True, slots=True)
class Card:
    """One headline number: `key` names it in the data, `note` says what it means."""

    key: str
    title: str
    value: str
    spread: str
    note: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; `key` names the quantity, `says` explains the head."""

    key: str
    title: str
    says: str = ""
    is_number: bool = True
    is_head: bool = False
    class_: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: one cell a column, and attributes of the row itself."""

    cells: tuple[Child, ...]
    attributes: Mapping[str, str]


def section(key: str, heading: str, *children: Child) -> Markup:
    """Return a part of the page with its heading; `key` is where links lead."""
    return tag("section", tag("h2", heading, id=f"{key}-heading"), *children, id=key,
               aria_labelledby=f"{key}-heading")  # fmt: skip


def cards(chosen: Iterable[Card]) -> Markup:
    """Return headline numbers side by side."""
    return tag(
        "dl",
        [
            tag(
                "div",
                tag("dt", tag("a", card.title, href=f"#term-{card.key}")),
                tag("dd", card.value, class_="value", data_headline=card.key),
                tag("dd", card.spread, class_="spread"),
                tag("dd", card.note, class_="note"),
                class_="card",
            )
            for card in chosen
        ],
        class_="cards",
    )


def figure(
    drawing: Markup, caption: Child, *, legend: Child = None, key: str | None = None
) -> Markup:
    """Return a picture with its caption; a wide one scrolls on narrow screens."""
    return tag(
        "figure",
        legend,
        tag("div", drawing, class_="scroll"),
        tag("figcaption", caption),
        id=key,
    )


def legend(items: Iterable[tuple[Markup, str]]) -> Markup:
    """Return what marks and lines stand for: pairs of a swatch and its words."""
    return tag(
        "ul", [tag("li", swatch, tag("span", words)) for swatch, words in items], class_="legend"
    )


def table(columns: Sequence[Column], rows: Iterable[Row], *, key: str, caption: str) -> Markup:
    """Return a table that the script makes sortable, and that stands without it; see `filters`."""
    heads = [
        tag(
            "th",
            column.title,
            scope="col",
            title=column.says or None,
            class_="number" if column.is_number else None,
            data_column=column.key,
        )
        for column in columns
    ]
    body = [
        tag(
            "tr",
            [
                tag("th", cell, scope="row")
                if column.is_head
                else tag("td", cell, class_=_class_of(column))
                for column, cell in zip(columns, row.cells, strict=True)
            ],
            **row.attributes,
        )
        for row in rows
    ]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", heads)),
            tag("tbody", body),
            id=key,
            class_="sortable",
        ),
        class_="scroll tall",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def filters(key: str, choices: Mapping[str, Sequence[tuple[str, str]]]) -> Markup:
    """Return the controls of the table with the id `key`; hidden until the script shows them.

    Parameters
    ----------
    key : str
    choices : mapping of str to sequence of (str, str)
        For every choice its values with their words; a row has the values that it matches in the
        attribute ``data-`` with the name of the choice.
    """
    boxes = [
        tag(
            "label",
            f"{name} ",
            tag(
                "select",
                tag("option", "any", value=""),
                [tag("option", words, value=value) for value, words in values],
                name=name,
            ),
        )
        for name, values in choices.items()
    ]
    return tag(
        "form",
        tag("label", "text ", tag("input", type="search", name="text")),
        boxes,
        tag("output", aria_live="polite"),
        data_table=key,
        hidden=True,
    )


def _class_of(column: Column) -> str | None:
    return "number" if column.is_number else column.class_ or None


def facts(pairs: Iterable[tuple[str, Child]]) -> Markup:
    """Return names with what they stand for, as provenance is listed."""
    return tag(
        "dl",
        [(tag("dt", name), tag("dd", value)) for name, value in pairs],
        class_="facts",
    )


def glossary(terms: Mapping[str, Term]) -> Markup:
    """Return terms with what they mean and when they mislead."""
    return tag(
        "dl",
        [
            (
                tag("dt", term.title, id=f"term-{key}"),
                tag("dd", term.meaning),
                tag("dd", tag("strong", "When it misleads: "), term.misleads),
            )
            for key, term in terms.items()
        ],
        class_="glossary",
    )


def chip(verdict: Verdict, words: str = "") -> Markup:
    """Return a verdict as a symbol and a word; the colour only repeats what they say."""
    symbol, word, says = VERDICTS[verdict]
    return tag(
        "span",
        tag("span", symbol, class_="symbol", aria_hidden="true"),
        f" {words or word}",
        class_=f"chip v-{verdict}",
        title=says,
    )


def name_of(name: str, width: int = LONGEST) -> Markup:
    """Return a layer's name as code; what is cut off shows when a pointer rests on it."""
    short = shorten(name, width)
    whole = shorten(name, LONGEST)
    return tag("code", short, title=whole if whole != short else None)


def command(text: str) -> Markup:
    """Return a line to copy into a shell."""
    return tag("pre", tag("code", text), tabindex="0")


def sentence(parts: Iterable[str]) -> str:
    """Join parts as a sentence lists them.

    Examples
    --------
    >>> sentence(["a", "b", "c"]), sentence(["a"]), sentence([])
    ('a, b and c', 'a', '')
    """
    *most, last = [*parts] or [""]
    return f"{', '.join(most)} and {last}" if most else last
