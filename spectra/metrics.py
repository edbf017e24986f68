"""METRICS: one read-only table of pure functions of a spectrum and its fit.

Everything that lists metrics (report columns, glossary check, tests) walks this table. To add one,
see ``docs/adding-a-metric.md``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from spectra import rmt, setol
from spectra.records import Spectrum, Status, TailFit, Value

Better = Literal["", "lower", "higher"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of the report.

    Attributes
    ----------
    compute : callable
        Pure function of (Spectrum, TailFit) to a number; NaN when `of_tail` and there is no fit.
    summary : str
        The formula in one line.
    reference : str
        Where it comes from.
    of_tail : bool
        Whether it needs the power-law fit.
    in_summary : bool
        Whether the model's summary holds its mean.
    better : str
        Which end is that of models that generalise better: ``lower``, ``higher``, or unknown.
    count : bool
        Whether it counts eigenvalues: an integer in tables, with null where there is none.
    """

    compute: Callable[[Spectrum, TailFit], Value]
    summary: str
    reference: str
    of_tail: bool = False
    in_summary: bool = False
    better: Better = ""
    count: bool = False


def lambda_max(spectrum: Spectrum, fit: TailFit) -> float:
    """Return the largest eigenvalue, ‖W‖²_2.

    Examples
    --------
    >>> lambda_max(_example([1.0, 4.0]), TailFit())
    4.0
    """
    return float(spectrum.eigenvalues[-1])


def log_spectral_norm(spectrum: Spectrum, fit: TailFit) -> float:
    """Return log10 λ_max.

    Examples
    --------
    >>> log_spectral_norm(_example([1.0, 100.0]), TailFit())
    2.0
    """
    return math.log10(spectrum.eigenvalues[-1])


def log_norm(spectrum: Spectrum, fit: TailFit) -> float:
    """Return log10 Σλ = log10 ‖W‖²_F.

    Examples
    --------
    >>> log_norm(_example([1.0, 4.0, 5.0]), TailFit())
    1.0
    """
    return math.log10(float(np.sum(spectrum.eigenvalues)))


def log_alpha_norm(spectrum: Spectrum, fit: TailFit) -> float:
    """Return log10 Σλ^alpha over all eigenvalues, by log-sum-exp (no overflow at large alpha).

    Examples
    --------
    >>> round(log_alpha_norm(_example([1.0, 2.0, 2.0]), TailFit(alpha=2.0)), 6)  # log10 9
    0.954243
    """
    # Zeros add nothing to a positive power, and have no negative one (only a cut-off's alpha is).
    logs = fit.alpha * np.log(spectrum.eigenvalues[spectrum.eigenvalues > spectrum.floor])
    top = float(np.max(logs))
    return (top + math.log(float(np.sum(np.exp(logs - top))))) / math.log(10)


def alpha_hat(spectrum: Spectrum, fit: TailFit) -> float:
    """Return alpha · log10 λ_max, the weighted exponent.

    Examples
    --------
    >>> alpha_hat(_example([1.0, 100.0]), TailFit(alpha=2.5))
    5.0
    """
    return fit.alpha * log_spectral_norm(spectrum, fit)


def stable_rank(spectrum: Spectrum, fit: TailFit) -> float:
    """Return ‖W‖²_F / ‖W‖²_2 = Σλ / λ_max, between 1 and the number of eigenvalues.

    Examples
    --------
    >>> stable_rank(_example([1.0, 1.0, 2.0]), TailFit())
    2.0
    """
    return float(np.sum(spectrum.eigenvalues)) / float(spectrum.eigenvalues[-1])


def matrix_rank(spectrum: Spectrum, fit: TailFit) -> int:
    """Return the number of eigenvalues that rounding to float32 could not have made of zero.

    Examples
    --------
    >>> matrix_rank(_example([0.0, 1e-17, 1.0]), TailFit())
    2
    """
    return int(np.count_nonzero(spectrum.eigenvalues > spectrum.floor))


def rank_loss(spectrum: Spectrum, fit: TailFit) -> int:
    """Return the number of eigenvalues that count as zero.

    Examples
    --------
    >>> rank_loss(_example([0.0, 1.0]), TailFit())
    1
    """
    return spectrum.eigenvalues.size - matrix_rank(spectrum, fit)


def entropy(spectrum: Spectrum, fit: TailFit) -> float:
    """Return -Σ p ln p / ln(rank) with p = λ/Σλ: 1 for equal eigenvalues, 0 for rank one.

    Examples
    --------
    >>> round(entropy(_example([1.0, 1.0, 1.0]), TailFit()), 12)
    1.0
    >>> entropy(_example([0.0, 0.0, 1.0]), TailFit())
    0.0
    """
    rank = matrix_rank(spectrum, fit)
    if rank <= 1:
        return 0.0
    positive = spectrum.eigenvalues[spectrum.eigenvalues > 0]
    shares = positive / np.sum(positive)
    return float(-np.sum(shares * np.log(shares))) / math.log(rank)


