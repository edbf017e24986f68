"""Evidence beside the numbers: nulls of the same shape, traps, goodness of fit, other families.

Each costs more than the layer's own decomposition, so it is computed on request (``--metrics all``).
"""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from spectra import conventions, engine, rmt, setol, tails, traps
from spectra.conventions import Convention
from spectra.errors import CheckpointError
from spectra.records import Matrix, Spectrum, Status, TailFit, Value, Vector
from spectra.traps import Solve

N_SHUFFLED = 5
GOF_SAMPLES = 200
DECIDED = 2.0  # standard deviations of a log-likelihood ratio
FARMS_SIDE = 128
FARMS_BLOCKS = 64
N_NOISE = 25
NOISE = 1
"""Raised with every change of how noise is drawn: what was stored of it is then not found."""


@dataclass(frozen=True, slots=True)
class Column:
    """What a column of evidence holds in words; whether that is a count, an integer in tables."""

    summary: str
    count: bool = False


COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        "alpha_null": Column("mean alpha of Gaussian matrices of the same shape, same estimator"),
        "alpha_null_sd": Column("their standard deviation"),
        "alpha_z": Column("(alpha - alpha_null) / alpha_null_sd"),
        "n_erg_null": Column("mean n_erg of those matrices"),
        "delta_lambda_min_null": Column("their mean delta_lambda_min"),
        "delta_lambda_min_null_sd": Column("its standard deviation"),
        "alpha_near_low": Column("least alpha over tails whose ks is within 10 % of the least"),
        "alpha_near_high": Column("largest alpha over those tails"),
        "alpha_farms": Column(
            "alpha (hill_mid) of pooled square sub-matrices, free of the aspect ratio"
        ),
        "alpha_farms_sd": Column("standard deviation of alpha over single sub-matrices"),
        "alpha_shuffled": Column("mean alpha of the same entries shuffled"),
        "n_traps": Column(
            "eigenvalues of the shuffled matrix above its Tracy-Widom bound (median of 5)",
            count=True,
        ),
        "trap_p": Column("chance of the largest of them in noise (median of 5)"),
        "trap_mean_share": Column(
            "share of the largest trap's excess that goes with the mean of W"
        ),
        "trap_entries_share": Column("share that goes with entries beyond 5 standard deviations"),
        "rand_distance": Column(
            "Wasserstein distance to the shuffled matrix's spectrum, over the mean"
        ),
        "shuffled_distance": Column("largest such distance between two shuffled copies"),
        "gof_p": Column(
            "share of power-law samples, refitted, that are as far from their fit as the data"
        ),
        "alpha_truncated": Column("alpha of a power law with exponential cut-off at the same xmin"),
        "truncated_rate": Column("rate of that cut-off, per unit of λ"),
        "lr_lognormal": Column(
            "log-likelihood ratio against a lognormal, normalised; below 0 it is better"
        ),
        "lr_exponential": Column("the same against an exponential"),
        "lr_truncated": Column("the same against the power law with cut-off"),
    }
)


