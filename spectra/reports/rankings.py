"""A ranking as data: JSON, and CSV with one row a model."""

import csv
import dataclasses
import io
import json
from typing import Any

import spectra
from spectra.ranking import RankedModel, Ranking
from spectra.reports.tables import Row, flat_row, plain
from spectra.saved import SCHEMA_VERSION


def ranking_row(model: RankedModel) -> Row:
    """Return one model as plain values: None where there is no number."""
    row: Row = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("summary", "warnings")
    }
    row["warnings"] = [str(mark) for mark in model.warnings]
    return {key: plain(value) for key, value in row.items()}


def ranking_to_dict(ranking: Ranking) -> Row:
    """Return a ranking as plain values, best model first."""
    return {
        "schema_version": SCHEMA_VERSION,
        "spectra_version": spectra.__version__,
        "metric": ranking.metric,
        "why": ranking.why,
        "best": None if ranking.best is None else ranking.best.name,
        "options": {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in ranking.options.items()
        },
        "models": [
            {
                **ranking_row(model),
                "summary": {key: plain(value) for key, value in model.summary.items()},
            }
            for model in ranking.models
        ],
        "pairs": [_record(pair) for pair in ranking.pairs],
        "left_out": [_record(item) for item in ranking.left_out],
        "scores": _scores(ranking),
    }


def ranking_to_json(ranking: Ranking) -> str:
    """Return a ranking as JSON; NaN becomes null."""
    return json.dumps(ranking_to_dict(ranking), indent=2, allow_nan=False) + "\n"


def ranking_to_csv(ranking: Ranking) -> str:
    """Return the models as CSV, one row each; text that a spreadsheet would run is quoted with '."""
    buffer = io.StringIO()
    rows = [flat_row(ranking_row(model)) for model in ranking.models]
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _scores(ranking: Ranking) -> Row | None:
    scores = ranking.scores
    if scores is None:
        return None
    return {
        "label": scores.label,
        "higher_is_better": scores.higher_is_better,
        "values": dict(scores.values),
        "groups": dict(scores.groups),
        "agreements": [_record(agreement) for agreement in scores.agreements],
        "paradox": scores.paradox,
    }


def _record(record: Any) -> Row:  # noqa: ANN401 - a small dataclass of plain values
    return {key: plain(value) for key, value in dataclasses.asdict(record).items()}
