"""The processes that train one model together: who reads what, and how they hear of it.

Every process makes the same calls in the same order; none is made by one process alone.
"""

import heapq
from collections.abc import Sequence
from typing import Protocol

from spectra.training.readings import Reading


class World(Protocol):
    """Processes that train one model, each with its rank."""

    rank: int
    size: int

    def agree(self, count: int) -> int:
        """Return what the first process said."""
        ...

    def gather(self, readings: Sequence[Reading]) -> list[Reading]:
        """Return the readings of all processes, in the order of their ranks."""
        ...


class Alone:
    """A run of one process."""

    rank = 0
    size = 1

    def agree(self, count: int) -> int:
        """Return `count`."""
        return count

    def gather(self, readings: Sequence[Reading]) -> list[Reading]:
        """Return `readings`."""
        return list(readings)


def share_out(costs: Sequence[float], n_processes: int) -> list[int]:
    """Give each layer to a process, the dearest first to whoever has least to do.

    Examples
    --------
    >>> share_out([3.0, 1.0, 1.0, 2.0], 2)
    [0, 1, 0, 1]
    """
    loads = [(0.0, rank) for rank in range(n_processes)]
    owners = [0] * len(costs)
    for position in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, rank = heapq.heappop(loads)
        owners[position] = rank
        heapq.heappush(loads, (load + costs[position], rank))
    return owners
