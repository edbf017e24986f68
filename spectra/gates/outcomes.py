"""What becomes of a rule on a report: met, not met, or not judged because a number is missing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spectra import conventions, tails
from spectra.analysis import NOT_AVERAGED
from spectra.evidence import COLUMNS
from spectra.gates.reading import RuleError
from spectra.gates.rules import (
    EVIDENCE_OF,
    FIELDS,
    OPERATORS,
    STATUSES,
    And,
    Code,
    Comparison,
    Condition,
    Count,
    Not,
    Or,
    Rule,
    names_in,
)
from spectra.records import Finding, LayerReport, ModelReport, Status

UNSEEN = frozenset(
    {Status.NOT_REACHED, Status.OVER_BUDGET, Status.UNREADABLE, Status.UNSUPPORTED_DTYPE}
)
"""Statuses of layers at whose weights nobody looked."""

TOLD_BY_WEIGHTS = frozenset(
    {
        Status.ZERO,
        Status.NON_FINITE,
        Status.DEGENERATE,
        Status.OUT_OF_RANGE,
        Status.TOO_FEW_EIGENVALUES,
    }
)
"""Statuses that an unseen layer might have too."""

OF_BAND = frozenset({Finding.OVER_TRAINED, Finding.UNDER_TRAINED})
COUNTS_OF_BAND = frozenset({"n_well_trained", "n_over_trained", "n_under_trained"})
"""Numbers that are zero without meaning it where the estimator has no band."""

INVENTORY = frozenset({"n_layers", "n_failed", "n_skipped", "n_averaged", "n_left_out"})
"""Numbers that do not hang on those of any layer."""

INCOMPLETE = "the report is incomplete"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a rule, or of a limit on regression.

    Attributes
    ----------
    rule : str
        Its text in the plainest form.
    met : bool
        Whether the report is what the rule says it must not be.
    value, limit : float
        What was held against what: a number of the summary, layers, or per cent of layers.
    found : str
        The same in words, and what it was counted over.
    layers : tuple of str
        Names of the layers that meet the condition.
    lacking : tuple of str
        Names of the layers that lack a number which the condition needs.
    not_judged : str
        Why it cannot be told whether the rule is met; empty if it can. No gate lets that pass.
    """

    rule: str
    met: bool
    value: float
    limit: float
    found: str
    layers: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    not_judged: str = ""

    @property
    def verdict(self) -> Literal["fail", "pass", "not judged"]:
        """What a gate makes of it: ``fail`` if the rule is met."""
        if self.met:
            return "fail"
        return "not judged" if self.not_judged else "pass"

    @property
    def words(self) -> str:
        """What was found, or why it could not be judged."""
        return self.not_judged or self.found

    @property
    def culprits(self) -> tuple[str, ...]:
        """The layers to look at: those that meet a rule, or keep it from being judged."""
        if self.met:
            return self.layers
        return self.lacking if self.not_judged else ()


def check(report: ModelReport, rule: Rule) -> Outcome:
    """Hold a report against a rule.

    Conditions are asked of the layers that the summary averages, and of those that would be among
    them had their numbers not been lost; conditions that name a status, of every layer. A number that
    is missing meets neither a comparison nor its opposite: a rule on layers is judged if the missing
    numbers cannot change its outcome. A number of the summary can meet a rule whatever it leaves out;
    if it does not, the rule is judged only if no layer has lost its numbers. Of an incomplete report
    no rule is judged but those that are met.

    Parameters
    ----------
    report : ModelReport
    rule : Rule

    Returns
    -------
    Outcome

    Raises
    ------
    RuleError
        If the rule needs a number that this report does not have at all.

    Examples
    --------
    >>> import numpy as np, spectra
    >>> from spectra.gates import parse
    >>> noise = np.random.default_rng(0).standard_normal((60, 60))
    >>> report = spectra.analyze({"a": noise, "b": noise * np.nan})
    >>> check(report, parse("any(non_finite)")).layers
    ('b',)
    >>> outcome = check(report, parse("any(alpha < 1.5)"))
    >>> outcome.met, outcome.not_judged, outcome.lacking
    (False, '1 layer with no number to tell by', ('b',))
    """
    if isinstance(rule.claim, Comparison):
        return _of_summary(report, rule, rule.claim)
    return _of_layers(report, rule, rule.claim)


def _of_summary(report: ModelReport, rule: Rule, claim: Comparison) -> Outcome:
    if claim.name not in report.summary:
        raise _absent(rule, claim, claim.name)
    value = report.summary[claim.name]
    lost: tuple[str, ...] = ()
    found = f"{claim.name} is {value:.6g}"
    if claim.name not in INVENTORY:
        lost = tuple(layer.name for layer in report.layers if _is_lost(report, layer))
        found += f", of {_layers(sum(layer.averaged for layer in report.layers))}"
        found += f"; {len(lost)} without numbers" if lost else ""
    reason = _why_no_number(report, claim.name)
    met = not reason and OPERATORS[claim.operator](value, claim.number)
    if not reason and not met:  # what is there can fail a gate, but only the whole can pass it
        reason = INCOMPLETE if not report.complete else _lacking(len(lost), "no numbers")
    return Outcome(
        rule=str(rule),
        met=met,
        value=value,
        limit=claim.number,
        found=found,
        lacking=lost,
        not_judged=reason,
    )


