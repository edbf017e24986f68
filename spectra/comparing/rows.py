"""One row a layer, and rows put together: by block, by role, over the model."""

import math
from collections.abc import Sequence

import numpy as np

from spectra.comparing.kinds import change_of
from spectra.comparing.matching import Pair
from spectra.comparing.records import Change, Delta, Group, LayerChange, Overlap, alpha_interval
from spectra.naming import ROLES, block_of, role_of
from spectra.records import ModelReport, Value


def layer_change(pair: Pair, delta: Delta | None, overlap: Overlap | None) -> LayerChange:
    """Put together what is known of one matched layer."""
    base, other = pair
    change, low, high = alpha_interval(base, other)
    return LayerChange(
        name=base.name,
        other_name=other.name,
        kind=base.kind,
        shape=base.shape,
        N=base.N,
        M=base.M,
        n_matrices=base.n_matrices,
        role=role_of(base.name, base.kind),
        block=block_of(base.name),
        change=change_of(delta, overlap, base, other),
        alpha_change=change,
        alpha_change_low=low,
        alpha_change_high=high,
        alpha_moved=low > 0 or high < 0,
        changes={
            name: other.metrics[name] - value
            for name, value in base.metrics.items()
            if name in other.metrics
        },
        delta=delta,
        overlap=overlap,
        base=base,
        other=other,
    )


def groups_of(layers: Sequence[LayerChange]) -> tuple[Group, ...]:
    """Put layers together by block, in the order of the base, and by role, in that of a forward pass."""
    total = _energy(layers)
    blocks = dict.fromkeys(layer.block for layer in layers)
    found = [
        _group("block", name, [layer for layer in layers if layer.block == name], total)
        for name in blocks
        if name
    ]
    found += [
        _group("role", role, members, total)
        for role in ROLES
        if (members := [layer for layer in layers if layer.role == role])
    ]
    return tuple(found)


def summarise(layers: Sequence[LayerChange], reports: Sequence[ModelReport]) -> dict[str, Value]:
    """Return means over matched layers; of alpha over those that both models average."""
    averaged = [layer for layer in layers if layer.base.averaged and layer.other.averaged]
    overlaps = [layer.overlap for layer in layers if layer.overlap]
    base, other = reports
    return {
        "n_matched": len(layers),
        "n_identical": sum(layer.change is Change.IDENTICAL for layer in layers),
        "n_alpha_moved": sum(layer.alpha_moved for layer in layers),
        "n_layers_base": len(base.layers),
        "n_layers_other": len(other.layers),
        "alpha_change": _mean([layer.alpha_change for layer in averaged]),
        "delta_norm": _relative(layers),
        "delta_norm_median": _median([layer.delta.norm for layer in layers if layer.delta]),
        "cosine_median": _median([layer.delta.cosine for layer in layers if layer.delta]),
        "overlap_left": _mean([overlap.left for overlap in overlaps]),
        "overlap_right": _mean([overlap.right for overlap in overlaps]),
    }


def _group(by: str, name: str, layers: Sequence[LayerChange], total: float) -> Group:
    return Group(
        by=by,
        name=name,
        n_layers=len(layers),
        n_identical=sum(layer.change is Change.IDENTICAL for layer in layers),
        alpha_change=_mean([layer.alpha_change for layer in layers]),
        delta_norm=_relative(layers),
        delta_share=_energy(layers) / total if total else math.nan,
    )


def _relative(layers: Sequence[LayerChange]) -> float:
    """Return √(Σ‖ΔW‖² / Σ‖W_base‖²) over the layers whose ΔW is known."""
    below = math.fsum(layer.delta.base_squared_norm for layer in layers if layer.delta)
    return math.sqrt(_energy(layers) / below) if below else math.nan


def _energy(layers: Sequence[LayerChange]) -> float:
    return math.fsum(layer.delta.squared_norm for layer in layers if layer.delta)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.median(known)) if known else math.nan
