"""The report as data: JSON, CSV, a small HTML table. One row a layer, the same columns everywhere."""

import csv
import html
import io
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import spectra
from spectra.engine import operations, seconds, working_bytes
from spectra.inventory import Inventory
from spectra.records import LayerReport, ModelReport, Skipped, SourceInfo
from spectra.saved import SCHEMA_VERSION
from spectra.writing import write_file

HTML_ROWS = 50
FORMULA = re.compile(r"^\s*[=+\-@]|^[\t\r\n]")  # what spreadsheets run; OWASP, CSV injection
Row = dict[str, Any]


def layer_row(layer: LayerReport) -> Row:
    """Return one layer as plain values: None where there is no number."""
    row: Row = {
        "name": layer.name,
        "kind": layer.kind,
        "shape": list(layer.shape),
        "dtype": layer.dtype,
        "status": str(layer.status),
        "reason": layer.reason,
        "warnings": [str(finding) for finding in layer.warnings],
        "aliases": list(layer.aliases),
        "tensor": layer.tensor,
        "layout": layer.layout,
        "dequantised_from": layer.dequantised_from,
        "averaged": layer.averaged,
        "verdict": str(layer.verdict),
        "phase": str(layer.phase),
        "best_family": layer.best_family,
        "N": layer.N,
        "M": layer.M,
        "aspect_ratio": layer.aspect_ratio,
        "n_matrices": layer.n_matrices,
        "n_eigenvalues": layer.n_eigenvalues,
        "estimator": layer.estimator,
        "solver": layer.solver,
        "residual": layer.residual,
        "eigenvalue_error": layer.eigenvalue_error,
        **layer.metrics,
    }
    return {key: plain(value) for key, value in row.items()}


def to_dict(report: ModelReport) -> Row:
    """Return the whole report as plain values; only ``run`` differs between equal runs."""
    return {
        "schema_version": SCHEMA_VERSION,
        "spectra_version": spectra.__version__,
        "complete": report.complete,
        "source": _source(report.source),
        "options": {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in report.options.items()
        },
        "summary": {key: plain(value) for key, value in report.summary.items()},
        "coverage": dict(report.coverage),
        "layers": [layer_row(layer) for layer in report.layers],
        "skipped": [_skipped(item) for item in report.skipped],
        "run": dict(report.run),
    }


def to_json(report: ModelReport) -> str:
    """Return the report as JSON; NaN becomes null."""
    return json.dumps(to_dict(report), indent=2, allow_nan=False) + "\n"


def inventory_json(stock: Inventory) -> str:
    """Return what ``describe`` found as JSON."""
    plan = stock.plan()
    routes = {position: job.route for job in plan.jobs for position in job.positions}
    layers = [
        {
            "name": m.name,
            "kind": m.kind,
            "shape": list(m.shape),
            "dtype": m.dtype,
            "aliases": list(m.aliases),
            "tensor": m.tensor,
            "layout": m.layout,
            "dequantised_from": m.dequantised_from,
            "N": m.N,
            "M": m.M,
            "n_matrices": m.n_matrices,
            "n_eigenvalues": m.n_matrices * m.M,
            "operations": 0.0 if stock.kept else operations(m),
            "route": routes.get(position, "kept"),
            "seconds": 0.0 if stock.kept else seconds(m),
            "working_bytes": 0 if stock.kept else working_bytes(m),
        }
        for position, m in enumerate(stock.matrices)
    ]
    content = {
        "schema_version": SCHEMA_VERSION,
        "spectra_version": spectra.__version__,
        "source": _source(stock.source),
        "coverage": stock.coverage,
        "layers": layers,
        "skipped": [_skipped(item) for item in stock.skipped],
        "operations": stock.operations,
        "seconds": plan.seconds,
        "working_bytes": plan.nbytes,
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def to_csv(report: ModelReport) -> str:
    """Return the layers as CSV, one row each; text that a spreadsheet would run is quoted with '."""
    buffer = io.StringIO()
    rows = [flat_row(layer_row(layer)) for layer in report.layers]
    if rows:
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return buffer.getvalue()


def html_table(report: ModelReport) -> str:
    """Return a small table for notebooks: at most 50 layers, names escaped, no script."""
    columns = ["name", "N", "M", "status", "alpha", "ks", "n_tail", "alpha_hat", "stable_rank"]
    columns = [c for c in columns if not report.layers or c in layer_row(report.layers[0])]
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = []
    for layer in report.layers[:HTML_ROWS]:
        row = layer_row(layer)
        cells = "".join(f"<td>{html.escape(_short(row[column]))}</td>" for column in columns)
        body.append(f"<tr>{cells}</tr>")
    more = len(report.layers) - HTML_ROWS
    caption = f"{len(report.layers)} layers" + (f", {more} more not shown" if more > 0 else "")
    return (
        f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; text that is no Unicode as escapes."""
    write_file(path, text.encode("utf-8", "backslashreplace"))


def _source(source: SourceInfo) -> Row:
    return {
        "address": source.address,
        "format": source.format,
        "n_tensors": source.n_tensors,
        "nbytes": source.nbytes,
        "notes": list(source.notes),
        "partial": source.partial,
    }


def _skipped(item: Skipped) -> Row:
    return {
        "name": item.name,
        "shape": list(item.shape),
        "reason": item.reason,
        "count": item.count,
    }


def plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a number as JSON takes it: None for NaN and infinity, Python's own types."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value


def flat_row(row: Mapping[str, Any]) -> Row:
    """Put lists into one cell, and make text safe to open in a spreadsheet."""
    flat: Row = {}
    for key, value in row.items():
        if isinstance(value, list):
            value = ("x" if key == "shape" else ";").join(str(part) for part in value)
        if isinstance(value, str) and FORMULA.match(value):
            value = "'" + value
        flat[key] = value
    return flat


def _short(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
