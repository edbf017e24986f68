"""Rules: what they may say of a report, and how they are read from text.

The grammar is on ``docs/gates.md``. A rule is read from left to right by hand, with limits on its
length and depth; nothing in it is ever evaluated.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NoReturn, TypeAlias

from spectra.analysis import summarise
from spectra.evidence import COLUMNS
from spectra.gates.reading import MAX_LENGTH, Reader
from spectra.metrics import METRICS, Metric
from spectra.records import Finding, Status

MAX_DEPTH = 20

OPERATORS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {
        ">": operator.gt,
        ">=": operator.ge,
        "<": operator.lt,
        "<=": operator.le,
        "==": operator.eq,
        "!=": operator.ne,
    }
)
FIELDS = ("N", "M", "aspect_ratio", "n_matrices", "n_eigenvalues", "residual", "eigenvalue_error")
"""Numbers of a layer beside its metrics."""

STATUSES = tuple(str(status) for status in Status)
FINDINGS = tuple(str(finding) for finding in Finding)
EVIDENCE_OF: Mapping[str, str] = MappingProxyType(
    {
        Finding.CORRELATION_TRAP: "n_traps",
        Finding.NOT_POWER_LAW: "gof_p",
        Finding.LIKE_SHUFFLED: "rand_distance",
    }
)
"""Findings that rest on a column of the evidence; without that number they are not known."""

KEYWORDS = ("and", "or", "not")


class Quantifier(StrEnum):
    """Of how many layers something is said."""

    LAYERS = "layers"
    ANY = "any"
    ALL = "all"
    NONE = "none"


IN_SHORT: Mapping[str, tuple[str, float, bool]] = MappingProxyType(
    {
        Quantifier.ANY: (">=", 1.0, False),
        Quantifier.ALL: (">=", 100.0, True),
        Quantifier.NONE: ("==", 0.0, False),
    }
)
"""What any, all and none say as ``layers(...)``: operator, limit, whether that is a share."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A number held against another; ``at`` is where its name stands in the text."""

    name: str
    operator: str
    number: float
    at: int = field(default=0, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.name} {self.operator} {written(self.number)}"


@dataclass(frozen=True, slots=True)
class Code:
    """A status or a finding, by name."""

    name: str
    at: int = field(default=0, compare=False, repr=False)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of a condition."""

    condition: "Condition"

    def __str__(self) -> str:
        return f"not {_bracketed(self.condition, And, Or)}"


@dataclass(frozen=True, slots=True)
class And:
    """All of two or more conditions."""

    conditions: tuple["Condition", ...]

    def __str__(self) -> str:
        return " and ".join(_bracketed(part, And, Or) for part in self.conditions)


@dataclass(frozen=True, slots=True)
class Or:
    """At least one of two or more conditions."""

    conditions: tuple["Condition", ...]

    def __str__(self) -> str:
        return " or ".join(_bracketed(part, Or) for part in self.conditions)


Condition: TypeAlias = Comparison | Code | Not | And | Or


@dataclass(frozen=True, slots=True)
class Count:
    """How many layers meet a condition, or in per cent what `share` of them, against a limit."""

    quantifier: Quantifier
    condition: Condition
    operator: str
    limit: float
    share: bool

    def __str__(self) -> str:
        start = f"{self.quantifier}({self.condition})"
        if self.quantifier in IN_SHORT:
            return start
        return f"{start} {self.operator} {written(self.limit)}{'%' if self.share else ''}"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a report must not be: the text as it was given, and what it says.

    Rules are equal if they say the same. ``str(rule)`` is the text in its plainest form; reading that
    again gives an equal rule.
    """

    text: str = field(compare=False)
    claim: Comparison | Count

    def __str__(self) -> str:
        return str(self.claim)


def parse(
    text: str,
    *,
    metrics: Mapping[str, Metric] = METRICS,
    evidence: bool = True,
    subject: str = "rule",
) -> Rule:
    """Read a rule.

    Parameters
    ----------
    text : str
        As ``alpha_hat > 6`` or ``layers(alpha < 2) > 5%``; the grammar is on ``docs/gates.md``.
    metrics : Mapping[str, Metric], default: METRICS
        Those of the reports it is meant for, as in ``analyze``.
    evidence : bool, default: True
        Whether those reports hold the evidence; if not, a rule that needs it is refused.
    subject : str, default: "rule"
        What errors call it.

    Returns
    -------
    Rule

    Raises
    ------
    RuleError
        A SelectionError whose ``position`` is where the text stops making sense.

    Examples
    --------
    >>> rule = parse("any( alpha<1.50 and (n_tail >= 50) )")
    >>> print(rule)
    any(alpha < 1.5 and n_tail >= 50)
    >>> parse(str(rule)) == rule
    True
    """
    summary = tuple(summarise((), (), metrics))
    parser = _Parser(Reader(text, subject), summary, (*FIELDS, *metrics), evidence)
    rule = Rule(text, parser.rule())
    if len(str(rule)) > MAX_LENGTH:  # numbers may be longer in full; what is printed can be read
        parser.reader.fail("is too long")
    return rule


