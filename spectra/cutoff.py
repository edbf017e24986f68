"""The power law with exponential cut-off, ρ(u) ∝ u^-alpha e^(-b u) for u >= 1: its likelihood."""

import functools
import math
from typing import NamedTuple

import numpy as np

from spectra.records import Vector

NEWTON_STEPS = 60
MIN_CUTOFF = 1e-7
"""Of b = rate · xmin: below, a cut-off shows in no spectrum."""
MAX_CUTOFF = 100.0
"""Above, the law falls off within a hundredth of xmin: no power law is left to be cut off."""
QUADRATURE = 120


class CutoffFit(NamedTuple):
    """Exponent, cut-off b in units of xmin, the exponent's standard error, and the KS distance."""

    alpha: float
    b: float
    alpha_stderr: float
    ks: float


def fit_cutoff(u: Vector, alpha: float) -> CutoffFit | None:
    """Find the maximum of the likelihood in both parameters.

    The law is an exponential family in (alpha, b) with the statistics ln u and u, so its likelihood
    is concave, and damped Newton steps find the one maximum on b >= 0. alpha may fall below 1: the
    cut-off makes it a law all the same.

    Parameters
    ----------
    u : ndarray of shape (k,)
        Tail over xmin, ascending from 1.
    alpha : float
        Where to start: the exponent without a cut-off.

    Returns
    -------
    CutoffFit or None
        ``None`` when the data want no cut-off, so that the pure power law is the maximum, or one so
        near xmin that alpha means nothing.
    """
    seen = np.array([np.mean(np.log(u)), np.mean(u)])
    theta = np.array([alpha, 1e-3])
    for _ in range(NEWTON_STEPS):
        log_z, mean, covariance = _moments(theta)
        gradient = mean - seen  # of the log-likelihood per eigenvalue
        if theta[1] <= MIN_CUTOFF and gradient[1] < 0:
            return None
        try:
            step = np.linalg.solve(covariance, gradient)
        except np.linalg.LinAlgError:
            return None  # a tail so narrow that ln u and u are the same statistic
        if not np.all(np.isfinite(step)):
            return None
        scale, value = 1.0, -float(theta @ seen) - log_z
        trial = theta
        while scale > 1e-8:
            trial = theta + scale * step
            trial[1] = max(trial[1], MIN_CUTOFF)
            if -float(trial @ seen) - _moments(trial)[0] >= value:
                break
            scale /= 2
        moved = float(np.max(np.abs(trial - theta)))
        theta = trial
        if moved < 1e-10:
            break
    if not MIN_CUTOFF < theta[1] < MAX_CUTOFF:
        return None
    (v_log, both), (_, v_u) = _moments(theta)[2]
    determinant = v_log * v_u - both**2
    if not determinant > 0:
        return None
    error = math.sqrt(v_u / determinant / u.size)  # the inverse Fisher information of alpha
    return CutoffFit(float(theta[0]), float(theta[1]), error, _distance(u, theta))


@functools.cache
def _gauss_legendre(n: int) -> tuple[Vector, Vector]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return nodes, weights


def _grid(theta: Vector) -> tuple[Vector, Vector]:
    """Return nodes t = ln u and weights that cover u^-alpha e^(-b u) down to e^-40 of its start."""
    alpha, b = float(theta[0]), float(theta[1])
    # As far as either factor of e^((1 - alpha) t - b e^t) reaches; steep laws end early.
    top = min(math.log1p(40 / b), 40 / max(alpha - 1 + b, 1e-12))
    nodes, weights = _gauss_legendre(QUADRATURE)
    return (nodes + 1) * top / 2, weights * top / 2


def _moments(theta: Vector) -> tuple[float, Vector, Vector]:
    """Return ln Z = ln ∫_1^∞ u^-alpha e^(-b u) du, and mean and covariance of (ln u, u)."""
    t, weights = _grid(theta)
    u = np.exp(t)
    exponents = (1 - theta[0]) * t - theta[1] * u
    top = float(exponents.max())
    mass = weights * np.exp(exponents - top)
    total = float(mass.sum())
    both = np.stack([t, u])  # (2, nodes)
    mean = both @ mass / total
    centred = both - mean[:, None]
    return math.log(total) + top, mean, (centred * mass) @ centred.T / total


def _distance(u: Vector, theta: Vector) -> float:
    """KS distance of the truncated law, to the lower steps of the data as for `csn`."""
    t = np.linspace(0, max(math.log(float(u[-1])), 1e-12), 4001)
    density = np.exp((1 - theta[0]) * t - theta[1] * np.exp(t) - _moments(theta)[0])
    steps = (density[1:] + density[:-1]) / 2 * np.diff(t)
    cdf = np.interp(np.log(u), t, np.concatenate([[0.0], np.cumsum(steps)]))
    return float(np.max(np.abs(cdf - np.arange(u.size) / u.size)))