def gather(
    matrix: Matrix,
    spectrum: Spectrum,
    fit: TailFit,
    read: engine.Read | None,
    rules: Convention,
    rng: np.random.Generator,
    *,
    seed: int = 0,
    device: str = "cpu",
    store: engine.Store | None = None,
) -> dict[str, Value]:
    """Gather every column of ``COLUMNS`` for one layer.

    Parameters
    ----------
    matrix : Matrix
    spectrum : Spectrum
        As the fit saw it, with the convention applied.
    fit : TailFit
        With status ``ok``.
    read : callable or None
        Gives the layer's stack once more. None for the core of a product, as what a LoRA adapter adds
        is read: neither a Gaussian matrix of its shape nor its own entries shuffled are a null of the
        product, and what compares with them is NaN.
    rules : Convention
    rng : numpy.random.Generator
        Of this layer.
    seed : int
        Of the null that layers of one shape share.
    device : str
        Where shuffled matrices are decomposed.
    store : Store, optional
        Where spectra of shuffled matrices and of noise are kept.

    Returns
    -------
    dict of str to float
    """
    kept = spectrum.eigenvalues[spectrum.eigenvalues > spectrum.cutoff]
    searched = fit.estimator in tails.WITH_BAND
    low, high = tails.near_minimal(kept, fit, rules) if searched else (math.nan, math.nan)
    nulls: dict[str, Value] = {"alpha_near_low": low, "alpha_near_high": high}
    if read is not None:
        null = null_of_shape(
            matrix.N, matrix.M, matrix.n_matrices, rules, fit.estimator, seed, store
        )
        nulls |= {
            "alpha_null": null.alpha,
            "alpha_null_sd": null.alpha_sd,
            "alpha_z": (fit.alpha - null.alpha) / null.alpha_sd,
            "n_erg_null": null.n_erg,
            "delta_lambda_min_null": null.delta_lambda_min,
            "delta_lambda_min_null_sd": null.delta_lambda_min_sd,
        }
        solve = functools.partial(_decomposed, rules=rules, device=device, store=store)
        # Not solved, or not read a second time: the layer's own numbers stand.
        with contextlib.suppress(ArithmeticError, CheckpointError, OSError, MemoryError):
            nulls |= _shuffled(matrix, spectrum, fit.estimator, read, rules, rng, solve)
    p = goodness_of_fit(kept, fit, rules, rng, samples=GOF_SAMPLES) if searched else math.nan
    found = nulls | {"gof_p": p} | other_families(kept, fit)
    return {column: found.get(column, math.nan) for column in COLUMNS}


def best_family(found: Mapping[str, Value]) -> str:
    """Name the family that fits the tail best, where that is decided at two standard deviations.

    Parameters
    ----------
    found : Mapping
        With the three likelihood ratios of `other_families`.

    Returns
    -------
    str
        ``lognormal``, ``exponential`` or ``truncated_power_law`` if one beats the power law,
        ``power_law`` if that beats lognormal and exponential, else ``undecided``.

    Examples
    --------
    >>> best_family({"lr_lognormal": -0.5, "lr_exponential": 3.0, "lr_truncated": -2.9})
    'truncated_power_law'
    >>> best_family({"lr_lognormal": -0.5, "lr_exponential": 3.0, "lr_truncated": -0.1})
    'undecided'
    """
    families = {
        "lr_lognormal": "lognormal",
        "lr_exponential": "exponential",
        "lr_truncated": "truncated_power_law",
    }
    column = min(families, key=lambda name: found[name])
    if found[column] < -DECIDED:
        return families[column]
    rivals = min(found["lr_lognormal"], found["lr_exponential"])
    return "power_law" if rivals > DECIDED else "undecided"


class Null(NamedTuple):
    """What Gaussian matrices of one shape give; NaN where noise cannot be fitted."""

    alpha: float
    alpha_sd: float
    n_erg: float
    delta_lambda_min: float
    delta_lambda_min_sd: float


@functools.lru_cache(maxsize=512)
def null_of_shape(
    N: int,
    M: int,
    n_matrices: int,
    rules: Convention,
    estimator: str,
    seed: int = 0,
    store: engine.Store | None = None,
) -> Null:
    """Return means and standard deviations over Gaussian matrices of one shape.

    Drawn once a shape, by the bidiagonal model.
    """
    rows = []
    for raw in _noise(N, M, n_matrices, seed, store):
        spectrum = conventions.apply(raw, "linear", rules)
        fit = tails.fit_tail(spectrum, convention=rules, estimator=estimator)
        if fit.status is Status.OK:
            cut = setol.cut_of(spectrum)
            gap = (fit.xmin - cut.erg_xmin) * setol.unit_scale(spectrum)
            rows.append((fit.alpha, cut.n_erg, gap))
    if len(rows) < 2:
        return Null(*[math.nan] * 5)
    alpha, n_erg, delta = np.mean(rows, axis=0)
    alpha_sd, _, delta_sd = np.std(rows, axis=0, ddof=1)
    return Null(float(alpha), float(alpha_sd), float(n_erg), float(delta), float(delta_sd))


