"""The Tracy-Widom law from Painlevé's equation, and the spike count written out from its papers."""

import functools
import math

import numpy as np
from scipy.integrate import quad, solve_ivp
from scipy.special import airy

from tests.reference.matrices import marchenko_pastur_quantiles


@functools.cache
def tracy_widom():
    """Return (s, survival function, F''/F') of the law for real matrices, by q'' = sq + 2q³."""
    start = 8.0
    tails = [
        airy(start)[0],
        airy(start)[1],
        quad(lambda x: airy(x)[0] ** 2, start, 30)[0],
        quad(lambda x: (x - start) * airy(x)[0] ** 2, start, 30)[0],
        quad(lambda x: airy(x)[0], start, 30)[0],
    ]

    def slopes(s, y):
        q, dq, square, moment, _ = y
        del moment
        return [dq, s * q + 2 * q**3, -q * q, -square, -q]

    solved = solve_ivp(
        slopes, (start, -6), tails, method="DOP853", rtol=1e-13, atol=1e-15, dense_output=True
    )
    s = np.linspace(-6, 8, 100_001)
    q, dq, square, moment, single = solved.sol(s)
    survival = -np.expm1(-(moment + single) / 2)
    rate = (square + q) / 2  # F'/F
    bend = rate + (dq - q * q) / 2 / rate  # F''/F'
    return s, survival, bend


def quantile(level):
    s, survival, _ = tracy_widom()
    return float(np.interp(math.log(level), np.log(survival[::-1]), s[::-1]))


def bend(level):
    s, _, values = tracy_widom()
    return float(np.interp(quantile(level), s, values))


def bulk(lam, n_rows, n_columns, level=0.01):
    """Return (lambda_plus, n_spikes) of one matrix's eigenvalues."""
    a, b = math.sqrt(n_rows - 1), math.sqrt(n_columns)
    centre, scale = (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)
    edge = (math.sqrt(n_rows) + math.sqrt(n_columns)) ** 2
    variance = lam.sum() / (n_rows * n_columns)
    shift = (centre / scale) ** 2 / (n_rows * n_columns) * bend(level)
    if max(lam) <= variance * (centre + scale * (quantile(level) + shift)):
        return variance * edge, 0
    law = marchenko_pastur_quantiles(100_001, n_columns / n_rows)
    variance = np.median(lam) / (np.median(law) * n_rows)
    return variance * edge, sum(lam > variance * (centre + scale * quantile(level)))