def _why_no_number(report: ModelReport, name: str) -> str:
    estimator = report.options.get("estimator")
    if name in COUNTS_OF_BAND and estimator not in tails.WITH_BAND:
        return f"the band from 2 to 6 is not that of {estimator}"
    return f"{name} has no number" if math.isnan(report.summary[name]) else ""


def _of_layers(report: ModelReport, rule: Rule, claim: Count) -> Outcome:
    answers = _answers(report, rule, claim.condition)
    meeting = tuple(name for name, answer in answers if answer)
    lacking = tuple(name for name, answer in answers if answer is None)
    total, n, unknown = len(answers), len(meeting), len(lacking)

    def amount(count: int) -> float:
        return 100 * count / total if claim.share else float(count)

    # every number of layers that there may be, once the missing numbers were known
    counts = range(n, n + unknown + 1) if total else ()
    possible = {OPERATORS[claim.operator](amount(count), claim.limit) for count in counts}
    reason = ""
    if not total:
        reason = "there is no layer to ask"
    elif len(possible) > 1:
        reason = _lacking(unknown, "no number to tell by")
    elif not report.complete and False in possible:
        reason = INCOMPLETE
    which = "" if _names_status(claim.condition) else "averaged "
    found = f"{n} of {_layers(total, which)}"
    found += f", {amount(n):.4g} %" if claim.share and total else ""
    found += f"; {unknown} without numbers" if unknown else ""
    return Outcome(
        rule=str(rule),
        met=not reason and True in possible,
        value=amount(n) if total else math.nan,
        limit=claim.limit,
        found=found,
        layers=meeting,
        lacking=lacking,
        not_judged=reason,
    )


def _answers(
    report: ModelReport, rule: Rule, condition: Condition
) -> list[tuple[str, bool | None]]:
    """Ask every layer that the condition is about whether it meets it."""
    for name in names_in(condition):
        column = name.name if isinstance(name, Comparison) else EVIDENCE_OF.get(name.name, "")
        known = column in FIELDS or any(column in layer.metrics for layer in report.layers)
        if column and report.layers and not known:
            raise _absent(rule, name, column)
    everywhere = _names_status(condition)
    answers = [
        (layer, _meets(layer, condition))
        for layer in report.layers
        if everywhere or layer.averaged or _is_lost(report, layer)
    ]
    # A layer that could never have had the number misses nothing.
    return [
        (layer.name, met)
        for layer, met in answers
        if met is not None or not _is_too_small(report, layer)
    ]


def _names_status(condition: Condition) -> bool:
    return any(isinstance(name, Code) and name.name in STATUSES for name in names_in(condition))


def _layers(count: int, which: str = "") -> str:
    return f"{count} {which}layer{'' if count == 1 else 's'}"


def _lacking(count: int, what: str) -> str:
    return f"{_layers(count)} with {what}" if count else ""


def _is_lost(report: ModelReport, layer: LayerReport) -> bool:
    """Tell whether a layer would be averaged had its numbers not been lost."""
    rules = conventions.named(str(report.options.get("convention")))
    return (
        layer.status is not Status.OK
        and (rules.average_all or layer.kind not in NOT_AVERAGED)
        and not _is_too_small(report, layer)
    )


def _is_too_small(report: ModelReport, layer: LayerReport) -> bool:
    """Tell whether a layer, seen and sound, has too few eigenvalues by its shape for a fit."""
    rules = conventions.named(str(report.options.get("convention")))
    return (
        layer.status in (Status.TOO_FEW_EIGENVALUES, Status.ZERO)
        and layer.n_eigenvalues < rules.min_eigenvalues
    )


def _meets(layer: LayerReport, condition: Condition) -> bool | None:
    """Answer in Kleene's logic of three values: None where a missing number decides."""
    match condition:
        case Comparison(name, operator, number):
            value = getattr(layer, name) if name in FIELDS else layer.metrics.get(name, math.nan)
            return None if math.isnan(value) else OPERATORS[operator](value, number)
        case Code(name):
            return _has(layer, name)
        case Not(inner):
            answer = _meets(layer, inner)
            return None if answer is None else not answer
        case And(parts):
            return _conjunction([_meets(layer, part) for part in parts])
        case Or(parts):
            opposite = _conjunction([_meets(layer, Not(part)) for part in parts])
            return None if opposite is None else not opposite


def _conjunction(answers: Sequence[bool | None]) -> bool | None:
    if False in answers:
        return False
    return None if None in answers else True


def _has(layer: LayerReport, code: str) -> bool | None:
    """Tell whether a layer has a status or a finding; None where nobody could know."""
    if code in STATUSES:
        unknown = layer.status in UNSEEN and code in TOLD_BY_WEIGHTS
        return None if unknown else layer.status == code
    finding = Finding(code)
    column = EVIDENCE_OF.get(finding)
    if (
        layer.status is not Status.OK
        or (column is not None and math.isnan(layer.metrics.get(column, math.nan)))
        or (finding in OF_BAND and Finding.NO_BAND in layer.warnings)
    ):
        return None
    return finding in layer.warnings


def _absent(rule: Rule, name: Comparison | Code, column: str) -> RuleError:
    return RuleError(
        "E_RULE",
        "rule",
        f"this report has no {column}",
        "it needs --metrics all" if column in COLUMNS else "",
        text=rule.text,
        position=name.at,
    )
