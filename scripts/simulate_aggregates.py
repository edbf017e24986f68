"""Which average over layers orders two models best? Prints the table of docs/validation.md.

Layers have true exponents scattered about a centre, estimates scatter about those as maximum likelihood
on 12 to 150 eigenvalues does (gamma-distributed tail indices), and the second model's alpha - 1 is 15 %
larger throughout. Some layers are noise (alpha from 6 to 18, whatever the model) or sunk (1.1 to 1.7).
Layers of the two models share what is particular to their place (paired) or do not.

    python scripts/simulate_aggregates.py
"""

import numpy as np
from scipy import stats

REPEATS = 1500
SHIFT = 0.15
SPOILED = {"clean": (0, 0), "15 % noise": (0.15, 0), "30 % noise": (0.3, 0), "10 % noise, 10 % sunk": (0.1, 0.1), "15 % sunk": (0, 0.15)}  # fmt: skip
AVERAGES = {
    "mean": lambda a: a.mean(-1),
    "median": lambda a: np.median(a, -1),
    "mean of the middle half": lambda a: stats.trim_mean(a, 0.25, axis=-1),
    "tail index, mean": lambda a: -np.mean(1 / (a - 1), -1),
    "tail index, at most 1, mean": lambda a: -np.mean(np.minimum(1 / (a - 1), 1), -1),
    "tail index, mean of the middle half": lambda a: -stats.trim_mean(1 / (a - 1), 0.25, axis=-1),
}


def pairs(
    rng, n_layers: int, centre: float, noise: float, sunk: float, *, paired: bool
) -> np.ndarray:
    """Draw the alphas of two models, shape (REPEATS, 2, n_layers)."""
    shared, own = (0.35, 0.15) if paired else (0.0, 0.38)
    logs = np.log(centre - 1) + rng.normal(0, shared, (REPEATS, 1, n_layers))
    logs = logs + rng.normal(0, own, (REPEATS, 2, n_layers)) + np.array([0, SHIFT])[None, :, None]
    n_tail = np.exp(rng.uniform(np.log(12), np.log(150), (REPEATS, 1, n_layers)))
    alpha = 1 + np.exp(logs) / rng.gamma(n_tail, 1 / n_tail, logs.shape)
    kind = rng.random((REPEATS, 1, n_layers))
    alpha = np.where(kind < noise, rng.uniform(6, 18, alpha.shape), alpha)
    return np.where(kind > 1 - sunk, rng.uniform(1.1, 1.7, alpha.shape), alpha)


def main() -> None:
    rng = np.random.default_rng(20261125)
    right: dict[str, dict[str, list[float]]] = {name: {} for name in AVERAGES}
    for spoiled, (noise, sunk) in SPOILED.items():
        for centre in (2.4, 3.0, 4.0):
            for n_layers in (8, 24, 60):
                for paired in (True, False):
                    alpha = pairs(rng, n_layers, centre, noise, sunk, paired=paired)
                    for name, average in AVERAGES.items():
                        share = np.mean(average(alpha[:, 0]) < average(alpha[:, 1]))
                        right[name].setdefault(spoiled, []).append(float(share))
    print(f"| average | {' | '.join(SPOILED)} |")
    print(f"| --- |{' --- |' * len(SPOILED)}")
    for name, shares in right.items():
        cells = " | ".join(f"{np.mean(shares[spoiled]):.3f}" for spoiled in SPOILED)
        print(f"| {name} | {cells} |")


if __name__ == "__main__":
    main()
