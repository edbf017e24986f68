"""What an ONNX graph holds: its tensors wherever they stand, and names that tell them apart."""

import hashlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from spectra.errors import CheckpointError
from spectra.sources.base import CODE_TYPES, FLOAT_TYPES, Array

MAX_DEPTH = 50
MAX_NODES = 200_000
MAX_TENSORS = 200_000
MAX_MESSAGES = 500_000  # each takes a hundred bytes of memory, and two in the file
MAX_FIELDS = 2_000_000
MAX_NESTING = 100  # messages within messages, as protobuf itself allows
MAX_NAME = 4096

# By the numbers of TensorProto.DataType: name, and bits an element takes.
TYPES: Mapping[int, tuple[str, int]] = MappingProxyType(
    {
        1: ("float32", 32),
        2: ("uint8", 8),
        3: ("int8", 8),
        4: ("uint16", 16),
        5: ("int16", 16),
        6: ("int32", 32),
        7: ("int64", 64),
        9: ("bool", 8),
        10: ("float16", 16),
        11: ("float64", 64),
        12: ("uint32", 32),
        13: ("uint64", 64),
        14: ("complex64", 64),
        15: ("complex128", 128),
        16: ("bfloat16", 16),
        17: ("float8_e4m3fn", 8),
        18: ("float8_e4m3fnuz", 8),
        19: ("float8_e5m2", 8),
        20: ("float8_e5m2fnuz", 8),
        21: ("uint4", 4),
        22: ("int4", 4),
        23: ("float4_e2m1fn", 4),
        24: ("float8_e8m0fnu", 8),
        25: ("uint2", 2),
        26: ("int2", 2),
    }
)
TEXT = 8
EXTERNAL = 1
# Fields that hold numbers one by one where raw bytes are not used; all other types share int32's.
FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "float32": "float_data",
        "complex64": "float_data",
        "float64": "double_data",
        "complex128": "double_data",
        "int64": "int64_data",
        "uint32": "uint64_data",
        "uint64": "uint64_data",
    }
)
LAST_LEVEL = 3  # of the names a tensor can have, see Found.name

Names = tuple[str, ...]
Proto = Any  # messages of a package that is only imported when there is a model to read
_Graph = tuple[Names, Names, Proto, Proto]  # names and numbers of the nodes above, nodes, graph


@dataclass(frozen=True, slots=True)
class Found:
    """A tensor and where it stands: its own name, that of its output, those of the nodes above."""

    proto: Proto
    own: str
    output: str
    nodes: Names
    numbers: Names

    def name(self, level: int) -> str:
        """Return a name that says the more of the place the higher the level."""
        if level == 0:
            return self.own
        above = self.numbers if level == LAST_LEVEL else self.nodes
        return ".".join((*above, self.own if level == 1 else self.output))


