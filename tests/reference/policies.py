"""Policies as the papers and their programs have them: loops, written from the formulas."""

import math

import numpy as np


def alphapruning(alphas, sizes, per_block, target, spread):
    """One ratio a matrix: block means mapped to 1 ± spread, scaled so that the weighted mean is target."""
    starts = range(0, len(alphas), per_block)
    means = [sum(alphas[i : i + per_block]) / per_block for i in starts]
    scores = [mean for mean in means for _ in range(per_block)]
    low, high = 1 - spread, 1 + spread
    ratios = [(s - min(scores)) / (max(scores) - min(scores)) * (high - low) + low for s in scores]
    scale = sum(sizes) * target / sum(n * r for n, r in zip(sizes, ratios, strict=True))
    return [ratio * scale for ratio in ratios]


def spectrum_snr(matrix):
    """Spectrum: singular values over a threshold of quartiles against the rest, by the largest."""
    values = list(np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False))
    rows, columns = matrix.shape
    beta = min(rows, columns) / max(rows, columns)
    sigma = (np.percentile(values, 75) - np.percentile(values, 25)) / 1.349
    threshold = sigma * math.sqrt((1 + math.sqrt(beta)) ** 2)
    signal = sum(v for v in values if v > threshold)
    noise = sum(v for v in values if v <= threshold)
    return signal / noise / max(values)


def spectrum_top(scores_by_type, fraction):
    """Of each type the first n · fraction, rounded down, best first."""
    chosen = []
    for scores in scores_by_type.values():
        best = sorted(scores, key=scores.get, reverse=True)
        chosen += best[: math.floor(len(best) * fraction)]
    return chosen


def dhondt(tails, costs, budget, lowest, highest):
    """Hand out ranks one by one, each time over all layers, to the most tail per rank that fits."""
    ranks = [lowest] * len(tails)
    while True:
        left = budget - sum(rank * cost for rank, cost in zip(ranks, costs, strict=True))
        fitting = [i for i, c in enumerate(costs) if c <= left and ranks[i] < highest[i]]
        if not fitting:
            return ranks
        ranks[max(fitting, key=lambda i: (tails[i] / (ranks[i] + 1), -ranks[i], -i))] += 1