def n_erg(spectrum: Spectrum, fit: TailFit) -> int:
    """Return how many of the largest eigenvalues multiply to one (units where Σλ = n).

    Examples
    --------
    >>> n_erg(_example([0.1, 0.1, 0.8, 3.0]), TailFit())
    3
    """
    return setol.cut_of(spectrum).n_erg


def erg_xmin(spectrum: Spectrum, fit: TailFit) -> float:
    """Return the smallest eigenvalue of the tail that meets the ERG condition, in the units of λ.

    Examples
    --------
    >>> erg_xmin(_example([0.1, 0.2, 0.8, 3.0]), TailFit())
    0.2
    """
    return setol.cut_of(spectrum).erg_xmin


def erg_gap(spectrum: Spectrum, fit: TailFit) -> int:
    """Return n_erg - n_tail: positive for alpha above 2, near zero at ideal learning.

    Examples
    --------
    >>> erg_gap(_example([0.1, 0.1, 0.8, 3.0]), TailFit(n_tail=2))
    1
    """
    return n_erg(spectrum, fit) - fit.n_tail


def delta_lambda_min(spectrum: Spectrum, fit: TailFit) -> float:
    """Return xmin - erg_xmin in units where Σλ equals the number of eigenvalues.

    Examples
    --------
    >>> round(delta_lambda_min(_example([0.1, 0.2, 0.7, 3.0]), TailFit(xmin=0.7)), 6)
    0.5
    """
    return (fit.xmin - erg_xmin(spectrum, fit)) * setol.unit_scale(spectrum)


def erg_log_det(spectrum: Spectrum, fit: TailFit) -> float:
    """Return Σ ln λ over the power-law tail, in units where Σλ = n: zero at the ERG condition.

    Examples
    --------
    >>> round(erg_log_det(_example([0.1, 0.1, 0.8, 3.0]), TailFit(xmin=3.0)), 6)  # ln 3
    1.098612
    """
    return setol.erg_log_det(spectrum, fit.xmin)


def lambda_plus(spectrum: Spectrum, fit: TailFit) -> float:
    """Return the Marchenko-Pastur edge of the bulk, the largest eigenvalue noise explains.

    Examples
    --------
    >>> lambda_plus(_example([1.0, 1.0, 1.0, 1.0]), TailFit())  # variance 1/4, edge (√4 + √4)²/4
    4.0
    """
    return rmt.bulk(spectrum).lambda_plus


def n_spikes(spectrum: Spectrum, fit: TailFit) -> int:
    """Return how many eigenvalues stand above what noise of the same shape shows.

    Examples
    --------
    >>> n_spikes(_example([1.0] * 30 + [1000.0]), TailFit())
    1
    """
    return rmt.bulk(spectrum).n_spikes


def soft_rank(spectrum: Spectrum, fit: TailFit) -> float:
    """Return lambda_plus / λ_max: near 1 for noise, towards 0 for heavy tails.

    Examples
    --------
    >>> soft_rank(_example([1.0] * 30 + [1000.0]), TailFit()) < 0.1
    True
    """
    return lambda_plus(spectrum, fit) / lambda_max(spectrum, fit)


def mp_distance(spectrum: Spectrum, fit: TailFit) -> float:
    """Return the Wasserstein distance from Marchenko-Pastur, both brought to mean 1.

    Examples
    --------
    >>> quantiles = rmt.marchenko_pastur_quantiles(50, 50)
    >>> round(mp_distance(_example(list(quantiles)), TailFit()), 12)
    0.0
    """
    return rmt.mp_distance(spectrum)


def erg_z(spectrum: Spectrum, fit: TailFit) -> float:
    """Return the ERG residual over its bootstrap standard deviation: within ±2 it may be zero.

    Examples
    --------
    >>> fit = TailFit(alpha=3.0, xmin=3.0, n_tail=1, erg_log_det_sd=0.5)
    >>> round(erg_z(_example([0.1, 0.1, 0.8, 3.0]), fit), 6)  # 2 ln 3
    2.197225
    """
    return erg_log_det(spectrum, fit) / fit.erg_log_det_sd


def quality_cumulants(spectrum: Spectrum, fit: TailFit) -> float:
    """Return log10 of the layer quality by free cumulants; experimental.

    Examples
    --------
    >>> round(quality_cumulants(_example([0.1, 0.1, 0.8, 3.0]), TailFit()), 6)
    -0.090135
    """
    return setol.quality_cumulants(spectrum)


