"""Decompositions: plan, read, solve on a device, yield spectra as they finish.

The eigenvalues of WᵀW are those of the Gram matrix of W's short side, solved without vectors. See
docs/decisions/0004-gram-in-float64.md and 0016-engine.md.
"""

import contextlib
import dataclasses
import math
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple, NoReturn, get_args

import numpy as np

from spectra.engine import cpu, pool
from spectra.engine.machine import resolve_device, return_memory, this_machine
from spectra.engine.planning import (
    Job,
    Machine,
    Plan,
    Precision,
    make_plan,
    operations,
    seconds,
    working_bytes,
)
from spectra.engine.pool import is_solving
from spectra.engine.stored import Shelf, Store
from spectra.engine.weights import (
    UNREADABLE,
    Failure,
    Float64,
    Read,
    Stack,
    Weights,
    out_of_memory,
)
from spectra.errors import CheckpointError
from spectra.records import Matrix, Spectrum, Status

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

__all__ = [
    "PRECISIONS",
    "UNREADABLE",
    "Failure",
    "Gram",
    "Machine",
    "Outcome",
    "Plan",
    "Precision",
    "Read",
    "Stack",
    "Store",
    "decompose",
    "is_definite",
    "is_solving",
    "make_plan",
    "operations",
    "resolve_device",
    "seconds",
    "solve",
    "solve_gram",
    "this_machine",
    "working_bytes",
]

Outcome = Spectrum | Failure

READING = (MemoryError, CheckpointError, OSError)
"""What may go wrong with a matrix that is read while it is looked up or solved."""


class Gram(NamedTuple):
    """WᵀW (M, M) and ‖W‖²_F of one matrix, summed in float64 over rows that lie elsewhere."""

    matrix: Float64
    squared_norm: float


def decompose(
    plan: Plan,
    read: Read,
    *,
    resolution: float = 0.0,
    stop: threading.Event | None = None,
    store: Store | None = None,
    far: bool = False,
) -> Iterator[tuple[int, Outcome]]:
    """Run a plan, yielding each matrix's position with its spectrum as it finishes.

    Parameters
    ----------
    plan : Plan
    read : callable
        Gives the stack (n_matrices, rows, columns) of a matrix; called from several threads.
    resolution : float
        Smallest σ/‖W‖_F that must be told from zero; where the Gram route cannot and there are
        such, the matrix is solved again by SVD.
    stop : threading.Event, optional
        Once set, no matrix is begun; those being solved are finished and yielded.
    store : Store, optional
        Where spectra are looked up before they are computed, and kept as soon as they are.
    far : bool, default: False
        Whether reading is dear: nothing is then read twice for the store's sake.

    Yields
    ------
    (int, Spectrum or Failure)
        A matrix that fails takes no other with it.
    """
    return_memory()
    shelf = None if store is None else Shelf(store, plan.precision, resolution, spool=far)

    def work(job: Job, loaded: list[Weights | Failure]) -> list[tuple[int, Outcome]]:
        outcomes = _solve(job, loaded, plan, resolution, shelf)
        return list(zip(job.positions, outcomes, strict=True))

    for finished in pool.run(plan, read, work, stop or threading.Event()):
        yield from finished  # type: ignore[misc]


def solve(
    matrix: Matrix, stack: Stack, *, device: str = "cpu", store: Store | None = None
) -> Outcome:
    """Decompose one matrix that is in memory, in this thread, unless the store knows its spectrum.

    Examples
    --------
    >>> w = Matrix("w", "w", "linear", (2, 2), "float64", 32, 2, 2)
    >>> solve(w, np.array([[[3.0, 0.0], [0.0, 2.0]]])).eigenvalues.tolist()
    [4.0, 9.0]
    """
    plan = make_plan([matrix], machine=Machine(device, device_memory=2**62))
    (job,) = plan.jobs
    held = dataclasses.replace(job, streamed=False)
    shelf = None if store is None else Shelf(store, plan.precision, 0.0)
    (outcome,) = _solve(held, [Weights(matrix, lambda *_: stack, stack)], plan, 0.0, shelf)
    return outcome


def is_definite(gram: Gram) -> bool:
    """Tell whether a Gram matrix tells all that there is: no eigenvalue lost among rounding errors.

    Where one is, where weights are not finite, zero or beyond the range of their squares, `solve`
    looks at the weights again, and so must whoever has only their Gram matrix.

    Examples
    --------
    >>> is_definite(Gram(np.diag([4.0, 9.0]), 13.0)), is_definite(Gram(np.diag([0.0, 9.0]), 9.0))
    (True, False)
    """
    low, high = cpu.SAFE["double"]
    if not low < gram.squared_norm < high:
        return False
    # The trace bounds the largest eigenvalue: cautious, at a tenth of what eigenvalues cost.
    noise = cpu.rounding(len(gram.matrix), "double") * gram.squared_norm
    try:
        np.linalg.cholesky(gram.matrix - noise * np.eye(len(gram.matrix)))
    except np.linalg.LinAlgError:
        return False
    return True


