"""Random-matrix side: what noise of the same shape would show, and what stands out of it.

Everything is for WᵀW of an N × M matrix with independent entries of one variance, without 1/N.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spectra.records import Spectrum, Vector

SPIKE_LEVEL = 0.01
"""Chance that a layer of pure noise shows a spike at all."""

# Upper quantiles of the Tracy-Widom law for real matrices (beta = 1), from Painlevé's equation;
# tests/unit/test_rmt.py integrates it anew.
TRACY_WIDOM_LEVELS = np.array([0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 1e-4, 1e-5, 1e-6])
TRACY_WIDOM_QUANTILES = np.array(
    [
        -1.26857,
        -0.16531,
        0.45014,
        0.97932,
        1.59776,
        2.02345,
        2.42233,
        2.91741,
        3.27220,
        4.35942,
        5.34430,
        6.25635,
    ]
)

# The distance of noise from its Marchenko-Pastur law shrinks like 1/M; measured over 4,000 Gaussian
# matrices of each of six shapes, its mean times M is (1 + 0.3 ln M)/√Q at most, the largest 2.2 times that.
NOISE_DISTANCE = 3.0

# F''/F' at the same points: how the law bends there.
TRACY_WIDOM_SLOPES = np.array(
    [
        -0.0796,
        -0.6899,
        -0.9662,
        -1.1752,
        -1.3925,
        -1.5284,
        -1.6473,
        -1.7854,
        -1.8788,
        -2.1419,
        -2.3564,
        -2.5398,
    ]
)


class Bulk(NamedTuple):
    """The part of a spectrum that noise explains: its edge, and how many eigenvalues stand above."""

    lambda_plus: float
    n_spikes: int


def edge(N: int, M: int, variance: float = 1.0) -> float:
    """Return the upper Marchenko-Pastur edge of WᵀW, variance · (√N + √M)².

    Examples
    --------
    >>> edge(100, 100)
    400.0
    """
    return variance * (math.sqrt(N) + math.sqrt(M)) ** 2


def tracy_widom_quantile(level: float) -> float:
    """Return the point that the Tracy-Widom law (beta = 1) exceeds with chance `level`.

    Parameters
    ----------
    level : float
        Between 1e-6 and 0.5.

    Raises
    ------
    ValueError
        If `level` is outside that range.

    Examples
    --------
    >>> round(tracy_widom_quantile(0.01), 3)
    2.023
    """
    return _at_level(level, TRACY_WIDOM_QUANTILES)


def _at_level(level: float, values: Vector) -> float:
    if not TRACY_WIDOM_LEVELS[-1] <= level <= TRACY_WIDOM_LEVELS[0]:
        raise ValueError(f"`level` must be between 1e-6 and 0.5, got {level}")
    return float(np.interp(-math.log(level), -np.log(TRACY_WIDOM_LEVELS), values))


def largest_of_noise(
    N: int, M: int, *, level: float = SPIKE_LEVEL, n_matrices: int | None = None
) -> float:
    """Return what the largest eigenvalue of noise exceeds with chance `level`, per unit of variance.

    Parameters
    ----------
    N, M : int
        Sides of the matrix.
    level : float
        Between 1e-6 and 0.5.
    n_matrices : int, optional
        How many such matrices the variance was taken from, this one among them: a large eigenvalue
        then raises its own yardstick, which is corrected for. Left out, the variance is known.

    Notes
    -----
    Johnstone, Annals of Statistics 29 (2001), theorem 1: centre μ = (√(N-1) + √M)², scale
    σ = (√(N-1) + √M)(1/√(N-1) + 1/√M)^(1/3). Nadler, J. Multivariate Analysis 102 (2011): the ratio
    to the mean eigenvalue follows F - (μ/σ)² F'' / (NM), here to first order in the shift.

    Examples
    --------
    >>> largest_of_noise(784, 300) > edge(784, 300)
    True
    """
    a, b = math.sqrt(max(N - 1, 1)), math.sqrt(M)
    centre, scale = (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)
    point = _at_level(level, TRACY_WIDOM_QUANTILES)
    if n_matrices is not None:
        shift = (centre / scale) ** 2 / (n_matrices * N * M)
        point += shift * _at_level(level, TRACY_WIDOM_SLOPES)
    return float(centre + scale * point)


@functools.lru_cache(maxsize=4)
def bulk(spectrum: Spectrum, *, level: float = SPIKE_LEVEL) -> Bulk:
    """Tell the eigenvalues that noise explains from the spikes above them, by the convention's way.

    Parameters, result: as `tracy_widom_bulk`; with ``spectrum.density_fit`` as `density_fit_bulk`.
    """
    if spectrum.density_fit:
        return density_fit_bulk(spectrum)
    return tracy_widom_bulk(spectrum, level=level)


@functools.lru_cache(maxsize=4)
def tracy_widom_bulk(spectrum: Spectrum, *, level: float = SPIKE_LEVEL) -> Bulk:
    """Tell the eigenvalues that noise explains from the spikes above them.

    First the whole is tested: with the variance of all entries, ‖W‖²/(number of entries), does the
    largest eigenvalue exceed what noise shows with chance `level`? If not there is no spike. If so
    that variance is inflated by what stands out, and is replaced by the one whose Marchenko-Pastur
    law has the median of the spectrum (Gavish & Donoho, IEEE Trans. Information Theory 60 (2014),
    section III.E), which spikes hardly move; eigenvalues above its Tracy-Widom bound are spikes.
    The slices of a convolution share one variance, and the level is split between them.

    Parameters
    ----------
    spectrum : Spectrum
        With at least one positive eigenvalue.
    level : float
        Chance that a layer of Gaussian noise shows any spike.

    Returns
    -------
    Bulk
        ``lambda_plus`` is the Marchenko-Pastur edge of the bulk, in the unit of the eigenvalues.
    """
    # Zeros are no noise: a matrix that has lost rank is taken for one with fewer columns.
    values = spectrum.eigenvalues[spectrum.eigenvalues > spectrum.floor]
    N, k = spectrum.N, spectrum.n_matrices
    M = max(round(values.size / k), 1)
    per_slice = max(level / k, TRACY_WIDOM_LEVELS[-1])
    variance = float(np.mean(values)) / N
    if values[-1] <= variance * largest_of_noise(N, M, level=per_slice, n_matrices=k):
        return Bulk(edge(N, M, variance), 0)
    median = float(np.median(values) / np.median(marchenko_pastur_quantiles(N, M)))
    variance = min(variance, median / N)
    bound = variance * largest_of_noise(N, M, level=per_slice)
    return Bulk(edge(N, M, variance), int(np.count_nonzero(values > bound)))


def density_fit_bulk(spectrum: Spectrum) -> Bulk:
    """Find the bulk as WeightWatcher 0.7.7 does, for its convention only.

    A Marchenko-Pastur density (for N = M a quarter circle on √λ) is fitted by least squares to a
    kernel density of the eigenvalues in units where their mean is 1: linear kernel of width 0.1 on
    1,000 points, where it exceeds 0.01. σ is searched on a grid and then refined; edges must hold
    the density's peak and stay within it. Its threshold is λ₊ + √TW with TW = Q^(-1/2) λ₊^(2/3)
    M^(-2/3), some six times as wide as the Tracy-Widom law.
    """
    from scipy.optimize import fmin

    ratio, M = spectrum.N / spectrum.M, spectrum.M
    scale = spectrum.eigenvalues.size / float(np.sum(spectrum.eigenvalues))
    values = spectrum.eigenvalues * scale
    square = ratio == 1
    seen = np.sqrt(values) if square else values
    x, density = _kernel_density(seen)
    peak = float(x[np.argmax(density)])
    low, high = 1 - 1 / math.sqrt(ratio), 1 + 1 / math.sqrt(ratio)

    def misfit(parameters: Sequence[float] | Vector) -> float:
        (sigma,) = parameters
        if square:
            if not 0 <= peak <= 2 * sigma:
                return 1000.0
            law = np.sqrt(np.maximum(4 - x**2, 0)) / (math.pi * sigma**2)
        else:
            lower, upper = (sigma * low) ** 2, (sigma * high) ** 2
            if not lower <= peak <= upper <= x[-1]:
                return 1000.0
            inside = np.maximum((upper - x) * (x - lower), 0)
            law = np.zeros_like(x)
            np.divide(np.sqrt(inside), x, out=law, where=x > 0)
            law *= ratio / (2 * math.pi * sigma**2)
        return float(np.sum((law - density) ** 2))

    start = math.sqrt(float(values[-1])) / high
    grid = np.arange(0.05 * start, 2 * start, 0.01 * start)
    best = min(grid.tolist(), key=lambda sigma: misfit((sigma,)))
    sigma = float(fmin(misfit, best, disp=False)[0])
    upper = (sigma * high) ** 2
    width = math.sqrt(upper ** (2 / 3) / (math.sqrt(ratio) * M ** (2 / 3)))
    return Bulk(upper / scale, int(np.count_nonzero(values > upper + width)))


def _kernel_density(values: Vector, width: float = 0.1) -> tuple[Vector, Vector]:
    """Return points and a linear-kernel density there, where it exceeds 0.01."""
    x = np.linspace(0, float(values[-1]) + 0.5, 1000)
    # Σ max(0, 1 - |x - v|/width), in sums of values to the left and to the right of each point
    sums = np.concatenate([[0.0], np.cumsum(values)])
    left, here, right = (np.searchsorted(values, x + shift) for shift in (-width, 0.0, width))
    distances = (here - left) * x - (sums[here] - sums[left])
    distances += (sums[right] - sums[here]) - (right - here) * x
    density = (right - left - distances / width) / (values.size * width)
    dense = density > 0.01
    return x[dense], density[dense]


def marchenko_pastur_quantiles(N: int, M: int) -> Vector:
    """Return the M mid-point quantiles of the Marchenko-Pastur law of N × M noise, mean 1.

    Computed on x = mid + half · cos t, in which the density is smooth; cached.

    Examples
    --------
    >>> values = marchenko_pastur_quantiles(200, 100)
    >>> values.shape, round(float(values.mean()), 3)
    ((100,), 1.0)
    """
    return _quantiles(M, round(M / N, 12))


@functools.lru_cache(maxsize=256)
def _quantiles(M: int, ratio: float) -> Vector:
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    t = np.linspace(np.pi, 0, 20 * M + 2001)
    x = (low + high) / 2 + (high - low) / 2 * np.cos(t)
    # density ∝ sqrt((high - x)(x - low)) / x, times dx/dt ∝ sin t; at x = 0 (square) the limit is
    # finite: (high - x)(x - low) = (half · sin t)², so the integrand is sin² t / x.
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.sin(t) ** 2 / x
    weight[~np.isfinite(weight)] = 2 / high if low == 0 else 0.0
    cdf = np.concatenate([[0.0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
    values = np.interp((np.arange(M) + 0.5) / M, cdf / cdf[-1], x)
    values /= values.mean()
    values.flags.writeable = False
    return values


def marchenko_pastur_density(values: Vector, N: int, M: int, variance: float = 1.0) -> Vector:
    """Return the Marchenko-Pastur density of WᵀW of N × M noise, without 1/N, at `values`.

    ρ(λ) = √((λ₊ - λ)(λ - λ₋)) / (2π variance M λ) with λ± = variance (√N ± √M)², N >= M.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Positive.
    N, M : int
        Sides of the matrix.
    variance : float
        Of its entries.

    Returns
    -------
    ndarray of shape (n,)
        Zero outside the two edges; its integral is 1.

    Examples
    --------
    >>> marchenko_pastur_density(np.array([100.0, 500.0]), 100, 100).round(5).tolist()
    [0.00276, 0.0]
    """
    low, high = variance * (math.sqrt(N) - math.sqrt(M)) ** 2, edge(N, M, variance)
    inside = np.maximum((high - values) * (values - low), 0.0)
    return np.asarray(np.sqrt(inside) / (2 * math.pi * variance * M * values))


@functools.lru_cache(maxsize=4)
def mp_distance(spectrum: Spectrum) -> float:
    """Return the Wasserstein distance of the spectrum from noise of its shape, over its mean.

    Both are brought to mean 1, so the distance is free of scale: 0 for the Marchenko-Pastur law,
    of order 1/M for a random matrix, tenths and more for a trained one.
    """
    values = spectrum.eigenvalues / np.mean(spectrum.eigenvalues)
    noise = np.repeat(marchenko_pastur_quantiles(spectrum.N, spectrum.M), spectrum.n_matrices)
    return float(np.mean(np.abs(values - noise)))


def is_random_like(spectrum: Spectrum) -> bool:
    """Tell whether a spectrum is not told from noise: no spike, and as near its law as noise is."""
    ratio = spectrum.N / spectrum.M
    typical = (1 + 0.3 * math.log(spectrum.M)) / (spectrum.M * math.sqrt(ratio))
    return (
        tracy_widom_bulk(spectrum).n_spikes == 0
        and mp_distance(spectrum) < NOISE_DISTANCE * typical
    )


def noise_spectrum(N: int, M: int, n_matrices: int, rng: np.random.Generator) -> Vector:
    """Draw the eigenvalues of Gaussian noise, ascending, of unit variance.

    By the bidiagonal model (Dumitriu & Edelman, J. Math. Phys. 43 (2002)): the same law as forming
    the matrices, at the cost of tridiagonal ones.

    Examples
    --------
    >>> noise_spectrum(30, 20, 2, np.random.default_rng(0)).shape
    (40,)
    """
    from scipy.linalg import eigvalsh_tridiagonal

    parts = []
    for _ in range(n_matrices):
        diagonal = rng.chisquare(N - np.arange(M))
        below = rng.chisquare(np.arange(M - 1, 0, -1))
        both = diagonal + np.concatenate([[0.0], below])
        if M == 1:
            parts.append(both)
            continue
        off = np.sqrt(diagonal[:-1] * below)
        parts.append(eigvalsh_tridiagonal(both, off, lapack_driver="sterf"))
    values: Vector = np.maximum(np.sort(np.concatenate(parts)), 0.0)
    return values


class Traps(NamedTuple):
    """Correlation traps of one shuffled matrix: how many, and the chance of the largest in noise."""

    n_traps: int
    p_value: float


def find_traps(shuffled: Spectrum, *, level: float = SPIKE_LEVEL) -> Traps:
    """Look for eigenvalues that survive shuffling: traps (SETOL section 3.3.1).

    Shuffling the entries destroys all correlations, so what is left above noise comes from the
    entries themselves: a mean that is not zero, or a few that are huge. The variance is that of the
    entries, ‖W‖²/(number of entries); no density is fitted.

    Parameters
    ----------
    shuffled : Spectrum
        Of the matrix with its entries shuffled.
    level : float
        Chance of any trap in Gaussian noise.

    Returns
    -------
    Traps
        ``p_value`` between 1e-6 and 0.5, the ends of the tabulated law, times the slices.
    """
    N, M, k = shuffled.N, shuffled.M, shuffled.n_matrices
    variance = float(np.mean(shuffled.eigenvalues)) / N
    per_slice = max(level / k, TRACY_WIDOM_LEVELS[-1])
    bound = variance * largest_of_noise(N, M, level=per_slice, n_matrices=k)
    levels = TRACY_WIDOM_LEVELS
    points = [largest_of_noise(N, M, level=p, n_matrices=k) for p in levels]
    reached = np.interp(shuffled.eigenvalues[-1] / variance, points, -np.log(levels))
    p_value = min(1.0, k * math.exp(-float(reached)))
    return Traps(int(np.count_nonzero(shuffled.eigenvalues > bound)), p_value)
