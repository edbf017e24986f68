"""HTML and SVG as nested calls: text is escaped where it enters, so no name can become markup."""

import html
import math
from collections.abc import Iterable
from typing import TypeAlias

from spectra.errors import printable

VOID = frozenset({"meta", "br", "input", "link", "hr", "col"})


class Markup(str):
    """Text that is markup already; all other text is escaped by `escape`."""

    __slots__ = ()


Child: TypeAlias = str | int | Iterable["Child"] | None
Attribute: TypeAlias = str | float | bool | None


def escape(text: str) -> Markup:
    """Return `text` as markup that shows it, with control and direction characters as escapes.

    Examples
    --------
    >>> escape("<img onerror='x'>")
    '&lt;img onerror=&#x27;x&#x27;&gt;'
    """
    return text if isinstance(text, Markup) else Markup(html.escape(printable(text)))


def tag(element: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """Return one element.

    Parameters
    ----------
    element : str
        Its name.
    *children : str, int, None or iterable of them
        `Markup` goes in as it is, other text is escaped, None is left out.
    **attributes : str, float, bool or None
        ``class_`` is class, ``data_x`` is data-x; None and False are left out, True has no value.

    Examples
    --------
    >>> tag("p", "1 < 2", tag("br"), class_="note", hidden=False)
    '<p class="note">1 &lt; 2<br></p>'
    """
    parts = [f"<{element}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(f" {key}" if value is True else f' {key}="{_attribute(value)}"')
    parts.append(">")
    if element not in VOID:
        parts += [join(children), f"</{element}>"]
    return Markup("".join(parts))


def join(children: Iterable[Child]) -> Markup:
    """Return children one after the other, as one piece of markup."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            parts.append(escape(child))
        elif isinstance(child, int):
            parts.append(str(child))
        else:
            parts.append(join(child))
    return Markup("".join(parts))


def pixels(value: float) -> str:
    """Return a coordinate to a tenth of a pixel, as short as it goes.

    Examples
    --------
    >>> pixels(12.04), pixels(-0.04), pixels(3.25)
    ('12', '0', '3.2')
    """
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def number(value: float, digits: int = 2) -> str:
    """Return a number for a table; a dash where there is none.

    Examples
    --------
    >>> number(2.465), number(float("nan")), number(119, 0), number(12345.6)
    ('2.46', '–', '119', '1.23e+04')
    """
    if not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}" if abs(value) < 1000 or not digits else f"{value:.2e}"


def count(n: int, one: str, many: str = "") -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> count(1, "layer"), count(2, "layer"), count(3, "is", "are")
    ('1 layer', '2 layers', '3 are')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _attribute(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else pixels(value)
