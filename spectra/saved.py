"""Saved reports: the JSON that ``analyze --json`` wrote, as the record it was made from.

What JSON does not hold (spectra, fits) is absent from the record; everything else is as it was.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectra.errors import CheckpointError
from spectra.records import (
    Finding,
    LayerReport,
    ModelReport,
    Phase,
    Skipped,
    SourceInfo,
    Status,
    Value,
    Verdict,
)

SCHEMA_VERSION = 1
MAX_BYTES = 2**30
LARGEST = 2**63  # beyond, an integer meets no float without an overflow sooner or later
START = 4096  # a report names its schema within its first lines

_FIELDS = {field.name for field in dataclasses.fields(LayerReport)} - {"metrics", "spectrum", "fit"}
_TUPLES = ("shape", "aliases", "warnings")
_TYPES: Mapping[type, tuple[str, ...]] = {
    str: (
        *("name", "kind", "dtype", "reason", "tensor", "layout", "dequantised_from", "best_family"),
        *("estimator", "solver"),
    ),
    int: ("N", "M", "n_matrices", "n_eigenvalues"),
    bool: ("averaged",),
}
_NUMBERS = ("aspect_ratio", "residual", "eigenvalue_error")


def is_report(path: Path) -> bool:
    """Tell whether a file looks like a saved report, by its first bytes."""
    try:
        if path.suffix != ".json" or not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(START)
    except OSError:  # whoever reads it will say why
        return False
    return start.lstrip()[:1] == b"{" and b'"spectra_version"' in start


def read_report(path: str | Path) -> ModelReport:
    """Read what ``analyze --json`` or ``report.write("x.json")`` wrote.

    Returns
    -------
    ModelReport
        Equal to the one written, but for spectra and fits, which JSON does not hold.

    Raises
    ------
    CheckpointError
        If it cannot be read, is no report, or was written by a newer version.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _not_a_report(path, "it is larger than 1 GiB")
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError("E_UNREADABLE", str(path), f"cannot be read ({reason})") from None
    except (ValueError, RecursionError):
        raise _not_a_report(path, "it is not JSON") from None
    return report_of(content, str(path))


def report_of(content: Any, where: str) -> ModelReport:  # noqa: ANN401 - whatever JSON holds
    """Turn the JSON of a report into the record; `where` is named in errors."""
    path = Path(where)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version is None:
        raise _not_a_report(path, "it has no schema_version")
    if version != SCHEMA_VERSION:
        raise _not_a_report(
            path, f"its schema_version is {version!r}, this program reads {SCHEMA_VERSION}"
        )
    try:
        source = dict(content["source"])
        source["notes"] = tuple(source["notes"])
        return ModelReport(
            source=SourceInfo(**source),
            options={
                k: tuple(v) if isinstance(v, list) else v for k, v in content["options"].items()
            },
            summary=_numbers(content["summary"]),
            coverage=dict(content["coverage"]),
            layers=tuple(_layer(row) for row in content["layers"]),
            skipped=tuple(
                Skipped(**{**item, "shape": tuple(item["shape"])}) for item in content["skipped"]
            ),
            run=dict(content["run"]),
            complete=bool(content["complete"]),
        )
    except KeyError as error:
        raise _not_a_report(path, f"it has no {error.args[0]!r}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise _not_a_report(path, str(error)) from None


def _layer(row: Mapping[str, Any]) -> LayerReport:
    fields = {key: row[key] for key in _FIELDS}
    for kind, keys in _TYPES.items():
        for key in keys:
            if type(fields[key]) is not kind:
                raise TypeError(f"the {key} of a layer is no {kind.__name__}")
    fields |= {key: tuple(fields[key]) for key in _TUPLES}
    fields |= _numbers({key: fields[key] for key in _NUMBERS})
    fields["status"] = Status(fields["status"])
    fields["warnings"] = tuple(Finding(code) for code in fields["warnings"])
    fields["verdict"] = Verdict(fields["verdict"])
    fields["phase"] = Phase(fields["phase"])
    metrics = {key: value for key, value in row.items() if key not in _FIELDS}
    return LayerReport(**fields, metrics=_numbers(metrics))


def _numbers(values: Mapping[str, Any]) -> dict[str, Value]:
    """Turn null back into NaN."""
    numbers: dict[str, Value] = {}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise TypeError(f"its {name} is no number")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"its {name} is no number that a report holds")
        numbers[name] = math.nan if value is None else value
    return numbers


def _not_a_report(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        "E_REPORT", str(path), f"is no report of spectra: {reason}", "write one with analyze --json"
    )
