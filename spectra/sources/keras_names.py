"""What the variables of a Keras model are called and what their axes are, in files and in memory.

A variable is known by its path: the layers it is in, one after the other, and its own name. Legacy
files write ``conv/conv/kernel:0``; Keras 3 numbers a layer's variables, as in ``layers/conv2d/vars/0``.
"""

import re
from collections.abc import Mapping, Sequence

from spectra.records import Kind, Skipped
from spectra.sources.shapes import Role, role_of

Parts = tuple[str, ...]

OPTIMIZER_GROUPS = frozenset({"optimizer_weights", "optimizer", "_optimizer"})
LEGACY_ROOT = "model_weights"
NUMBERED = "vars"  # the group in which Keras 3 keeps a layer's variables, as 0, 1, ...

SUFFIX = re.compile(r":\d+$")  # which output of TensorFlow's operation, always :0
EMBEDDING = re.compile(r"(^|_)embedding(_\d+)?$")  # a layer's class, numbered where it comes again


def role_at(parts: Parts, n_axes: int) -> Role:
    """Return the role of a variable; those that Keras 3 only numbers are told by their layer.

    Examples
    --------
    >>> role_at(("layers", "conv2d", "vars", "0"), 4), role_at(("layers", "dense", "vars", "0"), 2)
    ('kernel', 'plain')
    """
    *layers, name = without_root(parts)
    if layers[-1:] == [NUMBERED]:
        layer = layers[-2] if len(layers) > 1 else ""
        if "separable" in layer:
            name = {"0": "depthwise_kernel", "1": "pointwise_kernel"}.get(name, name)
        elif n_axes > 3 or layer.startswith(("conv", "depthwise_conv")):
            name = "kernel"
        return role_of([layer, name], n_axes)
    return role_of([*layers, SUFFIX.sub("", name)], n_axes)


def kind_at(parts: Parts) -> Kind | None:
    """Return the kind of a variable that Keras 3 only numbers, where its layer's class tells it.

    Examples
    --------
    >>> kind_at(("layers", "embedding_1", "vars", "0"))
    'embedding'
    """
    layer = parts[-3] if len(parts) > 2 and parts[-2] == NUMBERED else ""
    return "embedding" if EMBEDDING.search(layer) else None


def optimizer_group(parts: Parts) -> str:
    """Return the group of optimizer state that a variable is in, or an empty string."""
    path = _split(parts)
    place = next((n for n, part in enumerate(path[:-1]) if part in OPTIMIZER_GROUPS), None)
    return "" if place is None else ".".join(path[: place + 1])


def optimizer_state(counts: Mapping[str, int]) -> tuple[Skipped, ...]:
    """Say of each group of optimizer state, with so many variables, that it is no weight."""
    return tuple(
        Skipped(f"{group}.*", (), f"optimizer state ({count} tensors)", count)
        for group, count in counts.items()
    )


def without_root(parts: Parts) -> Parts:
    """Return a path without what stands above all layers."""
    path = _split(parts)
    return path[1:] if len(path) > 1 and path[0] == LEGACY_ROOT else path


def names_of(paths: Sequence[Parts]) -> dict[Parts, str]:
    """Name variables by their layers; by their whole paths if that would name two alike.

    Examples
    --------
    >>> list(names_of([("layers", "conv2d", "vars", "0"), ("conv", "conv", "kernel:0")]).values())
    ['layers.conv2d.0', 'conv.kernel']
    """
    names = {}
    for parts in paths:
        path = without_root(parts)
        short = [
            part
            for n, part in enumerate(path)
            if part != NUMBERED and (n == 0 or part != path[n - 1])
        ]
        short[-1] = SUFFIX.sub("", short[-1])
        names[parts] = ".".join(short)
    if len(set(names.values())) < len(names):
        return {parts: "/".join(parts) for parts in paths}
    return names


def _split(parts: Parts) -> Parts:
    """Return a path step by step, also where a name holds several, as Keras 2.12 wrote them."""
    return tuple(part for name in parts for part in name.split("\\") if part) or parts
