"""Programs of torch (TorchScript, torch.export) read for their weights; no code in them is run.

TorchScript is a zip archive whose ``data.pkl`` describes the module and its attributes; the archive of
``torch.export`` lists its weights as JSON, or, written before torch 2.8, keeps a saved state dict.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from spectra.errors import CheckpointError
from spectra.records import Skipped, SourceInfo
from spectra.sources.base import Array, no_tensors, totals
from spectra.sources.pytorch.inert_pickles import Call
from spectra.sources.pytorch.stored_tensors import TENSOR_GLOBALS, Stored, tensor_of, view_of
from spectra.sources.pytorch.torch_archives import TorchArchive

MAX_NODES = 200_000
MAX_DEPTH = 50

CLASSES = "__torch__."
"""What the names of a program's own classes begin with; they are never looked up."""
RESTORE = "torch.jit._pickle."
SCRIPT_GLOBALS = TENSOR_GLOBALS | {
    *(f"{RESTORE}build_{what}" for what in ("intlist", "tensorlist", "doublelist", "boollist")),
    f"{RESTORE}build_tensor_from_id",
    f"{RESTORE}restore_type_tag",
    "builtins.complex",
    "torch.device",
}

WEIGHTS = "data/weights/"
CONFIG = "_weights_config.json"
OLD_STATE = "serialized_state_dict.pt"
# The numbers by which torch.export's schema calls types.
SCHEMA_TYPES: Mapping[int, str] = MappingProxyType(
    {
        1: "uint8",
        2: "int8",
        3: "int16",
        4: "int32",
        5: "int64",
        6: "float16",
        7: "float32",
        8: "float64",
        9: "complex32",
        10: "complex64",
        11: "complex128",
        12: "bool",
        13: "bfloat16",
        28: "uint16",
        29: "float8_e4m3fn",
        30: "float8_e5m2",
        31: "float8_e4m3fnuz",
        32: "float8_e5m2fnuz",
        33: "float8_e8m0fnu",
        34: "uint32",
        35: "uint64",
    }
)


def is_program(names: Collection[str]) -> bool:
    """Tell by the records of a zip archive whether it is a program of torch."""
    return any(_is_mark(name) for name in names)


def _is_mark(name: str) -> bool:
    inner = name.partition("/")[2]
    # constants.pkl comes with every TorchScript archive, code/ only where there is code.
    return inner in ("constants.pkl", "archive_format") or name in (OLD_STATE, "constants.pkl")


