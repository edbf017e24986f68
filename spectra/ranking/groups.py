"""Which models are of one architecture, and which of their layers stand beside each other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spectra.records import LayerReport, ModelReport

ENOUGH = 0.5  # of the layers with an alpha that the fullest model of a group has

Shape = tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class Group:
    """Models of equal layer shapes, by their positions, with the layers that are compared.

    ``rows`` holds, by model, the layers whose values count; of a `paired` group the i-th layers of
    all models are each other's counterparts. ``sparse`` models have too few layers with an alpha to
    be asked: they would take the others' layers with them.
    """

    label: str
    paired: bool
    rows: Mapping[int, tuple[LayerReport, ...]]
    sparse: tuple[int, ...]


def grouped(reports: Sequence[ModelReport]) -> tuple[Group, ...]:
    """Put models of equal layer shapes into groups and align their layers.

    By name where all models of a group have the same names of the same shapes, else by order where the
    shapes come in the same order; where neither is so, models share a group but no pairs.
    """
    members: dict[tuple[tuple[Shape, int], ...], list[int]] = {}
    for i, report in enumerate(reports):
        shapes = Counter(map(_shape, report.layers))
        members.setdefault(tuple(sorted(shapes.items())), []).append(i)
    return tuple(
        _group(f"{chr(65 + n % 26)}{n // 26 or ''}", {i: reports[i] for i in found})
        for n, found in enumerate(members.values())
    )


def _group(label: str, reports: Mapping[int, ModelReport]) -> Group:
    counts = {i: sum(layer.averaged for layer in report.layers) for i, report in reports.items()}
    most = max(counts.values())
    sparse = tuple(i for i, count in counts.items() if count < ENOUGH * most)
    aligned = _aligned({i: report for i, report in reports.items() if i not in sparse})
    if aligned is not None:
        places = range(len(next(iter(aligned.values()))))
        shared = [
            place for place in places if all(rows[place].averaged for rows in aligned.values())
        ]
        if shared:
            rows = {i: tuple(found[place] for place in shared) for i, found in aligned.items()}
            return Group(label, True, rows, sparse)
    alone = {
        i: tuple(layer for layer in report.layers if layer.averaged)
        for i, report in reports.items()
        if i not in sparse
    }
    return Group(label, len(alone) == 1, alone, sparse)


def _aligned(reports: Mapping[int, ModelReport]) -> dict[int, Sequence[LayerReport]] | None:
    """Return every model's layers in one order, or None where there is none."""
    first, *others = reports.values()
    names = {layer.name: _shape(layer) for layer in first.layers}
    if all({layer.name: _shape(layer) for layer in other.layers} == names for other in others):
        order = {name: place for place, name in enumerate(names)}
        return {
            i: sorted(report.layers, key=lambda layer: order[layer.name])
            for i, report in reports.items()
        }
    shapes = [_shape(layer) for layer in first.layers]
    if all([_shape(layer) for layer in other.layers] == shapes for other in others):
        return {i: report.layers for i, report in reports.items()}
    return None


def _shape(layer: LayerReport) -> Shape:
    return layer.kind, layer.N, layer.M, layer.n_matrices
