"""What every source of weights offers, and the small helpers they share."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spectra.errors import CheckpointError
from spectra.records import Kind, Skipped, SourceInfo, Tensor

Array = npt.NDArray[Any]

# Types whose numbers are the model's own, by the names torch gives them.
FLOAT_TYPES: Mapping[str, npt.DTypeLike] = MappingProxyType(
    {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
)
# Codes and indices: read as they are, for whoever knows what they stand for.
CODE_TYPES: Mapping[str, npt.DTypeLike] = MappingProxyType(
    {
        "int64": "<i8",
        "int32": "<i4",
        "int16": "<i2",
        "int8": "i1",
        "uint64": "<u8",
        "uint32": "<u4",
        "uint16": "<u2",
        "uint8": "u1",
        "bool": "?",
        "complex64": "<c8",
        "complex128": "<c16",
    }
)


CONVOLUTIONS: Mapping[int, Kind] = MappingProxyType({3: "conv1d", 4: "conv2d", 5: "conv3d"})


class Readable(Protocol):
    """Something that gives tensors by name."""

    def read(self, name: str) -> Array:
        """Return one tensor as a NumPy array of a floating type, in the machine's byte order."""
        ...

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return the half-open range of a tensor's first axis, reading no more where that can be."""
        ...


class Source(Readable, Protocol):
    """A place weights come from: a list made of headers alone, and a way to read one tensor.

    ``ignored`` names what was seen but is no weight of the model, such as optimizer state.
    """

    @property
    def info(self) -> SourceInfo:
        """What the source is and how much it holds."""
        ...

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor, in checkpoint order."""
        ...

    @property
    def ignored(self) -> tuple[Skipped, ...]:
        """What is beside the model's weights."""
        ...


def decode(raw: bytes | Array, dtype: str, shape: tuple[int, ...]) -> Array:
    """Turn little-endian bytes into an array; bfloat16, unknown to NumPy, exactly into float32.

    Of types that NumPy has no name for (float8, float4) the bytes themselves are given, the last
    axis shorter where several numbers share a byte.
    """
    if dtype == "bfloat16":
        wide = np.frombuffer(raw, "<u2").astype(np.uint32).reshape(shape)
        wide <<= 16
        return wide.view(np.float32)
    known = FLOAT_TYPES.get(dtype) or CODE_TYPES.get(dtype)
    if known is not None:
        return np.frombuffer(raw, known).reshape(shape)
    codes = np.frombuffer(raw, np.uint8)
    return codes.reshape(*shape[:-1], -1) if codes.size else codes.reshape(*shape[:-1], 0)


def encode(values: Array, dtype: str) -> Array:
    """Turn numbers into the little-endian form of a stored type: `decode` taken back.

    Rounded once, to the nearest, of two to the even; what is too large becomes infinite. bfloat16 is
    given as its codes, and types that NumPy has no name for are the bytes they were decoded to.

    Examples
    --------
    >>> [hex(code) for code in encode(np.array([1.0, 1.0 + 2**-8 + 2**-40]), "bfloat16")]
    ['0x3f80', '0x3f81']
    """
    known = FLOAT_TYPES.get(dtype) or CODE_TYPES.get(dtype)
    with np.errstate(over="ignore"):
        if dtype == "bfloat16":
            return _to_bfloat16(values)
        return values if known is None else values.astype(known)


def _to_bfloat16(values: Array) -> Array:
    near = values.astype(np.float32)
    bits = near.view(np.uint32)
    if values.dtype == np.float64:
        # To the nearest twice is not to the nearest: float32 is reached by cutting, and its last bit
        # set where anything was cut, which no tie of the second rounding then hides.
        cut = near.astype(np.float64) != values
        bits -= np.abs(near) > np.abs(values)
        bits |= cut
    halfway = np.where(np.isnan(values), 0, 0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)
    codes: Array = ((bits + halfway) >> 16).astype("<u2")
    return codes


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which ``layers.2`` comes before ``layers.10``."""
    return [
        # Digits compare by length, then by text: as numbers, without making any.
        (1, len(part.lstrip("0")), part.lstrip("0")) if part.isdecimal() else (0, 0, part)
        for part in re.split(r"(\d+)", name)
    ]


def totals(tensors: Iterable[Tensor]) -> tuple[int, int]:
    """Return how many tensors there are and how many bytes, tied ones counted once."""
    sizes = {(tensor.storage or tensor.name): tensor.nbytes for tensor in tensors}
    return len(sizes), sum(sizes.values())


def no_tensors(path: Path) -> CheckpointError:
    """Build the error for a file that is readable and holds nothing to analyse."""
    return CheckpointError(
        "E_NO_TENSORS", str(path), "holds no tensors", "give the file that holds the weights"
    )
