"""Quantised weights with a scale for each block of rows and columns: floats and integers of 8 and 4 bits.

A plan is made from headers; it computes a weight, or some of its rows, when asked. What cannot be
right is a ``ValueError`` that says so.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from spectra.records import Tensor
from spectra.sources.base import Array, Source
from spectra.sources.quantized import dequantize
from spectra.sources.quantized.configs import Settings

FLOAT8 = frozenset({"float8_e4m3fn", "float8_e5m2"})
EXPONENTS = frozenset({"uint8", "float8_e8m0fnu"})
SCALES = ("weight_scale_inv", "weight_scale", "scale_inv", "scale_weight", "scale")
DEFAULT_BLOCK = (128, 128)


Rows: TypeAlias = Callable[[int, int], Array]


class Plan(NamedTuple):
    """Shape of a weight, the words for its codes, and the function that computes some of its rows.

    Without a function the codes are of a kind that is not read, and the words stand for their type.
    """

    shape: tuple[int, ...]
    words: str
    rows: Rows | None


@dataclass(frozen=True, slots=True)
class Pieces:
    """The codes of one weight, and what lies beside them by the endings of the names."""

    source: Source
    codes: Tensor
    beside: Mapping[str, Tensor]
    settings: Settings

    def need(self, *endings: str) -> Tensor:
        """Return the first of some helpers that is there."""
        for ending in endings:
            if ending in self.beside:
                return self.beside[ending]
        raise ValueError(f"lacks its {endings[0].lstrip('._')}")

    def read(self, tensor: Tensor, begin: int | None = None, end: int | None = None) -> Array:
        """Read codes or a helper, whole or some rows of it; one-byte floats as their bytes."""
        if begin is None or end is None:
            found = self.source.read(tensor.name)
        else:
            found = self.source.read_rows(tensor.name, begin, end)
        if found.dtype.itemsize == 1 and found.dtype.kind not in "iu":
            found = found.view(np.uint8)  # of a NumPy with further types
        return found

    def scale(self, tensor: Tensor, *rows: int, zero: bool = False) -> dequantize.Floats:
        """Read scales as float32."""
        return dequantize.scale_values(self.read(tensor, *rows), tensor.dtype, zero=zero)


def _grid(
    shape: tuple[int, ...], scale: tuple[int, ...], settings: Settings
) -> tuple[tuple[int, ...], tuple[int, int], str]:
    """Return scales' shape with all axes, the rows and columns of their blocks, and words for them."""
    if len(shape) < 2 or 0 in shape:
        raise ValueError(f"has shape {shape}, which is no matrix")
    *lead, rows, columns = shape
    ones = (1,) * len(shape)
    if math.prod(scale) == 1:
        return ones, (rows, columns), "per tensor"
    if scale == shape[:-1]:
        return (*scale, 1), (1, columns), "per channel"
    if lead and scale == shape[:1]:
        return (*scale, *ones[1:]), (rows, columns), "per expert"
    if len(scale) != len(shape) or scale[:-2] != tuple(lead):
        raise ValueError(f"scales of shape {scale} do not fit a weight of shape {shape}")
    grid = scale[-2:]
    stated = settings.blocks
    block = stated or DEFAULT_BLOCK
    if grid == (math.ceil(rows / block[0]), math.ceil(columns / block[1])):
        return scale, block, f"blocks of {block[0]}×{block[1]}"
    whole = {(1, 1): (rows, columns), (rows, 1): (1, columns), (1, columns): (rows, 1)}
    if grid in whole:
        return scale, whole[grid], "per expert" if grid == (1, 1) else "per channel"
    if stated is None and grid[0] == rows and grid[1] and columns % grid[1] == 0:
        group = columns // grid[1]
        return scale, (1, group), f"groups of {group}"
    raise ValueError(
        f"scales of shape {scale} fit no blocks of {block[0]}×{block[1]}, rows or groups of a weight"
        f" of shape {shape}"
    )


