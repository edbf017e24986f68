"""The synthetic matrices of the WeightWatcher reference file, by the recipe it states."""

import numpy as np


def synthetic(case):
    draw = np.random.RandomState(case["seed"])
    shape, kind = case["shape"], case["kind"]
    normal = draw.standard_normal(shape)
    if kind == "studentt":
        weights = 0.05 * draw.standard_t(2.5, shape)
    elif kind == "spiked":
        n, m = shape
        k = min(n, m) // 4
        u, v = draw.standard_normal((n, k)), draw.standard_normal((k, m))
        weights = 0.05 * normal + 0.05 * (u * np.arange(1, k + 1) ** -0.7) @ v
    elif kind == "lowrank":
        n, m = shape
        weights = 0.1 * draw.standard_normal((n, 5)) @ draw.standard_normal((5, m))
    else:
        weights = {"gauss": 0.05, "tiny": 1e-3, "zero": 0.0}[kind] * normal
    return weights.astype(np.float32)


def with_eigenvalues(eigenvalues, n_rows, rng):
    """Build W (n_rows × M) whose WᵀW has exactly these eigenvalues: U diag(√λ) Vᵀ."""
    m = len(eigenvalues)
    u, _ = np.linalg.qr(rng.standard_normal((n_rows, m)))
    v, _ = np.linalg.qr(rng.standard_normal((m, m)))
    return (u * np.sqrt(eigenvalues)) @ v.T


def pareto(alpha, size, rng):
    """Draw eigenvalues from p(x) ∝ x^-alpha, x >= 1, ascending."""
    return np.sort((1 - rng.random(size)) ** (-1 / (alpha - 1)))


def marchenko_pastur_quantiles(size, ratio=1.0):
    """Return mid-point quantiles of the Marchenko-Pastur law with M/N = `ratio`, variance 1."""
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    # x = mean of the edges + half width · cos t makes the density smooth, so a fine grid is exact.
    t = np.linspace(np.pi, 0, 2_000_001)
    x = (low + high) / 2 + (high - low) / 2 * np.cos(t)
    inside = np.maximum((high - x) * (x - low), 0)
    weight = np.sqrt(inside) / np.maximum(x, 1e-300) * np.abs(np.sin(t))
    steps = (weight[1:] + weight[:-1]) / 2
    cdf = np.concatenate([[0.0], np.cumsum(steps)])
    return np.interp((np.arange(size) + 0.5) / size, cdf / cdf[-1], x)
