"""A comparison as data: JSON, and CSV with one row a matched layer."""

import dataclasses
import json
from typing import Any

import spectra
from spectra.comparing import Comparison, Delta, LayerChange, Overlap
from spectra.reports.tables import Row, csv_text, plain
from spectra.saved import SCHEMA_VERSION

OF_DELTA = tuple(f.name for f in dataclasses.fields(Delta) if f.name != "report")
OF_OVERLAP = tuple(f.name for f in dataclasses.fields(Overlap))
OF_ALPHA = ("alpha", "alpha_low", "alpha_high")
FIELDS = (
    *("name", "other_name", "kind", "shape", "N", "M", "n_matrices", "role", "block", "change"),
    *("status_base", "status_other", "alpha_base", "alpha_other"),
    *("alpha_change", "alpha_change_low", "alpha_change_high", "alpha_moved"),
    *(f"delta_{name}" for name in (*OF_DELTA, "status", *OF_ALPHA)),
    *(f"overlap_{name}" for name in OF_OVERLAP),
)
"""The columns of a matched layer, before the change of every metric."""


def change_row(layer: LayerChange) -> Row:
    """Return one matched layer as plain values, the same columns for all: None where unknown."""
    row: Row = {
        "name": layer.name,
        "other_name": layer.other_name,
        "kind": layer.kind,
        "shape": list(layer.shape),
        "N": layer.N,
        "M": layer.M,
        "n_matrices": layer.n_matrices,
        "role": layer.role,
        "block": layer.block,
        "change": str(layer.change),
        "status_base": str(layer.base.status),
        "status_other": str(layer.other.status),
        "alpha_base": layer.base.metrics.get("alpha"),
        "alpha_other": layer.other.metrics.get("alpha"),
        "alpha_change": layer.alpha_change,
        "alpha_change_low": layer.alpha_change_low,
        "alpha_change_high": layer.alpha_change_high,
        "alpha_moved": layer.alpha_moved,
    }
    delta, overlap = layer.delta, layer.overlap
    row |= {f"delta_{name}": getattr(delta, name, None) for name in OF_DELTA}
    row["delta_status"] = None if delta is None else str(delta.report.status)
    row |= {f"delta_{name}": None if delta is None else delta.of_tail(name) for name in OF_ALPHA}
    row |= {f"overlap_{name}": getattr(overlap, name, None) for name in OF_OVERLAP}
    row |= {f"change_{name}": value for name, value in layer.changes.items()}
    return {key: plain(value) for key, value in row.items()}


def comparison_to_dict(comparison: Comparison) -> Row:
    """Return a comparison as plain values, layers in the order of the base."""
    return {
        "schema_version": SCHEMA_VERSION,
        "spectra_version": spectra.__version__,
        "base": comparison.base,
        "other": comparison.other,
        "change": str(comparison.change),
        "verdict": comparison.verdict,
        "notes": list(comparison.notes),
        "options": {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in comparison.options.items()
        },
        "summary": {key: plain(value) for key, value in comparison.summary.items()},
        "layers": [change_row(layer) for layer in comparison.layers],
        "groups": [_record(group) for group in comparison.groups],
        "only_in_base": [_record(item) for item in comparison.only_in_base],
        "only_in_other": [_record(item) for item in comparison.only_in_other],
        "other_shape": [_record(item) for item in comparison.other_shape],
    }


def comparison_to_json(comparison: Comparison) -> str:
    """Return a comparison as JSON; NaN becomes null."""
    return json.dumps(comparison_to_dict(comparison), indent=2, allow_nan=False) + "\n"


def comparison_to_csv(comparison: Comparison) -> str:
    """Return the matched layers as CSV, one row each; text a spreadsheet would run is quoted."""
    rows = [change_row(layer) for layer in comparison.layers]
    return csv_text(dict.fromkeys((*FIELDS, *(key for row in rows for key in row))), rows)


def _record(record: Any) -> Row:  # noqa: ANN401 - a small dataclass of plain values
    row = {key: plain(value) for key, value in dataclasses.asdict(record).items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}
