"""Whether the numbers of several reports may stand side by side."""

from collections.abc import Sequence

from spectra.errors import SelectionError
from spectra.records import ModelReport

COMPARABLE = ("convention", "estimator", "conv", "precision")
"""Options under which the numbers of one layer differ."""


def check_same_rules(reports: Sequence[ModelReport], options: Sequence[str]) -> None:
    """Refuse reports whose numbers were made by different rules.

    Parameters
    ----------
    reports : sequence of ModelReport
    options : sequence of str
        Which of their options must agree.

    Raises
    ------
    SelectionError
        Naming the first report and option that differ.
    """
    for report in reports[1:]:
        for option in options:
            first, other = reports[0].options.get(option), report.options.get(option)
            if first != other:
                raise SelectionError(
                    "E_MIXED",
                    report.source.address,
                    f"its {option} is {said(other)}, that of {reports[0].source.address} is"
                    f" {said(first)}: their numbers cannot be compared",
                    "analyze them alike",
                )


def said(option: object) -> str:
    """Say the value of an option as a user would; of no pattern of layers, ``all``."""
    return " ".join(map(str, option)) or "all" if isinstance(option, tuple) else str(option)
