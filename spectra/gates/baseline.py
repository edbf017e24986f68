"""A baseline: how much worse than an earlier report of the same layers a report may be."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from spectra import tails
from spectra.errors import CheckpointError, SelectionError, printable
from spectra.gates.outcomes import COUNTS_OF_BAND, INCOMPLETE, Outcome
from spectra.gates.reading import Reader
from spectra.gates.rules import written
from spectra.metrics import METRICS
from spectra.records import LayerReport, ModelReport
from spectra.verdicts import OVER_TRAINED

HIGHER, LOWER, AWAY = "higher is worse", "lower is worse", "above 2 higher, below 2 lower is worse"

WORSE: Mapping[str, str] = MappingProxyType(
    {
        "alpha": AWAY,
        "alpha_hat": HIGHER,
        "log_alpha_norm": HIGHER,
        "n_failed": HIGHER,
        "n_well_trained": LOWER,
        "n_over_trained": HIGHER,
        "n_under_trained": HIGHER,
        "n_random_like": HIGHER,
    }
)
"""Which way each number of the summary gets worse; decision 0020 has the reasons."""

_FIXED = "the layers must be the same anyway"
_NEITHER = "neither way is known to be worse"
UNDIRECTED: Mapping[str, str] = MappingProxyType(
    {
        "log_norm": "the size of weights misleads within one architecture",
        "log_spectral_norm": "the size of weights misleads within one architecture",
        "stable_rank": _NEITHER,
        "entropy": _NEITHER,
        "soft_rank": "near 1 is noise and near 0 over-trained",
        "erg_gap": "it is ideal at zero, and layers of opposite sign cancel in the mean",
        "delta_lambda_min": "it is ideal at zero, and layers of opposite sign cancel in the mean",
        "n_layers": _FIXED,
        "n_skipped": _FIXED,
        "n_averaged": _FIXED,
        "n_left_out": _FIXED,
        "n_not_judged": "a doubt about a number is not a fault of the layer",
    }
)
"""Numbers of the summary that cannot regress, and why."""

OPTIONS = ("convention", "estimator", "conv")
"""Options under which numbers differ for the same weights."""

VERDICTS = ("n_well_trained", "n_over_trained", "n_under_trained", "n_random_like")
"""Numbers that the evidence also bears on."""

NAMED = 3


@dataclass(frozen=True, slots=True)
class Allowance:
    """By how much a number of the summary may be worse than the baseline's.

    In its own unit, or in per cent of the baseline's if `relative`.
    """

    text: str = field(compare=False)
    metric: str
    amount: float
    relative: bool

    def __str__(self) -> str:
        return f"{self.metric}={written(self.amount)}{'%' if self.relative else ''}"


def parse_allowance(text: str, *, subject: str = "allowance") -> Allowance:
    """Read how much worse a number may get, as ``alpha=5%`` or ``alpha=0.1``.

    Parameters
    ----------
    text : str
    subject : str
        What errors call it.

    Returns
    -------
    Allowance

    Raises
    ------
    RuleError
        If it cannot be read, or the number has no direction in which it is worse.

    Examples
    --------
    >>> print(parse_allowance("alpha = 5.0 %"))
    alpha=5%
    """
    reader = Reader(text, subject)
    if reader.kind != "name":
        reader.fail_expecting("a number of the summary")
    at, metric = reader.at, reader.take()
    if metric in UNDIRECTED:
        reader.fail(f"{metric} has no direction: {UNDIRECTED[metric]}", _advice(), at=at)
    if metric not in WORSE:
        reader.fail_unknown(metric, "number that can regress", tuple(WORSE), at=at)
    reader.expect("=")
    at = reader.at
    amount = reader.number()
    if amount < 0:
        reader.fail("an allowance is not negative", at=at)
    at, relative = reader.at, bool(reader.accept("%"))
    if relative and metric != "alpha":
        what = "a count" if metric.startswith("n_") else "a logarithm"
        reader.fail(f"{metric} is {what}", f"give an amount, as {metric}=1", at=at)
    reader.end()
    return Allowance(text, metric, amount, relative)


def refuse_unlike(
    baseline: ModelReport, options: Mapping[str, object], allowances: Sequence[Allowance]
) -> None:
    """Refuse a baseline that a report made with these options cannot be held against.

    Parameters
    ----------
    baseline : ModelReport
    options : Mapping
        Those of the analysis: ``report.options``, or what is about to be asked for.
    allowances : sequence of Allowance

    Raises
    ------
    CheckpointError
        If the baseline is incomplete, or lacks one of the numbers.
    SelectionError
        If it was made by other rules, or the estimator's alpha has no band.
    """
    where, estimator = baseline.source.address, str(options.get("estimator"))
    if not baseline.complete:
        raise CheckpointError("E_BASELINE", "baseline", f"the report of {where} is incomplete")
    judged = any(allowance.metric in VERDICTS for allowance in allowances)
    for option in (*OPTIONS, "evidence") if judged else OPTIONS:
        ours, theirs = options.get(option), baseline.options.get(option)
        if ours != theirs:
            raise SelectionError(
                "E_BASELINE",
                "baseline",
                f"its {option} is {theirs}, not {ours}",
                "numbers of the two cannot be compared",
            )
    for allowance in allowances:
        name = allowance.metric
        if name not in baseline.summary:
            raise CheckpointError("E_BASELINE", "baseline", f"the report of {where} has no {name}")
        if estimator not in tails.WITH_BAND and (name in METRICS or name in COUNTS_OF_BAND):
            raise SelectionError(
                "E_BASELINE",
                "baseline",
                f"with {estimator} it is not known which {name} is good",
                f"these estimators have a band: {', '.join(sorted(tails.WITH_BAND))}",
            )


def regressions(
    report: ModelReport, baseline: ModelReport, allowances: Sequence[Allowance]
) -> tuple[Outcome, ...]:
    """Hold a report against an earlier one of the same layers.

    Parameters
    ----------
    report, baseline : ModelReport
    allowances : sequence of Allowance

    Returns
    -------
    tuple of Outcome
        One an allowance, met where the number is worse by more than it allows. Not judged if the
        report is incomplete, if a number is missing, or if a mean is over other layers than the
        baseline's because one of them has lost its numbers.

    Raises
    ------
    CheckpointError, SelectionError
        If the two cannot be compared: by `refuse_unlike`, or because their layers differ.

    Examples
    --------
    >>> import spectra
    >>> from spectra.sources import demo_model
    >>> report = spectra.analyze(demo_model())
    >>> [outcome] = regressions(report, report, [parse_allowance("alpha=1%")])
    >>> outcome.met, outcome.value
    (False, 0.0)
    """
    if report.complete:
        refuse_unlike(baseline, report.options, allowances)
        _refuse_other_layers(report, baseline)
    return tuple(_regression(report, baseline, allowance) for allowance in allowances)


def worse_by(metric: str, now: float, before: float) -> float:
    """Return by how much a number of the summary is worse; 0 if it is not.

    Crossing 2 is no gain for alpha: what lies below counts as worse by itself, and so does what lies
    above.

    Examples
    --------
    >>> worse_by("alpha", 3.5, 3.0), worse_by("alpha", 1.5, 3.0), worse_by("n_well_trained", 7, 9)
    (0.5, 0.5, 2.0)
    """
    if WORSE[metric] == HIGHER:
        worse = now - before
    elif WORSE[metric] == LOWER:
        worse = before - now
    else:
        above = max(now, OVER_TRAINED) - max(before, OVER_TRAINED)
        below = min(before, OVER_TRAINED) - min(now, OVER_TRAINED)
        worse = max(above, below)
    return max(float(worse), 0.0)


def _regression(report: ModelReport, baseline: ModelReport, allowance: Allowance) -> Outcome:
    name = allowance.metric
    now, before = report.summary.get(name, math.nan), baseline.summary.get(name, math.nan)
    worse = worse_by(name, now, before)
    limit = allowance.amount * abs(before) / 100 if allowance.relative else allowance.amount
    averaged, was = _averaged(report.layers), _averaged(baseline.layers)
    others = tuple(sorted(averaged ^ was)) if name in METRICS else ()
    reason = ""
    if not report.complete:
        reason = INCOMPLETE
    elif not (math.isfinite(now) and math.isfinite(before)):
        reason = f"{name} has no number{' in the baseline' if math.isfinite(now) else ''}"
    elif others:
        reason = f"the means are over different layers, {len(averaged)} now and {len(was)} then"
    found = f"{name} is {now:.6g}, was {before:.6g}"
    if worse > 0:
        found += f": worse by {worse:.4g}, at most {limit:.4g} allowed"
    return Outcome(
        rule=str(allowance),
        met=not reason and worse > limit,
        value=worse,
        limit=limit,
        found=found,
        lacking=others,
        not_judged=reason,
    )


def _averaged(layers: Sequence[LayerReport]) -> set[str]:
    return {layer.name for layer in layers if layer.averaged}


def _refuse_other_layers(report: ModelReport, baseline: ModelReport) -> None:
    ours, theirs = (
        {layer.name: (layer.N, layer.M, layer.n_matrices) for layer in side.layers}
        for side in (report, baseline)
    )
    differences = {
        "only in the baseline": [name for name in theirs if name not in ours],
        "not in the baseline": [name for name in ours if name not in theirs],
        "of another shape": [name for name in ours if theirs.get(name, ours[name]) != ours[name]],
    }
    told = [
        f"{len(names)} {how} ({', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''})"
        for how, names in differences.items()
        if names
    ]
    if told:
        raise SelectionError(
            "E_BASELINE",
            "baseline",
            f"other layers: {printable('; '.join(told))}",
            "make a new one",
        )


def _advice() -> str:
    return f"these have one: {', '.join(WORSE)}"
