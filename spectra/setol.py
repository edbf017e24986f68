"""SETOL: the ERG (trace-log) condition and the tail it selects.

arXiv 2507.17912 (Martin & Hinrichs 2025), sections 3.2 and 6.3. Eigenvalues are taken in the units
where Σλ equals their number, λ̃ = λ n / Σλ, so that the condition det X̃ = 1 has a scale.
"""

import math
from typing import NamedTuple

import numpy as np

from spectra.records import Spectrum, Vector


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


def erg_log_det(spectrum: Spectrum, xmin: float) -> float:
    """Return Σ ln λ̃ over λ >= `xmin`: the residual of the ERG condition on the power-law tail.

    Zero where the power-law tail meets the condition; for a pure power law that is at
    λ̃_min = exp(-1/(alpha - 1)).
    """
    tail = spectrum.eigenvalues[spectrum.eigenvalues >= xmin]
    if tail.size == 0:
        return math.nan
    return float(np.sum(np.log(tail * unit_scale(spectrum))))
