"""What policies share out, and over which layers of a report."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from spectra.analysis import NOT_AVERAGED
from spectra.errors import CheckpointError, SelectionError
from spectra.naming import block_of
from spectra.records import LayerReport, ModelReport, Status, Value
from spectra.sources.layouts import whole_name

PolicyKind: TypeAlias = Literal["prune", "freeze", "lora"]


@dataclass(frozen=True, slots=True)
class Share:
    """What one layer, or tensor, gets: a ratio, a rank, or whether it is trained.

    ``group`` is what it is judged within or averaged over (a block, a type), ``score`` what was seen:
    NaN where there is no number; ``n_parameters`` counts its weights, or those of its
    adapter.
    """

    name: str
    group: str
    score: float
    value: Value
    n_parameters: int


@dataclass(frozen=True, slots=True)
class Policy:
    """Shares in the order of the layers, and by which rule; ``complete`` as that of the report."""

    kind: PolicyKind
    source: str
    options: Mapping[str, object]
    shares: tuple[Share, ...]
    complete: bool = True

    @property
    def by_name(self) -> dict[str, Value]:
        """The value of each layer."""
        return {share.name: share.value for share in self.shares}


def linear_map(values: Sequence[float], low: float, high: float) -> list[float]:
    """Map the least value to `low` and the largest to `high`; equal ones to the middle.

    Examples
    --------
    >>> linear_map([2.0, 3.0, 6.0], 0.0, 1.0), linear_map([2.0, 2.0], 0.0, 1.0)
    ([0.0, 0.25, 1.0], [0.5, 0.5])
    """
    least, most = min(values), max(values)
    if least == most:
        return [(low + high) / 2] * len(values)
    return [low + (high - low) * ((value - least) / (most - least)) for value in values]


def inner_layers(report: ModelReport) -> list[LayerReport]:
    """Return the layers reached that are neither embeddings nor heads."""
    return [
        layer
        for layer in report.layers
        if layer.kind not in NOT_AVERAGED and layer.status is not Status.NOT_REACHED
    ]


def inner_tensors(report: ModelReport) -> dict[str, list[LayerReport]]:
    """Gather the rows of each inner tensor: q, k and v of one projection can only be treated as one."""
    found: dict[str, list[LayerReport]] = defaultdict(list)
    for layer in inner_layers(report):
        found[whole_name(layer.name) if layer.layout else layer.name].append(layer)
    return found


def block_or_layer(layer: LayerReport) -> str:
    """Return the block of a layer; one outside blocks is a block by itself."""
    return block_of(layer.name) or layer.name


def type_of(name: str) -> str:
    """Return a layer's name inside its block, a number that stands alone as a star.

    Examples
    --------
    >>> type_of("model.layers.3.mlp.experts.7.w1.weight"), type_of("conv1.weight")
    ('mlp.experts.*.w1', 'conv1')
    """
    inside = name.removeprefix(block_of(name)).lstrip("./").removesuffix(".weight")
    return re.sub(r"(?<![^./])\d+(?![^./])", "*", inside)


def n_weights(layer: LayerReport) -> int:
    """Return how many weights a row of a report stands for."""
    return layer.N * layer.M * layer.n_matrices


def check(name: str, value: float, allowed: bool, what: str) -> None:
    """Refuse a number that is not `what` it has to be.

    Raises
    ------
    SelectionError
        ``E_VALUE``.
    """
    if not allowed:
        raise SelectionError("E_VALUE", name, f"{value:g} is not {what}")


def no_numbers(report: ModelReport, what: str) -> CheckpointError:
    """Build the error for a report that has nothing to judge by."""
    reason = f"no layer but embeddings and heads has {'an' if what[0] in 'aeiou' else 'a'} {what}"
    return CheckpointError("E_TOO_FEW", report.source.address, reason)
