"""Power-law estimators: the exponent alpha of a spectrum's tail.

An estimator is a pure function of the eigenvalues that count; a spectrum that cannot bear a fit gives
a ``TailFit`` whose status says why. Plain versions: ``tests/reference/tails.py``.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from spectra.conventions import FLOAT32_EPS, HTSR, Convention
from spectra.cutoff import fit_cutoff
from spectra.errors import unknown_name
from spectra.records import Spectrum, Status, TailFit, Vector

# How the exact search is made fast: every candidate tail is probed at a few positions, a lower bound
# on its KS distance; candidates are then computed in full, best bound first, until no bound can win.
PROBES = (8, 64, 512)
FEW = 8  # candidates that are sooner computed in full than probed
SMALL_SAMPLE_TAIL = 8
HILL_LEAST = 10
MAX_FINGERS = 10
MIN_REPLICATES = 10
ERG_SPREAD = 3.3  # measured at alpha 2.5 to 4, where xmin and the scale are chosen from the sample
NORMAL_975 = 1.959963984540054
TOO_SMALL = 1.5
"""The spread of alpha over its standard error, which takes xmin for known; on pure power laws."""
TINY = float(np.finfo(np.float64).tiny)


def fit_tail(
    spectrum: Spectrum,
    *,
    convention: Convention = HTSR,
    estimator: str = "csn",
    replicates: int = 0,
    rng: np.random.Generator | None = None,
) -> TailFit:
    """Fit the tail of a spectrum by the rules of a convention.

    Parameters
    ----------
    spectrum : Spectrum
        As ``conventions.apply`` returns it.
    convention : Convention
        Says how many eigenvalues a spectrum and a tail must have.
    estimator : str
        A key of ``ESTIMATORS``.
    replicates : int
        Bootstrap replicates for the interval ``alpha_low`` to ``alpha_high``; with none it rests on
        the standard error alone.
    rng : numpy.random.Generator, optional
        Draws the replicates; seeded with 0 when left out.

    Returns
    -------
    TailFit
        ``status`` is not ``ok`` when the data cannot support a fit; nothing is raised for that.

    Raises
    ------
    SelectionError
        If there is no such estimator.
    """
    if estimator not in ESTIMATORS:
        raise unknown_name(estimator, "estimator", tuple(ESTIMATORS))
    status = _unfit(spectrum, convention)
    if status is not Status.OK:
        return TailFit(estimator=estimator, status=status)
    kept = spectrum.eigenvalues[np.searchsorted(spectrum.eigenvalues, spectrum.cutoff, "right") :]
    fit = ESTIMATORS[estimator](kept, convention)
    fit = dataclasses.replace(fit, estimator=estimator)
    if fit.status is not Status.OK:
        return fit
    alphas, log_dets = [], []
    for x in _resampled(kept, replicates, rng):
        again = ESTIMATORS[estimator](x, convention)
        if again.status is Status.OK:
            alphas.append(again.alpha)
            # the ERG residual of this replicate, in its own units where the mean is one
            tail = x[x.size - again.n_tail :]
            log_dets.append(float(np.log(tail / np.mean(x)).sum()))
    low, high = interval(fit, alphas)
    return dataclasses.replace(
        fit,
        alpha_low=low,
        alpha_high=high,
        erg_log_det_sd=float(np.std(log_dets, ddof=1))
        if len(log_dets) >= MIN_REPLICATES
        else ERG_SPREAD * math.sqrt(fit.n_tail) / max(fit.alpha - 1, 1.0),
    )


def interval(fit: TailFit, replicates: Sequence[float]) -> tuple[float, float]:
    """Return a 95 % interval for alpha from the alphas of bootstrap replicates.

    The replicates choose xmin anew, so their spread includes that choice. ln(alpha - 1) is near
    normal, and the interval is symmetric there: (alpha - 1) e^(±t s) with the spread s of the
    replicates and Student's t. Measured coverage: ``docs/uncertainty.md``.

    Parameters
    ----------
    fit : TailFit
    replicates : sequence of float
        Exponents above 1. With fewer than ten, s is 1.5 times the standard error that takes xmin
        for known, (alpha - 1)/√n_tail: the ratio measured on pure power laws.

    Examples
    --------
    >>> low, high = interval(TailFit(alpha=3.0, n_tail=100, status=Status.OK), [])
    >>> round(low, 2), round(high, 2)
    (2.49, 3.68)
    """
    many = len(replicates) >= MIN_REPLICATES
    student = _student_975(len(replicates) - 1) if many else NORMAL_975
    if fit.cutoff_rate > 0 or fit.alpha <= 1:  # alpha of a law with a cut-off may be anything
        spread = float(np.std(replicates, ddof=1)) if many else TOO_SMALL * fit.alpha_stderr
        return fit.alpha - student * spread, fit.alpha + student * spread
    usable = [alpha for alpha in replicates if alpha > 1]
    if many and len(usable) >= MIN_REPLICATES:
        spread = float(np.std(np.log(np.array(usable) - 1), ddof=1))
    else:
        spread = TOO_SMALL / math.sqrt(fit.n_tail)
    factor = math.exp(student * spread)
    return 1 + (fit.alpha - 1) / factor, 1 + (fit.alpha - 1) * factor


def _student_975(freedom: int) -> float:
    """Return the 97.5 % point of Student's t, by the Cornish-Fisher expansion to 1/ν²."""
    z = NORMAL_975
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


