"""Quantised checkpoints as what their codes stand for: each weight once, computed when it is read.

``RULES`` is the table of scaled_codes. Codes that no rule reads (of another method, or of none that is
known) are listed as such, never as numbers.

One-byte floats without scales are the weights themselves where no weight of the source has scales
(a plain cast, as image models are often shipped); where others have, a scale is missing.
"""

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spectra.errors import CheckpointError
from spectra.records import Skipped, Tensor
from spectra.sources.base import Array, Source, totals
from spectra.sources.quantized import scaled_codes
from spectra.sources.quantized.configs import Settings, settings_of
from spectra.sources.quantized.rules import ACTIVATIONS, RULES, role
from spectra.sources.quantized.scaled_codes import Pieces, Plan

LARGEST_GAIN = 16
"""Bytes of float32 for a byte of codes, at two bits each."""

ADVICE = "download it again, or analyze the model it was quantised from"

INTEGER = re.compile(r"u?int|bool")
CODES = re.compile(r"^(u?int(8|16|32)|(float|f)[468]_\w+)$")
# What holds scales, by the last word of its name, and what is no weight though it has such beside it.
SCALE_LIKE = re.compile(r"(^|_)(scales?|zeros?|absmax|codebooks?|biases|SCB)(_|$)|^q_scale|_zero_")
NO_WEIGHT = re.compile(r"(^|_)(bias|mask|ids|index|indices|perm|idx)$")
ORPHAN = re.compile(r"(^|[._])(weight_scale(_inv|_2)?|weight_(zero_point|g_idx)|scale_inv|qzeros)$")


@dataclass(frozen=True, slots=True)
class Layer:
    """A weight and how it is computed, or what is wrong with it."""

    tensor: Tensor
    plan: Plan | None
    problem: str = ""


