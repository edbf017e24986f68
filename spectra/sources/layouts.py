"""Layouts: which matrices a tensor holds, and how to cut them out of it.

Singular values do not care about transposition, so neither the order of a linear layer's axes nor
transposed convolutions need a rule of their own.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spectra.conventions import Convention
from spectra.records import Kind, Matrix, Part, Skipped, Tensor
from spectra.sources import cuts
from spectra.sources.base import CONVOLUTIONS, FLOAT_TYPES, Array, Readable

# Wrappers of trainers and compilers: never part of what a layer is called.
WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
PARALLEL = "module."
# What PEFT puts around a model and the layers it adapts.
ADAPTED = re.compile(r"^base_model\.model\.|\.base_layer(?=\.|$)|\.modules_to_save\.[^.]+(?=\.)")

EMBEDDING = re.compile(
    r"(^|_)emb(ed|eds|edding|eddings)?$|^(wte|wpe|token_embd|embed_(tokens|positions|in|words))$"
)
HEAD = re.compile(r"^(lm_head|embed_out)$")
# Ordinary words, heads only where they stand outermost and lead nowhere further.
OUTERMOST_EMBEDDING = "shared"
OUTERMOST_HEAD = re.compile(
    r"^(fc|linear|dense|heads?|classifier|classification_head|output(_projection)?|out|score|logits"
    r"|decoder|predictions)$"
)
# What weight_norm and spectral_norm store instead of the weight a layer computes with.
PARAMETRISED = re.compile(r"\.weight_(g|v|orig)$|(^|\.)parametrizations\.\w+\.original\d?$")
OPTIMIZER = re.compile(r"(^|\.)(optimizer|optim)(\.|_states?\.)|\.(exp_avg(_sq)?|momentum_buffer)$")

BIAS = re.compile(r"(^|[._])bias(es)?$")  # those of a stack of experts have two axes

MAX_PEER_EIGENVALUES = 15_000
MIN_PEER_EIGENVALUES = 8
MAX_PEER_SIDE = 50_000


def matrices_of(
    tensors: Sequence[Tensor],
    convention: Convention,
    *,
    config: Mapping[str, Any] | None = None,
) -> tuple[list[Matrix], list[Skipped]]:
    """Say which matrices the tensors hold, in order, and what holds none and why.

    Tied tensors (the same numbers in the same place) give their matrices once, with both names.

    Parameters
    ----------
    tensors : sequence of Tensor
    convention : Convention
    config : Mapping, optional
        The model's config.json: how many heads a fused projection holds, and the like.
    """
    names = clean_names(
        [tensor.name for tensor in tensors], [tensor.name for tensor in tensors if tensor.shape]
    )
    shapes = {name: tensor.shape for name, tensor in zip(names, tensors, strict=True)}
    inputs = Counter(tensor.shape[1] for tensor in tensors if len(tensor.shape) >= 2)
    matrices: list[Matrix] = []
    skipped: list[Skipped] = []
    owner: dict[tuple[object, ...], slice] = {}
    for tensor, name in zip(tensors, names, strict=True):
        if tensor.storage is not None and tensor.storage in owner:
            tied = owner[tensor.storage]
            skipped.append(
                Skipped(name, tensor.shape, f"tied to {whole_name(matrices[tied.start].name)}")
            )
            matrices[tied] = [_also_called(matrix, name) for matrix in matrices[tied]]
            continue
        found = None
        if not convention.peer_layouts and len(tensor.shape) in (2, 3) and 0 not in tensor.shape:
            found = cuts.cut(name, tensor, config or {}, shapes)
        if found is not None and any(f"{name}[{part.label}]" in shapes for part in found.parts):
            found = None  # the name of a part is taken by another tensor
        reason = _why_not(tensor, name, convention, is_cut=found is not None)
        if reason:
            skipped.append(Skipped(name, tensor.shape, reason))
            continue
        first = len(matrices)
        if found is not None and found.parts:
            matrices += [_part_of(tensor, name, part, found.words) for part in found.parts]
        else:
            words = "" if found is None else found.words
            matrices.append(_matrix(tensor, name, inputs, convention, words, shapes))
        if tensor.storage is not None:
            owner[tensor.storage] = slice(first, len(matrices))
    return matrices, skipped


def whole_name(name: str) -> str:
    """Return the name of the tensor of which a matrix is a part.

    Examples
    --------
    >>> whole_name("h.0.attn.c_attn.weight[q]")
    'h.0.attn.c_attn.weight'
    """
    return re.sub(r"\[[^\[\]]*\]$", "", name)


def _also_called(matrix: Matrix, name: str) -> Matrix:
    label = f"[{matrix.part.label}]" if matrix.part else ""
    return dataclasses.replace(matrix, aliases=(*matrix.aliases, name + label))


def read(matrix: Matrix, source: Readable, rows: tuple[int, int] | None = None) -> Array:
    """Read a matrix, or some of its N rows, as (n_matrices, rows, columns).

    An expert of a stack is read from its own bytes; so are consecutive rows of a fused tensor.
    """
    if rows is not None:
        begin = matrix.first_row or 0
        return source.read_rows(matrix.tensor, begin + rows[0], begin + rows[1])[np.newaxis]
    part = matrix.part
    if part is None:
        return stack(matrix, source.read(matrix.tensor))
    if part.expert is not None:
        values = source.read_rows(matrix.tensor, part.expert, part.expert + 1)[0]
        return cuts.take(values, part)[np.newaxis]
    if part.axis == 0 and part.period == matrix.shape[0]:
        return source.read_rows(matrix.tensor, part.begin, part.begin + part.length)[np.newaxis]
    return cuts.take(source.read(matrix.tensor), part)[np.newaxis]


def stack(matrix: Matrix, values: Array) -> Array:
    """Cut a whole tensor into its matrices.

    Parameters
    ----------
    matrix : Matrix
    values : ndarray
        The stored tensor.

    Returns
    -------
    ndarray of shape (n_matrices, rows, columns)
        A view where possible; rows and columns are N, M in either order.

    Examples
    --------
    >>> kernel = np.zeros((8, 2, 3, 3))  # 8 output channels in 2 groups of 2 input channels each
    >>> conv = Matrix("c", "c", "conv2d", kernel.shape, "float64", 0, 4, 2, 18, groups=2)
    >>> stack(conv, kernel).shape
    (18, 4, 2)
    """
    if values.ndim == 2:
        return values[np.newaxis]
    # Convolution (out, in/groups, *kernel) or transposed (in, out/groups, *kernel): groups cut the
    # first axis in either case, and each kernel position is a matrix of its own.
    first, second = values.shape[:2]
    if matrix.n_matrices == matrix.groups:  # flattened, or kernels of one position
        return values.reshape(matrix.groups, first // matrix.groups, -1)
    blocks = values.reshape(matrix.groups, first // matrix.groups, second, -1)
    slices = np.moveaxis(blocks, -1, 1)  # (groups, kernel, rows, columns)
    return slices.reshape(-1, first // matrix.groups, second)


def put(matrix: Matrix, values: Array, slices: Array) -> None:
    """Write a matrix back into the stored tensor that `read` took it from.

    Parameters
    ----------
    matrix : Matrix
    values : ndarray
        The stored tensor, changed where the matrix is and nowhere else.
    slices : ndarray of shape (n_matrices, rows, columns)
        As `read` gives them.

    Examples
    --------
    >>> kernel = np.arange(144.0).reshape(8, 2, 3, 3)
    >>> conv = Matrix("c", "c", "conv2d", kernel.shape, "float64", 0, 4, 2, 18, groups=2)
    >>> copy = np.zeros_like(kernel)
    >>> put(conv, copy, stack(conv, kernel))
    >>> np.array_equal(copy, kernel)
    True
    """
    part = matrix.part
    if part is not None:
        cuts.put(values if part.expert is None else values[part.expert], part, slices[0])
    elif values.ndim == 2 or matrix.n_matrices == matrix.groups:
        values[...] = slices.reshape(values.shape)
    else:
        blocks = slices.reshape(matrix.groups, -1, *slices.shape[1:])
        values[...] = np.moveaxis(blocks, 1, -1).reshape(values.shape)


def clean_names(names: Sequence[str], deciding: Sequence[str] | None = None) -> list[str]:
    """Remove what wrappers put into names; ``module.`` only where all the `deciding` carry it.

    Where two names would become one, they stay as they are.

    Examples
    --------
    >>> clean_names(["module._orig_mod.h.0.fc.weight", "module._orig_mod.head.weight"])
    ['h.0.fc.weight', 'head.weight']
    >>> clean_names(["base_model.model.h.q.base_layer.weight", "base_model.model.h.q.delta"])
    ['h.q.weight', 'h.q.delta']
    """
    cleaned = [WRAPPERS.sub("", name) for name in names]
    carry = [WRAPPERS.sub("", name) for name in (names if deciding is None else deciding)]
    while carry and all(name.startswith(PARALLEL) for name in carry):
        cleaned = [name.removeprefix(PARALLEL) for name in cleaned]
        carry = [name.removeprefix(PARALLEL) for name in carry]
    for found in ([ADAPTED.sub("", name) for name in cleaned], cleaned):
        if len(set(found)) == len(found):
            return found
    return list(names)


def _why_not(tensor: Tensor, name: str, convention: Convention, *, is_cut: bool) -> str:
    """Return why a tensor is not analysed, or an empty string."""
    shape = tensor.shape
    if OPTIMIZER.search(tensor.name):
        return "optimizer state"
    if PARAMETRISED.search(name):
        return "a part of weight_norm or spectral_norm, to be folded first"
    if len(shape) < 2:
        return "scalar" if not shape else "one-dimensional (bias, norm or scale)"
    if BIAS.search(name):
        return "a bias"
    if 0 in shape:
        return "empty"
    if tensor.dtype.startswith(("int", "uint", "bool")):
        return "integer or boolean values"
    if len(shape) > 5:
        return "more than five dimensions"
    if convention.peer_layouts:
        return _why_not_for_peer(shape, name)
    if len(shape) > 2 and not is_cut:
        # A file does not say what three axes are; a kernel is shorter than it has channels.
        told = tensor.kind is not None or (tensor.owner is None and len(shape) > 3)
        if not told and (tensor.owner is not None or shape[2] > min(shape[:2])):
            return "three or more dimensions that are no convolution"
        if min(shape[0] // tensor.groups, shape[1]) == 1:
            return "depthwise or single-channel: each kernel slice is a vector"
    return ""


def _why_not_for_peer(shape: tuple[int, ...], name: str) -> str:
    if not name.endswith(".weight"):
        return "not named *.weight (weightwatcher-0.7.7)"
    if len(shape) not in (2, 4):
        return "neither two nor four dimensions (weightwatcher-0.7.7)"
    long, short = max(shape[:2]), min(shape[:2])
    count = short * int(np.prod(shape[2:], dtype=np.int64))
    if not MIN_PEER_EIGENVALUES <= count <= MAX_PEER_EIGENVALUES or long > MAX_PEER_SIDE:
        return "outside the size limits (weightwatcher-0.7.7)"
    return ""


def _matrix(
    tensor: Tensor,
    name: str,
    inputs: Counter[int],
    convention: Convention,
    words: str,
    shapes: Mapping[str, tuple[int, ...]],
) -> Matrix:
    groups = 1 if convention.peer_layouts or len(tensor.shape) == 2 else tensor.groups
    rows, columns = tensor.shape[0] // groups, tensor.shape[1]
    positions = int(np.prod(tensor.shape[2:], dtype=np.int64))
    if convention.conv == "flatten":
        columns, positions = columns * positions, 1
        words = "flattened kernel" if len(tensor.shape) > 2 else words
    elif len(tensor.shape) > 2:
        words = "kernel slices" if groups == 1 else f"kernel slices in {groups} groups"
    return Matrix(
        name=name,
        tensor=tensor.name,
        kind=_kind(tensor, name, inputs, shapes),
        shape=tensor.shape,
        dtype=tensor.dtype,
        nbytes=tensor.nbytes,
        N=max(rows, columns),
        M=min(rows, columns),
        n_matrices=groups * positions,
        groups=groups,
        layout=words,
        first_row=0 if len(tensor.shape) == 2 and rows >= columns and not tensor.whole else None,
        dequantised_from=tensor.dequantised_from,
    )


def _part_of(tensor: Tensor, name: str, part: Part, words: str) -> Matrix:
    """Return one matrix of a tensor that holds several."""
    rows, columns = cuts.size_of(tensor.shape, part)
    experts = tensor.shape[0] if part.expert is not None else 1
    share = rows * columns / (tensor.shape[-1] * tensor.shape[-2] * experts)
    consecutive = part.expert is None and part.axis == 0 and part.period == tensor.shape[0]
    by_itself = consecutive or (part.expert is not None and not part.length)
    return Matrix(
        name=f"{name}[{part.label}]",
        tensor=tensor.name,
        kind="linear",
        shape=tensor.shape,
        dtype=tensor.dtype,
        nbytes=round(tensor.nbytes * share) if by_itself else tensor.nbytes,
        N=max(rows, columns),
        M=min(rows, columns),
        part=part,
        layout=words,
        first_row=part.begin if consecutive and rows >= columns and not tensor.whole else None,
        dequantised_from=tensor.dequantised_from,
    )


def _kind(
    tensor: Tensor,
    name: str,
    inputs: Counter[int],
    shapes: Mapping[str, tuple[int, ...]],
) -> Kind:
    """Tell embeddings and output heads from other linear layers, whatever the order of the file."""
    if len(tensor.shape) > 2:
        return CONVOLUTIONS[len(tensor.shape)]
    path = name.removesuffix(".weight").split(".")
    outer, leaf = path[0], path[-1]
    if tensor.kind == "embedding" or EMBEDDING.search(leaf) or path == [OUTERMOST_EMBEDDING]:
        return "embedding"
    # llama.cpp calls the head of a language model by a word that elsewhere is any last layer.
    if HEAD.match(leaf) or (path == ["output"] and shapes.get("token_embd.weight") == tensor.shape):
        return "head"
    # A head is narrower than what it reads, and nothing else reads what it gives.
    rows, columns = tensor.shape
    narrow = rows < columns and not inputs[rows]
    return "head" if narrow and OUTERMOST_HEAD.match(outer) else "linear"


def why_unreadable(matrix: Matrix) -> str:
    """Say why a matrix of this stored type is not analysed; nothing if it is.

    Examples
    --------
    >>> why_unreadable(Matrix("w", "w", "linear", (8, 8), "complex64", 0, 8, 8))
    'complex values, whose spectra follow other laws'
    """
    if matrix.dtype in FLOAT_TYPES:
        return ""
    if matrix.dtype.startswith("complex"):
        return "complex values, whose spectra follow other laws"
    return f"{matrix.dtype}: not the numbers a model computes with, and not turned into them"