def _noise(
    N: int, M: int, n_matrices: int, seed: int, store: engine.Store | None
) -> list[Spectrum]:
    """Return the spectra of Gaussian matrices of one shape: kept ones, if all of them are."""
    if store is None:
        return _drawn(N, M, n_matrices, seed)
    keys = [
        store.key(noise=NOISE, N=N, M=M, n_matrices=n_matrices, seed=seed, draw=draw)
        for draw in range(N_NOISE)
    ]
    kept = [found for found in map(store.get, keys) if found is not None]
    if len(kept) == N_NOISE:
        return kept
    drawn = _drawn(N, M, n_matrices, seed)
    for key, spectrum in zip(keys, drawn, strict=True):
        store.put(key, spectrum)
    return drawn


def _drawn(N: int, M: int, n_matrices: int, seed: int) -> list[Spectrum]:
    rng = np.random.default_rng([seed, N, M, n_matrices])
    draws = [rmt.noise_spectrum(N, M, n_matrices, rng) for _ in range(N_NOISE)]
    return [Spectrum(x, N, M, n_matrices, float(x.sum()), 0.0, "noise") for x in draws]


def farms(
    stack: engine.Stack,
    matrix: Matrix,
    rules: Convention,
    rng: np.random.Generator,
    solve: Solve,
    *,
    side: int = FARMS_SIDE,
    most: int = FARMS_BLOCKS,
    estimator: str = "hill_mid",
) -> tuple[float, float]:
    """Estimate alpha from square sub-matrices, so that layers of all shapes compare (FARMS).

    Hill's estimator above the median moves with the aspect ratio: from 2.1 to 3.4 on noise alone.
    On the pooled eigenvalues of square blocks it does not (arXiv 2506.06280).

    Parameters
    ----------
    stack : ndarray of shape (n_matrices, rows, columns)
    matrix : Matrix
    rules : Convention
    rng : numpy.random.Generator
        Chooses the blocks where there are more than `most`.
    solve : callable
        Gives the spectrum of a stack of blocks, by `rules`.
    side : int
        Rows and columns of a block; the shorter side of the matrix where that is less.
    most : int
        Most blocks; they lie on a grid of half their side.
    estimator : str
        Applied to the pooled eigenvalues.

    Returns
    -------
    (float, float)
        alpha, and the standard deviation of alpha over single blocks; NaN if there is but one.
    """
    side = min(side, matrix.M)
    places = [
        (k, i, j)
        for k in range(len(stack))
        for i in _grid(stack.shape[1], side)
        for j in _grid(stack.shape[2], side)
    ]
    if len(places) > most:
        places = [places[i] for i in sorted(rng.choice(len(places), most, replace=False))]
    blocks = np.array(
        [stack[k, i : i + side, j : j + side] for k, i, j in places], dtype=np.float64
    )
    piece = dataclasses.replace(
        matrix, N=side, M=side, n_matrices=len(blocks), nbytes=blocks.nbytes
    )
    pooled = tails.fit_tail(solve(blocks, piece), convention=rules, estimator=estimator)
    single = dataclasses.replace(piece, n_matrices=1)
    fits = [
        tails.fit_tail(solve(block[np.newaxis], single), convention=rules, estimator=estimator)
        for block in blocks
    ]
    alphas = [fit.alpha for fit in fits if fit.status is Status.OK]
    spread = float(np.std(alphas, ddof=1)) if len(alphas) > 1 else math.nan
    return pooled.alpha, spread


