"""analyze(): from a source of weights to the report of a model."""

import dataclasses
import functools
import logging
import math
import platform
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import spectra
from spectra import conventions, engine, spectra_files, tails, verdicts
from spectra import evidence as evidence_for
from spectra.conventions import Convention
from spectra.errors import AnalysisInterrupted, unknown_name
from spectra.inventory import as_tuple, coverage_of, take_stock
from spectra.metrics import METRICS, Metric, evaluate
from spectra.records import (
    STATUS_TEXT,
    Finding,
    LayerReport,
    Matrix,
    ModelReport,
    Skipped,
    Spectrum,
    Status,
    Value,
    Verdict,
)
from spectra.sources import layouts, open_source
from spectra.store import Store

REPLICATES = 20
"""Enough for a spread known to a sixth, which Student's t allows for; 200 make it steady."""

COUNTED = (
    Verdict.WELL_TRAINED,
    Verdict.OVER_TRAINED,
    Verdict.UNDER_TRAINED,
    Verdict.RANDOM_LIKE,
    Verdict.NOT_JUDGED,
)
NOT_AVERAGED = ("embedding", "head")

Progress = Callable[[float, float, str], None]

logger = logging.getLogger(__name__)


def analyze(
    source: Any,  # noqa: ANN401 - whatever open_source takes
    *,
    convention: str = "htsr",
    estimator: str = "csn",
    layers: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    conv: conventions.Conv = "slices",
    base: Any = None,  # noqa: ANN401
    allow_partial: bool = False,
    device: str = "auto",
    precision: engine.Precision = "double",
    seed: int = 0,
    replicates: int = REPLICATES,
    metrics: Mapping[str, Metric] | None = None,
    evidence: bool = False,
    store: Store | None = None,
    progress: Progress | None = None,
) -> ModelReport:
    """Diagnose a trained network from its weights, layer by layer.

    Parameters
    ----------
    source : path, torch.nn.Module or Mapping
        A checkpoint file or folder, a live module, a state dict, a dict of arrays, or a file of
        spectra that an earlier analysis kept.
    convention : str, default: "htsr"
        ``htsr`` or ``weightwatcher-0.7.7``; see ``spectra.conventions``.
    estimator : str, default: "csn"
        How alpha is estimated; see ``spectra.tails``.
    layers, exclude : str or sequence of str
        Glob patterns on names, with or without ``.weight``: only these, or all but these.
    conv : str, default: "slices"
        Convolution kernels as one matrix a position, pooled (``slices``), or as one matrix of
        outputs by inputs times positions (``flatten``). Their alphas are not comparable.
    base : path, torch.nn.Module or Mapping, optional
        The model a LoRA adapter belongs to: the merged matrices are analysed instead of the deltas.
    allow_partial : bool, default: False
        Take a folder from which shards are missing; the report is marked incomplete.
    device : str, default: "auto"
        ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
    precision : str, default: "double"
        ``double``: Gram matrices in float64. ``fast``: in float32, for exponents to about 1e-3.
        ``svd``: singular values in float64, for the smallest eigenvalues; several times slower.
    seed : int, default: 0
        Seed of everything random (the bootstrap), together with each layer's name.
    replicates : int, default: 20
        Bootstrap replicates behind ``alpha_low`` and ``alpha_high``; 200 for a steadier interval.
    metrics : Mapping[str, Metric], optional
        Columns to compute, ``METRICS`` when left out; extend with ``{**METRICS, "mine": ...}``.
    evidence : bool, default: False
        Also gather what says how far to trust each layer: nulls of the same shape, correlation
        traps, goodness of fit, other families (``spectra.evidence.COLUMNS``). Several times slower.
    store : Store, optional
        Where spectra are kept: what was decomposed before, in any checkpoint, is not decomposed
        again. ``spectra.Store()`` is that of the commands; none when left out.
    progress : callable, optional
        Called as ``progress(done, total, name)`` after each layer, in predicted seconds.

    Returns
    -------
    ModelReport
        Layers in checkpoint order. A bad layer has a status and takes no other with it.

    Raises
    ------
    SpectraError
        If the source cannot be read, or a name or pattern fits nothing.
    AnalysisInterrupted
        On Ctrl-C: the first finishes the layers being solved, a second does not wait for them. Its
        ``report`` holds the layers finished.

    Examples
    --------
    >>> import numpy as np
    >>> weights = np.random.default_rng(0).standard_normal((200, 100))
    >>> report = analyze({"fc": weights})
    >>> report["fc"].status.value, report["fc"].N, report["fc"].M
    ('ok', 200, 100)
    """
    started = time.perf_counter()
    rules = conventions.named(convention, conv=conv)
    metrics = METRICS if metrics is None else metrics
    layers, exclude = as_tuple(layers), as_tuple(exclude)
    if estimator not in tails.ESTIMATORS:
        raise unknown_name(estimator, "estimator", tuple(tails.ESTIMATORS))
    if precision not in engine.PRECISIONS:
        raise unknown_name(precision, "precision", engine.PRECISIONS)
    device = engine.resolve_device(device)
    opened = open_source(source, base=base, allow_partial=allow_partial)
    stock = take_stock(opened, rules, layers, exclude)
    kept = stock.kept
    if kept is not None:
        spectra_files.check_options(kept, precision, evidence=evidence)
        layers, exclude = layers or kept.layers, (*kept.exclude, *exclude)

    opened.expect(sorted({matrix.tensor for matrix in stock.matrices}))

    def read(matrix: Matrix, rows: tuple[int, int] | None = None) -> engine.Stack:
        return layouts.read(matrix, opened, rows)

    def row_of(matrix: Matrix, outcome: engine.Outcome) -> LayerReport:
        # Seeded by the layer's own name: neither order nor batching nor the choice of layers matter.
        rng = np.random.default_rng([seed, zlib.crc32(matrix.name.encode("utf-8", "replace"))])
        row = layer_report(
            matrix, outcome, rules, estimator, metrics, replicates=replicates, rng=rng
        )
        if not evidence:
            return row
        again = None if opened.is_product(matrix.tensor) else read
        return with_evidence(row, matrix, rules, again, rng, seed=seed, device=device, store=store)

    finished: dict[int, LayerReport] = {}
    costs = [engine.seconds(matrix, precision) for matrix in stock.matrices]
    done, total = 0.0, sum(costs)
    with _interruptible() as stop:
        try:
            decompose = functools.partial(
                engine.decompose,
                read=read,
                resolution=rules.rank_tolerance,
                stop=stop,
                store=store,
                far=opened.is_far,
            )
            outcomes = (
                _outcomes(stock.matrices, decompose, device, precision)
                if kept is None
                else enumerate(kept.outcomes)
            )
            for position, outcome in outcomes:
                finished[position] = row = row_of(stock.matrices[position], outcome)
                done += costs[position]
                if progress:
                    progress(done, total, row.name)
                if stop.is_set() and (evidence or kept is not None):
                    break  # the spectra may all be there; what takes time is what follows
        except KeyboardInterrupt:
            stop.set()
    interrupted = stop.is_set() and len(finished) < len(stock.matrices)

    unreached = engine.Failure(Status.NOT_REACHED, STATUS_TEXT[Status.NOT_REACHED])
    rows = tuple(
        finished.get(i) or row_of(matrix, unreached) for i, matrix in enumerate(stock.matrices)
    )
    report = ModelReport(
        source=stock.source,
        options={
            "convention": convention,
            "estimator": estimator,
            "layers": layers,
            "exclude": exclude,
            "conv": conv,
            "precision": precision,
            "seed": seed,
            "replicates": replicates,
            "evidence": evidence,
        },
        summary=summarise(rows, stock.skipped, metrics),
        coverage=coverage_of(stock.matrices, rows, stock.skipped),
        layers=rows,
        skipped=stock.skipped,
        run={
            "device": device,
            **_origins(() if kept else rows),
            "seconds": round(time.perf_counter() - started, 3),
            "spectra": spectra.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        complete=not stock.source.partial
        and not any(row.status is Status.NOT_REACHED for row in rows),
    )
    if interrupted:
        raise AnalysisInterrupted(report)
    return report


def _origins(rows: Sequence[LayerReport]) -> dict[str, int]:
    """Count the layers that were decomposed in this run, and those whose spectra were kept before."""
    stored = [row.spectrum.stored for row in rows if row.spectrum is not None]
    return {"decompositions": stored.count(False), "from_store": stored.count(True)}


def part_of(progress: Progress | None, position: int, count: int) -> Progress | None:
    """Turn the progress of one analysis into that of the `position`-th of `count`."""
    if progress is None:
        return None

    def report(done: float, total: float, name: str) -> None:
        progress(position + (done / total if total else 1.0), count, name)

    return report


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Give an event that the first Ctrl-C sets; a second one raises, as one always does elsewhere."""
    stop = threading.Event()
    usual = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread()
    if not ours or usual is not signal.default_int_handler:
        yield stop  # someone else's signals, or someone else's thread
        return

    def first(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, usual)
        stop.set()
        logger.warning("finishing the layers being solved; press Ctrl-C again to stop at once")

    signal.signal(signal.SIGINT, first)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, usual)


def _outcomes(
    matrices: Sequence[Matrix],
    decompose: Callable[[engine.Plan], Iterator[tuple[int, engine.Outcome]]],
    device: str,
    precision: engine.Precision,
) -> Iterator[tuple[int, engine.Outcome]]:
    reasons = [layouts.why_unreadable(matrix) for matrix in matrices]
    for i, reason in enumerate(reasons):
        if reason:
            yield i, engine.Failure(Status.UNSUPPORTED_DTYPE, reason)
    readable = [i for i, reason in enumerate(reasons) if not reason]
    plan = engine.make_plan(
        [matrices[i] for i in readable], machine=engine.this_machine(device), precision=precision
    )
    for position, outcome in decompose(plan):
        yield readable[position], outcome


def layer_report(
    matrix: Matrix,
    outcome: engine.Outcome,
    rules: Convention,
    estimator: str = "csn",
    metrics: Mapping[str, Metric] = METRICS,
    *,
    replicates: int = 0,
    rng: np.random.Generator | None = None,
) -> LayerReport:
    """Turn a layer's spectrum, or the lack of one, into its row of the report."""
    fit = None
    if isinstance(outcome, Spectrum):
        spectrum = conventions.apply(outcome, matrix.kind, rules)
        fit = tails.fit_tail(
            spectrum, convention=rules, estimator=estimator, replicates=replicates, rng=rng
        )
        values = evaluate(spectrum, fit, metrics)
        status, reason = fit.status, "" if fit.status is Status.OK else STATUS_TEXT[fit.status]
        warnings = verdicts.find(values, spectrum, estimator) if status is Status.OK else ()
    else:
        spectrum, values = None, dict.fromkeys(metrics, math.nan)
        status, reason, warnings = outcome.status, outcome.reason, ()
    return LayerReport(
        name=matrix.name,
        kind=matrix.kind,
        shape=matrix.shape,
        dtype=matrix.dtype,
        status=status,
        reason=reason,
        warnings=warnings,
        aliases=matrix.aliases,
        tensor=matrix.tensor,
        layout=matrix.layout,
        dequantised_from=matrix.dequantised_from,
        N=matrix.N,
        M=matrix.M,
        aspect_ratio=matrix.N / matrix.M,
        n_matrices=matrix.n_matrices,
        n_eigenvalues=matrix.n_matrices * matrix.M,
        estimator=estimator,
        solver="" if spectrum is None else spectrum.solver,
        residual=math.nan if spectrum is None else spectrum.residual,
        eigenvalue_error=_relative_error(spectrum),
        metrics=values,
        averaged=status is Status.OK and (rules.average_all or matrix.kind not in NOT_AVERAGED),
        verdict=verdicts.judge(status, warnings),
        phase=verdicts.phase_of(status, warnings, values),
        spectrum=spectrum,
        fit=fit,
    )


def _relative_error(spectrum: Spectrum | None) -> float:
    largest = 0.0 if spectrum is None else float(spectrum.eigenvalues[-1])
    return math.nan if spectrum is None or not largest else spectrum.error / largest


def with_evidence(
    row: LayerReport,
    matrix: Matrix,
    rules: Convention,
    read: engine.Read | None,
    rng: np.random.Generator,
    *,
    seed: int,
    device: str,
    store: Store | None = None,
) -> LayerReport:
    """Add the columns of ``evidence.COLUMNS`` to a row, and the findings they support."""
    if row.status is not Status.OK or row.spectrum is None or row.fit is None:
        nothing = dict.fromkeys(evidence_for.COLUMNS, math.nan)
        return dataclasses.replace(row, metrics={**row.metrics, **nothing})
    found = evidence_for.gather(
        matrix, row.spectrum, row.fit, read, rules, rng, seed=seed, device=device, store=store
    )
    checks = {
        Finding.NOT_POWER_LAW: found["gof_p"] < verdicts.RULED_OUT,
        Finding.CORRELATION_TRAP: found["n_traps"] > 0,
        Finding.LIKE_SHUFFLED: found["rand_distance"] < 2 * found["shuffled_distance"],
    }
    warnings = (*row.warnings, *(finding for finding, met in checks.items() if met))
    return dataclasses.replace(
        row,
        metrics={**row.metrics, **found},
        warnings=warnings,
        verdict=verdicts.judge(row.status, warnings),
        phase=verdicts.phase_of(row.status, warnings, row.metrics),
        best_family=evidence_for.best_family(found),
    )


def summarise(
    layers: Sequence[LayerReport],
    skipped: Sequence[Skipped],
    metrics: Mapping[str, Metric] = METRICS,
) -> dict[str, Value]:
    """Count the layers and take unweighted means over those that are averaged."""
    averaged = [layer for layer in layers if layer.averaged]
    fitted = sum(layer.status is Status.OK for layer in layers)
    counts: dict[str, Value] = {
        "n_layers": len(layers),
        "n_failed": len(layers) - fitted,
        "n_skipped": len(skipped),
        "n_averaged": len(averaged),
        "n_left_out": fitted - len(averaged),
    }
    for verdict in COUNTED:
        counts[f"n_{verdict}"] = sum(layer.verdict is verdict for layer in averaged)
    means = {
        name: math.fsum(layer[name] for layer in averaged) / len(averaged) if averaged else math.nan
        for name, metric in metrics.items()
        if metric.in_summary
    }
    return counts | means
