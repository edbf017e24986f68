"""Findings, verdicts and phases: what the numbers of a layer amount to, and which are in doubt."""

import math
from collections.abc import Mapping, Sequence

from spectra import rmt, tails
from spectra.records import Finding, Phase, Spectrum, Status, Value, Verdict

OVER_TRAINED = 2.0
UNDER_TRAINED = 6.0
SHORT_SPECTRUM = 50
SHORT_TAIL = 20
POOR_FIT = 0.1
RULED_OUT = 0.1  # Clauset, Shalizi & Newman's own limit for the p-value
COLLAPSED = 0.1

DOUBTS = frozenset(
    {
        Finding.RANDOM_LIKE,
        Finding.LIKE_SHUFFLED,
        Finding.POOR_FIT,
        Finding.NOT_POWER_LAW,
        Finding.NO_BAND,
        Finding.SHORT_TAIL,
        Finding.SHORT_SPECTRUM,
    }
)
"""Findings under which a layer's alpha is reported but not judged."""


def judge(status: Status, warnings: Sequence[Finding]) -> Verdict:
    """Say what a layer's findings amount to; a number in doubt is not judged.

    Examples
    --------
    >>> judge(Status.OK, [Finding.UNDER_TRAINED, Finding.POOR_FIT]).value
    'not_judged'
    """
    if status is not Status.OK:
        return Verdict.NO_NUMBERS
    if {Finding.RANDOM_LIKE, Finding.LIKE_SHUFFLED} & set(warnings):
        return Verdict.RANDOM_LIKE
    if DOUBTS & set(warnings):
        return Verdict.NOT_JUDGED
    if Finding.OVER_TRAINED in warnings:
        return Verdict.OVER_TRAINED
    return Verdict.UNDER_TRAINED if Finding.UNDER_TRAINED in warnings else Verdict.WELL_TRAINED


def phase_of(status: Status, warnings: Sequence[Finding], values: Mapping[str, Value]) -> Phase:
    """Name the phase of training a spectrum shows, by its spikes, its tail and its rank.

    Examples
    --------
    >>> phase_of(Status.OK, [Finding.OVER_TRAINED], {"n_spikes": 9}).value
    'very_heavy_tailed'
    """
    if status is not Status.OK:
        return Phase.UNKNOWN
    if Finding.RANK_COLLAPSE in warnings:
        return Phase.RANK_COLLAPSE
    if Finding.RANDOM_LIKE in warnings:
        return Phase.RANDOM_LIKE
    if Finding.NO_BAND in warnings:
        return Phase.UNKNOWN  # the classes are bounds on csn's alpha
    if {Finding.POOR_FIT, Finding.NOT_POWER_LAW} & set(warnings):
        return Phase.BULK_AND_SPIKES if values.get("n_spikes", 0) else Phase.UNKNOWN
    if Finding.OVER_TRAINED in warnings:
        return Phase.VERY_HEAVY_TAILED
    return Phase.WEAKLY_HEAVY_TAILED if Finding.UNDER_TRAINED in warnings else Phase.HEAVY_TAILED


def find(
    values: Mapping[str, Value], spectrum: Spectrum, estimator: str = "csn"
) -> tuple[Finding, ...]:
    """Return what is noteworthy about a fitted layer.

    The band from 2 to 6 was found with the search over xmin; other estimators give other exponents
    (of noise, 2.1 instead of 8 to 15), so theirs are not held against it.
    """
    n_eigenvalues = spectrum.eigenvalues.size
    alpha = values.get("alpha", math.nan) if estimator in tails.WITH_BAND else math.nan
    checks = {
        Finding.OVER_TRAINED: alpha < OVER_TRAINED,
        Finding.UNDER_TRAINED: alpha > UNDER_TRAINED,
        Finding.NO_BAND: estimator not in tails.WITH_BAND,
        Finding.SHORT_SPECTRUM: n_eigenvalues < SHORT_SPECTRUM,
        Finding.SHORT_TAIL: values.get("n_tail", math.nan) < SHORT_TAIL,
        Finding.POOR_FIT: values.get("ks", math.nan) > POOR_FIT,
        Finding.RANK_COLLAPSE: values.get("rank_loss", math.nan) >= COLLAPSED * n_eigenvalues,
        Finding.LOW_PRECISION: spectrum.solver == "gram_float32"
        and bool(spectrum.eigenvalues[0] <= spectrum.error),
        Finding.RANDOM_LIKE: rmt.is_random_like(spectrum),
    }
    return tuple(finding for finding, met in checks.items() if met)
