"""What quantised codes stand for: from codes and scales to float32, one pure function a recipe.

Codes come as the bytes that are stored. Anything that cannot be right (a scale that is NaN, an index
out of range) is a ``ValueError`` that says so; no array larger than the result is made.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from spectra.sources.base import Array

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

PIECE = 2**20  # values expanded at a time, so that scales as wide as the weight never exist whole
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column within its eight that each nibble of a word holds


def _minifloat(exponent: int, mantissa: int, bias: int) -> Floats:
    """Return the value of every code of sign, exponent and mantissa, without NaN and infinity."""
    codes = np.arange(2 ** (1 + exponent + mantissa))
    power = (codes >> mantissa) % 2**exponent
    fraction = (codes % 2**mantissa) / 2**mantissa
    size = np.ldexp(fraction + (power > 0), np.maximum(power, 1) - bias)
    values: Floats = np.where(codes >> (exponent + mantissa), -size, size).astype(np.float32)
    return values


def _e4m3() -> Floats:
    table = _minifloat(4, 3, 7)
    table[[0x7F, 0xFF]] = np.nan  # this type has no infinities
    return table


def _e5m2() -> Floats:
    table = _minifloat(5, 2, 15)
    table[[0x7C, 0xFC]] = np.inf, -np.inf
    table[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return table


def _e8m0() -> Floats:
    powers = np.ldexp(1.0, np.arange(255) - 127)
    return np.append(powers, np.nan).astype(np.float32)


FLOAT8: Mapping[str, Floats] = MappingProxyType(
    {"float8_e4m3fn": _e4m3(), "float8_e5m2": _e5m2(), "float8_e8m0fnu": _e8m0()}
)
"""The 256 values of each one-byte type, by the names torch gives them."""

E2M1 = _minifloat(2, 1, 1)

# Quantiles of a normal distribution (QLoRA, arXiv:2305.14314, appendix E).
NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
# bitsandbytes' own four-bit float, in twelfths; the upper half is the lower one, negative.
_TWELFTHS = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3]) / 12
FP4 = np.concatenate([_TWELFTHS, -_TWELFTHS]).astype(np.float32)
CODE_BOOKS: Mapping[str, Floats] = MappingProxyType({"nf4": NF4, "fp4": FP4})


def as_bytes(codes: Array) -> Bytes:
    """Return codes as their little-endian bytes, the last axis longer for wider words."""
    if codes.dtype.itemsize > 1 and codes.dtype.kind in "iu":
        codes = codes.astype(codes.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(codes).view(np.uint8)


def scale_values(scale: Array, dtype: str, *, zero: bool = False) -> Floats:
    """Return scales as float32; bytes (uint8) are exponents, as in the microscaling formats.

    Parameters
    ----------
    scale : ndarray
        As stored.
    dtype : str
        The stored type.
    zero : bool
        Whether a scale may be zero, as the largest magnitude of a block of zeros is.

    Raises
    ------
    ValueError
        If a scale is NaN, infinite or a zero that may not be.

    Examples
    --------
    >>> scale_values(np.array([126, 127, 130], np.uint8), "float8_e8m0fnu")
    array([0.5, 1. , 8. ], dtype=float32)
    """
    table = FLOAT8.get("float8_e8m0fnu" if dtype == "uint8" else dtype)
    if table is None and scale.dtype.kind != "f":
        raise ValueError(f"scales of type {dtype} are not read")
    with np.errstate(over="ignore"):
        values = scale.astype(np.float32) if table is None else table[as_bytes(scale)]
    if not np.isfinite(values).all():
        raise ValueError("a scale is NaN or infinite")
    if not zero and not values.all():
        raise ValueError("a scale is zero")
    return values


def unpack(codes: Array, bits: int) -> Bytes:
    """Return the codes of `bits` (2, 4 or 8) that bytes or words hold along the last axis, lowest first.

    Examples
    --------
    >>> unpack(np.array([[0x21, 0x43]], np.uint8), 4)
    array([[1, 2, 3, 4]], dtype=uint8)
    """
    stored = as_bytes(codes)
    count = 8 // bits
    out = np.empty((*stored.shape[:-1], stored.shape[-1] * count), np.uint8)
    for place in range(count):
        out[..., place::count] = (stored >> (place * bits)) & (2**bits - 1)
    return out


def float4(codes: Array) -> Floats:
    """Return the e2m1 numbers of bytes that hold two each, the low nibble first."""
    pairs = np.stack([np.tile(E2M1, 16), np.repeat(E2M1, 16)], axis=1)
    stored = as_bytes(codes)
    return pairs[stored].reshape(*stored.shape[:-1], stored.shape[-1] * 2)


def scale_blocks(values: Floats, scale: Floats, block: tuple[int, int]) -> Floats:
    """Multiply matrices, in place, by one scale for each block of rows and columns.

    Parameters
    ----------
    values : ndarray of shape (..., N, K)
    scale : ndarray of shape (..., ⌈N / rows⌉, ⌈K / columns⌉)
        The blocks at the far edges may be cut short.
    block : (int, int)
        Rows and columns of a block.

    Returns
    -------
    ndarray of shape (..., N, K)
        `values` itself.
    """
    rows, columns = values.shape[-2:]
    high, wide = min(block[0], max(rows, 1)), min(block[1], max(columns, 1))
    grid = (math.ceil(rows / high), math.ceil(columns / wide))
    if scale.shape != (*values.shape[:-2], *grid):
        raise ValueError(
            f"scales of shape {scale.shape} do not fit blocks of {block[0]}×{block[1]}"
            f" in a weight of shape {values.shape}"
        )
    step = max(1, PIECE // (high * max(columns, 1)))  # rows of blocks at a time
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for matrix, factors in zip(
            values.reshape(-1, rows, columns), scale.reshape(-1, *grid), strict=True
        ):
            for begin in range(0, grid[0], step):
                piece = matrix[begin * high : (begin + step) * high]
                across = np.repeat(factors[begin : begin + step], wide, axis=1)[:, :columns]
                piece *= np.repeat(across, high, axis=0)[: len(piece)]
    return values


def affine(
    codes: Array,
    scale: Floats,
    zero: Array | float,
    *,
    group: int = 0,
    index: Array | None = None,
) -> Floats:
    """Return ``(code - zero) · scale``, where scales and zero points belong to groups of columns.

    Parameters
    ----------
    codes : ndarray of shape (N, K)
        Integers.
    scale : ndarray of shape (N, G)
    zero : ndarray of shape (N, G), or float
    group : int
        Columns in a group, when they are in order.
    index : ndarray of shape (K,), optional
        The group of each column, when they are not.
    """
    rows, columns = codes.shape
    groups = scale.shape[1]
    if index is not None:
        if index.shape != (columns,):
            raise ValueError(f"the group index has shape {index.shape}, expected ({columns},)")
        if index.size and not 0 <= int(index.min()) <= int(index.max()) < groups:
            raise ValueError(f"the group index leaves the range of {groups} groups")
    elif group < 1 or math.ceil(columns / group) != groups:
        raise ValueError(f"{groups} scales a row do not fit {columns} columns in groups of {group}")
    if len(scale) != rows or (isinstance(zero, np.ndarray) and zero.shape != scale.shape):
        raise ValueError(f"scales or zero points do not fit a weight of shape {codes.shape}")

    def spread(table: Array) -> Array:
        if index is not None:
            return table[:, index]
        return np.repeat(table, min(group, columns), axis=1)[:, :columns]

    out = np.empty((rows, columns), np.float32)
    step = max(1, PIECE // max(columns, 1))
    with np.errstate(over="ignore", under="ignore"):
        for begin in range(0, rows, step):
            piece = slice(begin, begin + step)
            offset = spread(zero[piece]) if isinstance(zero, np.ndarray) else zero
            np.subtract(codes[piece], offset, out=out[piece], dtype=np.float32)
            out[piece] *= spread(scale[piece])
    return out


def gptq(
    qweight: Array,
    qzeros: Array,
    scale: Floats,
    bits: int,
    *,
    group: int = 0,
    index: Array | None = None,
    minus_one: bool = True,
    symmetric: bool = False,
) -> Floats:
    """Return a GPTQ weight of shape (N, K), as a linear layer holds it.

    Parameters
    ----------
    qweight : ndarray of shape (K·bits / 32, N)
        Words of codes packed along K.
    qzeros : ndarray of shape (G, N·bits / 32)
        Words of zero points packed along N.
    scale : ndarray of shape (G, N)
    bits : int
        2, 4 or 8.
    group, index
        See `affine`.
    minus_one : bool
        Whether zero points are stored less one, as the first version of the format does.
    symmetric : bool
        Whether all zero points must be the middle code. Some files name the first version and store
        them as the second does; where they must be the middle and are it, nothing is added.
    """
    words, outputs = qweight.shape
    by_word = unpack(qweight.reshape(words, outputs, 1), bits)  # (words, N, codes in a word)
    codes = by_word.transpose(1, 0, 2).reshape(outputs, -1)
    zero = unpack(qzeros, bits)
    if minus_one and not (symmetric and bool((zero == 2 ** (bits - 1)).all())):
        zero = (zero + 1) & (2**bits - 1)  # a zero point of 0, less one, has wrapped
    return affine(codes, scale.T, zero.T, group=group, index=index)


def awq(qweight: Array, qzeros: Array, scale: Floats, group: int) -> Floats:
    """Return an AWQ weight (version ``gemm``, 4 bits) of shape (N, K).

    `qweight` of shape (K, N / 8) and `qzeros` of shape (G, N / 8) are packed along N; `scale` is of
    shape (G, N).
    """

    def columns(words: Array) -> Bytes:
        nibbles = unpack(words, 4).reshape(len(words), -1, 8)
        return nibbles[..., np.argsort(AWQ_ORDER)].reshape(len(words), -1)

    return affine(columns(qweight).T, scale.T, columns(qzeros).T, group=group)


def nested_absmax(codes: Array, book: Array, absmax: Array, offset: float, block: int) -> Floats:
    """Return the block maxima that bitsandbytes has quantised themselves ("double quantisation")."""
    if block < 1 or absmax.size < math.ceil(codes.size / block) or book.size != 256:
        raise ValueError("the nested maxima are too few, or their code book is not of 256 entries")
    values = book.astype(np.float32).ravel()[as_bytes(codes).ravel()]
    outer = np.repeat(absmax.astype(np.float32).ravel(), min(block, max(codes.size, 1)))
    return np.asarray(values * outer[: codes.size] + np.float32(offset), np.float32)


def bitsandbytes4(
    codes: Array, absmax: Floats, block: int, shape: tuple[int, ...], book: Floats
) -> Floats:
    """Return a four-bit bitsandbytes weight: the high nibble first, one maximum a block.

    Raises
    ------
    ValueError
        If codes or maxima are fewer than the shape needs.
    """
    size = math.prod(shape)
    stored = as_bytes(codes).ravel()
    if stored.size != math.ceil(size / 2):
        raise ValueError(f"{stored.size} bytes of codes do not fill the shape {shape}")
    if block < 1 or absmax.size != math.ceil(size / block):
        raise ValueError(f"{absmax.size} maxima do not fit {size} codes in blocks of {block}")
    pairs = np.stack([np.repeat(book, 16), np.tile(book, 16)], axis=1)
    values = pairs[stored].reshape(-1)[:size]
    block = min(block, size)
    whole = size // block
    with np.errstate(over="ignore", under="ignore"):
        values[: whole * block].reshape(whole, block)[:] *= absmax.reshape(-1, 1)[:whole]
        values[whole * block :] *= absmax[-1:]
    return values.reshape(shape)