def quality_spikes(spectrum: Spectrum, fit: TailFit) -> float:
    """Return log10 of the share of Σλ in the ERG tail; experimental.

    Examples
    --------
    >>> round(quality_spikes(_example([0.1, 0.1, 0.8, 3.0]), TailFit()), 6)  # log10 3.9/4
    -0.010995
    """
    return setol.quality_spikes(spectrum)


def quality_cauchy(spectrum: Spectrum, fit: TailFit) -> float:
    """Return log10 of the layer quality of the free Cauchy model; experimental.

    Examples
    --------
    >>> round(quality_cauchy(_example([0.1, 0.1, 0.8, 3.0]), TailFit()), 6)  # ½ log10(0.7 + 2.9)
    0.278151
    """
    return setol.quality_cauchy(spectrum)


def quality_inverse_mp(spectrum: Spectrum, fit: TailFit) -> float:
    """Return log10 of the layer quality of the inverse Marchenko-Pastur model; experimental.

    Examples
    --------
    >>> round(quality_inverse_mp(_example([0.1, 0.1, 0.8, 3.0]), TailFit(alpha=3.02)), 6)  # κ = 1
    0.369416
    """
    return setol.quality_inverse_mp(spectrum, fit.alpha)


def quality_levy(spectrum: Spectrum, fit: TailFit) -> float:
    """Return log10 of the squared quality of the Lévy-Wigner model; experimental.

    Examples
    --------
    >>> round(quality_levy(_example([0.1, 0.1, 0.8, 3.0]), TailFit(alpha=2.0)), 6)  # log10 3.9/3
    0.113943
    """
    return setol.quality_levy(spectrum, fit.alpha)


def _example(eigenvalues: list[float]) -> Spectrum:
    """Build a spectrum for the examples above."""
    values = np.array(eigenvalues)
    return Spectrum(values, len(values), len(values), 1, float(np.sum(values)), 0.0, "gram")


