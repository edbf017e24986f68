"""Tensors that a model computes from stored ones: what parametrisations and adapters hide."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from spectra.errors import CheckpointError
from spectra.records import Skipped, Tensor
from spectra.sources.base import FLOAT_TYPES, Array, Source

Read = Callable[[str], Array]


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A matrix as its factors: up (rows, rank) times down (rank, columns)."""

    up: Array
    down: Array

    def core(self) -> Array:
        """Return a matrix of the same spectrum, no larger than the rank.

        Up = Q R and downᵀ = Q' R' with orthonormal columns in Q and Q', so that it is R R'ᵀ.
        """
        left = np.asarray(np.linalg.qr(self.up, mode="r"))
        right = np.asarray(np.linalg.qr(self.down.T, mode="r"))
        found: Array = left @ right.T
        return found

    def __sub__(self, other: "Product") -> Array:
        """Return a matrix (1, rows, columns) of the spectrum that the difference has.

        Each core has a basis of its own, so that the difference of two would be of no matrix at all;
        that of the products is one of rank r + r'.
        """
        up, down = np.hstack([self.up, -other.up]), np.vstack([self.down, other.down])
        return Product(up, down).core()[np.newaxis]


@dataclass(frozen=True, slots=True)
class Derived:
    """A tensor, the stored ones it is computed from, and how; ``factors`` if it is a product's core."""

    tensor: Tensor
    parts: tuple[str, ...]
    compute: Callable[[Read], Array]
    factors: Callable[[Read], Product] | None = None


class DerivedSource:
    """A source in which some tensors stand for others, in the place of the first of those.

    Those named in `left_out` are listed no more, but for why.
    """

    def __init__(
        self,
        source: Source,
        derived: Iterable[Derived],
        notes: tuple[str, ...] = (),
        left_out: Iterable[Skipped] = (),
    ) -> None:
        self._source = source
        out = {item.name: item for item in left_out}
        self._derived = {item.tensor.name: item for item in derived}
        first = {item.parts[0]: item for item in self._derived.values()}
        hidden = {part: item for item in self._derived.values() for part in item.parts}
        listed = {tensor.name: tensor for tensor in source.tensors}
        tensors = []
        for tensor in source.tensors:
            if tensor.name in first:
                tensors.append(first[tensor.name].tensor)
            elif not any(tensor.name in names for names in (hidden, self._derived, out)):
                tensors.append(tensor)
        self.tensors: tuple[Tensor, ...] = tuple(tensors)
        used = [
            Skipped(part, listed[part].shape, f"used in {item.tensor.name}")
            for part, item in hidden.items()
            if item.parts[0] != part
        ]
        used += [
            Skipped(name, listed[name].shape, "stored beside the parts it is computed from")
            for name in self._derived
            if name in listed
        ]
        self.ignored: tuple[Skipped, ...] = (*source.ignored, *used, *out.values())
        info = source.info
        self.info = dataclasses.replace(info, notes=(*info.notes, *notes))

    def parts(self, name: str) -> tuple[str, ...]:
        """Return the names of the stored tensors that one is computed from; its own if it is stored."""
        item = self._derived.get(name)
        return (name,) if item is None else item.parts

    def is_product(self, name: str) -> bool:
        """Tell whether a tensor is the core of a product, whose entries are those of no weight."""
        item = self._derived.get(name)
        return item is not None and item.factors is not None

    def product(self, name: str) -> Product | None:
        """Return the product whose core a tensor is; None for all others."""
        item = self._derived.get(name)
        return item.factors(self._source.read) if item is not None and item.factors else None

    def read(self, name: str) -> Array:
        """Return a tensor as it is stored, or as it is computed."""
        item = self._derived.get(name)
        return self._source.read(name) if item is None else item.compute(self._source.read)

    def read_rows(self, name: str, begin: int, end: int) -> Array:
        """Return some rows of a tensor; a computed one is computed whole."""
        if name in self._derived:
            return self.read(name)[begin:end]
        return self._source.read_rows(name, begin, end)


PARTS = re.compile(
    r"^(?:(?P<stem>.+)\.)?(?:(?P<old>weight)_(?P<role>g|v|orig|u)"
    r"|parametrizations\.(?P<new>\w+)\.(?P<original>original[01]?|0\._[uv]))$"
)
ROLES = {"original0": "g", "original1": "v", "original": "orig", "0._u": "u", "0._v": "right"}


