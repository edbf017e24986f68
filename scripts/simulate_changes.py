"""How often is a change of rate called where there is none, and where there is one?

Prints the table of docs/decisions/0026-histories.md.

    python scripts/simulate_changes.py
"""

from collections.abc import Callable

import numpy as np

from spectra.trajectories.changes import best_splits

REPEATS = 400
PERMUTATIONS = 399
SIZES = (8, 12, 20, 40)
Series = Callable[[int], np.ndarray]


def cases(rng: np.random.Generator) -> dict[str, Series]:
    """Return the series, as functions of how many points they have."""

    def lasting(n: int, share: float) -> np.ndarray:
        noise = rng.normal(size=n)
        for i in range(1, n):
            noise[i] += share * noise[i - 1]
        return 0.1 * noise

    def bent(n: int, begin: float, middle: float, end: float, noise: float) -> np.ndarray:
        line = np.interp(np.arange(n), [0, (n - 1) / 2, n - 1], [begin, middle, end])
        return line + noise * rng.normal(size=n)

    def exponential(n: int) -> np.ndarray:
        return 2 + 2 * np.exp(-4 * np.arange(n) / n) + 0.05 * rng.normal(size=n)

    return {
        "line and white noise": lambda n: -0.1 * np.arange(n) + 0.1 * rng.normal(size=n),
        "line and noise that lasts (AR 0.7)": lambda n: -0.1 * np.arange(n) + lasting(n, 0.7),
        "random walk with drift": lambda n: np.cumsum(rng.normal(-0.1, 0.1, n)),
        "the same, t of 3 degrees": lambda n: np.cumsum(-0.1 + 0.1 * rng.standard_t(3, n)),
        "random walk with momentum": lambda n: np.cumsum(-0.1 + lasting(n, 0.5)),
        "falls by 2, then rests; noise 0.1": lambda n: bent(n, 4, 2, 2, 0.1),
        "falls by 2, then rests; noise 0.05": lambda n: bent(n, 4, 2, 2, 0.05),
        "exponential to its limit; noise 0.05": exponential,
        "rests, then falls by 1; noise 0.05": lambda n: bent(n, 3, 3, 2, 0.05),
    }


def share_called(make: Series, n: int, rng: np.random.Generator) -> float:
    """Return how often a change is called at the level of 5 %."""
    called = 0
    for _ in range(REPEATS):
        [found] = best_splits(range(n), make(n)[None, :], rng, n=PERMUTATIONS)
        called += found is not None and found.p_value <= 0.05
    return called / REPEATS


def main() -> None:
    rng = np.random.default_rng(1)
    print("| series |", " | ".join(f"{n} points" for n in SIZES), "|")
    for name, make in cases(rng).items():
        print(f"| {name} |", " | ".join(f"{share_called(make, n, rng):.3f}" for n in SIZES), "|")


if __name__ == "__main__":
    main()
