"""Text from outside made safe for Markdown: names of layers, addresses, reasons."""

import re

from spectra.errors import printable

# All that Markdown, its GitHub extensions or HTML could read as structure, and then some.
_ACTIVE = re.compile(r"[^\w ]|_")


def inert(text: str) -> str:
    """Write every character that is neither letter, digit nor space as its number.

    Nothing of it is then read as Markdown or HTML. Mentions and references (``@name``, ``#1``) are
    found in the text of the finished page, so it belongs between ``<code>`` and ``</code>``.

    Examples
    --------
    >>> inert("a|b")
    'a&#124;b'
    """
    return _ACTIVE.sub(lambda found: f"&#{ord(found[0])};", printable(text))
