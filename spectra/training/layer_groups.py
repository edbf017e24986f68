"""Layers of a live model and the parameters that are theirs: one parameter group a layer."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spectra.errors import SelectionError
from spectra.inventory import describe
from spectra.records import Kind
from spectra.sources.layouts import whole_name

if TYPE_CHECKING:
    from torch import nn

ADVICE = "build it with spectra.training.parameter_groups(model, ...)"
REST = "rest"
"""Name of the group of what belongs to no layer."""

_ORIGINAL = re.compile(r"parametrizations\.([^.]+)\.original\d*$")
_FACTOR = re.compile(r"\.lora_(embedding_)?[AB]\.[^.]+(\.weight)?$")


@dataclass(frozen=True, slots=True)
class Layer:
    """A weight of a live model that is analysed, as one matrix or as several parts.

    ``name`` is what reports call it, ``tensor`` the module's own name, ``parts`` the names of its
    matrices, ``n_eigenvalues`` that of the smallest.
    """

    name: str
    tensor: str
    kind: Kind
    parts: tuple[str, ...]
    n_eigenvalues: int


def layers_of(model: "nn.Module", **choice: Any) -> tuple[Layer, ...]:  # noqa: ANN401 - passed on
    """List the layers of a model, in order; `choice` is that of ``describe`` (layers, exclude)."""
    parts = defaultdict(list)
    for matrix in describe(model, **choice).matrices:
        parts[matrix.tensor].append(matrix)
    return tuple(
        Layer(
            name=whole_name(found[0].name) if found[0].part else found[0].name,
            tensor=tensor,
            kind=found[0].kind,
            parts=tuple(matrix.name for matrix in found),
            n_eigenvalues=min(matrix.n_matrices * matrix.M for matrix in found),
        )
        for tensor, found in parts.items()
    )


def tensor_of(parameter: str) -> str:
    """Return the weight that a parameter is, or is an ingredient of.

    Examples
    --------
    >>> tensor_of("fc.weight"), tensor_of("fc.parametrizations.weight.original0")
    ('fc.weight', 'fc.weight')
    >>> tensor_of("h.q.lora_A.default.weight")
    'h.q.delta'
    """
    return _FACTOR.sub(".delta", _ORIGINAL.sub(r"\1", parameter))


def parameter_groups(
    model: "nn.Module",
    *,
    followers: bool = True,
    **defaults: Any,  # noqa: ANN401 - whatever the optimizer's groups take
) -> list[dict[str, Any]]:
    """Return the parameter groups that layer-wise control needs: one a layer, and the rest.

    Parameters
    ----------
    model : torch.nn.Module
    followers : bool, default: True
        Put a bias into the group of its weight, and a batch norm into that of the convolution named
        alike (``bn1`` follows ``conv1``), as TempBalance does. Otherwise they are in the rest, which
        can then be given no weight decay of its own: ``groups[-1]["weight_decay"] = 0.0``.
    **defaults
        Go into every group, as ``lr=0.1, weight_decay=5e-4``.

    Returns
    -------
    list of dict
        With ``params`` and ``name``, what the reports call the layer. Layers in their order, then
        ``rest``: norms, and all else that is no layer. Frozen parameters are in none, empty groups
        are left out.

    Examples
    --------
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(64, 96), nn.LayerNorm(96), nn.Linear(96, 64))
    >>> [(g["name"], len(g["params"])) for g in parameter_groups(model, lr=0.1)]
    [('0.weight', 2), ('2.weight', 2), ('rest', 2)]
    """
    layers = layers_of(model)
    tensors = {layer.tensor for layer in layers}
    members: dict[str, list[nn.Parameter]] = defaultdict(list)
    norms = _batch_norms(model) if followers else frozenset()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            home = tensor_of(name)
            if home not in tensors and followers:
                home = _followed(name, norms)
            members[home if home in tensors else REST].append(parameter)
    names = {layer.tensor: layer.name for layer in layers} | {REST: REST}
    return [
        {"params": members[key], "name": name, **defaults}
        for key, name in names.items()
        if members[key]
    ]


def _followed(name: str, norms: frozenset[str]) -> str:
    """Name the weight that a bias or the parameter of a batch norm would go with."""
    path, _, leaf = name.rpartition(".")
    if path in norms:
        path = path.replace("bn", "conv")
    weight = leaf.replace("bias", "weight")
    return f"{path}.{weight}" if path else weight


def _batch_norms(model: "nn.Module") -> frozenset[str]:
    from torch.nn.modules.batchnorm import _BatchNorm

    return frozenset(name for name, m in model.named_modules() if isinstance(m, _BatchNorm))


def places_of(
    optimizer: Any,  # noqa: ANN401 - torch's, or a wrapper with its param_groups
    parameters: Mapping[str, Sequence["nn.Parameter"]],
    chosen: set[str],
) -> dict[str, int]:
    """Return the index of the group that holds each chosen layer, in the order of the groups.

    Raises
    ------
    SelectionError
        If a chosen layer shares its group with another layer, lies in two, or none is in any.
    """
    owners = {id(parameter): name for name, found in parameters.items() for parameter in found}
    places: dict[str, int] = {}
    for index, group in enumerate(optimizer.param_groups):
        held = dict.fromkeys(owners[id(p)] for p in group["params"] if id(p) in owners)
        if len(held) > 1 and chosen & set(held):
            first, second, *_ = held
            reason = f"group {index} mixes {len(held)} layers, as {first} and {second}"
            raise SelectionError("E_GROUPS", "optimizer", reason, ADVICE)
        for name in held:
            if name in places:
                reason = f"{name} is spread over groups {places[name]} and {index}"
                raise SelectionError("E_GROUPS", "optimizer", reason, ADVICE)
            if name in chosen:
                places[name] = index
    if not places:
        reason = "holds no layer of this model to control"
        raise SelectionError("E_GROUPS", "optimizer", reason, ADVICE)
    return places