def fold_parametrisations(source: Source) -> Source:
    """Put the weight a layer computes with in the place of weight_norm's and spectral_norm's parts.

    weight_norm: g v/‖v‖, the norm over all axes on which g has size one. spectral_norm: the stored
    matrix over its largest singular value as the power iteration left it, uᵀ W v.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for tensor in source.tensors:
        match = PARTS.match(tensor.name)
        if match:
            stem = f"{match['stem']}." if match["stem"] else ""
            role = match["role"] or ROLES[match["original"]]
            groups.setdefault(f"{stem}{match['old'] or match['new']}", {})[role] = tensor
    derived = [item for name, parts in groups.items() if (item := _folded(name, parts))]
    return DerivedSource(source, derived) if derived else source


def _folded(name: str, parts: Mapping[str, Tensor]) -> Derived | None:
    if not all(tensor.dtype in FLOAT_TYPES for tensor in parts.values()):
        return None
    if parts.keys() == {"g", "v"} and len(parts["g"].shape) == len(parts["v"].shape) >= 2:
        return _weight_norm(name, parts["g"], parts["v"])
    right = parts.get("right") or parts.get("v")
    if "orig" in parts and "u" in parts and right is not None and len(parts["orig"].shape) >= 2:
        return _spectral_norm(name, parts["orig"], parts["u"], right)
    return None


def _weight_norm(name: str, g: Tensor, v: Tensor) -> Derived:
    def compute(read: Read) -> Array:
        scale, direction = read(g.name), read(v.name).astype(np.float32)
        axes = tuple(axis for axis, size in enumerate(scale.shape) if size == 1)
        norm = np.sqrt(np.sum(np.square(direction, dtype=np.float64), axis=axes, keepdims=True))
        if not np.all(norm > 0) or any(
            size not in (1, whole) for size, whole in zip(scale.shape, direction.shape, strict=True)
        ):
            raise CheckpointError("E_VALUE", name, "its direction is zero, or its scale of no fit")
        folded: Array = (direction * (scale / norm)).astype(np.float32)
        return folded

    tensor = Tensor(name, v.shape, "float32", v.nbytes, whole=True)
    return Derived(tensor, (v.name, g.name), compute)


def _spectral_norm(name: str, original: Tensor, u: Tensor, right: Tensor) -> Derived:
    def compute(read: Read) -> Array:
        weight = read(original.name).astype(np.float64)
        left, other = read(u.name).astype(np.float64), read(right.name).astype(np.float64)
        sigmas = []
        for axis in (0, 1):  # of transposed convolutions torch takes the second
            flat = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
            if left.shape == flat.shape[:1] and other.shape == flat.shape[1:]:
                sigmas.append(float(left @ flat @ other))
        if not sigmas:
            raise CheckpointError("E_SHAPE", name, "its vectors do not fit its matrix")
        sigma = max(sigmas)  # the vectors are nearly singular ones of the right unfolding
        if not sigma > 0:
            raise CheckpointError("E_VALUE", name, f"its spectral norm is {sigma:g}")
        folded: Array = (weight / sigma).astype(np.float32)
        return folded

    parts = (original.name, u.name, right.name)
    tensor = Tensor(name, original.shape, "float32", original.nbytes, whole=True)
    return Derived(tensor, parts, compute)


MAX_PATTERN = 200
MAX_ALPHA = 1e9
LORA = re.compile(
    r"^(?:base_model\.model\.)?(?P<path>.+?)\.lora_(?P<role>A|B|embedding_A|embedding_B"
    r"|magnitude_vector)(?:\.(?P<adapter>[^.]+))?(?:\.weight)?$"
)


def lora_deltas(source: Source, config: Mapping[str, Any], base: Source | None = None) -> Source:
    """Put the matrix that a LoRA adapter adds in the place of its factors.

    The spectrum of s B A is that of the r × r core s R_B R_Aᵀ of the factors' triangular parts (B =
    Q_B R_B, Aᵀ = Q_A R_A): exact, and as small as the rank. With `base`, the merged matrix W + s B A
    instead. The scale s is alpha/r, or alpha/√r with ``use_rslora``; ``rank_pattern`` and
    ``alpha_pattern`` override it by name. A DoRA magnitude rescales the merged matrix and is noted.

    Raises
    ------
    CheckpointError
        If a factor is missing, factors do not fit, or the configuration gives no scale.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    for tensor in source.tensors:
        match = LORA.match(tensor.name)
        if match:
            role = match["role"].removeprefix("embedding_")
            pairs.setdefault(match["path"], {})[role] = tensor
    if not pairs:
        return source
    dora = any("magnitude_vector" in parts for parts in pairs.values())
    notes = ["LoRA adapter merged into its base" if base else "LoRA adapter: what it adds"]
    if dora:
        notes.append("DoRA: magnitudes are left out, directions alone are analysed")
    derived = [_delta(path, parts, config, base) for path, parts in pairs.items()]
    return DerivedSource(source, derived, tuple(notes))