def edge_p(alpha: float, end: float, edge: float) -> float:
    """Return the chance of an alpha as far beyond an edge if the exponent were that edge.

    From one end of its own 95 % interval, which is symmetric and near normal in ln(alpha - 1).

    Parameters
    ----------
    alpha : float
        The estimate.
    end : float
        ``alpha_high`` for the chance of one as low, ``alpha_low`` for that of one as high.
    edge : float
        Above 1.

    Returns
    -------
    float
        One-sided; NaN unless 1 < `alpha` and 1 < `end` differ.

    Examples
    --------
    >>> round(edge_p(1.8, 2.0, 2.0), 4), round(edge_p(1.8, 1.6, 2.0), 2)
    (0.025, 0.94)
    """
    if not (alpha > 1 and end > 1 and alpha != end):
        return math.nan
    distance = math.log((edge - 1) / (alpha - 1)) / math.log((end - 1) / (alpha - 1))
    return math.erfc(distance * NORMAL_975 / math.sqrt(2)) / 2


def near_minimal(x: Vector, fit: TailFit, convention: Convention) -> tuple[float, float]:
    """Return the least and the largest alpha over tails that fit nearly as well as the best.

    Nearly: a KS distance, at 512 positions of the tail, of at most 1.1 times the least. Many tails
    often qualify, and their alphas say how much hangs on the choice of xmin.

    Parameters
    ----------
    x : ndarray of shape (n,)
        Ascending, the eigenvalues that were fitted.
    fit : TailFit
    convention : Convention

    Examples
    --------
    >>> values = np.sort((1 - (np.arange(500) + 0.5) / 500) ** -0.5)
    >>> fit = fit_power_law(values)
    >>> low, high = near_minimal(values, fit, HTSR)
    >>> low <= fit.alpha <= high
    True
    """
    logs, starts, slopes = _candidates(x, _starts(x, convention.min_tail))
    near = slopes[_probe(logs, starts, slopes, PROBES[-1]) <= 1.1 * fit.ks]
    alphas = np.concatenate([1 + near, [fit.alpha]])
    return float(alphas.min()), float(alphas.max())


def _resampled(x: Vector, replicates: int, rng: np.random.Generator | None) -> Iterator[Vector]:
    """Draw bootstrap samples, ascending: how often each value comes is multinomial."""
    rng = np.random.default_rng(0) if rng is None else rng
    for _ in range(replicates):
        counts = np.bincount(rng.integers(0, x.size, x.size), minlength=x.size)
        yield np.repeat(x, counts)


