"""analyze(): from a source of weights to the report of a model."""

import dataclasses
import fnmatch
import math
import platform
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import spectra
from spectra import conventions, engine, tails, verdicts
from spectra import evidence as evidence_for
from spectra.conventions import Convention
from spectra.errors import AnalysisInterrupted, SelectionError, unknown_name
from spectra.metrics import METRICS, Metric, evaluate
from spectra.records import (
    STATUS_TEXT,
    Finding,
    LayerReport,
    Matrix,
    ModelReport,
    Skipped,
    SourceInfo,
    Spectrum,
    Status,
    Value,
    Verdict,
)
from spectra.sources import Source, layouts, open_source

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
NOT_SELECTED = "left out by the choice of layers"

Progress = Callable[[float, float, str], None]


@dataclass(frozen=True, slots=True)
class Inventory:
    """What an analysis would do: the matrices it would take, and what it skips and why."""

    source: SourceInfo
    matrices: tuple[Matrix, ...]
    skipped: tuple[Skipped, ...]

    @property
    def operations(self) -> float:
        """Predicted floating-point operations of all decompositions."""
        return sum(engine.operations(matrix) for matrix in self.matrices)

    @property
    def working_bytes(self) -> int:
        """Predicted peak memory beyond the program itself: that of the largest layer."""
        return max((engine.working_bytes(matrix) for matrix in self.matrices), default=0)


def describe(
    source: Any,  # noqa: ANN401 - whatever open_source takes
    *,
    convention: str = "htsr",
    layers: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
) -> Inventory:
    """Say what an analysis would take and what it would skip, from headers alone.

    Parameters
    ----------
    source, convention, layers, exclude
        As for `analyze`.

    Returns
    -------
    Inventory
    """
    rules = conventions.named(convention)
    return _take_stock(open_source(source), rules, _as_tuple(layers), _as_tuple(exclude))


def analyze(
    source: Any,  # noqa: ANN401 - whatever open_source takes
    *,
    convention: str = "htsr",
    estimator: str = "csn",
    layers: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    device: str = "auto",
    seed: int = 0,
    replicates: int = REPLICATES,
    metrics: Mapping[str, Metric] | None = None,
    evidence: bool = False,
    progress: Progress | None = None,
) -> ModelReport:
    """Diagnose a trained network from its weights, layer by layer.

    Parameters
    ----------
    source : path, torch.nn.Module or Mapping
        A checkpoint file or folder, a live module, a state dict, or a dict of arrays.
    convention : str, default: "htsr"
        ``htsr`` or ``weightwatcher-0.7.7``; see ``spectra.conventions``.
    estimator : str, default: "csn"
        How alpha is estimated; see ``spectra.tails``.
    layers, exclude : str or sequence of str
        Glob patterns on names, with or without ``.weight``: only these, or all but these.
    device : str, default: "auto"
        ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
    seed : int, default: 0
        Seed of everything random (the bootstrap), together with each layer's name.
    replicates : int, default: 20
        Bootstrap replicates behind ``alpha_low`` and ``alpha_high``; 200 for a steadier interval.
    metrics : Mapping[str, Metric], optional
        Columns to compute, ``METRICS`` when left out; extend with ``{**METRICS, "mine": ...}``.
    evidence : bool, default: False
        Also gather what says how far to trust each layer: nulls of the same shape, correlation
        traps, goodness of fit, other families (``spectra.evidence.COLUMNS``). Several times slower.
    progress : callable, optional
        Called as ``progress(done, total, name)`` after each layer, in predicted operations.

    Returns
    -------
    ModelReport
        Layers in checkpoint order. A bad layer has a status and takes no other with it.

    Raises
    ------
    SpectraError
        If the source cannot be read, or a name or pattern fits nothing.
    AnalysisInterrupted
        On Ctrl-C; its ``report`` holds the layers finished so far.

    Examples
    --------
    >>> import numpy as np
    >>> weights = np.random.default_rng(0).standard_normal((200, 100))
    >>> report = analyze({"fc": weights})
    >>> report["fc"].status.value, report["fc"].N, report["fc"].M
    ('ok', 200, 100)
    """
    started = time.perf_counter()
    rules = conventions.named(convention)
    metrics = METRICS if metrics is None else metrics
    layers, exclude = _as_tuple(layers), _as_tuple(exclude)
    if estimator not in tails.ESTIMATORS:
        raise unknown_name(estimator, "estimator", tuple(tails.ESTIMATORS))
    device = engine.resolve_device(device)
    opened = open_source(source)
    stock = _take_stock(opened, rules, layers, exclude)

    def read(matrix: Matrix) -> engine.Stack:
        return layouts.stack(matrix, opened.read(matrix.tensor))

    def row_of(matrix: Matrix, outcome: Spectrum | engine.Failure) -> LayerReport:
        # Seeded by the layer's own name: neither order nor batching nor the choice of layers matter.
        rng = np.random.default_rng([seed, zlib.crc32(matrix.name.encode("utf-8", "replace"))])
        row = layer_report(
            matrix, outcome, rules, estimator, metrics, replicates=replicates, rng=rng
        )
        if not evidence:
            return row
        return with_evidence(row, matrix, rules, read, rng, seed=seed, device=device)

    finished: dict[int, LayerReport] = {}
    interrupted = False
    done, total = 0.0, stock.operations
    try:
        found = _diagnose(stock.matrices, read, row_of, device, rules.rank_tolerance)
        for position, row in found:
            finished[position] = row
            done += engine.operations(stock.matrices[position])
            if progress:
                progress(done, total, row.name)
    except KeyboardInterrupt:
        interrupted = True

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
            "seed": seed,
            "replicates": replicates,
            "evidence": evidence,
        },
        summary=summarise(rows, stock.skipped, metrics),
        layers=rows,
        skipped=stock.skipped,
        run={
            "device": device,
            "seconds": round(time.perf_counter() - started, 3),
            "spectra": spectra.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        complete=not interrupted,
    )
    if interrupted:
        raise AnalysisInterrupted(report)
    return report


