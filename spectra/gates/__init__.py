"""Gates: rules that a report must not meet, and a baseline that it must not fall behind.

>>> import spectra
>>> from spectra import gates
>>> from spectra.sources import demo_model
>>> report = spectra.analyze(demo_model())
>>> gates.check(report, gates.parse("layers(alpha < 2) > 5%")).found
'0 of 2 averaged layers, 0 %'
"""

from spectra.gates.baseline import (
    UNDIRECTED,
    WORSE,
    Allowance,
    parse_allowance,
    refuse_unlike,
    regressions,
    worse_by,
)
from spectra.gates.github import annotations, listing, markdown, sentence
from spectra.gates.outcomes import Outcome, check
from spectra.gates.reading import RuleError
from spectra.gates.rules import Rule, parse

__all__ = [
    "UNDIRECTED",
    "WORSE",
    "Allowance",
    "Outcome",
    "Rule",
    "RuleError",
    "annotations",
    "check",
    "listing",
    "markdown",
    "parse",
    "parse_allowance",
    "refuse_unlike",
    "regressions",
    "sentence",
    "worse_by",
]