def _delta(
    path: str, parts: Mapping[str, Tensor], config: Mapping[str, Any], base: Source | None
) -> Derived:
    a, b = parts.get("A"), parts.get("B")
    if a is None or b is None:
        missing = "A" if a is None else "B"
        raise CheckpointError("E_LORA", path, f"has no lora_{missing}", "save the adapter anew")
    if not factors_fit(a, b):
        reason = f"factors {b.shape} {b.dtype} and {a.shape} {a.dtype} do not fit"
        raise CheckpointError("E_LORA", path, reason, "save the adapter anew")
    scale = _scale(path, a.shape[0], config)
    extra = tuple(t.name for role, t in parts.items() if role not in "AB")
    if base is None:
        delta = added(f"{path}.delta", path, a, b, lambda: scale)
        return dataclasses.replace(delta, parts=(*delta.parts, *extra))
    name = f"{path}.weight"
    found = next((tensor for tensor in base.tensors if tensor.name == name), None)
    if found is None:
        raise CheckpointError("E_LORA", name, "is not in the base", "give the adapter's own base")
    own = (b.shape[0], *a.shape[1:])
    turned = found.shape != own and found.shape == own[::-1]
    if found.shape != own and not turned:
        reason = f"is {found.shape} in the base, {own} in the adapter"
        raise CheckpointError("E_LORA", name, reason, "give the adapter's own base")
    # The shapes tell, but for squares.
    turned = turned or (len(own) == 2 and own[0] == own[1] and config.get("fan_in_fan_out") is True)

    def merged(read: Read) -> Array:
        down, up = _factors(path, a, b, read)
        delta = scale * up @ down
        total: Array = base.read(name) + (delta.T if turned else delta.reshape(found.shape))
        return total

    size = 8 * int(np.prod(found.shape))
    tensor = Tensor(name, found.shape, "float64", size, whole=True)
    return Derived(tensor, (a.name, b.name, *extra), merged)


def factors_fit(a: Tensor, b: Tensor) -> bool:
    """Tell whether B A is a matrix: of linear layers and embeddings, or of a convolution's kernels."""
    # The factors of a convolution: r kernels, then a mixing of them, whose positions are all one.
    mixes = len(b.shape) >= 2 and all(size == 1 for size in b.shape[2:])
    fits = mixes and len(a.shape) == len(b.shape) and 0 < a.shape[0] == b.shape[1]
    return fits and a.dtype in FLOAT_TYPES and b.dtype in FLOAT_TYPES


def added(
    name: str,
    path: str,
    a: Tensor,
    b: Tensor,
    scale: Callable[[], float],
    storage: tuple[object, ...] | None = None,
) -> Derived:
    """Return what the factors of a LoRA adapter add, as the r × r core with the spectrum of s B A.

    Parameters
    ----------
    name : str
        What to call it.
    path : str
        The layer it is added to, for errors.
    a, b : Tensor
        The factors, (r, in) and (out, r); of a convolution with its window behind.
    scale : callable
        Gives s, asked at each reading.
    storage : tuple, optional
        Equal for two that are the same.
    """
    rank, inputs, outputs = a.shape[0], int(np.prod(a.shape[1:])), b.shape[0]

    def factors(read: Read) -> Product:
        down, up = _factors(path, a, b, read)
        return Product(scale() * up, down)

    shape = (min(rank, outputs), min(rank, inputs))
    tensor = Tensor(name, shape, "float64", a.nbytes + b.nbytes, storage, whole=True)
    return Derived(tensor, (a.name, b.name), lambda read: factors(read).core(), factors)


def _factors(path: str, a: Tensor, b: Tensor, read: Read) -> tuple[Array, Array]:
    """Read the factors as matrices (r, in) and (out, r)."""
    down, up = read(a.name).astype(np.float64), read(b.name).astype(np.float64)
    if not (np.isfinite(down).all() and np.isfinite(up).all()):
        raise CheckpointError("E_VALUE", path, "its factors hold NaN or infinite numbers")
    return down.reshape(a.shape[0], -1), up.reshape(b.shape[0], a.shape[0])


def _scale(path: str, rank: int, config: Mapping[str, Any]) -> float:
    """Return alpha over the rank, or its root; the first pattern that names the path overrides."""

    def by_name(key: str, default: object) -> object:
        patterns = config.get(key)
        for pattern, value in patterns.items() if isinstance(patterns, Mapping) else ():
            if _names(pattern, path):
                return value
        return default

    alpha = by_name("alpha_pattern", config.get("lora_alpha"))
    stated = by_name("rank_pattern", config.get("r", rank))
    good = isinstance(alpha, int | float) and not isinstance(alpha, bool) and abs(alpha) < MAX_ALPHA
    if not good or stated != rank:
        reason = f"adapter_config.json gives r {stated!r} and lora_alpha {alpha!r}, rank is {rank}"
        raise CheckpointError("E_LORA", path, reason, "give the folder with its own configuration")
    return float(alpha) / (rank**0.5 if config.get("use_rslora") is True else rank)  # type: ignore[arg-type]


def _names(pattern: str, path: str) -> bool:
    """Tell whether a pattern is the end of a path, as peft reads it: a regular expression.

    Only the harmless ones are tried as such: nested repeats could take forever.
    """
    if path == pattern or path.endswith(f".{pattern}"):
        return True
    if len(pattern) > MAX_PATTERN or re.search(r"[)\]}*+?][*+{]|\(", pattern):
        return False
    try:
        return re.match(rf"(.*\.)?({pattern})$", path) is not None
    except re.error:
        return False