def _diagnose(
    matrices: Sequence[Matrix],
    read: engine.Read,
    row_of: Callable[[Matrix, Spectrum | engine.Failure], LayerReport],
    device: str,
    resolution: float,
) -> Iterator[tuple[int, LayerReport]]:
    readable = [i for i, matrix in enumerate(matrices) if layouts.is_readable(matrix)]
    for i in sorted(set(range(len(matrices))) - set(readable)):
        refused = engine.Failure(Status.UNSUPPORTED_DTYPE, f"{matrices[i].dtype} is not read yet")
        yield i, row_of(matrices[i], refused)
    outcomes = engine.decompose(
        engine.plan([matrices[i] for i in readable]),
        read,
        device=device,
        resolution=resolution,
    )
    for position, outcome in outcomes:
        yield readable[position], row_of(matrices[readable[position]], outcome)


def layer_report(
    matrix: Matrix,
    outcome: Spectrum | engine.Failure,
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
        N=matrix.N,
        M=matrix.M,
        aspect_ratio=matrix.N / matrix.M,
        n_matrices=matrix.n_matrices,
        n_eigenvalues=matrix.n_matrices * matrix.M,
        estimator=estimator,
        residual=math.nan if spectrum is None else spectrum.residual,
        metrics=values,
        averaged=status is Status.OK and (rules.average_all or matrix.kind not in NOT_AVERAGED),
        verdict=verdicts.judge(status, warnings),
        phase=verdicts.phase_of(status, warnings, values),
        spectrum=spectrum,
        fit=fit,
    )


def with_evidence(
    row: LayerReport,
    matrix: Matrix,
    rules: Convention,
    read: engine.Read,
    rng: np.random.Generator,
    *,
    seed: int,
    device: str,
) -> LayerReport:
    """Add the columns of ``evidence.COLUMNS`` to a row, and the findings they support."""
    if row.status is not Status.OK or row.spectrum is None or row.fit is None:
        nothing = dict.fromkeys(evidence_for.COLUMNS, math.nan)
        return dataclasses.replace(row, metrics={**row.metrics, **nothing})
    found = evidence_for.gather(
        matrix, row.spectrum, row.fit, read, rules, rng, seed=seed, device=device
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


def _take_stock(
    source: Source, rules: Convention, layers: Sequence[str], exclude: Sequence[str]
) -> Inventory:
    matrices, skipped = layouts.matrices_of(source.tensors, rules)
    for pattern in (*layers, *exclude):
        if not any(_matches(matrix, [pattern]) for matrix in matrices):
            raise SelectionError(
                "E_NO_MATCH",
                pattern,
                f"matches none of the {len(matrices)} layers",
                f"names look like {', '.join(matrix.name for matrix in matrices[:2])}",
            )
    chosen, left_out = [], []
    for matrix in matrices:
        wanted = (not layers or _matches(matrix, layers)) and not _matches(matrix, exclude)
        if wanted:
            chosen.append(matrix)
        else:
            left_out.append(Skipped(matrix.name, matrix.shape, NOT_SELECTED))
    return Inventory(source.info, tuple(chosen), (*skipped, *left_out, *source.ignored))


def _matches(matrix: Matrix, patterns: Sequence[str]) -> bool:
    names = (matrix.name, *matrix.aliases)
    forms = (*names, *(name.removesuffix(".weight") for name in names))
    return any(fnmatch.fnmatchcase(form, pattern) for form in forms for pattern in patterns)


def _as_tuple(patterns: str | Sequence[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)