class TorchProgram:
    """One TorchScript or torch.export file.

    Every tensor attribute is listed: the archive does not tell buffers from parameters.
    """

    def __init__(self, path: Path) -> None:
        archive = TorchArchive(path)
        ignored: tuple[Skipped, ...] = ()
        names = archive.names
        if "data.pkl" in names and "constants.pkl" in names:
            kind = "TorchScript"
            tree = archive.unpickle("data.pkl", SCRIPT_GLOBALS, CLASSES)
            found = list(_walk(archive, tree))
            ignored = _constants(archive)
        elif OLD_STATE in names:
            kind, inner = "torch.export", archive.nested(OLD_STATE)
            found = list(_walk(inner, inner.unpickle("data.pkl", TENSOR_GLOBALS)))
        else:
            kind, found = "torch.export", list(_exported(path, archive))
        if not found:
            raise no_tensors(path)
        self._stored = dict(found)
        if len(self._stored) < len(found):
            raise CheckpointError(
                "E_DUPLICATE", str(path), "names a tensor twice", "save its state dict"
            )
        self.tensors = tuple(stored.describe(name) for name, stored in found)
        self.ignored = ignored
        self.info = SourceInfo(str(path), kind, *totals(self.tensors))

    def read(self, name: str) -> Array:
        """Return one tensor from its bytes in the archive."""
        return self._stored[name].read()

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows of one tensor, from the bytes they span."""
        return self._stored[name].read_rows(begin, end)


def _walk(archive: TorchArchive, tree: object) -> Iterator[tuple[str, Stored]]:
    """List the tensors under an object, joining the names of attributes with dots."""
    seen = 0
    pending: list[tuple[str, object, int]] = [("", tree, 0)]
    # One object under two names is one tensor; one call is described once.
    known: dict[int, Stored] = {}
    while pending:
        name, value, depth = pending.pop()
        seen += 1
        if seen > MAX_NODES or depth > MAX_DEPTH:
            raise archive.bad("is nested without end", "E_LIMIT")
        items: list[tuple[Any, object]] = []
        if isinstance(value, Call):
            stored = known.get(id(value)) or tensor_of(archive, value)
            if stored is not None:
                known[id(value)] = stored
                yield name or "tensor", stored
                continue
            if value.name.startswith(CLASSES):
                state = value.args if value.state is None else value.state
                items = _children(state)
            elif value.name.startswith(RESTORE) and value.args:
                items = _children(value.args[0])
        else:
            items = _children(value)
        for key, child in reversed(items):
            if isinstance(child, Call | dict | list | tuple):
                pending.append((f"{name}.{key}" if name else str(key), child, depth + 1))


def _children(value: object) -> list[tuple[Any, object]]:
    if isinstance(value, dict):
        return [(key, child) for key, child in value.items() if isinstance(key, str | int)]
    return list(enumerate(value)) if isinstance(value, list | tuple) else []


def _constants(archive: TorchArchive) -> tuple[Skipped, ...]:
    tree = archive.unpickle("constants.pkl", SCRIPT_GLOBALS, CLASSES)
    # Their storages lie in a folder of their own, so that they are counted and not described.
    values = tree if isinstance(tree, tuple | list) else ()
    count = sum(isinstance(v, Call) and v.name.startswith("torch._utils.") for v in values)
    if not count:
        return ()
    return (Skipped("constants.*", (), f"constants of the program ({count} tensors)"),)


def _exported(path: Path, archive: TorchArchive) -> Iterator[tuple[str, Stored]]:
    """List the weights that the archive's own tables name."""
    tables = [n for n in archive.names if n.startswith(WEIGHTS) and n.endswith(CONFIG)]
    if not tables:
        raise CheckpointError(
            "E_FORMAT",
            str(path),
            "is a torch.export archive of unknown layout, without a table of weights",
            "save program.state_dict with safetensors, or with torch.save",
        )
    for table in tables:
        prefix = f"{table.removeprefix(WEIGHTS).removesuffix(CONFIG)}." if len(tables) > 1 else ""
        for name, entry in _table(archive, table).items():
            yield prefix + name, _weight(archive, table, entry)


def _table(archive: TorchArchive, table: str) -> Mapping[str, Any]:
    try:
        entries = json.loads(archive.text(table))["config"]
        "".join(entries).encode()  # half a surrogate pair in a name could be shown nowhere
    except (ValueError, KeyError, TypeError, RecursionError):
        entries = None
    if not isinstance(entries, dict):
        raise archive.bad(f"has a table {table!r} that is none", "E_HEADER")
    return entries


def _weight(archive: TorchArchive, table: str, entry: Any) -> Stored:  # noqa: ANN401 - JSON
    """Return the tensor that one entry of a table describes."""
    try:
        record, meta = WEIGHTS + entry["path_name"], entry["tensor_meta"]
        if entry.get("use_pickle"):
            inner = archive.nested(record)
            stored = tensor_of(inner, inner.unpickle("data.pkl", TENSOR_GLOBALS))
            if stored is None:
                raise archive.bad(f"has a record {record!r} that is no tensor", "E_HEADER")
            return stored
        dtype = SCHEMA_TYPES[meta["dtype"]]
        shape = [size["as_int"] for size in meta["sizes"]]
        stride = [step["as_int"] for step in meta["strides"]]
        offset = meta["storage_offset"]["as_int"]
    except (KeyError, TypeError, AttributeError):
        raise archive.bad(
            f"has an entry in {table!r} that describes no tensor", "E_HEADER"
        ) from None
    return view_of(archive, record, dtype, shape, stride, offset)
