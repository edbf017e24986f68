"""Names of layers, made to fit."""

from collections.abc import Callable

from spectra.errors import printable

ENDING = ".weight"


def shorten(name: str, width: int, *, measure: Callable[[str], int] = len) -> str:
    """Make a name fit: drop the usual ``.weight``, then cut leading words to a letter.

    Numbers stay, since they say which layer it is; what is still too long is cut from the left.

    Parameters
    ----------
    name : str
        As it is in the file; control characters are shown as escapes.
    width : int
        At least 2.
    measure : callable
        How wide a text is: a terminal has letters that take two cells.

    Examples
    --------
    >>> shorten("encoder.layer.11.attention.self.query.weight", 22)
    'e.l.11.a.self.query'
    """
    whole, bracket, part = printable(name).partition("[")
    parts = f"{whole.removesuffix(ENDING) or whole}{bracket}{part}".split(".")
    for i, part in enumerate(parts[:-1]):
        if measure(".".join(parts)) <= width:
            break
        parts[i] = part if part.isdecimal() else part[:1]
    short = ".".join(parts)
    if measure(short) <= width:
        return short
    short = short[-width + 1 :]
    while measure(short) >= width:
        short = short[1:]
    return f"…{short}"
