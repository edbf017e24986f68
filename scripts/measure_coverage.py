"""Measure how often alpha's 95 % interval holds the true exponent: python scripts/measure_coverage.py.

Samples as in Clauset, Shalizi & Newman (2009), section 3.4: a power law above xmin = 1, and below it
a body p(x) ∝ e^(-alpha (x - 1)) that joins it smoothly, so that xmin is not easily seen.
Prints the table of docs/uncertainty.md.
"""

import argparse

import numpy as np

from spectra.conventions import HTSR, apply
from spectra.records import Spectrum, Status
from spectra.tails import fit_tail

SIZES = (100, 300, 1000, 2000)
ALPHAS = (1.8, 2.5, 4.0, 6.0)


def sample(size: int, alpha: float, tail: float, rng: np.random.Generator) -> np.ndarray:
    n_tail = rng.binomial(size, tail)
    above = (1 - rng.random(n_tail)) ** (-1 / (alpha - 1))
    below = 1 - np.log1p(rng.random(size - n_tail) * np.expm1(alpha)) / alpha
    return np.sort(np.concatenate([np.maximum(below, 1e-6), above]))


def coverage(size, alpha, tail, replicates, trials, rng):
    hits, estimates, widths = 0, [], []
    for _ in range(trials):
        x = sample(size, alpha, tail, rng)
        raw = Spectrum(x, size, size, 1, float(x.sum()), 0.0, "gram")
        fit = fit_tail(apply(raw, "linear", HTSR), replicates=replicates, rng=rng)
        if fit.status is not Status.OK:
            raise SystemExit(f"no fit at n = {size}, alpha = {alpha}")
        hits += fit.alpha_low <= alpha <= fit.alpha_high
        estimates.append(fit.alpha)
        widths.append(fit.alpha_high - fit.alpha_low)
    return hits / trials, float(np.mean(estimates)), float(np.median(widths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=20)
    parser.add_argument("--tail", type=float, default=0.4, help="share of the sample above xmin")
    args = parser.parse_args()
    rng = np.random.default_rng(20261123)
    print("| n | true alpha | coverage | mean estimate | median width |")
    print("| --- | --- | --- | --- | --- |")
    for size in SIZES:
        for alpha in ALPHAS:
            share, mean, width = coverage(size, alpha, args.tail, args.replicates, args.trials, rng)
            print(f"| {size} | {alpha} | {share:.1%} | {mean:.2f} | {width:.2f} |", flush=True)


if __name__ == "__main__":
    main()
