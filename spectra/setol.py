"""SETOL: the ERG (trace-log) condition and the tail it selects.

arXiv 2507.17912 (Martin & Hinrichs 2025), sections 3.2 and 6.3. Eigenvalues are taken in the units
where Σλ equals their number, λ̃ = λ n / Σλ, so that the condition det X̃ = 1 has a scale.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from spectra.conventions import HTSR, Convention, apply
from spectra.records import Spectrum, Status, TailFit, Vector
from spectra.tails import fit_tail

Matrix2D: TypeAlias = npt.NDArray[np.float64]
Slices: TypeAlias = npt.NDArray[np.floating]  # (n_matrices, rows, columns)


class ErgCut(NamedTuple):
    """The tail that meets the ERG condition: how many eigenvalues, and the smallest of them."""

    n_erg: int
    erg_xmin: float


def unit_scale(spectrum: Spectrum) -> float:
    """Return n / Σλ, the factor that brings eigenvalues to the units of the ERG condition."""
    return spectrum.eigenvalues.size / float(np.sum(spectrum.eigenvalues))


def erg_cut(eigenvalues: Vector) -> ErgCut:
    """Find the tail whose eigenvalues multiply to one.

    Going down from the largest, ln λ̃ is summed; the cut is at the first k where the sum is below
    zero, the crossing eigenvalue included (arXiv 2507.17912, eq. detX). By the inequality of the
    means that k exists unless all eigenvalues are equal; then the whole spectrum is the tail.

    Parameters
    ----------
    eigenvalues : ndarray of shape (n,)
        Ascending, not negative, not all zero; zeros count in n.

    Returns
    -------
    ErgCut
        ``erg_xmin`` is in the unit of `eigenvalues`.

    Raises
    ------
    ValueError
        If `eigenvalues` is empty or all zero.

    Notes
    -----
    A product of the eigenvalues themselves leaves the range of float64 above about 3,000 of them; a
    sum of logarithms does not. Plain version: ``tests/reference/setol.py``.

    Examples
    --------
    >>> import numpy as np
    >>> erg_cut(np.array([0.1, 0.1, 0.8, 3.0]))
    ErgCut(n_erg=3, erg_xmin=0.1)
    """
    descending = np.asarray(eigenvalues, dtype=np.float64)[::-1]
    if descending.size == 0 or descending[0] <= 0:
        raise ValueError("`eigenvalues` must hold at least one positive number")
    if descending[0] == descending[-1]:
        return ErgCut(descending.size, float(descending[0]))  # c_k = 0 for all k, but for rounding
    with np.errstate(divide="ignore"):  # ln 0 = -inf ends the tail, as it should
        log_det = np.cumsum(np.log(descending / np.mean(descending)))
    below = np.flatnonzero(log_det < 0)
    n_erg = int(below[0]) + 1 if below.size else descending.size
    return ErgCut(n_erg, float(descending[n_erg - 1]))


@functools.lru_cache(maxsize=4)
def cut_of(spectrum: Spectrum) -> ErgCut:
    """Return `erg_cut` of a spectrum, computed once."""
    return erg_cut(spectrum.eigenvalues)


def erg_log_det(spectrum: Spectrum, xmin: float) -> float:
    """Return Σ ln λ̃ over λ >= `xmin`: the residual of the ERG condition on the power-law tail.

    Zero where the power-law tail meets the condition; for a pure power law that is at
    λ̃_min = exp(-1/(alpha - 1)).
    """
    tail = spectrum.eigenvalues[spectrum.eigenvalues >= xmin]
    if tail.size == 0:
        return math.nan
    return float(np.sum(np.log(tail * unit_scale(spectrum))))


To: TypeAlias = Literal["erg", "power_law", "midpoint"]


def tail_size(spectrum: Spectrum, fit: TailFit, to: To = "erg") -> int:
    """Return how many of the largest eigenvalues a tail demarcation keeps.

    ``erg`` is the tail that meets the ERG condition, ``power_law`` the fitted one, ``midpoint`` half
    way between, rounded down (arXiv 2507.17912, section 6.2: the first keeps too much, the second
    too little, and they meet at alpha = 2).

    Examples
    --------
    >>> values = np.array([0.1, 0.1, 0.8, 3.0])
    >>> example = Spectrum(values, 4, 4, 1, 4.0, 0.0, "gram")
    >>> [tail_size(example, TailFit(n_tail=1), to) for to in ("erg", "power_law", "midpoint")]
    [3, 1, 2]
    """
    n_erg = cut_of(spectrum).n_erg
    return {"erg": n_erg, "power_law": fit.n_tail, "midpoint": (n_erg + fit.n_tail) // 2}[to]


def truncate(weights: Matrix2D, to: To = "erg", *, convention: Convention = HTSR) -> Matrix2D:
    """Return `weights` with only the components of its effective correlation space.

    The singular value decomposition cut to the tail that `to` names (arXiv 2507.17912, section 6.2).

    Parameters
    ----------
    weights : ndarray of shape (rows, columns)
        Finite, not all zero.
    to : {"erg", "power_law", "midpoint"}
        Which tail, see `tail_size`.
    convention : Convention
        Rules of the power-law fit.

    Returns
    -------
    ndarray of shape (rows, columns)
        float64, of rank `tail_size`.

    Raises
    ------
    ValueError
        If `weights` is no finite, non-zero matrix, or a power law is asked for and none can be fitted.

    Examples
    --------
    >>> truncate(np.diag([3.0, 1.0, 0.1]), "erg").round(3).tolist()
    [[3.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    kept = _tail_components(weights, to, convention)
    return (kept.left * kept.singular) @ kept.right


def keep_largest(slices: Slices, size: int) -> Slices:
    """Return the slices of one layer with the largest singular components of them all, `size` in number.

    The slices share one threshold, that of their pooled spectrum: of some nothing may be left. Of a
    single matrix and its `tail_size` this is `truncate`.

    Parameters
    ----------
    slices : ndarray of shape (n_matrices, rows, columns)
        Finite.
    size : int

    Returns
    -------
    ndarray of shape (n_matrices, rows, columns)
        float64.

    Examples
    --------
    >>> slices = np.array([np.diag([3.0, 0.1]), np.diag([2.0, 1.0])])
    >>> keep_largest(slices, 2).round(3).tolist()
    [[[3.0, 0.0], [0.0, 0.0]], [[2.0, 0.0], [0.0, 0.0]]]
    """
    matrices = np.asarray(slices, dtype=np.float64)
    left, singular, right = np.linalg.svd(matrices, full_matrices=False)
    kept = np.zeros(singular.shape, dtype=bool)
    # stable: of equal values in a slice the first are taken, so that what is kept leads
    kept.reshape(-1)[np.argsort(-singular, axis=None, kind="stable")[:size]] = True
    ranks = np.count_nonzero(kept, axis=1)
    return np.stack(
        [
            (u[:, :rank] * s[:rank]) @ vt[:rank]
            for u, s, vt, rank in zip(left, singular, right, ranks, strict=True)
        ]
    )


def projector(weights: Matrix2D, to: To = "erg", *, convention: Convention = HTSR) -> Matrix2D:
    """Return the projector onto the effective correlation space, in the columns of `weights`.

    P = Σ v vᵀ over the tail's right singular vectors, so that W P is the truncated matrix.
    Parameters and errors as for `truncate`.

    Examples
    --------
    >>> projector(np.diag([3.0, 1.0, 0.1])).round(3).diagonal().tolist()
    [1.0, 1.0, 0.0]
    """
    right = _tail_components(weights, to, convention).right
    return right.T @ right


class _Components(NamedTuple):
    left: Matrix2D
    singular: Vector
    right: Matrix2D


def _tail_components(weights: Matrix2D, to: To, convention: Convention) -> _Components:
    matrix = np.asarray(weights, dtype=np.float64)
    if matrix.ndim != 2 or not np.all(np.isfinite(matrix)) or not np.any(matrix):
        raise ValueError("`weights` must be a finite matrix that is not zero")
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    values = singular[::-1] ** 2
    N, M = max(matrix.shape), min(matrix.shape)
    raw = Spectrum(values, N, M, 1, float(np.sum(values)), 0.0, "svd")
    spectrum = apply(raw, "linear", convention)
    fit = TailFit() if to == "erg" else fit_tail(spectrum, convention=convention)
    if to != "erg" and fit.status is not Status.OK:
        raise ValueError(f"no power law can be fitted to `weights`: {fit.status}")
    size = tail_size(spectrum, fit, to)
    return _Components(left[:, :size], singular[:size], right[:size])


def free_cumulants(moments: Sequence[float]) -> list[float]:
    """Return the free cumulants κ_1 ... κ_k of a law with the moments m_1 ... m_k, k <= 5.

    They are the coefficients of the R-transform, R(z) = κ_1 + κ_2 z + κ_3 z² + ...
    (arXiv 2507.17912, section 5.6).

    Examples
    --------
    >>> free_cumulants([1, 1.5, 2.75, 5.625, 12.3125])  # Marchenko-Pastur with ratio 1/2
    [1.0, 0.5, 0.25, 0.125, 0.0625]
    """
    m1, m2, m3, m4, m5 = (*(float(m) for m in moments), *([0.0] * (5 - len(moments))))
    cumulants = [
        m1,
        m2 - m1**2,
        m3 - 3 * m2 * m1 + 2 * m1**3,
        m4 - 4 * m3 * m1 - 2 * m2**2 + 10 * m2 * m1**2 - 5 * m1**4,
        m5
        - 5 * m4 * m1
        + 15 * m3 * m1**2
        + 15 * m2**2 * m1
        - 35 * m2 * m1**3
        - 5 * m3 * m2
        + 14 * m1**5,
    ]
    return cumulants[: len(moments)]


def quality_cumulants(spectrum: Spectrum) -> float:
    """Return log10 of the layer quality Q by free cumulants; experimental.

    Q² = Σ_i G(x_i) over the ERG tail, G(x) = κ_1 x + κ_2 x²/2 + ... + κ_5 x⁵/5, x = λ̃/M̃ with λ̃ in
    units where Σλ̃ = n and M̃ the tail's size; the moments are those of x over the tail, not centred
    (docs/decisions/0014-layer-quality.md says where the paper leaves this open). Where one eigenvalue
    rules the tail the series diverges and its later terms are negative: it is then cut where its sum
    was last positive, which after the first term it always is.
    """
    x = _erg_tail(spectrum)
    x = x / x.size
    kappas = free_cumulants([float(np.mean(x**k)) for k in range(1, 6)])
    terms = [kappa / k * float(np.sum(x**k)) for k, kappa in enumerate(kappas, start=1)]
    sums = np.cumsum(terms)
    return 0.5 * math.log10(float(sums[sums > 0][-1]))


def quality_spikes(spectrum: Spectrum) -> float:
    """Return log10 of Q = Σ λ/Σ_all λ over the ERG tail: discrete spikes, the tail norm."""
    return math.log10(float(np.sum(_erg_tail(spectrum))) / spectrum.eigenvalues.size)


def quality_inverse_mp(spectrum: Spectrum, alpha: float) -> float:
    """Return log10 Q of the inverse Marchenko-Pastur model: Q² = κ Σ ln(λ/λ_min) over the ERG tail.

    κ from alpha by the paper's fit, alpha = 2.04 κ + 0.98. NaN where κ is not positive.
    """
    tail = _erg_tail(spectrum)
    kappa = (alpha - 0.98) / 2.04
    return _half_log10(kappa * float(np.sum(np.log(tail / tail[0]))))


def quality_levy(spectrum: Spectrum, alpha: float) -> float:
    """Return log10 of the Lévy-Wigner model's Q² = mean of λ̃^(alpha - 1) over the ERG tail."""
    tail = _erg_tail(spectrum)
    logs = (alpha - 1) * np.log(tail)
    top = float(np.max(logs))
    return (top + math.log(float(np.mean(np.exp(logs - top))))) / math.log(10)


def quality_cauchy(spectrum: Spectrum) -> float:
    """Return log10 Q of the free Cauchy model: Q² = Σ (λ̃ - λ̃_min) over the ERG tail, a = 1."""
    tail = _erg_tail(spectrum)
    return _half_log10(float(np.sum(tail - tail[0])))


def _half_log10(square: float) -> float:
    return 0.5 * math.log10(square) if square > 0 else math.nan


@functools.lru_cache(maxsize=4)
def _erg_tail(spectrum: Spectrum) -> Vector:
    """Return the tail that meets the ERG condition, ascending, in units where Σλ̃ = n."""
    cut = cut_of(spectrum)
    tail = spectrum.eigenvalues[spectrum.eigenvalues.size - cut.n_erg :]
    # A cut that ends at zero (a matrix of low rank) has no logarithm there.
    return np.asarray(tail[tail > 0] * unit_scale(spectrum))