class QuantizedSource:
    """A source in which quantised weights are listed once, as float32, and computed when read."""

    def __init__(
        self, source: Source, layers: Mapping[str, Layer], helpers: Mapping[str, str]
    ) -> None:
        self._source = source
        self._layers = {layer.tensor.name: layer for layer in layers.values()}
        self.tensors = tuple(
            layers[tensor.name].tensor if tensor.name in layers else tensor
            for tensor in source.tensors
            if tensor.name not in helpers
        )
        self.ignored = (
            *source.ignored,
            *(
                Skipped(tensor.name, tensor.shape, helpers[tensor.name])
                for tensor in source.tensors
                if tensor.name in helpers
            ),
        )
        words = Counter(layer.tensor.dequantised_from for layer in layers.values())
        notes = [f"{n} weights dequantised from {what}" for what, n in words.items() if what]
        count, nbytes = totals(self.tensors)
        self.info = dataclasses.replace(
            source.info, n_tensors=count, nbytes=nbytes, notes=(*source.info.notes, *notes)
        )

    def read(self, name: str) -> Array:
        """Return one tensor; raises `CheckpointError` where codes and scales do not fit."""
        layer = self._layers.get(name)
        if layer is None:
            return self._source.read(name)
        return self._compute(layer, 0, _length(layer.tensor))

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows of one tensor, from their codes alone where these lie row by row."""
        layer = self._layers.get(name)
        if layer is None:
            return self._source.read_rows(name, begin, end)
        begin, end, _ = slice(begin, end).indices(_length(layer.tensor))
        return self._compute(layer, begin, max(begin, end))

    def _compute(self, layer: Layer, begin: int, end: int) -> Array:
        name, plan = layer.tensor.name, layer.plan
        if layer.problem or plan is None or plan.rows is None:
            reason = layer.problem or f"holds {layer.tensor.dtype}, which are not read"
            raise CheckpointError("E_QUANT", name, reason, ADVICE)
        if begin == end and layer.tensor.shape:
            return np.empty((0, *layer.tensor.shape[1:]), np.float32)
        try:
            # What overflows is infinite, and the layer is then said to hold infinite weights.
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                return plan.rows(begin, end)
        except (ValueError, IndexError, OverflowError) as error:
            raise CheckpointError("E_QUANT", name, str(error), ADVICE) from error


def _length(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.shape else 0


def resolve(source: Source, config: Mapping[str, Any] | None = None) -> Source:
    """Return a source with quantised weights as what their codes stand for.

    Parameters
    ----------
    source : Source
        Any source; codes and what belongs to them may lie in different files of it.
    config : Mapping, optional
        The model's config.json. Without it, names, types and shapes must tell.

    Returns
    -------
    Source
        `source` itself if nothing in it is quantised. Otherwise each quantised weight appears once,
        under the model's name for it, as float32 and with ``dequantised_from``; what belongs to it is
        ``ignored``. Codes that are not read keep their name and have a type such as "exl2 codes". A
        weight whose codes and scales do not fit is listed too: reading it raises `CheckpointError`.
    """
    stated = settings_of(config or {})
    by_name = {tensor.name: tensor for tensor in source.tensors}
    layers: dict[str, Layer] = {}
    helpers: dict[str, str] = {}
    if not stated.unread:
        for tensor in source.tensors:
            found = None if tensor.name in helpers else _recognise(tensor, by_name, source, stated)
            if found is not None:
                layers[tensor.name], belonging = found
                helpers.update(belonging)
        layers = {name: layer for name, layer in layers.items() if name not in helpers}
        for name in by_name.keys() - helpers.keys() - layers.keys():
            if ORPHAN.search(name):
                helpers[name] = "scale of a weight that is not here"
        _take_plain_float8(source, stated, layers, helpers)
    _take_unread(source, stated, layers, helpers)
    if not layers and not helpers:
        return source
    return QuantizedSource(source, layers, helpers)


def _recognise(
    tensor: Tensor, by_name: Mapping[str, Tensor], source: Source, stated: Settings
) -> tuple[Layer, dict[str, str]] | None:
    """Return the layer whose codes a tensor holds and what belongs to it, None if it holds none."""
    for rule in RULES:
        stem = tensor.name.removesuffix(rule.codes)
        typed = rule.types is None or tensor.dtype in rule.types
        if not typed or not tensor.name.endswith(rule.codes):
            continue
        if rule.codes[:1].isalpha() and stem and not stem.endswith("."):
            continue
        endings = (*rule.marks, *rule.others, *(ACTIVATIONS if rule.codes[:1].isalpha() else ()))
        beside = {end: by_name[stem + end] for end in endings if stem + end in by_name}
        pieces = Pieces(source, tensor, beside, stated)
        if (rule.marks and not beside.keys() & set(rule.marks)) or not rule.when(pieces):
            continue
        logical = stem + rule.logical
        name = tensor.name if logical in by_name else logical
        return _layer(name, rule.scheme, rule.plan, pieces), {
            part.name: f"{role(end)} of {name}" for end, part in beside.items()
        }
    return None


def _layer(name: str, scheme: str, plan: Callable[[Pieces], Plan], pieces: Pieces) -> Layer:
    """Plan one weight; what is wrong with it is kept for whoever reads it."""
    codes = pieces.codes
    made, problem = None, ""
    try:
        made = plan(pieces)
    except CheckpointError as error:
        made, problem = None, error.reason
    except (ValueError, IndexError, OverflowError) as error:
        made, problem = None, str(error)
    if made is not None and 4 * math.prod(made.shape) > LARGEST_GAIN * codes.nbytes:
        problem = f"claims the shape {made.shape} for {codes.nbytes} bytes of codes"
        made = None
    if made is not None and made.rows is None:
        tensor = dataclasses.replace(codes, name=name, shape=made.shape, dtype=made.words)
        return Layer(tensor, made)
    places = [codes.storage, *(part.storage for part in pieces.beside.values())]
    tensor = dataclasses.replace(
        codes,
        name=name,
        shape=codes.shape if made is None else made.shape,
        dtype="float32",
        storage=None if codes.storage is None else tuple(places),
        dequantised_from=scheme if made is None else made.words,
    )
    return Layer(tensor, made, problem)


def _take_plain_float8(
    source: Source, stated: Settings, layers: dict[str, Layer], helpers: Mapping[str, str]
) -> None:
    """Take one-byte floats without scales: as they are, unless others show that scales belong."""
    lone = [
        tensor
        for tensor in source.tensors
        if tensor.name not in layers and tensor.name not in helpers and tensor.nbytes
        if tensor.dtype in scaled_codes.FLOAT8
    ]
    cast = not layers and not helpers and not stated.method
    for tensor in lone:
        pieces = Pieces(source, tensor, {}, stated)
        if cast:
            layers[tensor.name] = _layer(tensor.name, "", scaled_codes.plain_float8, pieces)
        elif len(tensor.shape) > 1:
            layers[tensor.name] = _layer(tensor.name, "fp8", scaled_codes.float8, pieces)


def _take_unread(
    source: Source, stated: Settings, layers: dict[str, Layer], helpers: dict[str, str]
) -> None:
    """Name codes that no rule reads: of a foreign method, or with something like a scale beside them."""
    modules: dict[str, list[Tensor]] = defaultdict(list)
    for tensor in source.tensors:
        if tensor.name not in layers and tensor.name not in helpers:
            modules[tensor.name.rpartition(".")[0]].append(tensor)
    for members in modules.values():
        scales = {t.name for t in members if SCALE_LIKE.search(t.name.rpartition(".")[2])}
        codes = [tensor for tensor in members if _are_codes(tensor)]
        weights = [tensor for tensor in codes if tensor.name not in scales] or codes
        if not weights or not (scales or stated.unread):
            continue
        if stated.unread:
            weights = [max(weights, key=lambda tensor: tensor.nbytes)]
        for tensor in weights:
            words = f"{stated.unread} codes" if stated.unread else f"unknown codes ({tensor.dtype})"
            if INTEGER.match(words):  # of a method named like a type: never taken for one
                words = f"codes of {stated.unread}"
            layers[tensor.name] = Layer(dataclasses.replace(tensor, dtype=words), None)
        for tensor in members:
            belongs = tensor.name in scales or _are_codes(tensor)
            belongs = belongs or bool(stated.unread and len(tensor.shape) > 1)
            if belongs and tensor.name not in layers:
                helpers[tensor.name] = f"part of the codes of {weights[0].name}"


def _are_codes(tensor: Tensor) -> bool:
    """Tell whether a tensor of at least two axes is of a type and a name that codes may have."""
    if len(tensor.shape) < 2 or not tensor.nbytes or not CODES.match(tensor.dtype):
        return False
    return not NO_WEIGHT.search(tensor.name.rpartition(".")[2])
