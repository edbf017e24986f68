"""Adapters of a live model (PEFT): the matrix that each one adds, from its factors as they are now.

PEFT is not imported; a layer that it has wrapped is known by what it carries.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from spectra.records import Skipped, Tensor
from spectra.sources.base import Source
from spectra.sources.derived import Derived, DerivedSource, added, factors_fit

if TYPE_CHECKING:
    from torch import nn

FACTORS = ("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")
LORA = "lora_A"  # among what a layer keeps for its adapters: those are LoRA's


def live_deltas(module: "nn.Module", source: Source) -> Source:
    """Put the matrix that a live LoRA adapter adds in the place of its factors, as for a file.

    That of the layer ``h.0.q`` is called ``h.0.q.delta``, or ``h.0.q.delta.<adapter>`` where several
    are active. The factors and the scale are read anew each time. Adapters that are not active, and
    those of other kinds, are left out with the reason, and so are all tensors they keep.

    Parameters
    ----------
    module : torch.nn.Module
    source : Source
        The same module, opened.
    """
    tensors = {tensor.name: tensor for tensor in source.tensors}
    derived: list[Derived] = []
    left_out: list[Skipped] = []
    for path, layer in module.named_modules(remove_duplicate=False):
        kept = _kept_for_adapters(path, layer, tensors)
        active = [name for name in kept if name in layer.active_adapters]
        for adapter, parts in kept.items():
            reason = _why_not(layer, adapter, parts)
            if reason:
                left_out += [Skipped(part.name, part.shape, reason) for part in parts.values()]
            else:
                name = f"{path}.delta" if len(active) == 1 else f"{path}.delta.{adapter}"
                derived.append(_delta(name, layer, adapter, path, parts))
    if not derived and not left_out:
        return source
    notes = ("LoRA adapters: what they add",) if derived else ()
    return DerivedSource(source, derived, notes, left_out)


def _kept_for_adapters(
    path: str, layer: "nn.Module", tensors: dict[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Return by adapter what a layer keeps for it, by names such as ``lora_A``; empty for others."""
    kept: dict[str, dict[str, Tensor]] = {}
    if not hasattr(layer, "active_adapters") or not hasattr(layer, "get_base_layer"):
        return kept
    for attribute, adapter, name in _slots(path, layer):
        if name in tensors:
            kept.setdefault(adapter, {})[attribute] = tensors[name]
    return kept


def _slots(path: str, layer: "nn.Module") -> Iterator[tuple[str, str, str]]:
    """Give (attribute, adapter, name of the tensor) of all that a layer keeps for adapters."""
    for attribute in getattr(layer, "adapter_layer_names", ()):
        named = getattr(getattr(layer, attribute, None), "named_parameters", dict)
        for name, _ in named() or ():
            yield attribute, name.split(".")[0], f"{path}.{attribute}.{name}".removeprefix(".")


def _why_not(layer: Any, adapter: str, parts: dict[str, Tensor]) -> str:  # noqa: ANN401
    """Return why what an adapter adds is not analysed, or an empty string."""
    if LORA not in layer.adapter_layer_names:
        kind = type(layer).__module__.split(".")[-2:][0]
        return f"of an adapter of kind {kind}, of which only LoRA is read"
    if adapter not in layer.active_adapters:
        return f"of the adapter {adapter!r}, which is not active"
    variant = getattr(layer, "lora_variant", {}).get(adapter)
    if variant is not None:
        return f"of a variant of LoRA ({type(variant).__name__}), which adds no product alone"
    if getattr(layer, "use_dora", {}).get(adapter):
        return "of a variant of LoRA (DoRA), which adds no product alone"
    if getattr(layer, "num_experts", 1) > 1:
        return "of an adapter of stacked experts, whose factors are interleaved"
    pair = _pair(parts)
    if pair is None or not factors_fit(*pair):
        shapes = " and ".join(str(part.shape) for part in parts.values())
        return f"of an adapter whose factors {shapes} make no single matrix"
    return ""


def _pair(parts: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    return next(((parts[a], parts[b]) for a, b in FACTORS if a in parts and b in parts), None)


def _delta(
    name: str,
    layer: Any,  # noqa: ANN401 - a layer of PEFT
    adapter: str,
    path: str,
    parts: dict[str, Tensor],
) -> Derived:
    pair = _pair(parts)
    assert pair is not None  # as _why_not has seen
    # One layer under two names is one matrix.
    return added(
        name, path, *pair, lambda: float(layer.scaling[adapter]), ("delta", id(layer), adapter)
    )