def _unfit(spectrum: Spectrum, convention: Convention) -> Status:
    """Say why a spectrum cannot be fitted, or ``ok``."""
    eigenvalues = spectrum.eigenvalues
    if spectrum.squared_norm == 0:
        return Status.ZERO
    if eigenvalues.size < convention.min_eigenvalues:
        return Status.TOO_FEW_EIGENVALUES
    if convention.absolute_cutoff is None:
        # Equal singular values, and a single one, are told in the unit of rounding: eps ‖W‖_F.
        tolerance = FLOAT32_EPS * math.sqrt(spectrum.squared_norm)
        if math.sqrt(eigenvalues[-1]) - math.sqrt(max(eigenvalues[0], 0.0)) <= tolerance:
            return Status.DEGENERATE
    n_kept = int(np.count_nonzero(eigenvalues > spectrum.cutoff))
    if n_kept == 1:
        return Status.DEGENERATE
    return Status.TOO_FEW_EIGENVALUES if n_kept < convention.min_eigenvalues else Status.OK


def fit_power_law(
    eigenvalues: Vector, *, min_tail: int = 10, small_sample_below: int = 0
) -> TailFit:
    """Fit a continuous power law to the upper tail of a spectrum, over all possible starts.

    For each eigenvalue taken as ``xmin`` the exponent is the maximum-likelihood one [1]_ (eq. 3.1);
    the ``xmin`` whose fit is nearest the data in Kolmogorov-Smirnov distance is chosen.

    Parameters
    ----------
    eigenvalues : ndarray of shape (n,)
        Ascending, positive, finite; unit: squared weight. The exponent does not depend on the unit.
    min_tail : int, default: 10
        Fewest eigenvalues a tail may hold.
    small_sample_below : int, default: 0
        With fewer eigenvalues than this, k - 1 replaces k in the estimate and tails hold at least
        eight (WeightWatcher's rule).

    Returns
    -------
    TailFit
        With status ``too_few_eigenvalues`` when no tail is long enough, ``fit_failed`` when no tail
        has a finite exponent above 1.

    Raises
    ------
    ValueError
        If `eigenvalues` is not one-dimensional, ascending, positive and finite.

    Notes
    -----
    The KS distance compares the fitted distribution with the lower step of the empirical one,
    (j - i)/k, as the field's programs do. The standard error (alpha - 1)/sqrt(k) ignores that
    ``xmin`` is chosen: the real spread is about 1.5 times as large.
    Exact, in practice near O(n log n). Plain version: ``tests/reference/tails.py``.

    References
    ----------
    .. [1] Clauset, Shalizi & Newman, SIAM Review 51 (2009) 661, sections 3.1 and 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> quantiles = (1 - (np.arange(1000) + 0.5) / 1000) ** (-1 / 1.5)
    >>> fit = fit_power_law(np.sort(quantiles))
    >>> round(fit.alpha, 2), fit.status.value
    (2.5, 'ok')
    """
    x = np.asarray(eigenvalues, dtype=np.float64)
    if x.ndim != 1 or not np.all(np.isfinite(x)) or np.any(np.diff(x) < 0) or np.any(x[:1] <= 0):
        raise ValueError("`eigenvalues` must be one-dimensional, ascending, positive and finite")
    if x.size < 2:
        return TailFit(status=Status.TOO_FEW_EIGENVALUES)
    return _csn(x, min_tail, small_sample=x.size < small_sample_below)


def _csn(x: Vector, min_tail: int, *, small_sample: bool = False) -> TailFit:
    starts = _starts(x, max(min_tail, SMALL_SAMPLE_TAIL if small_sample else 2))
    if starts.size == 0:
        if not small_sample:
            return TailFit(status=Status.TOO_FEW_EIGENVALUES)
        starts = np.zeros(1, dtype=np.intp)
    return _best_of(x, starts, small_sample=small_sample)


def _best_of(x: Vector, starts: np.ndarray, *, small_sample: bool = False) -> TailFit:
    """Fit the tails that begin at `starts` and return the one nearest a power law."""
    logs, starts, slopes = _candidates(x, starts, small_sample=small_sample)
    if starts.size == 0:
        return TailFit(status=Status.FIT_FAILED)
    winner, ks = _least_ks(logs, starts, slopes)
    return _tail(x, int(starts[winner]), float(slopes[winner]), ks)