def scaled(
    pieces: Pieces,
    shape: tuple[int, ...],
    scale: Tensor,
    grid: tuple[int, ...],
    block: tuple[int, int],
    decode: Callable[[Array], dequantize.Floats],
    factor: Callable[[], Array] | None = None,
    *,
    zero: bool = False,
) -> Rows:
    """Return the function that computes rows of a weight from its codes, a scale for each block.

    Parameters
    ----------
    pieces : Pieces
    shape : tuple of int
        Of the weight.
    scale : Tensor
    grid : tuple of int
        The shape of the scales with an axis for each of the weight's.
    block : (int, int)
        Rows and columns that share a scale.
    decode : callable
        From stored codes to float32, without scales.
    factor : callable, optional
        Reads a further factor: one, or one for each entry of the first axis.
    zero : bool
        Whether a scale may be zero.
    """
    # On the axis that is cut, one scale holds for `high` entries; for all, if there is but one.
    high = block[0] if len(shape) == 2 else 1
    many = grid[0] > 1

    def rows(begin: int, end: int) -> Array:
        first = begin - begin % high if many else begin
        values = decode(pieces.read(pieces.codes, first, end))
        part = (first // high, math.ceil(end / high))
        scales = pieces.scale(scale, *(part if many else ()), zero=zero)
        scales = scales.reshape(-1, *grid[1:])
        if factor is not None:
            factors = factor().astype(np.float64).reshape(-1, *(1,) * (len(grid) - 1))
            with np.errstate(over="ignore", under="ignore"):
                product = scales * (factors if len(factors) == 1 else factors[slice(*part)])
                scales = product.astype(np.float32)
        scales = np.broadcast_to(scales, (*values.shape[:-2], *scales.shape[-2:]))
        return dequantize.scale_blocks(values, scales, block)[begin - first :]

    return rows


def float8(pieces: Pieces) -> Plan:
    """Plan a weight of one-byte floats with scales."""
    codes = pieces.codes
    scale = pieces.need(*SCALES, "_scale_inv", "_scale")
    grid, block, words = _grid(codes.shape, scale.shape, pieces.settings)
    table = dequantize.FLOAT8[codes.dtype]
    rows = scaled(pieces, codes.shape, scale, grid, block, lambda raw: table[raw])
    kind = codes.dtype.removeprefix("float8_").removesuffix("fn")
    return Plan(codes.shape, f"fp8 {kind}, {words}", rows)


def plain_float8(pieces: Pieces) -> Plan:
    """Plan a weight that was merely cast to one-byte floats: its codes are its values."""
    codes = pieces.codes
    table = dequantize.FLOAT8[codes.dtype]

    def rows(begin: int, end: int) -> Array:
        if not codes.shape:
            return table[pieces.read(codes)].reshape(())
        return table[pieces.read(codes, begin, end)]

    return Plan(codes.shape, codes.dtype, rows)


def integer8(pieces: Pieces) -> Plan:
    """Plan a weight of signed bytes with scales, and with zero points where there are such."""
    codes, scale = pieces.codes, pieces.need("weight_scale")
    grid, block, words = _grid(codes.shape, scale.shape, pieces.settings)
    zeros = pieces.beside.get("weight_zero_point")
    if zeros is None:
        rows = scaled(pieces, codes.shape, scale, grid, block, lambda raw: raw.astype(np.float32))
        return Plan(codes.shape, f"int8, {words}", rows)
    if zeros.shape != scale.shape or len(grid) != 2 or grid[0] not in (1, codes.shape[0]):
        raise ValueError(f"zero points of shape {zeros.shape} do not fit scales of {scale.shape}")

    def rows_with_zeros(begin: int, end: int) -> Array:
        found = pieces.read(codes, begin, end)
        part = slice(begin, end) if grid[0] > 1 else slice(None)
        tables = [
            np.broadcast_to(table.reshape(grid)[part], (len(found), grid[1]))
            for table in (pieces.scale(scale), pieces.read(zeros))
        ]
        return dequantize.affine(found, tables[0], tables[1], group=block[1])

    return Plan(codes.shape, f"int8, {words}", rows_with_zeros)


def bitsandbytes8(pieces: Pieces) -> Plan:
    """Plan a weight of signed bytes with the largest magnitude of each row."""
    codes, scale = pieces.codes, pieces.need("SCB")
    if len(codes.shape) != 2 or scale.shape != codes.shape[:1]:
        raise ValueError(f"SCB of shape {scale.shape} does not fit a weight of {codes.shape}")
    order = pieces.beside.get("weight_format")

    def decode(raw: Array) -> dequantize.Floats:
        if order is not None and pieces.read(order).any():
            raise ValueError("its rows are in the order of a GPU, which is not read")
        return raw.astype(np.float32)

    grid, block = (codes.shape[0], 1), (1, codes.shape[1])
    share = functools.partial(np.full, (1,), 1 / 127)
    rows = scaled(pieces, codes.shape, scale, grid, block, decode, share, zero=True)
    return Plan(codes.shape, "bitsandbytes int8", rows)


def _float4(
    pieces: Pieces, scale: Tensor, group: int, words: str, factor: Callable[[], Array] | None = None
) -> Plan:
    codes = pieces.codes
    *lead, _ = codes.shape or (0,)
    stored = codes.nbytes // max(math.prod(lead), 1)  # a header counts numbers or bytes
    shape = (*lead, stored * 2)
    if not lead or 0 in shape or shape[-1] % group or scale.shape != (*lead, shape[-1] // group):
        raise ValueError(f"scales of shape {scale.shape} fit no groups of {group} in {shape}")
    # The scales of NVFP4 are so coarse that small ones have become zero.
    decode, zero = dequantize.float4, scale.dtype in FLOAT8
    rows = scaled(pieces, shape, scale, scale.shape, (1, group), decode, factor, zero=zero)
    return Plan(shape, words, rows)


def packed_float4(pieces: Pieces) -> Plan:
    """Plan compressed-tensors' four-bit floats: MXFP4, or NVFP4 whose second scale divides."""
    scale = pieces.need("weight_scale")
    if scale.dtype in EXPONENTS:
        return _float4(pieces, scale, 32, "mxfp4")
    divisor = _single(pieces, "weight_global_scale")
    return _float4(pieces, scale, 16, "nvfp4", lambda: 1 / pieces.scale(divisor).astype(np.float64))


def modelopt_float4(pieces: Pieces) -> Plan:
    """Plan ModelOpt's NVFP4, whose second scale multiplies."""
    factor = _single(pieces, "weight_scale_2")
    scale = pieces.need("weight_scale")
    return _float4(pieces, scale, 16, "nvfp4", lambda: pieces.scale(factor))


def _single(pieces: Pieces, ending: str) -> Tensor:
    """Return a factor of the whole weight, or of each entry of its first axis."""
    factor = pieces.need(ending)
    if factor.shape not in ((), (1,), pieces.codes.shape[:1]):
        raise ValueError(f"{ending} of shape {factor.shape} is no single factor")
    return factor


def mxfp4(pieces: Pieces) -> Plan:
    """Plan four-bit floats with exponents for scales, as DeepSeek and Quark store them."""
    return _float4(pieces, pieces.need("weight_scale", "scale"), 32, "mxfp4")


def mxfp4_experts(pieces: Pieces) -> Plan:
    """Plan gpt-oss' experts as the model holds them: inputs before outputs, unlike the blocks."""
    codes, scale = pieces.codes, pieces.need("_scales")
    if len(codes.shape) != 4 or codes.shape[-1] != 16 or scale.shape != codes.shape[:-1]:
        raise ValueError(f"blocks of shape {codes.shape} do not fit scales of shape {scale.shape}")
    if scale.dtype not in EXPONENTS or 0 in codes.shape:
        raise ValueError(f"has scales of type {scale.dtype}, which are no exponents")
    experts, outputs, groups, _ = codes.shape

    def decode(raw: Array) -> dequantize.Floats:
        return dequantize.float4(raw.reshape(len(raw), outputs, -1))

    shape = (experts, outputs, groups * 32)
    stored = scaled(pieces, shape, scale, scale.shape, (1, 32), decode)

    def rows(begin: int, end: int) -> Array:
        return stored(begin, end).swapaxes(-1, -2)

    return Plan((experts, groups * 32, outputs), "mxfp4", rows)
