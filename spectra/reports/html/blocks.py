"""The blocks of a network in the order of its depth, which is not always that of the file."""

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile

from spectra.naming import block_of

LONGEST = 22  # letters of a label
_NUMBER = re.compile(r"\d+")


def by_depth(names: Sequence[str]) -> list[int]:
    """Return the places of `names` in the order of depth.

    Checkpoint order, but that blocks of one kind come by their numbers where the file has them as
    words (0, 1, 10, 11, 2): all of them are where the first of the kind is.

    Examples
    --------
    >>> by_depth(["embed", "h.0.up", "h.10.up", "h.2.up", "head"])
    [0, 1, 3, 2, 4]
    """
    first: dict[str, int] = {}
    keys = []
    for position, name in enumerate(names):
        block = block_of(name)
        kind = _NUMBER.sub("#", block) or f"{position} has no block"
        start = first.setdefault(kind, position)
        keys.append((start, [int(number) for number in _NUMBER.findall(block)], position))
    return sorted(range(len(names)), key=keys.__getitem__)


def blocks_of(names: Sequence[str]) -> list[str]:
    """Return the blocks of layers in the order of depth, each once; those without one are left out."""
    found = (block_of(names[position]) for position in by_depth(names))
    return list(dict.fromkeys(filter(None, found)))


def labels_of(blocks: Iterable[str]) -> list[str]:
    """Return blocks without the words they all begin with, and no longer than fits.

    Examples
    --------
    >>> labels_of(["model.layers.0", "model.layers.11"]), labels_of(["layer1.0", "layer2.0"])
    (['0', '11'], ['layer1.0', 'layer2.0'])
    """
    split = [re.split(r"[./]", block) for block in blocks]
    words = zip(*(parts[:-1] for parts in split), strict=False)
    shared = len(list(takewhile(lambda column: len({*column}) == 1, words)))
    texts = (".".join(parts[shared:]) for parts in split)
    return [text if len(text) <= LONGEST else f"…{text[1 - LONGEST :]}" for text in texts]