def _grid(length: int, side: int) -> list[int]:
    """Return where blocks begin along one axis: every half side, and at the very end."""
    starts = list(range(0, length - side + 1, max(side // 2, 1)))
    return starts if starts[-1] == length - side else [*starts, length - side]


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
    (Vuong's test), so beyond ±2 it is decided. ``lr_truncated``, whose family contains the power
    law, is -√(2 Δ log-likelihood): never positive, and below -2 the cut-off is needed.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import powerlaw

        # By default the package caps alpha at 3 without a word.
        free = {"alpha": [1, None]}
        unit = eigenvalues[eigenvalues >= fit.xmin] / fit.xmin  # its optimisers like numbers near 1
        other = powerlaw.Fit(unit, xmin=1.0, xmax=None, parameter_ranges=free, verbose=0)
        found: dict[str, Value] = {}
        for family in ("lognormal", "exponential"):
            ratio, _ = other.distribution_compare("power_law", family, normalized_ratio=True)
            found[f"lr_{family}"] = float(ratio)
        # Nested families: twice the difference is χ² of one degree, its root a standard normal.
        ratio, _ = other.distribution_compare("power_law", "truncated_power_law", nested=True)
        found["lr_truncated"] = -math.sqrt(2 * max(-float(ratio), 0.0))
        found["alpha_truncated"] = float(other.truncated_power_law.parameter1)
        found["truncated_rate"] = float(other.truncated_power_law.parameter2) / fit.xmin
    return found


def _shuffled(
    matrix: Matrix,
    spectrum: Spectrum,
    estimator: str,
    read: engine.Read,
    rules: Convention,
    rng: np.random.Generator,
    solve: Solve,
) -> dict[str, Value]:
    """See what is left when the entries of W are shuffled, and where traps come from."""
    stack = np.asarray(read(matrix), np.float64)
    replicas = traps.shuffled(stack, matrix, rng, solve, N_SHUFFLED)
    fits = [tails.fit_tail(r, convention=rules, estimator=estimator) for r in replicas]
    alphas = [f.alpha for f in fits if f.status is Status.OK]
    distance = _jensen_shannon if rules.peer_layouts else _wasserstein
    distances = [distance(spectrum.eigenvalues, replica.eigenvalues) for replica in replicas]
    survivors = traps.summarise(replicas)
    pooled, spread = farms(stack, matrix, rules, rng, solve)
    found: dict[str, Value] = {
        "alpha_farms": pooled,
        "alpha_farms_sd": spread,
        "alpha_shuffled": float(np.mean(alphas)) if alphas else math.nan,
        "n_traps": survivors["n_traps"],
        "trap_p": survivors["trap_p"],
        "trap_mean_share": 0.0,
        "trap_entries_share": 0.0,
        "rand_distance": float(np.mean(distances)),
        "shuffled_distance": max(
            distance(a.eigenvalues, b.eigenvalues) for a, b in itertools.combinations(replicas, 2)
        ),
    }
    if survivors["n_traps"]:
        found |= traps.origin(stack, matrix, rng, solve)
    return found


def _wasserstein(values: Vector, others: Vector) -> float:
    """Return the distance of two spectra of one size, over the first one's mean."""
    return float(np.mean(np.abs(values - others)) / np.mean(values))


def _jensen_shannon(values: Vector, others: Vector) -> float:
    """Return WeightWatcher's rand_distance: sorted eigenvalues taken for probabilities."""
    p, q = values / values.sum(), others / others.sum()
    m = (p + q) / 2

    def divergence(a: Vector) -> float:
        positive = a > 0
        return float(np.sum(a[positive] * np.log(a[positive] / m[positive])))

    return math.sqrt(max((divergence(p) + divergence(q)) / 2, 0.0))


def _decomposed(
    stack: Vector, matrix: Matrix, rules: Convention, device: str, store: engine.Store | None
) -> Spectrum:
    piece = dataclasses.replace(matrix, nbytes=stack.nbytes)
    outcome = engine.solve(piece, stack, device=device, store=store)
    if isinstance(outcome, engine.Failure):
        raise ArithmeticError(f"{matrix.name}, shuffled: {outcome.reason}")  # noqa: TRY004
    return conventions.apply(outcome, matrix.kind, rules)
