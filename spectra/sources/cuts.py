"""How one stored tensor holds several matrices: fused projections, gates, stacks of experts.

A part is the entries along one axis whose position within a period lies in a range: thirds and halves
(the period is the whole axis), heads that take turns, rows that alternate. The table ``RULES`` says
which names are cut how; what it cannot tell for sure is left whole, and says so.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from spectra.records import Part, Tensor
from spectra.sources.base import Array

Config = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]

MAX_EXPERTS = 2**16
LEAST_SIDE = 16
"""A stack of experts has sides of at least this; less is the kernel of a one-dimensional convolution."""
WHOLE = "fused, left whole: config.json does not say how it is cut"


class Cut(NamedTuple):
    """The parts of a tensor, or none if it stays whole, and the rule in words."""

    parts: tuple[Part, ...]
    words: str


@dataclass(frozen=True, slots=True)
class Rule:
    """Which tensors are cut (by the last words of their names and how many axes), and in words."""

    pattern: re.Pattern[str]
    words: str
    cut: Callable[[str, Tensor, Config, Shapes], Cut | None]
    axes: tuple[int, ...] = (2,)


def cut(name: str, tensor: Tensor, config: Config, shapes: Shapes) -> Cut | None:
    """Return how a tensor is cut, or None where no rule speaks of it.

    Parameters
    ----------
    name : str
        The clean name.
    tensor : Tensor
    config : Mapping
        The model's config.json, or empty.
    shapes : Mapping
        Shapes of all tensors by clean name: a neighbour often says what a shape alone does not.
    """
    for rule in RULES:
        if len(tensor.shape) in rule.axes and rule.pattern.search(name):
            return rule.cut(name, tensor, config, shapes)
    return None


def take(values: Array, part: Part) -> Array:
    """Cut one part out of a stored tensor; of a stack of experts, out of the one expert's matrix.

    Examples
    --------
    >>> take(np.arange(12).reshape(6, 2), Part("k", axis=0, period=3, begin=1, length=1)).tolist()
    [[2, 3], [8, 9]]
    """
    if not part.length:
        return values
    moved = values.swapaxes(0, part.axis)
    turns = moved.reshape(moved.shape[0] // part.period, part.period, *moved.shape[1:])
    chosen = turns[:, part.begin : part.begin + part.length]
    # a copy, so that the rest of the tensor can go
    return np.array(chosen.reshape(-1, *moved.shape[1:]).swapaxes(0, part.axis))


def put(values: Array, part: Part, taken: Array) -> None:
    """Write one part back into the tensor, or the expert's matrix, that `take` cut it out of.

    Examples
    --------
    >>> fused = np.zeros((4, 1))
    >>> put(fused, Part("k", axis=0, period=2, begin=1, length=1), np.ones((2, 1)))
    >>> fused.ravel().tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    if not part.length:
        values[...] = taken
        return
    moved = values.swapaxes(0, part.axis)  # views all along: what is written is in `values`
    turns = moved.reshape(moved.shape[0] // part.period, part.period, *moved.shape[1:])
    chosen = turns[:, part.begin : part.begin + part.length]
    chosen[...] = taken.swapaxes(0, part.axis).reshape(chosen.shape)


def size_of(shape: tuple[int, ...], part: Part) -> tuple[int, int]:
    """Return rows and columns of a part."""
    sides = list(shape[-2:])
    if part.length:
        sides[part.axis] = sides[part.axis] // part.period * part.length
    return sides[0], sides[1]


def _in_order(labels: Sequence[str], lengths: Sequence[int], axis: int) -> tuple[Part, ...]:
    """Cut an axis into consecutive parts, or into such parts once every period."""
    period, begin, parts = sum(lengths), 0, []
    for label, length in zip(labels, lengths, strict=True):
        parts.append(Part(label, axis, period, begin, length))
        begin += length
    return tuple(parts)


def _equal(labels: Sequence[str], size: int, axis: int) -> tuple[Part, ...]:
    return _in_order(labels, [size // len(labels)] * len(labels), axis)


def _heads(config: Config) -> tuple[int, int, int] | None:
    """Return heads, heads of keys and values, and the size of one; None if the config is silent."""

    def first(*keys: str) -> int | None:
        found = [config.get(key) for key in keys]
        numbers = [n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0]
        return numbers[0] if numbers else None

    heads = first("num_attention_heads", "n_head", "num_heads", "n_heads")
    hidden = first("hidden_size", "n_embd", "n_embed", "d_model")
    size = first("head_dim", "kv_channels")
    if heads is None or (size is None and (hidden is None or hidden % heads)):
        return None
    shared = first("num_key_value_heads", "num_kv_heads", "n_head_kv")
    if config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        shared = 1
    return heads, shared or heads, size or (hidden or 0) // heads


QKV = ("q", "k", "v")
CODEGEN_BLOCKS = 4  # of its rows, as it was trained on as many devices


def _conv1d_qkv(name: str, tensor: Tensor, config: Config, shapes: Shapes) -> Cut | None:
    rows, columns = tensor.shape
    if config.get("model_type") == "gpt_bigcode" and config.get("multi_query") is False:
        return _in_turns(tensor, config)
    for axis, (long, short) in ((1, (columns, rows)), (0, (rows, columns))):
        if long == 3 * short:
            return Cut(_equal(QKV, long, axis), "fused q, k, v: thirds")
        found = _heads(config)
        if found and long != short:
            heads, shared, size = found
            if (heads + 2 * shared) * size == long:
                lengths = [heads * size, shared * size, shared * size]
                return Cut(_in_order(QKV, lengths, axis), "fused q, k, v: by the config's heads")
    return Cut((), WHOLE)


def _rows_qkv(name: str, tensor: Tensor, config: Config, shapes: Shapes) -> Cut | None:
    rows, columns = tensor.shape
    if config.get("model_type") == "codegen" and rows % (3 * CODEGEN_BLOCKS) == 0:
        block = rows // CODEGEN_BLOCKS
        return Cut(_equal(("q", "v", "k"), block, 0), "fused q, v, k: in four blocks")
    found = _heads(config)
    if found:
        heads, shared, size = found
        if (heads + 2 * shared) * size == rows:
            lengths = [heads * size, shared * size, shared * size]
            return Cut(_in_order(QKV, lengths, 0), "fused q, k, v: by the config's heads")
    if rows == 3 * columns:  # also beside a config that speaks of another part of the model
        return Cut(_equal(QKV, rows, 0), "fused q, k, v: thirds")
    return Cut((), WHOLE)


TURNS = ("gpt_neox", "bloom", "falcon", "refinedweb", "refinedwebmodel")


def _heads_in_turn(name: str, tensor: Tensor, config: Config, shapes: Shapes) -> Cut | None:
    """Per head (or group of heads): its queries, its key, its value, then the next."""
    kind = str(config.get("model_type", "")).lower()
    if kind not in TURNS and not name.endswith("linear_qkv.weight"):
        return Cut((), WHOLE)
    return _in_turns(tensor, config)


def _in_turns(tensor: Tensor, config: Config) -> Cut:
    found = _heads(config)
    if found is None:
        return Cut((), WHOLE)
    heads, shared, size = found
    if heads % shared or (heads + 2 * shared) * size != tensor.shape[0]:
        return Cut((), WHOLE)
    words = "head by head" if shared == heads else "by groups"
    parts = _in_order(QKV, [heads // shared * size, size, size], 0)
    return Cut(parts, f"fused q, k, v: {words}")


def _gate_up(name: str, tensor: Tensor, config: Config, shapes: Shapes) -> Cut | None:
    if len(tensor.shape) == 3:
        return _expert_gate_up(name, tensor, config, shapes)
    rows = tensor.shape[0]
    if rows % 2:
        return Cut((), WHOLE)
    return Cut(_equal(("gate", "up"), rows, 0), "fused gate and up: halves")


def _expert_gate_up(name: str, tensor: Tensor, config: Config, shapes: Shapes) -> Cut | None:
    """Cut each expert's gate from its up-projection; the down-projection says along which axis."""
    experts, *sides = tensor.shape
    if experts > MAX_EXPERTS or min(sides) < LEAST_SIDE:
        return None
    stem = name.removesuffix(".weight")
    down = shapes.get(name.replace("gate_up_proj", "down_proj"))
    in_turn = str(config.get("model_type", "")) == "gpt_oss" or f"{stem}_bias" in shapes
    axes = [0, 1]
    if down is not None and len(down) == 3:
        axes = [
            axis for axis in axes if sorted(down[1:]) == sorted((sides[axis] // 2, sides[1 - axis]))
        ]
    if str(config.get("model_type", "")).startswith("llama4"):
        axes = [1] if 1 in axes else axes
    if len(axes) != 1 or sides[axes[0]] % 2:
        parts = tuple(Part(str(e), expert=e) for e in range(experts))
        return Cut(parts, f"{experts} experts; gate and up left together")
    (axis,) = axes
    period = 2 if in_turn else sides[axis]
    halves = _equal(("gate", "up"), period, axis)
    parts = tuple(
        Part(f"{e},{half.label}", half.axis, half.period, half.begin, half.length, expert=e)
        for e in range(experts)
        for half in halves
    )
    order = "in turn" if in_turn else "halves"
    return Cut(parts, f"{experts} experts; fused gate and up: {order}")


def _experts(name: str, tensor: Tensor, config: Config, shapes: Shapes) -> Cut | None:
    if tensor.shape[0] > MAX_EXPERTS:
        return None
    if tensor.kind is not None or min(tensor.shape[1:]) < LEAST_SIDE:
        return None  # a kernel
    experts = tensor.shape[0]
    parts = tuple(Part(str(e), expert=e) for e in range(experts))
    return Cut(parts, f"a stack of {experts} experts")


GATES = {4: ("i", "f", "g", "o"), 3: ("r", "z", "n")}


def _gates(name: str, tensor: Tensor, config: Config, shapes: Shapes) -> Cut | None:
    """Cut an LSTM's four or a GRU's three gates; the recurrent matrix of the cell tells which."""
    recurrent = shapes.get(re.sub(r"weight_ih", "weight_hh", name))
    rows = tensor.shape[0]
    if recurrent is None or len(recurrent) != 2 or recurrent[0] != rows:
        return None
    for count, labels in GATES.items():
        if rows == count * recurrent[1]:
            kind = "LSTM" if count == 4 else "GRU"
            return Cut(_equal(labels, rows, 0), f"gates of {'an' if count == 4 else 'a'} {kind}")
    return None  # a plain RNN has one; projections cannot be told


RULES: tuple[Rule, ...] = (
    Rule(
        re.compile(
            r"(^|\.)(in_proj_weight|(attn_)?qkv\.weight|qkv_proj\.weight|W_pack\.weight|Wqkv\.weight)$"
        ),
        "q, k, v one after the other: equal thirds, or by the heads that config.json gives",
        _rows_qkv,
    ),
    Rule(
        re.compile(r"(^|\.)c_attn\.weight$"),
        "GPT-2's Conv1D, stored (in, out): thirds along the output, or by heads with a config",
        _conv1d_qkv,
    ),
    Rule(
        re.compile(r"(^|\.)(query_key_value|linear_qkv)\.weight$"),
        "head by head (NeoX, BLOOM, Falcon, Megatron), groups of heads too: only with config.json",
        _heads_in_turn,
    ),
    Rule(
        re.compile(r"(^|\.)gate_up_proj(\.weight)?$"),
        "gate and up: halves; in a stack of experts along the axis its down-projection tells, in"
        " turn in gpt-oss",
        _gate_up,
        axes=(2, 3),
    ),
    Rule(
        re.compile(r"(^|\.)weight_(ih|hh)(_l\d+)?(_reverse)?$"),
        "LSTM (i, f, g, o) and GRU (r, z, n): one matrix a gate",
        _gates,
    ),
    Rule(
        re.compile(r"expert|moe|_exps\b", re.IGNORECASE),
        "three axes under a name with expert, moe or exps: one matrix an expert",
        _experts,
        axes=(3,),
    ),
)
