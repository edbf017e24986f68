"""The report as data: JSON and CSV. One row a layer, the same columns everywhere."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import spectra
from spectra.engine import operations, seconds, working_bytes
from spectra.errors import printable
from spectra.inventory import Inventory
from spectra.metrics import METRICS
from spectra.records import LayerReport, ModelReport, Skipped, SourceInfo
from spectra.saved import SCHEMA_VERSION

Row = dict[str, Any]

FIELDS: Mapping[str, type] = MappingProxyType(
    {
        "name": str,
        "kind": str,
        "shape": list[int],
        "dtype": str,
        "status": str,
        "reason": str,
        "warnings": list[str],
        "aliases": list[str],
        "tensor": str,
        "layout": str,
        "dequantised_from": str,
        "averaged": bool,
        "verdict": str,
        "phase": str,
        "best_family": str,
        "N": int,
        "M": int,
        "aspect_ratio": float,
        "n_matrices": int,
        "n_eigenvalues": int,
        "estimator": str,
        "solver": str,
        "residual": float,
        "eigenvalue_error": float,
    }
)
"""What is said of every layer before its metrics, and of what type it is as plain data."""

# A cell is run by a spreadsheet if it begins so, whatever stands before (OWASP, CSV injection). One
# set to another separator, or to take quotes for text, begins cells of its own within ours.
FORMULA = re.compile(r"""(^|[;,|"'\n])( *)(?=[=+\-@＝＋－＠])""")


def layer_row(layer: LayerReport) -> Row:
    """Return one layer as plain values: None where there is no number."""
    row = {name: getattr(layer, name) for name in FIELDS} | dict(layer.metrics)
    return {key: plain(value) for key, value in row.items()}


def metric_names(report: ModelReport) -> tuple[str, ...]:
    """Return the names of all metrics of a report, in its order; the usual ones if it has no layer."""
    return tuple(dict.fromkeys(name for layer in report.layers for name in layer.metrics)) or tuple(
        METRICS
    )


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
    """Return the layers as CSV, one row each: safe to open in a spreadsheet, see `flat_row`."""
    return csv_text((*FIELDS, *metric_names(report)), map(layer_row, report.layers))


def csv_text(columns: Iterable[str], rows: Iterable[Row]) -> str:
    """Return rows as CSV under a line of `columns`; a row may lack some, which stay empty."""
    columns = list(columns)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(inert, columns))
    for row in rows:
        flat = flat_row(row)
        writer.writerow([flat.get(column) for column in columns])
    return buffer.getvalue()


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
    """Return a value as JSON takes it: None for NaN and infinity, lists, Python's own types.

    Examples
    --------
    >>> plain(math.nan), plain(("a", "b")), plain(2)
    (None, ['a', 'b'], 2)
    """
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    if isinstance(value, str):
        return str(value)  # of the members of an enumeration too
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flat_row(row: Mapping[str, Any]) -> Row:
    """Put lists into one cell, and make text safe to open in a spreadsheet or on a terminal.

    Numbers stay numbers, negative ones too. Text that a spreadsheet would run is given a ' before the
    sign that makes it a formula; control characters but the line break are written as escapes.
    """
    flat: Row = {}
    for key, value in row.items():
        if isinstance(value, list):
            value = ("x" if key == "shape" else ";").join(str(part) for part in value)
        flat[key] = inert(value) if isinstance(value, str) else value
    return flat


def inert(text: str) -> str:
    r"""Make text that no spreadsheet takes for a formula, and no terminal for a command.

    Examples
    --------
    >>> inert("=1+1"), inert("layers.0.fc-a"), inert('"; =1+1')
    ("'=1+1", 'layers.0.fc-a', '"; \'=1+1')
    """
    return FORMULA.sub(r"\1\2'", "\n".join(map(printable, text.split("\n"))))
