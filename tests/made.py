"""Reports made by hand, so that tests choose every number in them."""

import dataclasses
import math

from spectra.analysis import coverage_of, summarise
from spectra.evidence import COLUMNS
from spectra.metrics import METRICS
from spectra.records import LayerReport, ModelReport, SourceInfo, Status

OPTIONS = {"convention": "htsr", "estimator": "csn", "conv": "slices", "evidence": False}


def layer(
    name, *, status=Status.OK, kind="linear", warnings=(), side=100, averaged=None, **metrics
):
    """Make a layer whose other metrics are 1 (NaN if the status is not ok)."""
    ok = status is Status.OK
    usual = dict.fromkeys(METRICS, 1.0 if ok else math.nan)
    return LayerReport(
        name=name,
        kind=kind,
        shape=(side, side),
        dtype="float32",
        status=status,
        reason="",
        warnings=tuple(warnings),
        aliases=(),
        tensor=name,
        layout="",
        dequantised_from="",
        N=side,
        M=side,
        aspect_ratio=1.0,
        n_matrices=1,
        n_eigenvalues=side,
        estimator="csn",
        solver="gram",
        residual=0.0,
        eigenvalue_error=0.0,
        metrics=usual | metrics,
        averaged=ok and kind not in ("embedding", "head") if averaged is None else averaged,
    )


def with_evidence(made, **columns):
    """Give a layer the columns of the evidence, 0 where nothing else is said."""
    metrics = {**made.metrics, **dict.fromkeys(COLUMNS, 0.0), **columns}
    return dataclasses.replace(made, metrics=metrics)


def report(*layers, complete=True, **options):
    return ModelReport(
        source=SourceInfo("made", "made", len(layers), 0),
        options=OPTIONS | options,
        summary=summarise(layers, ()),
        coverage=coverage_of((), (), ()),
        layers=tuple(layers),
        skipped=(),
        run={},
        complete=complete,
    )
