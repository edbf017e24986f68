"""Which layer of one model is which of the other: by name, whatever wrappers put before it."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from spectra.comparing.records import OtherShape, Unmatched
from spectra.records import LayerReport

OF_GGUF = re.compile(r"blk\.\d+\.")
CANDIDATES = 8  # prefixes that are looked at, most frequent first

Pair = tuple[LayerReport, LayerReport]


@dataclass(frozen=True, slots=True)
class Matching:
    """Layers of both models in pairs, in the order of the base, and what has no partner."""

    pairs: tuple[Pair, ...]
    other_shape: tuple[OtherShape, ...]
    only_in_base: tuple[Unmatched, ...]
    only_in_other: tuple[Unmatched, ...]
    notes: tuple[str, ...] = ()


def match(base: Sequence[LayerReport], other: Sequence[LayerReport]) -> Matching:
    """Match the layers of two models by name.

    A name is any under which the layer is known, tied ones too. A prefix that most names of one side
    carry (``model.``, ``bert.``) is left out where more names then agree. Each layer has one partner
    at most.

    Parameters
    ----------
    base, other : sequence of LayerReport

    Returns
    -------
    Matching

    Examples
    --------
    >>> import numpy as np, spectra
    >>> w = np.eye(30)
    >>> one, two = ({n: w} for n in ("model.fc.weight", "fc.weight"))
    >>> found = match(spectra.analyze(one).layers, spectra.analyze(two).layers)
    >>> [(a.name, b.name) for a, b in found.pairs], found.notes
    ([('model.fc.weight', 'fc.weight')], ("names of BASE are taken without 'model.'",))
    """
    (cut_base, cut_other), notes = _prefixes(base, other)
    partner: dict[str, LayerReport] = {}
    for names in (lambda layer: (layer.name,), lambda layer: layer.aliases):
        for layer in other:
            for name in names(layer):
                partner.setdefault(name.removeprefix(cut_other), layer)
    taken: set[str] = set()
    pairs: list[Pair] = []
    shapes: list[OtherShape] = []
    alone: list[Unmatched] = []
    found: dict[int, LayerReport] = {}
    for aliased in (False, True):  # a layer's own name before any of its aliases
        for position, layer in enumerate(base):
            if position in found:
                continue
            for name in layer.aliases if aliased else (layer.name,):
                candidate = partner.get(name.removeprefix(cut_base))
                if candidate is not None and candidate.name not in taken:
                    taken.add(candidate.name)
                    found[position] = candidate
                    break
    tied_base, tied_other = (
        {name.removeprefix(cut): layer.name for layer in side for name in layer.aliases}
        for side, cut in ((base, cut_base), (other, cut_other))
    )
    for position, layer in enumerate(base):
        if position not in found:
            name = tied_other.get(layer.name.removeprefix(cut_base))
            alone.append(Unmatched(layer.name, layer.shape, _tied("OTHER", name)))
        elif _same_shape(layer, found[position]):
            pairs.append((layer, found[position]))
        else:
            shapes.append(OtherShape(layer.name, layer.shape, found[position].shape))
    return Matching(
        pairs=tuple(pairs),
        other_shape=tuple(shapes),
        only_in_base=tuple(alone),
        only_in_other=tuple(
            Unmatched(
                layer.name,
                layer.shape,
                _tied("BASE", tied_base.get(layer.name.removeprefix(cut_other))),
            )
            for layer in other
            if layer.name not in taken
        ),
        notes=(*notes, *_other_names(base, other)),
    )


def _same_shape(one: LayerReport, two: LayerReport) -> bool:
    return (one.shape, one.N, one.M, one.n_matrices) == (two.shape, two.N, two.M, two.n_matrices)


def _tied(side: str, name: str | None) -> str:
    return "" if name is None else f"in {side} tied to {name}"


def _other_names(base: Sequence[LayerReport], other: Sequence[LayerReport]) -> tuple[str, ...]:
    """Say that GGUF calls its layers otherwise, where one side alone has such names."""
    mine, theirs = (any(OF_GGUF.match(layer.name) for layer in side) for side in (base, other))
    if mine == theirs or not (base and other):
        return ()
    which, beside = ("BASE", "OTHER") if mine else ("OTHER", "BASE")
    return (
        f"{which} has the names of GGUF (blk.0.), {beside} has others: they are not translated",
    )


def _prefixes(
    base: Sequence[LayerReport], other: Sequence[LayerReport]
) -> tuple[tuple[str, str], tuple[str, ...]]:
    """Return what to leave out of the names of either side, and how that is said."""
    sides = [
        {name for layer in side for name in (layer.name, *layer.aliases)} for side in (base, other)
    ]
    best, cut = len(sides[0] & sides[1]), ("", "")
    for side in (0, 1):
        prefix = _prefix(sides[side], sides[1 - side])
        stripped = {name.removeprefix(prefix) for name in sides[side]}
        agreeing = len(stripped & sides[1 - side])
        if len(stripped) == len(sides[side]) and agreeing > best:
            best, cut = agreeing, (prefix, "") if side == 0 else ("", prefix)
    notes = tuple(
        f"names of {which} are taken without {prefix!r}"
        for which, prefix in zip(("BASE", "OTHER"), cut, strict=True)
        if prefix
    )
    return cut, notes


def _prefix(longer: Collection[str], shorter: Collection[str]) -> str:
    """Return the prefix without which most of the longer names are among the shorter ones.

    One that more than half of the names carry: those of two halves (encoder.fc, decoder.fc) may end
    alike by chance.
    """
    counts: Counter[str] = Counter()
    for name in longer:
        parts = name.split(".")
        counts.update(
            ".".join(parts[:cut]) + "."
            for cut in range(1, len(parts))
            if ".".join(parts[cut:]) in shorter
        )
    common = [
        prefix
        for prefix, _ in counts.most_common(CANDIDATES)
        if 2 * sum(name.startswith(prefix) for name in longer) > len(longer)
    ]
    return max(common, key=lambda prefix: (counts[prefix], -len(prefix)), default="")