def solve_gram(matrix: Matrix, gram: Gram) -> Outcome:
    """Decompose one matrix of which only the Gram matrix is here, and is definite.

    Examples
    --------
    >>> w = Matrix("w", "w", "linear", (2, 2), "float64", 32, 2, 2)
    >>> solve_gram(w, Gram(np.diag([4.0, 9.0]), 13.0)).eigenvalues.tolist()
    [4.0, 9.0]
    """
    (job,) = make_plan([matrix]).jobs
    formed = cpu.Grams(np.triu(gram.matrix)[np.newaxis], np.array([gram.squared_norm]), 0)
    try:
        solved = cpu.solve_formed(
            Weights(matrix, _elsewhere, None),
            formed,
            "double",
            0.0,
            two_stage=job.route == "two_stage",
        )
    except CheckpointError as error:
        return Failure(Status.NOT_CONVERGED, error.reason)
    return solved if isinstance(solved, Failure) else _spectrum(matrix, solved, "double")


def _elsewhere(matrix: Matrix, _rows: tuple[int, int] | None = None, /) -> NoReturn:
    reason = "its Gram matrix does not tell its smallest eigenvalues"
    raise CheckpointError("E_ELSEWHERE", matrix.name, reason)


def _solve(
    job: Job,
    loaded: Sequence[Weights | Failure],
    plan: Plan,
    resolution: float,
    shelf: Shelf | None,
) -> list[Outcome]:
    """Return the outcomes of a job's layers, in their order; those found on the shelf are not solved."""
    with contextlib.ExitStack() as files:
        known = [_known(job, weights, plan, shelf, files) for weights in loaded]
        unknown = [w for w in known if isinstance(w, Weights)]
        solved = iter(_attempt(job, unknown, plan, resolution) if unknown else ())
        return [
            _outcome(item, next(solved), plan, shelf) if isinstance(item, Weights) else item
            for item in known
        ]


def _known(
    job: Job,
    weights: Weights | Failure,
    plan: Plan,
    shelf: Shelf | None,
    files: contextlib.ExitStack,
) -> Weights | Outcome:
    """Return the spectrum of weights if it is on the shelf, else the weights themselves."""
    if isinstance(weights, Failure) or shelf is None:
        return weights
    try:
        return shelf.find(weights, files) or weights
    except READING as error:
        return _failure(error, job, plan)


def _outcome(
    weights: Weights, solved: cpu.Solved | Failure, plan: Plan, shelf: Shelf | None
) -> Outcome:
    if isinstance(solved, Failure):
        return solved
    outcome = _spectrum(weights.matrix, solved, plan.precision)
    if shelf is not None and isinstance(outcome, Spectrum):
        shelf.keep(weights, outcome, settled=solved.settled)
    return outcome


def _attempt(
    job: Job, layers: list[Weights], plan: Plan, resolution: float
) -> list[cpu.Solved | Failure]:
    """Solve layers together; what goes wrong with one of several takes no other with it."""
    try:
        if job.route == "torch":
            from spectra.engine import cuda

            return cuda.solve(layers, plan.machine.device, plan.precision, resolution)
        two_stage = job.route == "two_stage"
        return [cpu.solve(w, plan.precision, resolution, two_stage=two_stage) for w in layers]
    except READING as error:
        failure = _failure(error, job, plan)
    if len(layers) == 1:
        return [failure]
    return [_attempt(job, [layer], plan, resolution)[0] for layer in layers]


def _failure(error: BaseException, job: Job, plan: Plan) -> Failure:
    if isinstance(error, MemoryError):
        return out_of_memory(job.nbytes, plan.machine.memory)
    return Failure(Status.UNREADABLE, str(error))


def _spectrum(matrix: Matrix, solved: cpu.Solved, precision: Precision) -> Spectrum | Failure:
    """Pool the eigenvalues of a layer's slices and take the scaling back."""
    residual = float(solved.residuals.max())
    kind = "svd" if solved.solver == "svd" else precision
    if not residual <= cpu.CERTIFICATE[kind]:
        return Failure(Status.NOT_CONVERGED, f"Σλ and ‖W‖² differ by {residual:.1e}")
    values = np.maximum(solved.values, 0.0)
    squared_norm = float(solved.squared_norms.sum())
    with np.errstate(over="ignore", under="ignore"):
        eigenvalues = np.ldexp(np.sort(values, axis=None), 2 * solved.exponent)
        unscaled = float(np.ldexp(squared_norm, 2 * solved.exponent))
    if squared_norm and (not math.isfinite(unscaled) or eigenvalues[-1] < sys.float_info.min):
        return Failure(Status.OUT_OF_RANGE, f"largest weight near 2^{solved.exponent}")
    return Spectrum(
        eigenvalues=eigenvalues,
        N=matrix.N,
        M=matrix.M,
        n_matrices=matrix.n_matrices,
        squared_norm=unscaled,
        residual=residual,
        solver=solved.solver if precision != "fast" or kind == "svd" else "gram_float32",
        error=cpu.rounding(matrix.M, kind) * float(eigenvalues[-1]),
    )
