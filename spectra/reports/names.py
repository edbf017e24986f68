"""Names of layers and models, made to fit."""

from collections.abc import Callable, Sequence
from itertools import takewhile

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


def shorten_middle(name: str, width: int, *, measure: Callable[[str], int] = len) -> str:
    """Make a name fit by leaving out its middle, as suits models, whose names differ at either end.

    Parameters
    ----------
    name : str
        Control characters are shown as escapes.
    width : int
        At least 2.
    measure : callable
        How wide a text is.

    Examples
    --------
    >>> shorten_middle("a-model-with-a-long-name", 16)
    'a-model-w…g-name'
    """
    name = printable(name)
    if measure(name) <= width:
        return name
    head = (width - 1) * 3 // 5
    start, end = name[:head], name[head + 1 - width :]
    while measure(f"{start}…{end}") > width and (start or end):
        start, end = (start, end[1:]) if end else (start[:-1], end)
    return f"{start}…{end}"


def told_apart(names: Sequence[str], width: int) -> list[str]:
    """Make names fit and keep them distinct: what all begin with goes first.

    Parameters
    ----------
    names : sequence of str
    width : int

    Examples
    --------
    >>> told_apart(["run-a-epoch-1-loss-2.71606", "run-a-epoch-20-loss-3.70158"], 12)
    ['…1-loss-2.7…', '…20-loss-3.…']
    """
    names = [printable(name) for name in names]
    columns = zip(*names, strict=False)
    shared = "".join(letters[0] for letters in takewhile(lambda c: len({*c}) == 1, columns))
    cut = 1 + max(shared.rfind(mark) for mark in "/-_. ")
    if max(map(len, names), default=0) <= width or len(names) < 2:
        cut = 0
    begun = [f"…{name[cut:]}" if cut else name for name in names]
    short = [name if len(name) <= width else f"{name[: width - 1]}…" for name in begun]
    if len(set(short)) == len(set(names)):
        return short
    return [shorten_middle(name, width) for name in names]
