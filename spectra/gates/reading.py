"""How a rule is read: its tokens one after the other, and errors that point at the character."""

import math
import re
from collections.abc import Sequence
from typing import NoReturn

from spectra.errors import SelectionError, printable, unknown_name

MAX_LENGTH = 1000
BEFORE, WIDTH = 40, 76  # columns of an error's excerpt: up to the caret, and in all
SHOWN = 24

_TOKEN = re.compile(
    r"\s*(?P<token>"
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)"
    r"|(?P<name>[a-z_][a-z0-9_]*)"
    r"|[<>=!]=|.|$)",
    re.ASCII | re.DOTALL | re.IGNORECASE,
)


class RuleError(SelectionError):
    """A rule that cannot be read, or does not fit the report; `position` points into its `text`.

    Examples
    --------
    >>> print(RuleError("E_RULE", "rule", "no number 'alhpa'", text="alhpa > 6", position=0))
    rule: no number 'alhpa'
      alhpa > 6
      ^
    """

    def __init__(
        self,
        code: str,
        subject: str,
        reason: str,
        advice: str = "",
        *,
        text: str = "",
        position: int = 0,
    ) -> None:
        super().__init__(code, subject, reason, advice)
        self.text = text
        self.position = position

    def __str__(self) -> str:
        # Rules are ASCII: with the rest as escapes, a character is a column, and the caret fits.
        before = self.text[: self.position].encode("unicode_escape").decode()
        before = before if len(before) <= BEFORE else f"…{before[1 - BEFORE :]}"
        after = printable(self.text[self.position : self.position + WIDTH])
        room = WIDTH - len(before)
        after = after if len(after) <= room else f"{after[: room - 1]}…"
        return f"{super().__str__()}\n  {before}{after}\n  {' ' * len(before)}^"


class Reader:
    """A text and how far it is read, with one token ahead.

    Attributes
    ----------
    token : str
        The token ahead; empty at the end.
    kind : str
        ``number``, ``name`` or ``sign``.
    at : int
        Where it begins.
    """

    def __init__(self, text: str, subject: str) -> None:
        self.text, self.subject = text, subject
        if len(text) > MAX_LENGTH:
            self.fail(f"is longer than {MAX_LENGTH} characters", at=MAX_LENGTH)
        self._advance(0)

    def _advance(self, begin: int) -> None:
        found = _TOKEN.match(self.text, begin)
        assert found is not None, "every character is a token"
        self.token, self.at = found["token"], found.start("token")
        self.kind = "number" if found["number"] else "name" if found["name"] else "sign"

    def take(self) -> str:
        """Return the token ahead and go on to the next."""
        token = self.token
        self._advance(self.at + len(token))
        return token

    def accept(self, *tokens: str) -> str:
        """Take the token ahead if it is one of these, else return nothing."""
        return self.take() if self.token in tokens else ""

    def expect(self, *tokens: str, what: str = "", advice: str = "") -> str:
        """Take the token ahead, which must be one of these."""
        return self.accept(*tokens) or self.fail_expecting(what or f"'{tokens[0]}'", advice)

    def number(self) -> float:
        """Take a number."""
        if self.kind != "number":
            self.fail_expecting("a number")
        if math.isinf(float(self.token)):
            self.fail("the number is too large")
        return float(self.take())

    def end(self, advice: str = "") -> None:
        """See that nothing follows."""
        if self.token:
            self.fail_expecting("the end of the rule", advice)

    def fail(self, reason: str, advice: str = "", *, at: int | None = None) -> NoReturn:
        """Raise an error that points at the token ahead, or at another place."""
        position = self.at if at is None else at
        raise RuleError("E_RULE", self.subject, reason, advice, text=self.text, position=position)

    def fail_expecting(self, what: str, advice: str = "") -> NoReturn:
        """Say what should stand where the token ahead stands."""
        shown = self.token if len(self.token) <= SHOWN else f"{self.token[: SHOWN - 1]}…"
        self.fail(f"expected {what}, found {repr(shown) if shown else 'the end'}", advice)

    def fail_unknown(self, name: str, what: str, known: Sequence[str], *, at: int) -> NoReturn:
        """Say that a name means nothing here, and which are near."""
        self.fail(f"there is no {what} {name!r}", unknown_name(name, what, known).advice, at=at)
