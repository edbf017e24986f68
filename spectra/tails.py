"""Power-law estimators: the exponent alpha of a spectrum's tail.

An estimator is a pure function of the eigenvalues that count; a spectrum that cannot bear a fit gives
a ``TailFit`` whose status says why. Plain versions: ``tests/reference/tails.py``.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from spectra.conventions import FLOAT32_EPS, HTSR, Convention
from spectra.errors import unknown_name
from spectra.records import Spectrum, Status, TailFit, Vector

# How the exact search is made fast: every candidate tail is probed at a few positions, a lower bound
# on its KS distance; candidates are then computed in full, best bound first, until no bound can win.
PROBES = (8, 32, 128, 512)
SMALL_SAMPLE_TAIL = 8
TINY = float(np.finfo(np.float64).tiny)


def fit_tail(
    spectrum: Spectrum, *, convention: Convention = HTSR, estimator: str = "csn"
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
    return ESTIMATORS[estimator](kept, convention)


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


def _csn(x: Vector, min_tail: int, *, small_sample: bool) -> TailFit:
    # The quotient makes the fit free of scale to the last bit, unless it leaves float64.
    with np.errstate(under="ignore"):
        ratios = x / x[-1]
    logs = np.log(ratios) if ratios[0] > TINY else np.log(x) - np.log(x[-1])
    starts = _starts(x, max(min_tail, SMALL_SAMPLE_TAIL if small_sample else 2))
    if starts.size == 0:
        if not small_sample:
            return TailFit(status=Status.TOO_FEW_EIGENVALUES)
        starts = np.zeros(1, dtype=np.intp)
    lengths = x.size - starts
    # Σ_{j>=i} ln(x_j / x_i), by a cumulative sum from the top
    sums = np.cumsum(logs[::-1])[::-1][starts] - lengths * logs[starts]
    usable = sums > 0
    starts, lengths, sums = starts[usable], lengths[usable], sums[usable]
    if starts.size == 0:
        return TailFit(status=Status.FIT_FAILED)
    # CSN eq. 3.1: alpha = 1 + k / Σ ln(x_j / xmin)
    slopes = (lengths - 1 if small_sample else lengths) / sums
    winner, ks = _least_ks(logs, starts, slopes)
    start, slope = int(starts[winner]), float(slopes[winner])
    return TailFit(
        alpha=1 + slope,
        xmin=float(x[start]),
        xmax=float(x[-1]),
        ks=ks,
        n_tail=x.size - start,
        alpha_stderr=slope / math.sqrt(x.size - start),
        status=Status.OK,
    )


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
    best, ks = 0, math.inf
    for n_probes in PROBES:
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
    survival = np.exp(-slopes * (logs[starts + steps] - logs[starts]))
    return np.asarray(np.max(np.abs(1 - survival - steps / lengths), axis=0))


def _ks(logs: Vector, start: int, slope: float) -> float:
    """KS distance of one tail: max_j |1 - (x_j/xmin)^(1-alpha) - (j-i)/k|."""
    tail = logs[start:]
    survival = np.exp(-slope * (tail - tail[0]))
    return float(np.max(np.abs(1 - survival - np.arange(tail.size) / tail.size)))


ESTIMATORS: Mapping[str, Callable[[Vector, Convention], TailFit]] = MappingProxyType(
    {
        "csn": lambda eigenvalues, convention: fit_power_law(
            eigenvalues,
            min_tail=convention.min_tail,
            small_sample_below=convention.small_sample_below,
        ),
    }
)