def check_messages(path: Path, raw: bytes, descriptor: Any) -> None:  # noqa: ANN401
    """Count the messages a protobuf file would become, before any is made.

    Two bytes of the file are an empty message, so a small file can fill the memory.
    """
    known: dict[str, dict[int, Any]] = {}

    def fields_of(message: Any) -> dict[int, Any]:  # noqa: ANN401
        if message.full_name not in known:
            known[message.full_name] = {f.number: f.message_type for f in message.fields}
        return known[message.full_name]

    fields, end, position = fields_of(descriptor), len(raw), 0
    above: list[tuple[dict[int, Any], int]] = []
    n_messages = n_fields = 0
    while position < end or above:
        if position >= end:
            if position > end:
                break
            fields, end = above.pop()
            continue
        tag, position = _varint(raw, position)
        kind = tag & 7
        if kind == 0:
            _, position = _varint(raw, position)
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        elif kind == 2:
            length, position = _varint(raw, position)
            n_fields += 1
            inner = fields.get(tag >> 3)
            if inner is None:
                position += length
            else:
                if position + length > end:
                    break
                n_messages += 1
                above.append((fields, end))
                fields, end = fields_of(inner), position + length
                if len(above) > MAX_NESTING:
                    raise _bad(path, "E_LIMIT", "is nested too deep")
            if n_messages > MAX_MESSAGES or n_fields > MAX_FIELDS:
                raise _bad(path, "E_LIMIT", f"holds more than {MAX_MESSAGES:,} messages")
        else:
            break
    if position != len(raw):
        raise _bad(path, "E_ARCHIVE", "is no ONNX model, or a damaged one")


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    """Read a number of seven bits a byte; beyond the end it is one that no file can satisfy."""
    value = shift = 0
    while position < len(raw) and shift < 70:
        byte = raw[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
    return 0, len(raw) + 1


def tensors_of(path: Path, model: Proto) -> Iterator[Found]:
    """Give every tensor of the graph, its sub-graphs and the functions, the outermost first."""
    start: list[_Graph] = [((), (), model.graph.node, model.graph)]
    for number, function in enumerate(model.functions):
        start.append(((function.name,), (f"function_{number}",), function.node, None))
    yield from _walk(path, start)


def training_of(path: Path, model: Proto) -> Iterator[Found]:
    """Give the tensors of the graphs that train the model."""
    graphs = [
        graph for info in model.training_info for graph in (info.initialization, info.algorithm)
    ]
    yield from _walk(path, [((), (), graph.node, graph) for graph in graphs])


def _walk(path: Path, start: Sequence[_Graph]) -> Iterator[Found]:
    pending = deque(start)
    n_nodes = n_tensors = 0
    while pending:
        above, numbers, nodes, graph = pending.popleft()
        n_nodes += len(nodes)
        if n_nodes > MAX_NODES or len(above) > MAX_DEPTH:
            raise _bad(path, "E_LIMIT", f"has more than {MAX_NODES:,} nodes, or too deep ones")
        if graph is not None:
            n_tensors += len(graph.initializer) + len(graph.sparse_initializer)
            if n_tensors > MAX_TENSORS:
                raise _bad(path, "E_LIMIT", f"holds more than {MAX_TENSORS:,} tensors")
            for proto in (*graph.initializer, *graph.sparse_initializer):
                name = values_of(proto).name
                yield Found(proto, name, name, above, numbers)
        for number, node in enumerate(nodes):
            for attribute in node.attribute:
                step = f"{node.op_type}_{number}.{attribute.name}"
                called = f"{node.name}.{attribute.name}" if node.name else step
                for proto in _held(attribute):
                    n_tensors += 1
                    output = node.output[0] if node.output else step
                    if node.op_type != "Constant":
                        output = f"{output}.{attribute.name}"
                    yield Found(proto, values_of(proto).name or output, output, above, numbers)
                for place, inner in enumerate(_graphs(attribute)):
                    deeper = (*numbers, f"{step}_{place}")
                    pending.append(((*above, called), deeper, inner.node, inner))
        if n_tensors > MAX_TENSORS:
            raise _bad(path, "E_LIMIT", f"holds more than {MAX_TENSORS:,} tensors")


def _held(attribute: Proto) -> list[Proto]:
    single = [attribute.t] if attribute.HasField("t") else []
    sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    return [*single, *attribute.tensors, *sparse, *attribute.sparse_tensors]


def _graphs(attribute: Proto) -> list[Proto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def values_of(proto: Proto) -> Proto:
    """Return the tensor that names a sparse one and holds its numbers; a dense one is that itself."""
    return proto.values if is_sparse(proto) else proto


def is_sparse(proto: Proto) -> bool:
    """Tell a sparse tensor from a dense one."""
    return bool(proto.DESCRIPTOR.name == "SparseTensorProto")


def unique_names(path: Path, found: Sequence[Found]) -> list[str]:
    """Name tensors by as much of their place as it takes to tell them apart."""
    levels = [0] * len(found)
    for _ in range(LAST_LEVEL + 1):
        names = [one.name(level) for one, level in zip(found, levels, strict=True)]
        if any(len(name) > MAX_NAME for name, level in zip(names, levels, strict=True) if level):
            raise _bad(path, "E_LIMIT", f"has names of more than {MAX_NAME:,} letters")
        counts = Counter(names)
        if len(counts) == len(names):
            return names
        levels = [
            min(level + 1, LAST_LEVEL) if counts[name] > 1 else level
            for name, level in zip(names, levels, strict=True)
        ]
    twice = next(name for name, count in counts.items() if count > 1)
    raise _bad(path, "E_DUPLICATE", f"names {twice!r} twice")


def tied_copies(found: Sequence[Found]) -> dict[int, tuple[object, ...]]:
    """Return a key for each matrix whose own name recurs, equal where its bytes are as well.

    Branches carry copies of what they share, as constants can have no other place.
    """
    counts = Counter(one.own for one in found)
    keys: dict[int, tuple[object, ...]] = {}
    for one in found:
        proto = one.proto
        dense = not is_sparse(proto) and proto.data_location != EXTERNAL
        if counts[one.own] > 1 and len(proto.dims) > 1 and dense and proto.data_type in TYPES:
            raw = inline(proto, TYPES[proto.data_type][0])
            digest = hashlib.blake2b(raw.tobytes()).hexdigest()
            keys[id(one)] = (one.own, proto.data_type, tuple(proto.dims), digest)
    return keys


def inline_size(proto: Proto, dtype: str, bits: int) -> int:
    """Return how many bytes the numbers inside the model take."""
    if proto.HasField("raw_data") or not bits:
        return len(proto.raw_data)
    values = getattr(proto, FIELDS.get(dtype, "int32_data"))
    parts = 2 if dtype.startswith("complex") else 1
    # Elements of less than a byte share the int32 they are in as they would share a byte.
    return len(values) * max(bits // parts, 8) // 8


def inline(proto: Proto, dtype: str) -> Array:
    """Return the numbers inside the model as little-endian bytes."""
    if proto.HasField("raw_data"):
        return np.frombuffer(bytearray(proto.raw_data), np.uint8)
    field = FIELDS.get(dtype, "int32_data")
    values = getattr(proto, field)
    if dtype in ("complex64", "complex128"):
        code = "<f4" if dtype == "complex64" else "<f8"
    elif dtype in CODE_TYPES or dtype in FLOAT_TYPES:
        code = str(CODE_TYPES.get(dtype) or FLOAT_TYPES[dtype])
    else:
        code = "u1"
    if field == "int32_data":
        # Half precision is here as its bits, whatever type the number is said to have.
        whole = np.fromiter(values, np.int64, len(values))
        return whole.astype({"<f2": "<u2"}.get(code, code)).view(np.uint8)
    return np.fromiter(values, code, len(values)).view(np.uint8)


def _bad(path: Path, code: str, reason: str) -> CheckpointError:
    return CheckpointError(code, str(path), reason, "download it again, or save it anew")
