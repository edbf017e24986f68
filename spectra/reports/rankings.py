"""A ranking as data: JSON, and CSV with one row a model."""

import dataclasses
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import spectra
from spectra.ranking import RankedModel, Ranking
from spectra.reports.tables import Row, csv_text, plain
from spectra.saved import SCHEMA_VERSION

FIELDS: Mapping[str, type] = MappingProxyType(
    {
        "source": str,
        "name": str,
        "group": str,
        "rank": int,
        "rank_low": int,
        "rank_high": int,
        "value": float,
        "value_low": float,
        "value_high": float,
        "mean": float,
        "n_layers": int,
        "warnings": list[str],
    }
)
"""What is said of every model, and of what type it is as plain data."""


def ranking_row(model: RankedModel) -> Row:
    """Return one model as plain values: None where there is no number."""
    return {name: plain(getattr(model, name)) for name in FIELDS}


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
    """Return the models as CSV, one row each: safe to open in a spreadsheet."""
    return csv_text(FIELDS, map(ranking_row, ranking.models))


def _scores(ranking: Ranking) -> Row | None:
    scores = ranking.scores
    if scores is None:
        return None
    return {
        "label": scores.label,
        "higher_is_better": scores.higher_is_better,
        "assumed": scores.assumed,
        "values": dict(scores.values),
        "groups": dict(scores.groups),
        "agreements": [_record(agreement) for agreement in scores.agreements],
        "paradox": scores.paradox,
    }


def _record(record: Any) -> Row:  # noqa: ANN401 - a small dataclass of plain values
    return {key: plain(value) for key, value in dataclasses.asdict(record).items()}