def _candidates(
    x: Vector, starts: np.ndarray, *, small_sample: bool = False
) -> tuple[Vector, np.ndarray, Vector]:
    """Return ln x, the starts whose tails have an exponent, and those exponents less one."""
    # The quotient makes the fit free of scale to the last bit, unless it leaves float64.
    with np.errstate(under="ignore"):
        ratios = x / x[-1]
    logs = np.log(ratios) if ratios[0] > TINY else np.log(x) - np.log(x[-1])
    lengths = x.size - starts
    # Σ_{j>=i} ln(x_j / x_i), by a cumulative sum from the top
    sums = np.cumsum(logs[::-1])[::-1][starts] - lengths * logs[starts]
    usable = sums > 0
    starts, lengths, sums = starts[usable], lengths[usable], sums[usable]
    # CSN eq. 3.1: alpha = 1 + k / Σ ln(x_j / xmin)
    return logs, starts, (lengths - 1 if small_sample else lengths) / sums


def _tail(x: Vector, start: int, slope: float, ks: float) -> TailFit:
    return TailFit(
        alpha=1 + slope,
        xmin=float(x[start]),
        xmax=float(x[-1]),
        ks=ks,
        n_tail=x.size - start,
        alpha_stderr=slope / math.sqrt(x.size - start),
        status=Status.OK,
    )


def _csn_truncated(x: Vector, convention: Convention) -> TailFit:
    """Fit ρ(λ) ∝ λ^-alpha e^(-rate λ) above the xmin that `csn` chooses, both parameters at once."""
    plain = _csn(x, convention.min_tail)
    if plain.status is not Status.OK:
        return plain
    found = fit_cutoff(x[x >= plain.xmin] / plain.xmin, plain.alpha)
    if found is None:
        return plain
    return dataclasses.replace(
        plain,
        alpha=found.alpha,
        cutoff_rate=found.b / plain.xmin,
        ks=found.ks,
        alpha_stderr=found.alpha_stderr,
    )


