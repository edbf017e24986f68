"""Quantised weights whose codes are packed into words: GPTQ, AWQ, compressed-tensors, bitsandbytes."""

import json
import math
from collections.abc import Callable

import numpy as np

from spectra.records import Tensor
from spectra.sources.base import Array
from spectra.sources.quantized import dequantize
from spectra.sources.quantized.scaled_codes import Pieces, Plan, Rows

MAX_STATE = 2**16
"""Bytes of the JSON text in which bitsandbytes keeps the shape of a weight."""

WIDTHS = (2, 4, 8)
"""Bits of codes that do not cross the borders of words."""

STATE = "weight.quant_state.bitsandbytes__"


def integers(pieces: Pieces) -> Plan:
    """Plan compressed-tensors' packed integers: words along a row, zero points along a column."""
    codes, scale = pieces.codes, pieces.need("weight_scale")
    zeros, index = (pieces.beside.get(f"weight_{part}") for part in ("zero_point", "g_idx"))
    fitting = (codes.shape[:1], (*codes.shape[:1], *scale.shape[1:2]))
    if len(codes.shape) != 2 or 0 in (*codes.shape, *scale.shape) or scale.shape not in fitting:
        raise ValueError(f"scales of shape {scale.shape} do not fit codes of shape {codes.shape}")
    rows, words = codes.shape
    groups = math.prod(scale.shape[1:])
    bits = pieces.settings.bits
    columns = words * 32 // bits if bits else 0
    if not bits or columns != groups * pieces.settings.group:
        # Only the shape that lies beside tells how much of the last word is filled.
        columns = _stated_columns(pieces, rows)
        bits = words * 32 // max(columns, 1)
        if math.ceil(columns * bits / 32) != words:
            raise ValueError(f"weight_shape {(rows, columns)} does not fit {words} words a row")
    if bits not in WIDTHS:
        return Plan((rows, columns), f"pack-quantized int{bits} codes", None)
    group = math.ceil(columns / groups)
    plain = zeros is not None and zeros.dtype == "int8"
    packed = (math.ceil(rows * bits / 32), groups)
    if zeros is not None and zeros.shape not in ((scale.shape,) if plain else (packed,)):
        raise ValueError(f"zero points of shape {zeros.shape} do not fit {rows} rows, {bits} bits")

    def values(begin: int, end: int) -> Array:
        if "weight_shape" in pieces.beside and _stated_columns(pieces, rows) != columns:
            raise ValueError(f"weight_shape is not {(rows, columns)}, which its codes fill")
        found = dequantize.unpack(pieces.read(codes, begin, end), bits)[:, :columns]
        zero: Array | float = float(2 ** (bits - 1))
        if zeros is not None and plain:
            zero = pieces.read(zeros).reshape(rows, groups)[begin:end].astype(np.int16) + int(zero)
        elif zeros is not None:
            zero = dequantize.unpack(pieces.read(zeros).T, bits)[:, :rows].T[begin:end]
        scales = pieces.scale(scale).reshape(rows, groups)[begin:end]
        order = None if index is None else pieces.read(index)
        return dequantize.affine(found, scales, zero, group=group, index=order)

    how = "per channel" if groups == 1 else f"groups of {group}"
    return Plan((rows, columns), f"int{bits} pack-quantized, {how}", values)


def _stated_columns(pieces: Pieces, rows: int) -> int:
    shape = pieces.need("weight_shape")
    found = pieces.read(shape).ravel() if math.prod(shape.shape) == 2 else np.empty(0)
    if found.size != 2 or found.dtype.kind not in "iu" or int(found[0]) != rows or found[1] < 1:
        raise ValueError(f"weight_shape is {found.tolist()} for codes of {rows} rows")
    return int(found[1])


def gptq_or_awq(pieces: Pieces) -> Plan:
    """Plan words of GPTQ (packed along the inputs) or AWQ (along the outputs), told by their shapes."""
    scale, zeros = pieces.need("scales"), pieces.need("qzeros")
    codes, settings = pieces.codes, pieces.settings
    if not len(codes.shape) == len(scale.shape) == len(zeros.shape) == 2 or 0 in (
        *codes.shape,
        *scale.shape,
        *zeros.shape,
    ):
        raise ValueError(f"qweight {codes.shape}, qzeros {zeros.shape}, scales {scale.shape}")
    groups, outputs = scale.shape
    if codes.shape[1] == outputs:
        return _gptq(pieces, scale, zeros)
    inputs, words = codes.shape
    if settings.method == "gptq" or words * 8 != outputs or zeros.shape != (groups, words):
        raise ValueError(
            f"qzeros {zeros.shape} and scales {scale.shape} fit no qweight of {codes.shape}"
        )
    group = _group(settings.group, inputs, groups)

    def values() -> Array:
        return dequantize.awq(
            pieces.read(codes), pieces.read(zeros), pieces.scale(scale), group=group
        )

    return Plan((outputs, inputs), "awq 4-bit", _whole(values))


