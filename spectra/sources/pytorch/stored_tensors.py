"""Tensors by their place in a torch archive: described without their bytes, read in part or whole."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from spectra.records import Tensor
from spectra.sources.base import FLOAT_TYPES, Array, decode
from spectra.sources.pytorch.inert_pickles import PERSISTENT, Call, Global
from spectra.sources.pytorch.torch_archives import TorchArchive

MAX_DIMENSIONS = 64
MAX_ELEMENTS = 2**56

OTHER_TYPES: Mapping[str, npt.DTypeLike] = MappingProxyType(
    {
        **{f"int{8 * n}": f"<i{n}" for n in (1, 2, 4, 8)},
        **{f"uint{8 * n}": f"<u{n}" for n in (1, 2, 4, 8)},
        "bool": "?",
        "complex64": "<c8",
        "complex128": "<c16",
    }
)
ITEM_SIZES: Mapping[str, int] = MappingProxyType(
    {name: np.dtype(kind).itemsize for name, kind in (FLOAT_TYPES | OTHER_TYPES).items()}  # type: ignore[operator]
    | {f"float8_{kind}": 1 for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu")}
    | {"float4_e2m1fn_x2": 1, "complex32": 4, "qint8": 1, "quint8": 1, "qint32": 4}
)
STORAGES: Mapping[str, str] = MappingProxyType(
    {
        "DoubleStorage": "float64",
        "FloatStorage": "float32",
        "HalfStorage": "float16",
        "BFloat16Storage": "bfloat16",
        "LongStorage": "int64",
        "IntStorage": "int32",
        "ShortStorage": "int16",
        "CharStorage": "int8",
        "ByteStorage": "uint8",
        "BoolStorage": "bool",
        "ComplexFloatStorage": "complex64",
        "ComplexDoubleStorage": "complex128",
        "QInt8Storage": "qint8",
        "QUInt8Storage": "quint8",
        "QInt32Storage": "qint32",
    }
)
UNTYPED = "torch.storage.UntypedStorage"
REBUILD = "torch._utils._rebuild_"

TENSOR_GLOBALS = frozenset(
    {
        "collections.OrderedDict",
        UNTYPED,
        *(f"{REBUILD}{what}" for what in ("tensor", "tensor_v2", "tensor_v3", "parameter")),
        *(f"{REBUILD}{what}" for what in ("qtensor", "sparse_tensor")),
        *(f"torch.{name}" for name in (*STORAGES, *ITEM_SIZES)),
        "torch.serialization._get_layout",
        "torch.per_tensor_affine",
        "torch.per_channel_affine",
        "torch.Size",
    }
)
"""What a pickle of tensors mentions."""


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A tensor where it lies: a strided view of one record of an archive."""

    archive: TorchArchive
    record: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    flaw: str = ""
    """Why it cannot be read as an array, or nothing."""

    def describe(self, name: str) -> Tensor:
        """Return the header entry; ``storage`` is equal for tied tensors."""
        if self.flaw or not math.prod(self.shape):
            return Tensor(name, self.shape, ", ".join(filter(None, (self.dtype, self.flaw))), 0)
        nbytes = math.prod(self.shape) * ITEM_SIZES[self.dtype]
        place = (*self.archive.place, self.record, self.offset)
        return Tensor(
            name, self.shape, self.dtype, nbytes, (place, self.shape, self.stride, self.dtype)
        )

    def read(self) -> Array:
        """Return the tensor."""
        return self._rows(self.shape, self.offset)

    def read_rows(self, begin: int, end: int) -> Array:
        """Return some rows, from the bytes they span."""
        begin, end, _ = slice(begin, end).indices(self.shape[0])
        shape = (max(end - begin, 0), *self.shape[1:])
        return self._rows(shape, self.offset + begin * self.stride[0])

    def _rows(self, shape: tuple[int, ...], offset: int) -> Array:
        kind = FLOAT_TYPES.get(self.dtype) or OTHER_TYPES.get(self.dtype)
        if kind is None or self.flaw:
            raise self.archive.bad(f"holds {self.dtype} {self.flaw}, which is not read", "E_FORMAT")
        if not math.prod(shape):
            return (
                decode(b"", self.dtype, shape)
                if self.dtype in FLOAT_TYPES
                else np.empty(shape, kind)
            )
        size = ITEM_SIZES[self.dtype]
        raw = self.archive.read(self.record, offset * size, _span(shape, self.stride) * size)
        flat = np.frombuffer(raw, kind)
        steps = tuple(size * step for step in self.stride)
        view = np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)
        if self.dtype in FLOAT_TYPES:
            return decode(np.asarray(view, order="C"), self.dtype, shape)
        return np.asarray(view, order="C")


