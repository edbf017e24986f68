"""What can go wrong outside the numbers: one family of exceptions, each one line that says what to do.

Bad *data* (NaN, zero, too small) is no exception but a status in the report; see ``records.Status``.
"""

import difflib
from collections.abc import Sequence
from typing import Any

MAX_TEXT = 400
SHOWN = 12  # names listed where none is near


def printable(text: str) -> str:
    r"""Show control and direction characters as escapes, so that no name can drive a terminal.

    Examples
    --------
    >>> print(printable(chr(27) + "[31mred"))
    \x1b[31mred
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT // 2]}…{text[-MAX_TEXT // 2 :]}"


class SpectraError(Exception):
    """Base of all errors a user can meet.

    Parameters
    ----------
    code : str
        Stable, greppable name such as ``E_TRUNCATED``.
    subject : str
        What the error is about: a path, a tensor, an option.
    reason : str
        What was expected and what came.
    advice : str
        What to do about it.
    """

    def __init__(self, code: str, subject: str, reason: str, advice: str = "") -> None:
        self.code = code
        self.subject = subject
        self.reason = reason
        self.advice = advice
        super().__init__(code, subject, reason, advice)

    def __str__(self) -> str:
        text = f"{_short(self.subject)}: {_short(self.reason)}"
        return f"{text}; {_short(self.advice)}" if self.advice else text


class CheckpointError(SpectraError):
    """A file or folder that cannot be read, or is refused."""


class WeightError(SpectraError, ValueError):
    """Weights handed over in Python that are no weights."""


class DeviceError(SpectraError):
    """A device that was asked for and is not there."""


class SelectionError(SpectraError, ValueError):
    """A name, pattern or choice that fits nothing."""


class DistributedError(SpectraError):
    """Processes of one run that do not do the same, or cannot be watched together."""


def unknown_name(name: str, what: str, known: Sequence[str]) -> SelectionError:
    """Build the error for a mistyped name, with the nearest known ones."""
    close = difflib.get_close_matches(name, known, n=3)
    choice = (
        f"did you mean {' or '.join(close)}?"
        if close
        else f"known: {', '.join(known[:SHOWN])}{', …' if len(known) > SHOWN else ''}"
    )
    return SelectionError("E_NAME", what, f"no {name!r} here", choice)


class AnalysisInterrupted(KeyboardInterrupt):
    """Ctrl-C during an analysis; ``report`` holds what was finished, marked as incomplete."""

    def __init__(self, report: Any) -> None:  # noqa: ANN401 - a ModelReport; records imports this module
        self.report = report
        super().__init__("interrupted")