def _gptq(pieces: Pieces, scale: Tensor, zeros: Tensor) -> Plan:
    codes, settings = pieces.codes, pieces.settings
    groups, outputs = scale.shape
    bits, rest = divmod(zeros.shape[1] * 32, outputs)
    if rest or bits > 8 or zeros.shape[0] != groups or (settings.bits and settings.bits != bits):
        stated = f" at {settings.bits} bits" if settings.bits else ""
        raise ValueError(f"qzeros of shape {zeros.shape} do not fit scales {scale.shape}{stated}")
    inputs, rest = divmod(codes.shape[0] * 32, max(bits, 1))
    if bits not in WIDTHS:
        return Plan((outputs, inputs), f"gptq {bits}-bit codes", None)
    index = pieces.beside.get("g_idx")
    if index is not None and index.shape != (inputs,):
        raise ValueError(f"g_idx of shape {index.shape} does not fit {inputs} inputs")
    group = 0 if index is not None else _group(settings.group, inputs, groups)

    def values() -> Array:
        return dequantize.gptq(
            pieces.read(codes),
            pieces.read(zeros),
            pieces.scale(scale),
            bits,
            group=group,
            index=None if index is None else pieces.read(index),
            minus_one=settings.format != "gptq_v2",
            symmetric=settings.symmetric,
        )

    return Plan((outputs, inputs), f"gptq {bits}-bit", _whole(values))


def _group(stated: int, inputs: int, groups: int) -> int:
    """Return how many inputs share a scale; the config's number must fit the scales there are."""
    group = stated if stated > 0 else math.ceil(inputs / groups)
    if math.ceil(inputs / group) != groups:
        raise ValueError(f"{groups} groups do not fit {inputs} inputs in groups of {group}")
    return group


def _whole(values: Callable[[], Array]) -> Rows:
    """Return rows of a weight whose codes are not stored row by row."""
    return lambda begin, end: values()[begin:end]


def bitsandbytes4(pieces: Pieces) -> Plan:
    """Plan four-bit codes of bitsandbytes; the shape is in a JSON text among the tensors."""
    codes, absmax = pieces.codes, pieces.need("weight.absmax")
    state = pieces.need(f"{STATE}nf4", f"{STATE}fp4")
    if codes.dtype not in ("uint8", "int8") or state.nbytes > MAX_STATE:
        raise ValueError(f"codes of type {codes.dtype}, or a quant_state too long, are not read")
    try:
        said = json.loads(pieces.read(state).tobytes())
        shape, block, kind = tuple(said["shape"]), said["blocksize"], said["quant_type"]
        inner, offset = said.get("nested_blocksize", 256), float(said.get("nested_offset", 0))
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        raise ValueError("its quant_state is no JSON of a shape and a block size") from None
    counts = (*shape, block, inner)
    if not all(type(n) is int and n > 0 for n in counts) or not 1 <= len(shape) <= 5:
        raise ValueError(f"its quant_state has shape {shape} and blocks of {block}")
    if not isinstance(kind, str) or kind not in dequantize.CODE_BOOKS:
        raise ValueError(f"its quant_state names the type {str(kind)[:20]!r}, not nf4 or fp4")
    size = math.prod(shape)
    if codes.nbytes != math.ceil(size / 2) or math.prod(absmax.shape) != math.ceil(size / block):
        raise ValueError(
            f"{codes.nbytes} bytes and {math.prod(absmax.shape)} maxima do not fit"
            f" {size} codes in blocks of {block}"
        )
    nested = absmax.dtype == "uint8"
    if nested:
        pieces.need("weight.nested_absmax")
        pieces.need("weight.nested_quant_map")

    def values() -> Array:
        book = dequantize.CODE_BOOKS[kind]
        if "weight.quant_map" in pieces.beside:
            book = pieces.read(pieces.beside["weight.quant_map"]).astype(np.float32).ravel()
        if book.shape != (16,) or not np.isfinite(book).all():
            raise ValueError("its code book is not of 16 finite entries")
        if nested:
            maxima = dequantize.nested_absmax(
                pieces.read(absmax),
                pieces.read(pieces.need("weight.nested_quant_map")),
                pieces.read(pieces.need("weight.nested_absmax")),
                _offset(pieces, offset),
                inner,
            )
        else:
            maxima = pieces.read(absmax).astype(np.float32).ravel()
        if not np.isfinite(maxima).all():
            raise ValueError("a block maximum is NaN or infinite")
        return dequantize.bitsandbytes4(pieces.read(codes), maxima, block, shape, book)

    return Plan(shape, f"bitsandbytes {kind}", _whole(values))


def _offset(pieces: Pieces, said: float) -> float:
    stored = pieces.beside.get("weight.nested_offset")
    return said if stored is None else float(np.sum(pieces.read(stored)))
