"""Six numbers that stand for a model, each with how far it may be off."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from spectra.records import LayerReport, ModelReport, Vector, Verdict

SAMPLES = 2000
FEWEST = 6
"""With fewer layers, resampling them says no more than the layers themselves: their range is given."""
JUDGED = (Verdict.WELL_TRAINED, Verdict.OVER_TRAINED, Verdict.UNDER_TRAINED)
NORMAL_95 = 1.959964

Spread: TypeAlias = Literal["bootstrap", "wilson", "range", "none"]


@dataclass(frozen=True, slots=True)
class Headline:
    """One number over `n` layers, from `low` to `high`; `spread` says what those two are.

    ``bootstrap`` and ``wilson`` are 95 % intervals, ``range`` the least and the largest layer.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    spread: Spread


def headlines(report: ModelReport) -> tuple[Headline, ...]:
    """Return the numbers that stand for a model: means, the median and a share of its layers.

    Parameters
    ----------
    report : ModelReport

    Returns
    -------
    tuple of Headline
        ``alpha``, ``alpha_hat``, ``log_norm`` and ``erg_gap`` are the summary's means over the
        averaged layers, ``alpha_median`` the median of the same, ``share_in_band`` the judged
        layers whose alpha lies from 2 to 6. A column the report lacks is left out.

    Notes
    -----
    Means and median: percentile bootstrap over layers, 2,000 resamples, seeded by the report's own
    seed (Efron & Tibshirani, An Introduction to the Bootstrap (1993), section 13.3). It tells how
    much the number hangs on single layers, not how well each layer's exponent is known. The share:
    Wilson's interval (J. Am. Stat. Assoc. 22 (1927) 209).
    """
    averaged = [layer for layer in report.layers if layer.averaged]
    seed = report.options.get("seed", 0)
    rng = np.random.default_rng(seed if isinstance(seed, int) and seed >= 0 else 0)
    found = [
        _resampled("alpha", "alpha", averaged, _mean, rng),
        _resampled("alpha_median", "alpha", averaged, _median, rng),
        _share_in_band(averaged),
        _resampled("alpha_hat", "alpha_hat", averaged, _mean, rng),
        _resampled("log_norm", "log_norm", averaged, _mean, rng),
        _resampled("erg_gap", "erg_gap", averaged, _mean, rng),
    ]
    return tuple(headline for headline in found if headline is not None)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share.

    Examples
    --------
    >>> [round(end, 3) for end in wilson(5, 7)]
    [0.359, 0.918]
    """
    share, square = hits / n, NORMAL_95**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = math.sqrt(share * (1 - share) / n + square / (4 * n * n)) * NORMAL_95 / (1 + square / n)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _resampled(
    name: str,
    metric: str,
    layers: Sequence[LayerReport],
    statistic: Callable[[Vector], Vector],
    rng: np.random.Generator,
) -> Headline | None:
    if not all(metric in layer.metrics for layer in layers):
        return None
    values = np.array([layer[metric] for layer in layers], dtype=np.float64)
    n = values.size
    if n == 0:
        return Headline(name, math.nan, math.nan, math.nan, 0, "none")
    value = float(statistic(values))
    if n == 1:
        return Headline(name, value, math.nan, math.nan, 1, "none")
    if n < FEWEST:
        return Headline(name, value, float(values.min()), float(values.max()), n, "range")
    drawn = statistic(values[rng.integers(0, n, (SAMPLES, n))])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Headline(name, value, float(low), float(high), n, "bootstrap")


def _share_in_band(layers: Sequence[LayerReport]) -> Headline:
    judged = [layer for layer in layers if layer.verdict in JUDGED]
    if not judged:
        return Headline("share_in_band", math.nan, math.nan, math.nan, 0, "none")
    hits = sum(layer.verdict is Verdict.WELL_TRAINED for layer in judged)
    low, high = wilson(hits, len(judged))
    return Headline("share_in_band", hits / len(judged), low, high, len(judged), "wilson")


def _mean(values: Vector) -> Vector:
    return np.asarray(values.mean(axis=-1))


def _median(values: Vector) -> Vector:
    return np.asarray(np.median(values, axis=-1))
