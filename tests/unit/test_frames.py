"""Tables of typed columns: one schema for every report, the values of the JSON, nothing lost."""

import dataclasses
import io
import json
import math
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import spectra
from spectra.errors import CheckpointError, SelectionError
from spectra.evidence import COLUMNS
from spectra.metrics import METRICS
from spectra.records import LayerReport, Status
from spectra.reports import frames, to_dict
from spectra.reports.rankings import ranking_to_dict
from spectra.reports.tables import FIELDS
from tests.made import layer, report, with_evidence

HOSTILE = [
    "a\x00b",
    "line\nbreak",
    "\u202eevil",
    "=1+1",
    "lone \udc80 surrogate",
    "x" * 100_000,
    "",
    "层.weight",
]
COUNTS = {
    "N",
    "M",
    "n_matrices",
    "n_eigenvalues",
    "n_tail",
    "matrix_rank",
    "rank_loss",
    "n_spikes",
    "n_erg",
    "erg_gap",
    "n_traps",
}


@pytest.fixture
def analysed(weights):
    return spectra.analyze(weights | {"bad": np.full((30, 30), np.nan)}, replicates=0)


@pytest.fixture
def evident(rng):
    weights = {"fc": rng.standard_t(3, (60, 40)), "bad": np.zeros((30, 30))}
    return spectra.analyze(weights, evidence=True, replicates=0)


def one_row_each(analysed, rows):
    """Compare rows with those of the JSON: the same, null where the JSON has null or nothing."""
    for row, expected in zip(rows, to_dict(analysed)["layers"], strict=True):
        assert row["model"] == analysed.source.address
        assert {name: row[name] for name in expected} == expected
        assert all(row[name] is None for name in row.keys() - expected.keys() - {"model"})


def test_the_schema_is_the_same_whatever_a_report_holds(analysed, evident):
    failed = report(layer("a", status=Status.ZERO), layer("b", status=Status.NON_FINITE))
    lone = dataclasses.replace(layer("fc"), metrics={"alpha": 3.0})
    bare = dataclasses.replace(report(), layers=(lone,))
    made = [report(), failed, bare, analysed, evident]
    schemas = {str(frames.table([one]).schema.remove_metadata()) for one in made}
    assert len(schemas) == 1
    assert frames.table([]).schema.equals(frames.table(made).schema)
    assert frames.table(made).num_rows == sum(len(one.layers) for one in made)


def test_columns_are_those_of_the_json_after_the_model(evident):
    columns = frames.table([evident]).schema.names
    assert columns == ["model", *to_dict(evident)["layers"][0]]
    assert columns == ["model", *FIELDS, *METRICS, *COLUMNS]
    assert len({name.casefold() for name in columns}) == len(columns), (
        "SQL does not tell them apart"
    )


def test_every_field_of_a_layer_is_a_column():
    fields = {field.name for field in dataclasses.fields(LayerReport)}
    assert set(FIELDS) == fields - {"metrics", "spectrum", "fit"}


def test_types_are_text_lists_counts_and_numbers(analysed):
    types = {field.name: str(field.type) for field in frames.table([analysed]).schema}
    assert {name for name, kind in types.items() if kind == "int64"} == COUNTS
    assert frames.table([analysed]).schema.field("shape").type == pa.list_(pa.int64())
    lists = {name for name, kind in types.items() if kind.startswith("list<") and "string" in kind}
    assert lists == {"warnings", "aliases"}
    text = {name for name, kind in types.items() if kind == "string"}
    assert {"model", "name", "kind", "status", "verdict", "phase", "dtype"} < text
    assert types["averaged"] == "bool"
    assert all(types[name] == "double" for name in (*METRICS, *COLUMNS) if name not in COUNTS), (
        types
    )


def test_a_metric_is_a_count_exactly_if_it_counts(evident):
    row = evident["fc"].metrics
    for name, metric in METRICS.items():
        assert metric.count == isinstance(row[name], int), name
    for name, column in COLUMNS.items():
        assert column.count == isinstance(row[name], int), name


def test_metrics_of_ones_own_come_last_as_floats(rng):
    own = spectra.Metric(lambda s, _: int(s.eigenvalues.size), "how many", "nobody")
    weights = {"fc": rng.standard_normal((40, 30))}
    made = spectra.analyze(weights, metrics={**METRICS, "mine": own}, replicates=0)
    usual = spectra.analyze(weights, replicates=0)
    table = frames.table([usual, made])
    assert table.schema.names[-1] == "mine"
    assert str(table.schema.field("mine").type) == "double"
    assert table.column("mine").to_pylist() == [None, 30.0]
    assert table.schema.names[:-1] == frames.table([usual]).schema.names


@pytest.mark.parametrize(
    ("metrics", "word"),
    [
        ({"model": 1.0}, "another column"),
        ({"dtype": 1.0}, "another column"),
        ({"n_tail": 2.5}, "no integer"),
        ({"n_tail": 2**63}, "int64"),
        ({"mine": "text"}, "double"),
    ],
)
def test_a_metric_that_fits_no_column_is_refused_by_name(metrics, word):
    with pytest.raises(SelectionError, match=word) as caught:
        frames.table([report(layer("fc", **metrics))])
    assert caught.value.code == "E_COLUMN"
    assert caught.value.subject in metrics


def test_integers_beyond_the_exact_floats_are_numbers_still():
    made = frames.table([report(layer("fc", mine=2**53 + 1))])
    assert made.column("mine").to_pylist() == [float(2**53)]


