"""A history as data: JSON, and CSV with one row a checkpoint and layer."""

import dataclasses
import json
from typing import Any

import spectra
from spectra.reports.tables import Row, csv_text, layer_row, plain
from spectra.saved import SCHEMA_VERSION
from spectra.trajectories import History, HistoryPoint, Trajectory


def history_to_dict(history: History) -> Row:
    """Return a history as plain values, checkpoints in order."""
    return {
        "schema_version": SCHEMA_VERSION,
        "spectra_version": spectra.__version__,
        "address": history.address,
        "unit": history.unit,
        "choice": history.choice,
        "options": {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in history.options.items()
        },
        "layers": list(history.layers),
        "checkpoints": [_point(point) for point in history.checkpoints],
        "trajectories": [_trajectory(item) for item in history.trajectories],
        "change_points": [
            {**_record(change), "found": change.found} for change in history.change_points
        ],
        "signs": [_record(sign) for sign in history.signs],
        "skipped": [_record(item) for item in history.skipped],
        "left_out": [_record(item) for item in history.left_out],
        "complete": history.complete,  # last: at the top it would look like the report of a model
    }


def history_to_json(history: History) -> str:
    """Return a history as JSON; NaN becomes null."""
    return json.dumps(history_to_dict(history), indent=2, allow_nan=False) + "\n"


def history_to_csv(history: History) -> str:
    """Return every layer of every checkpoint as CSV; formulas of spreadsheets are quoted with '."""
    rows = [
        {"step": point.step, "checkpoint": point.name, **layer_row(layer)}
        for point, report in zip(history.checkpoints, history.reports, strict=True)
        for layer in report.layers
    ]
    columns = dict.fromkeys(key for row in rows for key in row)  # some may have evidence
    return csv_text(columns, rows) if rows else ""


def _point(point: HistoryPoint) -> Row:
    row = {
        field.name: plain(getattr(point, field.name))
        for field in dataclasses.fields(point)
        if field.name != "summary"
    }
    return {**row, "summary": {key: plain(value) for key, value in point.summary.items()}}


def _trajectory(item: Trajectory) -> Row:
    return {
        key: [plain(number) for number in value] if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(item).items()
    }


def _record(record: Any) -> Row:  # noqa: ANN401 - a small dataclass of plain values
    return {key: plain(value) for key, value in dataclasses.asdict(record).items()}
