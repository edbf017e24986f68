"""Correlation traps: what survives when the entries of a matrix are shuffled, and where it comes from.

SETOL section 3.3.1, by the Tracy-Widom law of ``spectra.rmt``. One implementation for a report's
evidence and for the readings of a training run.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from spectra import engine, rmt
from spectra.records import Matrix, Spectrum, Value, Vector

Solve = Callable[[Vector, Matrix], Spectrum]

SHUFFLES = 1
"""In training: each costs a decomposition, and the next reading shuffles anew (decision 0029)."""
WINSOR = 5.0
"""Entries are clipped at this many standard deviations to see whether a few huge ones make a trap."""


def traps(
    weights: np.ndarray,
    *,
    rng: np.random.Generator,
    shuffles: int = SHUFFLES,
    device: str = "cpu",
) -> dict[str, Value]:
    """Look for correlation traps in one layer that is in memory.

    Parameters
    ----------
    weights : ndarray of shape (n_matrices, rows, columns)
        The slices of a layer; their entries are shuffled together.
    rng : numpy.random.Generator
        Draws the orders; nothing else is drawn from.
    shuffles : int, default: 1
        Orders of the entries. Each costs as much as the layer's own decomposition.
    device : str, default: "cpu"
        Where shuffled matrices are decomposed.

    Returns
    -------
    dict of str to float
        ``n_traps``, ``trap_p`` and ``trap_size`` as in `summarise`; NaN for weights that are zero,
        not finite, or not solved.

    Raises
    ------
    ValueError
        If `weights` is no stack of matrices, or `shuffles` is below 1.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> noise = rng.standard_normal((1, 200, 100))
    >>> traps(noise, rng=rng)["n_traps"], traps(noise + 0.5, rng=rng)["n_traps"]
    (0, 1)
    """
    if weights.ndim != 3 or not weights.size or shuffles < 1:
        raise ValueError(
            "`weights` must be a stack (n_matrices, rows, columns) and `shuffles` at least 1, "
            f"got shape {weights.shape} and {shuffles}"
        )
    stack = np.asarray(weights, np.float64)
    count, *sides = stack.shape
    matrix = Matrix(
        "weights", "weights", "linear", stack.shape, "float64", stack.nbytes,
        max(sides), min(sides), count,
    )  # fmt: skip

    def solve(stack: Vector, matrix: Matrix) -> Spectrum:
        outcome = engine.solve(matrix, stack, device=device)
        if isinstance(outcome, engine.Failure):
            raise ArithmeticError(outcome.reason)  # noqa: TRY004
        return outcome

    try:
        return summarise(shuffled(stack, matrix, rng, solve, shuffles))
    except ArithmeticError:
        return {"n_traps": math.nan, "trap_p": math.nan, "trap_size": math.nan}


def shuffled(
    stack: Vector, matrix: Matrix, rng: np.random.Generator, solve: Solve, shuffles: int
) -> list[Spectrum]:
    """Return the spectra of a layer whose entries, slices together, are put in random orders."""
    entries = stack.reshape(-1)
    return [solve(rng.permutation(entries).reshape(stack.shape), matrix) for _ in range(shuffles)]


def summarise(replicas: Sequence[Spectrum]) -> dict[str, Value]:
    """Say what survived in several shuffled copies of one layer: medians over the copies.

    Parameters
    ----------
    replicas : sequence of Spectrum
        At least one.

    Returns
    -------
    dict of str to float
        ``n_traps``: eigenvalues above the Tracy-Widom bound of level 0.01. ``trap_p``: the chance of
        the largest in noise. ``trap_size``: the largest over the edge of noise. All NaN if the
        weights are zero.

    Notes
    -----
    Twice a median of p-values is a p-value whatever their dependence (Rüschendorf, J. Appl. Probab.
    19 (1982)). Orders of one set of entries are nearly independent, so their median is far more
    cautious than that: of five, it is below p with a chance near 10 p³.
    """
    if not all(replica.squared_norm > 0 for replica in replicas):
        return {"n_traps": math.nan, "trap_p": math.nan, "trap_size": math.nan}
    found = [rmt.find_traps(replica) for replica in replicas]
    return {
        "n_traps": int(np.median([trap.n_traps for trap in found])),
        "trap_p": float(np.median([trap.p_value for trap in found])),
        "trap_size": float(np.median([_largest(r) / _edge(r) for r in replicas])),
    }


def origin(
    stack: Vector, matrix: Matrix, rng: np.random.Generator, solve: Solve
) -> dict[str, Value]:
    """Say where a layer's largest trap comes from: its mean, or a few huge entries.

    The matrix less its mean, and the matrix with entries clipped at 5 robust standard deviations,
    are shuffled in one order; the excess over the edge of noise that goes is the share.

    Returns
    -------
    dict of str to float
        ``trap_mean_share`` and ``trap_entries_share``, between 0 and 1.
    """
    order = rng.permutation(stack.size)
    centred = stack - stack.mean()
    limit = WINSOR * _robust_sd(centred)
    clipped = np.clip(stack, stack.mean() - limit, stack.mean() + limit)
    whole = _excess(stack, order, matrix, solve)
    found: dict[str, Value] = {}
    for column, without in (("trap_mean_share", centred), ("trap_entries_share", clipped)):
        left = _excess(without, order, matrix, solve)
        found[column] = float(np.clip(1 - left / whole, 0, 1)) if whole > 0 else 0.0
    return found


def _excess(stack: Vector, order: np.ndarray, matrix: Matrix, solve: Solve) -> float:
    """Return how far the largest eigenvalue of a shuffled matrix stands above the noise edge."""
    spectrum = solve(stack.reshape(-1)[order].reshape(stack.shape), matrix)
    return _largest(spectrum) - _edge(spectrum)


def _largest(spectrum: Spectrum) -> float:
    return float(spectrum.eigenvalues[-1])


def _edge(spectrum: Spectrum) -> float:
    """Return the edge of noise whose entries have the variance of these."""
    variance = float(np.mean(spectrum.eigenvalues)) / spectrum.N
    return rmt.edge(spectrum.N, spectrum.M, variance)


def _robust_sd(values: Vector) -> float:
    """Return the standard deviation that the median absolute deviation of a Gaussian implies."""
    return 1.4826 * float(np.median(np.abs(values)))