def tensor_of(archive: TorchArchive, call: object) -> Stored | None:
    """Return the tensor that a call of a pickle would build, None where it builds another thing."""
    for _ in range(2):
        if isinstance(call, Call) and call.name == f"{REBUILD}parameter" and call.args:
            call = call.args[0]
    if not isinstance(call, Call) or not call.name.startswith(REBUILD):
        return None
    how = call.name.removeprefix(REBUILD)
    if how == "sparse_tensor":
        return _sparse(archive, call)
    if len(call.args) < 4:
        raise archive.bad("has a tensor that is not described in full")
    storage, offset, shape, stride = call.args[:4]
    typed = call.args[6] if how == "tensor_v3" and len(call.args) > 6 else None
    record, dtype = _storage(archive, storage, typed)
    flaw = "quantized" if how == "qtensor" else ""
    special = call.args[6:7] if how == "tensor_v2" else call.args[7:8]
    if how != "qtensor" and special and special[0]:  # conjugated, or negated, when looked at
        flaw = "lazily conjugated"
    return view_of(archive, record, dtype, shape, stride, offset, flaw)


def view_of(
    archive: TorchArchive,
    record: str,
    dtype: str,
    shape: object,
    stride: object,
    offset: object,
    flaw: str = "",
) -> Stored:
    """Return a strided view of a record, checked to lie inside it."""
    sizes, steps = whole_numbers(shape), whole_numbers(stride)
    first = whole_numbers((offset,))
    fits = sizes is not None and steps is not None and len(sizes) == len(steps)
    if sizes is None or steps is None or first is None or not fits or not is_possible(sizes):
        raise archive.bad(f"has a tensor in {record!r} of no possible shape")
    held = archive.size(record) // ITEM_SIZES[dtype]
    if math.prod(sizes) and first[0] + _span(sizes, steps) > held:
        raise archive.bad(f"has a tensor that reaches beyond its record {record!r}")
    if math.prod(sizes) > held:
        flaw = flaw or "expanded"
    if archive.is_encrypted(record):
        raise archive.bad(f"has an encrypted record {record!r}")
    return Stored(archive, record, dtype, sizes, steps, first[0], flaw)


def _storage(archive: TorchArchive, storage: object, typed: object) -> tuple[str, str]:
    """Return the record of a storage, checked for its size, and the type of its numbers."""
    parts = storage.args[0] if isinstance(storage, Call) and storage.args else None
    if not (
        isinstance(storage, Call)
        and storage.name == PERSISTENT
        and isinstance(parts, tuple)
        and len(parts) >= 5
        and parts[0] == "storage"
        and isinstance(parts[1], Global)
        and isinstance(parts[2], str)
    ):
        raise archive.bad("has a tensor without a storage")
    count = whole_numbers((parts[4],))
    record = f"data/{parts[2]}"
    if isinstance(typed, Global):
        dtype = typed.name.removeprefix("torch.")
    else:
        dtype = STORAGES.get(parts[1].name.removeprefix("torch."), "")
    if dtype not in ITEM_SIZES or count is None:
        raise archive.bad(f"has a tensor of unknown type in {record!r}")
    item = 1 if parts[1].name == UNTYPED else ITEM_SIZES[dtype]
    if archive.size(record) != count[0] * item:
        raise archive.bad(f"has a record {record!r} that is shorter or longer than it says")
    return record, dtype


def _sparse(archive: TorchArchive, call: Call) -> Stored:
    parts = call.args[1] if len(call.args) > 1 else None
    values = tensor_of(archive, parts[1]) if isinstance(parts, tuple) and len(parts) > 2 else None
    shape = parts[2] if isinstance(parts, tuple) and len(parts) > 2 else None
    if isinstance(shape, Call) and shape.name == "torch.Size" and shape.args:
        shape = shape.args[0]
    sizes = whole_numbers(shape)
    if values is None or sizes is None:
        raise archive.bad("has a sparse tensor that is not described in full")
    return Stored(archive, values.record, values.dtype, sizes, (), 0, "sparse")


def is_possible(shape: tuple[int, ...]) -> bool:
    """Tell whether an array could have a shape; that of an empty one may still overflow."""
    return math.prod(max(size, 1) for size in shape) < MAX_ELEMENTS


def whole_numbers(values: object) -> tuple[int, ...] | None:
    """Return a tuple of sizes, None where it is anything else."""
    if not isinstance(values, tuple | list) or len(values) > MAX_DIMENSIONS:
        return None
    sound = all(type(value) is int and 0 <= value < 2**63 for value in values)
    return tuple(values) if sound else None


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Return how many elements of its storage a tensor reaches over."""
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
