"""Layer-wise control as the papers have it: loops and formulas, written from them."""

import math

import numpy as np


def slices_of(kernel):
    """The matrices of a convolution, one a position, each times √0.5; of a matrix, itself."""
    kernel = np.asarray(kernel, np.float64)
    if kernel.ndim == 2:
        return [kernel]
    out, into, height, width = kernel.shape
    return [
        np.array([[kernel[o, i, y, x] for i in range(into)] for o in range(out)]) * math.sqrt(0.5)
        for y in range(height)
        for x in range(width)
    ]


def pl_alpha_hill(kernel):
    """TempBalance: Hill's estimator whose xmin is eigenvalue n/2 of all slices together."""
    values = []
    for matrix in slices_of(kernel):
        values += [s * s for s in np.linalg.svd(matrix, compute_uv=False)]
    values.sort()
    n = len(values)
    i = int(n / 2)
    k = n - i
    return 1 + k / sum(math.log(values[j] / values[i]) for j in range(i, n))


def linear(alphas, low, high):
    least, most = min(alphas), max(alphas)
    return [low + (a - least) * (high - low) / (most - least) for a in alphas]


def over_mean(alphas, f):
    return [f(a) * len(alphas) / sum(f(b) for b in alphas) for a in alphas]


def step(alphas, low, high):
    """The i-th smallest of n distinct alphas gets low + (high - low) i/n."""
    order = sorted(alphas)
    return [low + (high - low) * order.index(a) / len(alphas) for a in alphas]


def sigmoid(alphas, blocks):
    """AlphaDecay: each alpha standardised by its block, through 2 / (1 + e^(-4z))."""
    found = []
    for a, block in zip(alphas, blocks, strict=True):
        mates = [b for b, other in zip(alphas, blocks, strict=True) if other == block]
        found.append(2 / (1 + math.exp(-4 * (a - np.mean(mates)) / np.std(mates))))
    return found


def ramp(old, new, length):
    """LLR: the rates of the calls after a measurement, in equal parts from the old to the new."""
    return [old + (new - old) * min(k, length) / length for k in range(1, 2 * length)]
