"""Reports as tables of typed columns: Arrow, Parquet, pandas, polars. One row a layer.

Columns, their order and their types are the same for every report, whatever it holds: what it lacks is
null, metrics of one's own come last. So tables can be concatenated, and files queried together.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from spectra.errors import CheckpointError, SelectionError
from spectra.evidence import COLUMNS
from spectra.extras import require
from spectra.metrics import METRICS
from spectra.records import ModelReport
from spectra.reports.rankings import FIELDS as RANKING_FIELDS
from spectra.reports.rankings import ranking_row, ranking_to_dict
from spectra.reports.tables import FIELDS, Row, metric_names, to_dict
from spectra.saved import SCHEMA_VERSION, report_of

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from spectra.ranking import Ranking

MODEL = "model"
METADATA = b"spectra"
"""Under this key the schema holds, as JSON, what a report has beside its layers."""

KNOWN: Mapping[str, type] = MappingProxyType(
    {MODEL: str}
    | dict(FIELDS)
    | {name: int if metric.count else float for name, metric in METRICS.items()}
    | {name: int if column.count else float for name, column in COLUMNS.items()}
)
"""Every column that a table of layers has, with its type."""


def check_installed() -> None:
    """Refuse before the work, not after it, where tables cannot be made.

    Raises
    ------
    CheckpointError
        ``E_MISSING_PACKAGE`` with the command that installs what is missing.
    """
    _arrow()


def table(reports: Sequence[ModelReport]) -> "pa.Table":
    """Return the layers of all reports as one Arrow table.

    Parameters
    ----------
    reports : sequence of ModelReport
        Analysed by whatever rules; the metadata says which.

    Returns
    -------
    pyarrow.Table
        ``model`` (the address of the source), then the columns of the JSON in its order: text, lists of
        text, `shape` a list of int64, counts int64, every other number float64, metrics that are not
        spectra's own float64 at the end. Null where there is no number, never NaN. Whatever a report
        holds beside its layers (source, options, summary, skipped, run, versions) is JSON in the
        metadata, under ``spectra``; see `reports_of`.

    Raises
    ------
    CheckpointError
        If pyarrow is not installed.
    SelectionError
        If a metric of one's own bears the name of another column, or does not fit its type.
    """
    columns = dict(KNOWN)
    rows: list[Row] = []
    parts = []
    for report in reports:
        names = metric_names(report)
        for name in names:
            if name == MODEL or name in FIELDS:
                raise SelectionError(
                    "E_COLUMN", name, "names a metric and another column", "rename the metric"
                )
            columns.setdefault(name, float)
        content = to_dict(report)
        layers = content.pop("layers")
        rows += [{MODEL: report.source.address, **layer} for layer in layers]
        parts.append(content | {"metrics": list(names), "n_rows": len(layers)})
    return _build(columns, rows, {"schema_version": SCHEMA_VERSION, "reports": parts})


def ranking_table(ranking: "Ranking") -> "pa.Table":
    """Return the models of a ranking as an Arrow table, best first; all else is in the metadata."""
    content = ranking_to_dict(ranking)
    del content["models"]
    return _build(RANKING_FIELDS, map(ranking_row, ranking.models), content)


def to_pandas(made: "pa.Table") -> "pd.DataFrame":
    """Return a table as a pandas frame.

    Counts are of pandas' ``Int64``, which knows missing values, because the table's schema tells pandas
    so; with NumPy's types one layer without a number would turn a whole column into floats. Other
    numbers are ``float64`` with NaN, text is what the installed pandas takes for text (``str`` from
    version 3, ``object`` before), lists are arrays in cells.
    """
    require("pandas", "frames", "make this frame")
    return made.to_pandas()


def to_polars(made: "pa.Table") -> "pl.DataFrame":
    """Return a table as a polars frame, of the same types."""
    frame: pl.DataFrame = require("polars", "frames", "make this frame").from_arrow(made)
    return frame


def to_parquet(report: ModelReport) -> bytes:
    """Return a report as the content of a Parquet file."""
    made = table([report])
    pa = _arrow()
    sink = pa.BufferOutputStream()
    require("pyarrow.parquet", "frames", "write this").write_table(made, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def reports_of(made: "pa.Table") -> tuple[ModelReport, ...]:
    """Turn a table, as it was made or read back from Parquet, into the reports it was made of.

    They equal those written, but for spectra and fits, and for integers among metrics that are not
    spectra's own, which are floats in a table.

    Raises
    ------
    CheckpointError
        If the rows are not those that its metadata describes.
    """
    try:
        found, start = [], 0
        for part in _parts(made):
            n_rows, names = part.pop("n_rows"), (*FIELDS, *part.pop("metrics"))
            part["layers"] = made.slice(start, n_rows).select(names).to_pylist()
            start += n_rows
            found.append(report_of(part, "table"))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            "E_REPORT", "table", f"is no table of reports: {error}", "use one made by spectra"
        ) from None
    return tuple(found)


def _parts(made: "pa.Table") -> list[Row]:
    """Return what each report has beside its layers, if the rows are theirs."""
    parts: list[Row] = json.loads((made.schema.metadata or {})[METADATA])["reports"]
    if sum(part["n_rows"] for part in parts) != made.num_rows:
        raise ValueError("rows were added or taken away")
    return parts


def _build(columns: Mapping[str, type], rows: Iterable[Row], provenance: Row) -> "pa.Table":
    pa = _arrow()
    types = {
        str: pa.string(),
        bool: pa.bool_(),
        int: pa.int64(),
        float: pa.float64(),
        list[str]: pa.list_(pa.string()),
        list[int]: pa.list_(pa.int64()),
    }
    metadata = {
        METADATA: json.dumps(provenance, allow_nan=False),
        b"pandas": json.dumps(_for_pandas(columns)),
    }
    schema = pa.schema([(_utf8(n), types[t]) for n, t in columns.items()], metadata=metadata)
    rows = list(rows)
    arrays = []
    for field, (name, kind) in zip(schema, columns.items(), strict=True):
        convert = CONVERTERS.get(kind)
        values = [row.get(name) for row in rows]
        try:
            if convert is not None:
                values = [None if value is None else convert(value) for value in values]
            arrays.append(pa.array(values, type=field.type))
        except (ArithmeticError, TypeError, ValueError) as error:
            raise SelectionError(
                "E_COLUMN", name, f"does not fit a column of {field.type}: {error}"
            ) from None
    return pa.Table.from_arrays(arrays, schema=schema)


def _for_pandas(columns: Mapping[str, type]) -> Row:
    """Say which columns pandas shall read as its own nullable integers, as its documents lay down."""
    return {
        "index_columns": [],
        "column_indexes": [],
        "columns": [
            {
                "name": name,
                "field_name": name,
                "pandas_type": "int64",
                "numpy_type": "Int64",
                "metadata": None,
            }
            for name, kind in columns.items()
            if kind is int
        ],
        "creator": {"library": "spectra", "version": str(SCHEMA_VERSION)},
        "pandas_version": "2.2.2",
    }


def _whole(value: float) -> int:
    if value != int(value):
        raise ValueError(f"{value} is no integer")  # Arrow would cut it off without a word
    return int(value)


def _utf8(text: str) -> str:
    """Write what UTF-8 cannot hold, halves of surrogate pairs in hostile names, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


CONVERTERS: Mapping[type, Callable[[Any], Any]] = MappingProxyType(
    {str: _utf8, int: _whole, float: float, list[str]: lambda texts: [*map(_utf8, texts)]}
)


def _arrow() -> Any:  # noqa: ANN401 - a module without types
    return require("pyarrow", "frames", "make tables")