def _hill_mid(x: Vector, convention: Convention) -> TailFit:
    """Hill's estimator above the median (TempBalance, arXiv 2312.00359: PL_Alpha_Hill)."""
    return _best_of(x, np.array([x.size // 2]))


def _hill_k(x: Vector, convention: Convention) -> TailFit:
    """Hill's estimator over the largest tenth, at least ten (AlphaQ, arXiv 2606.04980)."""
    k = max(HILL_LEAST, x.size // 10)
    if x.size <= k:
        return TailFit(status=Status.TOO_FEW_EIGENVALUES)
    start = x.size - k - 1  # the eigenvalue below the tail is its xmin, and is not counted
    logs = np.log(x[start:] / x[start])
    total = float(logs.sum())
    if total <= 0:
        return TailFit(status=Status.FIT_FAILED)
    fit = _tail(x, start, k / total, _ks(logs, 0, k / total))
    return dataclasses.replace(fit, n_tail=k, alpha_stderr=(fit.alpha - 1) / math.sqrt(k))


def _xmin_peak(x: Vector, convention: Convention, *, slip: bool = False) -> TailFit:
    """Search xmin only around the peak of the density of log10 λ (WeightWatcher's fix_fingers).

    Between 0.95 and 1.5 times the left edge of the fullest of 100 bins. The published code compares
    log10 of the lower bound with λ itself, so that it hardly ever binds; `slip` does so too.
    """
    counts, edges = np.histogram(np.log10(x), bins=100)
    peak = 10 ** edges[int(np.argmax(counts))]
    low = math.log10(0.95 * peak) if slip else 0.95 * peak
    starts = _starts(x, 2 if slip else convention.min_tail)
    near = starts[(x[starts] >= low) & (x[starts] <= 1.5 * peak)]
    if near.size == 0:
        return TailFit(status=Status.FIT_FAILED)
    return _best_of(x, near)


def _clip_xmax(x: Vector, convention: Convention) -> TailFit:
    """Drop the largest eigenvalues, up to ten, while they alone hold alpha up ("fingers").

    The first refit whose alpha is lower by more than one is taken (WeightWatcher's clip_xmax, which
    begins by dropping two); ``xmax`` says how far it went.
    """
    whole = _csn(x, convention.min_tail)
    if whole.status is not Status.OK or whole.alpha <= 2:
        return whole
    for n_fingers in range(1, MAX_FINGERS + 1):
        fit = _csn(x[: x.size - n_fingers], convention.min_tail)
        if fit.status is Status.OK and fit.alpha + 1 < whole.alpha:
            return fit
    return whole


def _starts(x: Vector, min_tail: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Positions that may start a tail: the first of each distinct value, `min_tail` from the end."""
    last = x.size - min_tail + 1
    if last <= 0:
        return np.zeros(0, dtype=np.intp)
    distinct = np.ones(last, dtype=bool)
    distinct[1:] = x[1:last] > x[: last - 1]
    return np.flatnonzero(distinct)


def _least_ks(logs: Vector, starts: np.ndarray, slopes: Vector) -> tuple[int, float]:
    """Return the candidate with the least KS distance, the first of equals, and that distance."""
    alive = np.arange(starts.size)
    bounds = np.zeros(starts.size)
    best, ks = 0, math.inf
    for n_probes in PROBES:
        if alive.size <= FEW or 2 * n_probes > logs.size:
            break
        bounds = _probe(logs, starts[alive], slopes[alive], n_probes)
        best, ks = min((ks, best), _at(logs, starts, slopes, alive[np.argmin(bounds)]))[::-1]
        keep = bounds <= ks
        alive, bounds = alive[keep], bounds[keep]
    for bound, candidate in sorted(zip(bounds.tolist(), alive.tolist(), strict=True)):
        if bound > ks:
            break
        best, ks = min((ks, best), _at(logs, starts, slopes, candidate))[::-1]
    return best, ks


def _at(logs: Vector, starts: np.ndarray, slopes: Vector, candidate: int) -> tuple[float, int]:
    return _ks(logs, int(starts[candidate]), float(slopes[candidate])), int(candidate)


def _probe(logs: Vector, starts: np.ndarray, slopes: Vector, n_probes: int) -> Vector:
    """Lower bounds on the KS distances: the largest deviation at evenly spaced positions."""
    lengths = logs.size - starts
    steps = np.arange(1, n_probes + 1)[:, None] * lengths // (n_probes + 1)  # (probes, candidates)
    cdf = logs[starts + steps]
    cdf -= logs[starts]
    cdf *= -slopes
    np.exp(cdf, out=cdf)  # the survival function
    cdf += steps / lengths
    cdf -= 1
    bounds: Vector = np.abs(cdf, out=cdf).max(axis=0)
    return bounds


def _ks(logs: Vector, start: int, slope: float) -> float:
    """KS distance of one tail: max_j |1 - (x_j/xmin)^(1-alpha) - (j-i)/k|."""
    cdf = logs[start:] - logs[start]
    cdf *= -slope
    np.exp(cdf, out=cdf)
    cdf += np.arange(cdf.size) / cdf.size
    cdf -= 1
    return float(max(cdf.max(), -cdf.min()))


WITH_BAND = frozenset({"csn", "clip_xmax", "xmin_peak", "xmin_peak_compat"})
"""Estimators that search for xmin: those whose alpha the band from 2 to 6 was found with."""

Estimator = Callable[[Vector, Convention], TailFit]

ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        "csn": lambda x, convention: _csn(
            x, convention.min_tail, small_sample=x.size < convention.small_sample_below
        ),
        "csn_truncated": _csn_truncated,
        "hill_mid": _hill_mid,
        "hill_k": _hill_k,
        "xmin_peak": _xmin_peak,
        "xmin_peak_compat": lambda x, convention: _xmin_peak(x, convention, slip=True),
        "clip_xmax": _clip_xmax,
    }
)