def names_in(condition: Condition) -> Iterator[Comparison | Code]:
    """Yield every comparison and code of a condition, from left to right."""
    match condition:
        case Not(inner):
            yield from names_in(inner)
        case And(parts) | Or(parts):
            for part in parts:
                yield from names_in(part)
        case Comparison() | Code():
            yield condition


def written(number: float) -> str:
    """Write a number so that reading it gives the same one.

    Examples
    --------
    >>> written(6.0), written(1.5), written(1e30)
    ('6', '1.5', '1e+30')
    """
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def _bracketed(condition: Condition, *kinds: type) -> str:
    return f"({condition})" if isinstance(condition, kinds) else str(condition)


@dataclass(frozen=True, slots=True)
class _Parser:
    """Recursive descent, one method a line of the grammar."""

    reader: Reader
    summary: tuple[str, ...]
    numbers: tuple[str, ...]
    evidence: bool

    def rule(self) -> Comparison | Count:
        reader = self.reader
        if reader.kind != "name" or reader.token in KEYWORDS:
            reader.fail_expecting("a number of the summary, layers, any, all or none")
        if reader.token in tuple(Quantifier):
            return self.count()
        name, at = reader.token, reader.at
        if name not in self.summary:
            self.unknown_of_summary(name, at)
        reader.take()
        sign, number = self.operator(), reader.number()
        reader.end("only a share of layers(...) is written with %" if reader.token == "%" else "")
        return Comparison(name, sign, number, at)

    def count(self) -> Count:
        reader = self.reader
        quantifier = Quantifier(reader.take())
        reader.expect("(")
        condition = self.disjunction(0)
        reader.expect(")", what="'and', 'or' or ')'")
        if quantifier in IN_SHORT:
            reader.end(f"{quantifier}(...) stands alone; layers(...) is compared")
            return Count(quantifier, condition, *IN_SHORT[quantifier])
        sign, at = self.operator(), reader.at
        limit = reader.number()
        share = bool(reader.accept("%"))
        if share and not 0 <= limit <= 100:
            reader.fail("a share lies between 0% and 100%", at=at)
        if not share and not (limit >= 0 and limit.is_integer()):
            reader.fail("a number of layers is whole", "a share of them is written with %", at=at)
        reader.end()
        return Count(quantifier, condition, sign, limit, share)

    def disjunction(self, depth: int) -> Condition:
        parts = [self.conjunction(depth)]
        while self.reader.accept("or"):
            parts.append(self.conjunction(depth))
        return Or(tuple(parts)) if len(parts) > 1 else parts[0]

    def conjunction(self, depth: int) -> Condition:
        parts = [self.negation(depth)]
        while self.reader.accept("and"):
            parts.append(self.negation(depth))
        return And(tuple(parts)) if len(parts) > 1 else parts[0]

    def negation(self, depth: int) -> Condition:
        reader = self.reader
        if depth > MAX_DEPTH:
            reader.fail(f"is nested deeper than {MAX_DEPTH}")
        if reader.accept("not"):
            return Not(self.negation(depth + 1))
        if reader.accept("("):
            condition = self.disjunction(depth + 1)
            reader.expect(")", what="'and', 'or' or ')'")
            return condition
        return self.leaf()

    def leaf(self) -> Condition:
        reader = self.reader
        if reader.kind != "name" or reader.token in KEYWORDS:
            reader.fail_expecting("a metric, a status or a finding")
        at = reader.at
        name = reader.take()
        if name in STATUSES or name in FINDINGS:
            if reader.token in OPERATORS:
                reader.fail(f"{name} is no number", "it stands alone", at=at)
            self.see_evidence(name, EVIDENCE_OF.get(name, ""), at)
            return Code(name, at)
        if name not in self.numbers and name not in COLUMNS:
            self.unknown_of_layer(name, at)
        self.see_evidence(name, name, at)
        return Comparison(name, self.operator(), reader.number(), at)

    def operator(self) -> str:
        return self.reader.expect(*OPERATORS, what="a comparison (> >= < <= == !=)")

    def see_evidence(self, name: str, column: str, at: int) -> None:
        if column in COLUMNS and not self.evidence:
            self.reader.fail(f"{name} is known only with --metrics all", at=at)

    def unknown_of_summary(self, name: str, at: int) -> NoReturn:
        if name in STATUSES or name in FINDINGS:
            self.reader.fail(f"{name} is said of layers", f"as any({name})", at=at)
        if name in self.numbers or name in COLUMNS:
            self.reader.fail(f"{name} is a number of layers", f"as any({name} > ...)", at=at)
        self.reader.fail_unknown(name, "number of the summary", (*self.summary, *Quantifier), at=at)

    def unknown_of_layer(self, name: str, at: int) -> NoReturn:
        if name in self.summary:
            self.reader.fail(
                f"{name} is a number of the model", "compare it outside layers(...)", at=at
            )
        if self.reader.token in OPERATORS:
            self.reader.fail_unknown(name, "metric", (*self.numbers, *COLUMNS), at=at)
        known = (*FINDINGS, *STATUSES, *self.numbers, *COLUMNS)
        self.reader.fail_unknown(name, "metric, status or finding", known, at=at)
