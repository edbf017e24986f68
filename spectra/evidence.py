"""Evidence beside the numbers: nulls of the same shape, traps, goodness of fit, other families.

Each costs more than the layer's own decomposition, so it is computed on request (``--metrics all``).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from spectra import conventions, engine, rmt, tails
from spectra.conventions import Convention
from spectra.records import Matrix, Spectrum, Status, TailFit, Value, Vector

N_SHUFFLED = 5
GOF_SAMPLES = 200
N_NOISE = 25
WINSOR = 5.0
"""Entries are clipped at this many standard deviations to see whether a few huge ones make a trap."""

Read = Callable[[Matrix], engine.Stack]

COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "alpha_null": "mean alpha of Gaussian matrices of the same shape, same estimator",
        "alpha_null_sd": "their standard deviation",
        "alpha_z": "(alpha - alpha_null) / alpha_null_sd",
        "alpha_shuffled": "mean alpha of the same entries shuffled",
        "n_traps": "eigenvalues of the shuffled matrix above its Tracy-Widom bound (median of 5)",
        "trap_p": "chance of the largest of them in noise (median of 5)",
        "trap_mean_share": "share of the largest trap's excess that goes with the mean of W",
        "trap_entries_share": "share that goes with entries beyond 5 standard deviations",
        "rand_distance": "Wasserstein distance to the shuffled matrix's spectrum, over the mean",
        "gof_p": "share of power-law samples, refitted, that are as far from their fit as the data",
        "alpha_truncated": "alpha of a power law with exponential cut-off at the same xmin",
        "cutoff_rate": "rate of that cut-off, per unit of λ",
        "lr_lognormal": "log-likelihood ratio against a lognormal, normalised; below 0 it is better",
        "lr_exponential": "the same against an exponential",
        "lr_truncated": "the same against the power law with cut-off",
    }
)


def gather(
    matrix: Matrix,
    spectrum: Spectrum,
    fit: TailFit,
    read: Read,
    rules: Convention,
    rng: np.random.Generator,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Value]:
    """Gather every column of ``COLUMNS`` for one layer.

    Parameters
    ----------
    matrix : Matrix
    spectrum : Spectrum
        As the fit saw it, with the convention applied.
    fit : TailFit
        With status ``ok``.
    read : callable
        Gives the layer's stack once more.
    rules : Convention
    rng : numpy.random.Generator
        Of this layer.
    seed : int
        Of the null that layers of one shape share.
    device : str
        Where shuffled matrices are decomposed.

    Returns
    -------
    dict of str to float
    """
    kept = spectrum.eigenvalues[spectrum.eigenvalues > spectrum.cutoff]
    mean, sd = null_alpha(matrix.N, matrix.M, matrix.n_matrices, rules, fit.estimator, seed)
    nulls = {"alpha_null": mean, "alpha_null_sd": sd, "alpha_z": (fit.alpha - mean) / sd}
    try:
        shuffled = _shuffled(matrix, spectrum, fit.estimator, read, rules, rng, device)
    except ArithmeticError:  # a shuffled matrix that no solver solves; the layer's numbers stand
        shuffled = {}
    p = goodness_of_fit(kept, fit, rules, rng, samples=GOF_SAMPLES)
    found = nulls | shuffled | {"gof_p": p} | other_families(kept, fit)
    return {column: found.get(column, math.nan) for column in COLUMNS}


@functools.lru_cache(maxsize=512)
def null_alpha(
    N: int, M: int, n_matrices: int, rules: Convention, estimator: str, seed: int = 0
) -> tuple[float, float]:
    """Return mean and standard deviation of alpha over Gaussian matrices of one shape.

    Computed once a shape, by the bidiagonal model; NaN where noise cannot be fitted.
    """
    rng = np.random.default_rng([seed, N, M, n_matrices])
    alphas = []
    for _ in range(N_NOISE):
        values = rmt.noise_spectrum(N, M, n_matrices, rng)
        raw = Spectrum(values, N, M, n_matrices, float(values.sum()), 0.0, "noise")
        fit = tails.fit_tail(
            conventions.apply(raw, "linear", rules), convention=rules, estimator=estimator
        )
        if fit.status is Status.OK:
            alphas.append(fit.alpha)
    if len(alphas) < 2:
        return math.nan, math.nan
    return float(np.mean(alphas)), float(np.std(alphas, ddof=1))


def goodness_of_fit(
    eigenvalues: Vector, fit: TailFit, rules: Convention, rng: np.random.Generator, *, samples: int
) -> float:
    """Return the p-value of the power law: how often its own samples fit as badly as the data.

    The semi-parametric bootstrap of Clauset, Shalizi & Newman (2009), section 4.1: an eigenvalue is
    drawn from the fitted law with the tail's share, else from the data below xmin; xmin is chosen
    anew in every sample. Below 0.1 the power law is ruled out.

    Parameters
    ----------
    eigenvalues : ndarray of shape (n,)
        Ascending, those that were fitted.
    fit : TailFit
    rules : Convention
    rng : numpy.random.Generator
    samples : int

    Returns
    -------
    float
    """
    below = eigenvalues[eigenvalues < fit.xmin]
    n, worse, done = eigenvalues.size, 0, 0
    estimate = tails.ESTIMATORS[fit.estimator]
    for _ in range(samples):
        n_tail = n if below.size == 0 else int(rng.binomial(n, 1 - below.size / n))
        law = fit.xmin * (1 - rng.random(n_tail)) ** (-1 / (fit.alpha - 1))
        body = rng.choice(below, n - n_tail) if n > n_tail else below[:0]
        again = estimate(np.sort(np.concatenate([body, law])), rules)
        if again.status is Status.OK:
            done += 1
            worse += again.ks >= fit.ks
    return worse / done if done else math.nan


def other_families(eigenvalues: Vector, fit: TailFit) -> dict[str, Value]:
    """Compare the power law with other families on the same tail, through the powerlaw package.

    Positive ratios favour the power law; the ratio is normalised by its standard deviation
    (Vuong's test), so beyond ±2 it is decided. For ``lr_truncated``, which contains the power law,
    it cannot be positive but for rounding.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import powerlaw

        # By default the package caps alpha at 3 without a word.
        free = {"alpha": [1, None]}
        other = powerlaw.Fit(
            eigenvalues, xmin=fit.xmin, xmax=None, parameter_ranges=free, verbose=0
        )
        ratios = {
            "lr_lognormal": "lognormal",
            "lr_exponential": "exponential",
            "lr_truncated": "truncated_power_law",
        }
        found: dict[str, Value] = {}
        for column, family in ratios.items():
            nested = family == "truncated_power_law"
            ratio, _ = other.distribution_compare(
                "power_law", family, nested=nested, normalized_ratio=True
            )
            found[column] = float(ratio)
        found["alpha_truncated"] = float(other.truncated_power_law.parameter1)
        found["cutoff_rate"] = float(other.truncated_power_law.parameter2)
    return found


def _shuffled(
    matrix: Matrix,
    spectrum: Spectrum,
    estimator: str,
    read: Read,
    rules: Convention,
    rng: np.random.Generator,
    device: str,
) -> dict[str, Value]:
    """See what is left when the entries of W are shuffled, and where traps come from."""
    stack = np.asarray(read(matrix), np.float64)
    replicas = [
        _decomposed(rng.permutation(stack.reshape(-1)).reshape(stack.shape), matrix, rules, device)
        for _ in range(N_SHUFFLED)
    ]
    traps = [rmt.find_traps(replica) for replica in replicas]
    fits = [tails.fit_tail(r, convention=rules, estimator=estimator) for r in replicas]
    alphas = [f.alpha for f in fits if f.status is Status.OK]
    scale = float(np.mean(spectrum.eigenvalues))
    distances = [
        float(np.mean(np.abs(spectrum.eigenvalues - replica.eigenvalues))) / scale
        for replica in replicas
    ]
    n_traps = int(np.median([trap.n_traps for trap in traps]))
    found: dict[str, Value] = {
        "alpha_shuffled": float(np.mean(alphas)) if alphas else math.nan,
        "n_traps": n_traps,
        "trap_p": float(np.median([trap.p_value for trap in traps])),
        "trap_mean_share": 0.0,
        "trap_entries_share": 0.0,
        "rand_distance": float(np.mean(distances)),
    }
    if n_traps:
        order = rng.permutation(stack.size)
        centred = stack - stack.mean()
        limit = WINSOR * _robust_sd(centred)
        clipped = np.clip(stack, stack.mean() - limit, stack.mean() + limit)
        whole = _excess(stack, order, matrix, rules, device)
        for column, without in (("trap_mean_share", centred), ("trap_entries_share", clipped)):
            left = _excess(without, order, matrix, rules, device)
            found[column] = float(np.clip(1 - left / whole, 0, 1)) if whole > 0 else 0.0
    return found


def _excess(
    stack: Vector, order: np.ndarray, matrix: Matrix, rules: Convention, device: str
) -> float:
    """Return how far the largest eigenvalue of a shuffled matrix stands above the noise edge."""
    shuffled = stack.reshape(-1)[order].reshape(stack.shape)
    spectrum = _decomposed(shuffled, matrix, rules, device)
    variance = float(np.mean(spectrum.eigenvalues)) / matrix.N
    return float(spectrum.eigenvalues[-1]) - rmt.edge(matrix.N, matrix.M, variance)


def _robust_sd(values: Vector) -> float:
    """Return the standard deviation that the median absolute deviation of a Gaussian implies."""
    return 1.4826 * float(np.median(np.abs(values)))


def _decomposed(stack: Vector, matrix: Matrix, rules: Convention, device: str) -> Spectrum:
    batch = engine.plan([dataclasses.replace(matrix, nbytes=stack.nbytes)])
    ((_, outcome),) = engine.decompose(batch, lambda _: stack, device=device)
    if isinstance(outcome, engine.Failure):
        raise ArithmeticError(f"{matrix.name}, shuffled: {outcome.reason}")  # noqa: TRY004
    return conventions.apply(outcome, matrix.kind, rules)