def test_nan_and_infinity_are_null():
    made = report(layer("a", alpha=math.nan, n_tail=math.nan), layer("b", alpha=math.inf, n_tail=7))
    table = frames.table([made])
    assert table.column("alpha").null_count == 2
    assert table.column("n_tail").to_pylist() == [None, 7]
    frame = made.to_polars()
    assert frame["alpha"].null_count() == 2
    assert frame["alpha"].is_nan().sum() == 0


def test_parquet_gives_the_values_of_the_json_back(analysed, evident, tmp_path):
    for made in (analysed, evident):
        path = tmp_path / "out.parquet"
        made.write(path)
        one_row_each(made, pq.read_table(path).to_pylist())
        one_row_each(made, pl.read_parquet(path).to_dicts())
        assert [file.name for file in tmp_path.iterdir()] == ["out.parquet"]


def test_pandas_reads_integers_as_integers(analysed, tmp_path):
    analysed.write(tmp_path / "out.parquet")
    read = pd.read_parquet(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(read, analysed.to_pandas())
    for name in COUNTS:
        assert str(read[name].dtype) == "Int64", name
    expected = to_dict(analysed)["layers"]
    for name in FIELDS.keys() | METRICS.keys():
        found = [None if np.ndim(v) == 0 and pd.isna(v) else v for v in read[name]]
        found = [list(value) if isinstance(value, np.ndarray) else value for value in found]
        assert found == [row[name] for row in expected], name
    assert read["alpha"].dtype == np.float64
    assert read["alpha"].isna().sum() == sum(row["alpha"] is None for row in expected)
    assert list(read["model"].unique()) == [analysed.source.address]


def test_an_empty_report_has_the_columns_and_types_of_a_full_one(analysed):
    assert report().to_pandas().dtypes.to_dict() == analysed.to_pandas().dtypes.to_dict()
    assert report().to_polars().schema == analysed.to_polars().schema
    assert report().to_polars().height == 0


def test_hostile_names_are_data(rng, tmp_path):
    weights = {name: rng.standard_normal((30, 25)) for name in HOSTILE}
    made = spectra.analyze(weights, replicates=0)
    made.write(tmp_path / "out.parquet")
    expected = [x.name.replace("\udc80", "\\udc80") for x in made.layers]
    assert pq.read_table(tmp_path / "out.parquet").column("name").to_pylist() == expected
    assert pl.read_parquet(tmp_path / "out.parquet")["name"].to_list() == expected
    assert list(pd.read_parquet(tmp_path / "out.parquet")["name"]) == expected


def test_reports_come_back_from_their_table(analysed, evident, tmp_path):
    sink = pa.BufferOutputStream()
    pq.write_table(frames.table([analysed, report(), evident]), sink)
    back = frames.reports_of(pq.read_table(pa.BufferReader(sink.getvalue())))
    for one, two in zip([analysed, report(), evident], back, strict=True):
        assert to_dict(one) == to_dict(two)
    made = frames.reports_of(pq.read_table(io.BytesIO(frames.to_parquet(evident))))
    assert [to_dict(one) for one in made] == [to_dict(evident)]


def test_the_metadata_says_where_the_numbers_come_from(analysed):
    said = json.loads(analysed.to_arrow().schema.metadata[b"spectra"])
    (one,) = said["reports"]
    for key in ("source", "options", "summary", "run", "skipped", "spectra_version", "complete"):
        assert one[key] == to_dict(analysed)[key]
    assert said["schema_version"] == one["schema_version"] == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: table.replace_schema_metadata(None),
        lambda table: table.slice(1),
        lambda table: pa.concat_tables([table, table]),
        lambda table: table.drop_columns(["alpha"]),
        lambda table: table.replace_schema_metadata({"spectra": "[]"}),
        lambda table: table.replace_schema_metadata({"spectra": "{"}),
        lambda table: table.replace_schema_metadata({"spectra": '{"reports": [3]}'}),
    ],
)
def test_a_table_that_is_none_of_reports_is_refused(analysed, spoil):
    with pytest.raises(CheckpointError) as caught:
        frames.reports_of(spoil(analysed.to_arrow()))
    assert caught.value.code == "E_REPORT"


def test_a_ranking_is_a_frame_of_its_models(rng):
    reports = [
        spectra.analyze({f"{i}": rng.standard_t(tail, (60, 40)) for i in range(3)}, replicates=0)
        for tail in (2.5, 30)
    ]
    ranking = spectra.rank(reports)
    table = frames.ranking_table(ranking)
    expected = ranking_to_dict(ranking)
    for row, model in zip(table.to_pylist(), expected["models"], strict=True):
        assert row == {key: value for key, value in model.items() if key != "summary"}
    frame = ranking.to_pandas()
    assert list(frame["rank"]) == [model.rank for model in ranking.models]
    assert str(frame["rank"].dtype) == "Int64"
    assert json.loads(table.schema.metadata[b"spectra"])["metric"] == "alpha"


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("pyarrow", lambda made, path: made.to_arrow()),
        ("pyarrow", lambda made, path: made.write(path)),
        ("pandas", lambda made, path: made.to_pandas()),
        ("polars", lambda made, path: made.to_polars()),
    ],
)
def test_a_missing_package_is_named_with_its_command(monkeypatch, tmp_path, package, use):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CheckpointError, match=r"pip install 'spectra-diagnostics\[frames\]'") as e:
        use(report(layer("fc")), tmp_path / "x.parquet")
    assert (e.value.code, e.value.subject) == ("E_MISSING_PACKAGE", package)
    assert not list(tmp_path.iterdir())


def test_evidence_made_by_hand_has_counts_too():
    made = report(with_evidence(layer("fc"), n_traps=2))
    assert frames.table([made]).column("n_traps").to_pylist() == [2]
