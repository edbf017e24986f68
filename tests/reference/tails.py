"""The power-law fit as the paper has it: two nested loops, no shortcut."""

import math


def fit_power_law(eigenvalues, min_tail=10):
    """Return (alpha, xmin, ks, n_tail) of Clauset, Shalizi & Newman, sections 3.1 and 3.3."""
    x = [float(value) for value in eigenvalues]
    best = None
    for start in range(len(x) - min_tail + 1):
        if start and x[start] == x[start - 1]:
            continue  # the tail of a value begins at the first of its equals
        tail = x[start:]
        k = len(tail)
        total = math.fsum(math.log(value / tail[0]) for value in tail)
        if total <= 0:
            continue
        alpha = 1 + k / total  # eq. 3.1
        ks = max(
            abs(1 - (value / tail[0]) ** (1 - alpha) - below / k)
            for below, value in enumerate(tail)
        )
        if best is None or ks < best[2]:
            best = (alpha, tail[0], ks, k)
    return best
