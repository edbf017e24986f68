"""Spectra of a model in one file, with all that a report says of its layers: a source without weights.

A safetensors file: the eigenvalues of each layer as float64, named by its number, and the rest as JSON in
the metadata. See docs/decisions/0019-result-store.md.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NoReturn, TypeVar, get_args

import numpy as np
from safetensors.numpy import save

import spectra
from spectra.conventions import Convention, named
from spectra.engine import Failure, Outcome
from spectra.errors import CheckpointError, SelectionError
from spectra.records import (
    Kind,
    LayerReport,
    Matrix,
    ModelReport,
    Skipped,
    SourceInfo,
    Spectrum,
    Status,
    Tensor,
)
from spectra.sources import Checkpoint, Source
from spectra.sources.safetensors_files import SPECTRA, SafetensorsFile

SCHEMA_VERSION = 1
LARGEST = 2**53
"""Of numbers that count something: from here on float64 does not tell neighbours apart."""
TRACE = 0.01
"""Most that Σλ may differ from ‖W‖²_F, relatively: far more than any decomposition is let pass with."""
SOLVERS = ("gram", "gram_float32", "svd")
KINDS: tuple[Kind, ...] = get_args(Kind)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cut:
    """What of a convention the spectra themselves depend on, and not what is made of them."""

    peer_layouts: bool
    conv: str
    resolution: float


@dataclass(frozen=True, slots=True)
class Kept:
    """What a file of spectra holds: of each matrix its spectrum, or why there is none.

    ``layers`` and ``exclude`` are the choice that was made when it was written, ``address`` is where
    the file lies; ``source`` is what the spectra were computed from.
    """

    address: str
    source: SourceInfo
    matrices: tuple[Matrix, ...]
    outcomes: tuple[Outcome, ...]
    skipped: tuple[Skipped, ...]
    convention: str
    cut: Cut
    precision: str
    layers: tuple[str, ...]
    exclude: tuple[str, ...]


def to_bytes(report: ModelReport) -> bytes:
    """Return a file of the spectra of a report, as they were before its convention was applied.

    Raises
    ------
    SelectionError
        If the report holds no spectra, as one that was read back from JSON.
    """
    rows, values = [], {}
    for position, layer in enumerate(report.layers):
        raw = None if layer.spectrum is None else layer.spectrum.raw
        if raw is None and (layer.status is Status.OK or layer.spectrum is not None):
            reason = "its report holds no spectra that could be written"
            raise SelectionError(
                "E_SPECTRA", report.source.address, reason, "analyze the weights again"
            )
        rows.append(_row(layer, raw))
        if raw is not None:
            values[str(position)] = raw.eigenvalues
    options = report.options
    rules = named(str(options["convention"]), conv=options["conv"])  # type: ignore[arg-type]
    content = {
        "schema_version": SCHEMA_VERSION,
        "spectra_version": spectra.__version__,
        "source": asdict(report.source),
        "convention": rules.name,
        "cut": asdict(_cut(rules)),
        "precision": options["precision"],
        "layers": options["layers"],
        "exclude": options["exclude"],
        "matrices": rows,
        "skipped": [asdict(item) for item in report.skipped],
    }
    # One key alone: the library writes several in any order, and equal files should be equal.
    return save(values, {SPECTRA: json.dumps(content, allow_nan=False)})


def _row(layer: LayerReport, raw: Spectrum | None) -> dict[str, object]:
    row = {name: getattr(layer, name) for name in _MATRIX}
    if raw is None:
        return row | {"failure": {"status": layer.status, "reason": layer.reason}}
    return row | {"spectrum": {name: getattr(raw, name) for name in _NUMBERS}}


_MATRIX = (
    *("name", "tensor", "kind", "shape", "dtype", "N", "M", "n_matrices", "aliases"),
    *("layout", "dequantised_from"),
)
_NUMBERS = ("squared_norm", "residual", "solver", "error")


def _cut(rules: Convention) -> Cut:
    return Cut(rules.peer_layouts, rules.conv, rules.rank_tolerance)


def is_kept(source: Source) -> bool:
    """Tell whether a source holds spectra instead of weights, by what its header says."""
    return isinstance(source, SafetensorsFile) and source.holds_spectra


def read(checkpoint: Checkpoint) -> Kept:
    """Read a file of spectra that was opened as a checkpoint; nothing in it is trusted.

    Raises
    ------
    CheckpointError
        ``E_SPECTRA`` if it is of a newer version, or anything in it is not as `write` would have it.
    """
    file = checkpoint.source
    assert isinstance(file, SafetensorsFile)
    try:
        content = json.loads(file.metadata[SPECTRA], parse_constant=_no_number)
        return _kept(file, content)
    except (json.JSONDecodeError, RecursionError):
        reason = "its description is no JSON"
    except ValueError as error:
        reason = str(error)
    reason = f"is no file of spectra: {reason}"
    raise CheckpointError("E_SPECTRA", file.info.address, reason, "write it anew with --spectra")


def _kept(file: SafetensorsFile, content: object) -> Kept:
    version = _get(content, "schema_version", int)
    if version != SCHEMA_VERSION:
        raise ValueError(f"its schema_version is {version}, this program reads {SCHEMA_VERSION}")
    rows = _get(content, "matrices", list)
    matrices = tuple(map(_matrix, rows))
    if len({matrix.name for matrix in matrices}) < len(matrices):
        raise ValueError("it names a layer twice")
    n_spectra = sum("spectrum" in row for row in rows)
    if n_spectra != len(file.tensors):
        raise ValueError(f"it lists {n_spectra} spectra and holds {len(file.tensors)}")
    stored = {tensor.name: tensor for tensor in file.tensors}
    file.expect(stored)  # from far away, together
    cut, source = _get(content, "cut", dict), _get(content, "source", dict)
    return Kept(
        address=file.info.address,
        source=SourceInfo(
            address=_get(source, "address", str),
            format=_get(source, "format", str),
            n_tensors=_count(source, "n_tensors"),
            nbytes=_count(source, "nbytes"),
            notes=_texts(source, "notes"),
            partial=_get(source, "partial", bool),
        ),
        matrices=matrices,
        outcomes=tuple(
            _outcome(file, stored.get(str(position)), row, matrix)
            for position, (row, matrix) in enumerate(zip(rows, matrices, strict=True))
        ),
        skipped=tuple(map(_skipped, _get(content, "skipped", list))),
        convention=_get(content, "convention", str),
        cut=Cut(
            peer_layouts=_get(cut, "peer_layouts", bool),
            conv=_get(cut, "conv", str),
            resolution=_number(cut, "resolution"),
        ),
        precision=_get(content, "precision", str),
        layers=_texts(content, "layers"),
        exclude=_texts(content, "exclude"),
    )


def check_cut(kept: Kept, rules: Convention) -> None:
    """Refuse a convention that cuts tensors in another way than the one the spectra are of.

    Raises
    ------
    SelectionError
    """
    asked = _cut(rules)
    if asked.conv != kept.cut.conv:
        _refuse(kept, f"kernels cut as {kept.cut.conv}", f"give --conv {kept.cut.conv}")
    if asked != kept.cut:
        _refuse(
            kept, f"tensors cut as in {kept.convention}", f"give --convention {kept.convention}"
        )


def check_options(kept: Kept, precision: str, *, evidence: bool) -> None:
    """Refuse what takes weights: another precision, evidence.

    Raises
    ------
    SelectionError
    """
    if precision != kept.precision:
        _refuse(kept, f"precision {kept.precision}", f"give --precision {kept.precision}")
    if evidence:
        _refuse(kept, "layers, and --metrics all takes weights", "leave it out")


def _refuse(kept: Kept, what: str, advice: str) -> NoReturn:
    reason = f"holds spectra of {what}"
    raise SelectionError(
        "E_SPECTRA",
        kept.address,
        reason,
        f"{advice}, or analyze the weights: {kept.source.address}",
    )


def _outcome(
    file: SafetensorsFile, tensor: Tensor | None, row: dict[str, object], matrix: Matrix
) -> Outcome:
    """Return the spectrum of a layer, or why it has none."""
    name = repr(matrix.name)
    if "failure" in row:
        failure = _get(row, "failure", dict)
        status = _get(failure, "status", str)
        if status not in set(Status) - {Status.OK}:
            raise ValueError(f"the status of {name} is {status!r}")
        return Failure(Status(status), _get(failure, "reason", str))
    numbers, size = _get(row, "spectrum", dict), matrix.n_matrices * matrix.M
    if tensor is None or (tensor.dtype, tensor.shape) != ("float64", (size,)):
        raise ValueError(f"the spectrum of {name} is not there, or not {size} numbers in float64")
    values = file.read(tensor.name).astype(np.float64)
    norm, solver = _number(numbers, "squared_norm"), _get(numbers, "solver", str)
    if not np.isfinite(values).all() or values[0] < 0 or np.any(values[1:] < values[:-1]):
        raise ValueError(f"the spectrum of {name} holds NaN, or is negative or not ascending")
    with np.errstate(over="ignore"):
        total = float(values.sum())
    if not math.isclose(total, norm, rel_tol=TRACE):
        raise ValueError(f"the spectrum of {name} does not add up to its squared norm")
    if solver not in SOLVERS:
        raise ValueError(f"the solver of {name} is {solver!r}")
    return Spectrum(
        eigenvalues=values,
        N=matrix.N,
        M=matrix.M,
        n_matrices=matrix.n_matrices,
        squared_norm=norm,
        residual=_number(numbers, "residual"),
        solver=solver,
        error=_number(numbers, "error"),
        stored=True,
    )


def _skipped(row: object) -> Skipped:
    return Skipped(
        name=_get(row, "name", str),
        shape=_shape(row),
        reason=_get(row, "reason", str),
        count=_count(row, "count"),
    )


def _matrix(row: object) -> Matrix:
    kind = _get(row, "kind", str)
    matrix = Matrix(
        name=_get(row, "name", str),
        tensor=_get(row, "tensor", str),
        kind=next((known for known in KINDS if known == kind), "linear"),
        shape=_shape(row),
        dtype=_get(row, "dtype", str),
        nbytes=0,
        N=_count(row, "N", least=1),
        M=_count(row, "M", least=1),
        n_matrices=_count(row, "n_matrices", least=1),
        aliases=_texts(row, "aliases"),
        layout=_get(row, "layout", str),
        dequantised_from=_get(row, "dequantised_from", str),
    )
    if matrix.kind != kind or matrix.N < matrix.M:
        raise ValueError(f"{matrix.name!r} is {kind!r}, {matrix.N}×{matrix.M}")
    return matrix


def _get(row: object, name: str, kind: type[T]) -> T:
    """Return an item of a JSON object, which must be of one type."""
    value: Any = row.get(name) if isinstance(row, dict) else None
    if type(value) is not kind:
        raise ValueError(f"its {name} is not there, or no {kind.__name__}")
    return value


def _count(row: object, name: str, *, least: int = 0) -> int:
    value = _get(row, name, int)
    if not least <= value <= LARGEST:
        raise ValueError(f"its {name} is out of range")
    return value


def _number(row: object, name: str) -> float:
    value = _get(row, name, float)
    if not 0 <= value < math.inf:
        raise ValueError(f"its {name} is out of range")
    return value


def _texts(row: object, name: str) -> tuple[str, ...]:
    return tuple(_items(row, name, str))


def _shape(row: object) -> tuple[int, ...]:
    shape = tuple(_items(row, "shape", int))
    if not all(0 <= side <= LARGEST for side in shape):
        raise ValueError("its shape is out of range")
    return shape


def _items(row: object, name: str, kind: type[T]) -> Iterator[T]:
    for item in _get(row, name, list):
        if type(item) is not kind:
            raise ValueError(f"its {name} holds something that is no {kind.__name__}")
        yield item


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"it holds {text}")