CSN = "Clauset, Shalizi & Newman, SIAM Review 51 (2009)"
NATCOM = "Martin, Peng & Mahoney, Nature Communications 12 (2021)"
JMLR = "Martin & Mahoney, JMLR 22 (2021)"
SETOL = "Martin & Hinrichs, arXiv 2507.17912"

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "alpha": Metric(
            lambda _, fit: fit.alpha,
            "exponent of the power law ρ(λ) ∝ λ^-alpha fitted to the tail",
            f"{CSN}, eq. 3.1",
            of_tail=True,
            in_summary=True,
            better="lower",
        ),
        "alpha_stderr": Metric(
            lambda _, fit: fit.alpha_stderr,
            "(alpha - 1) / sqrt(n_tail)",
            f"{CSN}, eq. 3.2",
            of_tail=True,
        ),
        "alpha_low": Metric(
            lambda _, fit: fit.alpha_low,
            "lower end of alpha's 95 % interval, (alpha - 1) e^(-t s) + 1",
            "bootstrap, docs/uncertainty.md",
            of_tail=True,
        ),
        "alpha_high": Metric(
            lambda _, fit: fit.alpha_high,
            "upper end of alpha's 95 % interval, (alpha - 1) e^(t s) + 1",
            "bootstrap, docs/uncertainty.md",
            of_tail=True,
        ),
        "xmin": Metric(
            lambda _, fit: fit.xmin,
            "smallest eigenvalue of the fitted tail",
            f"{CSN}, section 3.3",
            of_tail=True,
        ),
        "xmax": Metric(
            lambda _, fit: fit.xmax, "largest fitted eigenvalue", f"{CSN}, section 3", of_tail=True
        ),
        "ks": Metric(
            lambda _, fit: fit.ks,
            "Kolmogorov-Smirnov distance between tail and fit",
            f"{CSN}, eq. 3.9",
            of_tail=True,
        ),
        "n_tail": Metric(
            lambda _, fit: fit.n_tail,
            "number of eigenvalues >= xmin",
            f"{CSN}, section 3.3",
            of_tail=True,
            count=True,
        ),
        "cutoff_rate": Metric(
            lambda _, fit: fit.cutoff_rate,
            "rate of an exponential cut-off fitted with alpha; 0 for a pure power law",
            f"{CSN}, table 2.1",
            of_tail=True,
        ),
        "alpha_hat": Metric(
            alpha_hat,
            "alpha · log10 λ_max",
            f"{NATCOM}, Methods",
            of_tail=True,
            in_summary=True,
            better="lower",
        ),
        "lambda_max": Metric(lambda_max, "largest eigenvalue, ‖W‖²_2", f"{NATCOM}, Methods"),
        "log_spectral_norm": Metric(
            log_spectral_norm, "log10 λ_max", f"{NATCOM}, Methods", in_summary=True, better="lower"
        ),
        "log_norm": Metric(
            log_norm,
            "log10 Σλ = log10 ‖W‖²_F",
            f"{NATCOM}, Methods",
            in_summary=True,
            better="lower",
        ),
        "log_alpha_norm": Metric(
            log_alpha_norm,
            "log10 Σ λ^alpha",
            f"{NATCOM}, Methods",
            of_tail=True,
            in_summary=True,
            better="lower",
        ),
        "stable_rank": Metric(stable_rank, "Σλ / λ_max", f"{JMLR}, section 3.1", in_summary=True),
        "matrix_rank": Metric(
            matrix_rank, "number of λ > (eps_float32 ‖W‖_F)²", f"{JMLR}, section 3.1", count=True
        ),
        "rank_loss": Metric(
            rank_loss, "n_eigenvalues - matrix_rank", f"{JMLR}, section 3.1", count=True
        ),
        "entropy": Metric(
            entropy, "-Σ p ln p / ln(matrix_rank), p = λ/Σλ", f"{JMLR}, eq. 6", in_summary=True
        ),
        "lambda_plus": Metric(
            lambda_plus,
            "Marchenko-Pastur edge of the bulk",
            f"{JMLR}, section 2.2; Gavish & Donoho",
        ),
        "n_spikes": Metric(
            n_spikes,
            "λ above the Tracy-Widom bound of the bulk, level 0.01",
            "Johnstone (2001)",
            count=True,
        ),
        "soft_rank": Metric(soft_rank, "lambda_plus / λ_max", f"{JMLR}, eq. 11", in_summary=True),
        "mp_distance": Metric(
            mp_distance, "mean |λ - Marchenko-Pastur quantile| / mean λ", "Wasserstein distance"
        ),
        "n_erg": Metric(
            n_erg, "size of the tail with Π λ̃ = 1, λ̃ = λ n/Σλ", f"{SETOL}, section 3.2", count=True
        ),
        "erg_xmin": Metric(
            erg_xmin, "smallest λ of the tail with Π λ̃ = 1", f"{SETOL}, section 3.2"
        ),
        "erg_gap": Metric(
            erg_gap,
            "n_erg - n_tail",
            f"{SETOL}, section 6.3",
            of_tail=True,
            in_summary=True,
            count=True,
        ),
        "delta_lambda_min": Metric(
            delta_lambda_min,
            "(xmin - erg_xmin) · n/Σλ",
            f"{SETOL}, section 6.3",
            of_tail=True,
            in_summary=True,
        ),
        "erg_log_det": Metric(
            erg_log_det, "Σ ln λ̃ over λ >= xmin", f"{SETOL}, section 3.2", of_tail=True
        ),
        "erg_z": Metric(
            erg_z,
            "erg_log_det over its standard deviation in the bootstrap replicates",
            f"{SETOL}, section 3.2; docs/uncertainty.md",
            of_tail=True,
        ),
        "quality_cumulants": Metric(
            quality_cumulants,
            "log10 Q, Q² = Σ κ_1 x + κ_2 x²/2 + ... over the ERG tail (experimental)",
            f"{SETOL}, section 5.6",
        ),
        "quality_spikes": Metric(
            quality_spikes, "log10 of the ERG tail's share of Σλ (experimental)", f"{SETOL}, 5.5"
        ),
        "quality_cauchy": Metric(
            quality_cauchy,
            "½ log10 Σ (λ̃ - λ̃_min) over the ERG tail (experimental)",
            f"{SETOL}, 5.5",
        ),
        "quality_inverse_mp": Metric(
            quality_inverse_mp,
            "½ log10 κ Σ ln(λ/λ_min) over the ERG tail, κ = (alpha - 0.98)/2.04 (experimental)",
            f"{SETOL}, section 5.5",
            of_tail=True,
        ),
        "quality_levy": Metric(
            quality_levy,
            "log10 of the mean of λ̃^(alpha - 1) over the ERG tail (experimental)",
            f"{SETOL}, section 5.5",
            of_tail=True,
        ),
    }
)


def evaluate(
    spectrum: Spectrum, fit: TailFit, metrics: Mapping[str, Metric] = METRICS
) -> dict[str, Value]:
    """Compute every metric of a table; those of the tail are NaN where there is no fit.

    A spectrum of zeros has no metric at all.
    """
    fitted = fit.status is Status.OK
    positive = spectrum.eigenvalues.size > 0 and spectrum.eigenvalues[-1] > 0
    return {
        name: metric.compute(spectrum, fit)
        if positive and (fitted or not metric.of_tail)
        else math.nan
        for name, metric in metrics.items()
    }
