"""The processes that train one model together: who reads what, and how they hear of it.

Every process makes the same calls in the same order; none is made by one process alone.
"""

import hashlib
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from spectra.errors import DistributedError
from spectra.training.history import HistoryFile
from spectra.training.readings import Reading

T = TypeVar("T")

CALLS = ("new", "begin", "step", "measure", "flush", "load_state_dict", "take", "gather")
"""What processes meet at, as they tell each other by its place here."""


class World(Protocol):
    """Processes that train one model, each with its rank."""

    rank: int
    size: int
    gather_up_to: int
    """Bytes up to which a matrix that is cut by rows is gathered; larger ones only add up."""

    def meet(self, call: str, *numbers: int) -> list[tuple[int, ...]]:
        """Return the numbers that each process says, in the order of their ranks.

        Raises
        ------
        DistributedError
            If not every process comes to the same call.
        """
        ...

    def gather(self, item: T) -> list[T]:
        """Return what each process gives, in the order of their ranks."""
        ...


class Alone:
    """A run of one process, or one of several that is watched by itself."""

    rank = 0
    size = 1
    gather_up_to = 0

    def meet(self, call: str, *numbers: int) -> list[tuple[int, ...]]:
        """Return `numbers`."""
        return [numbers]

    def gather(self, item: T) -> list[T]:
        """Return `item`."""
        return [item]


def world_of_run() -> World:
    """Return the processes of this run: those of ``torch.distributed``, where it is initialised."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return Alone()
    if distributed.get_world_size() == 1:
        return Alone()
    from spectra.training.group import Group

    return Group()


def agree(
    world: World, step: int, wanted: int, *, ready: bool, waited: float = 0.0
) -> tuple[int, bool, float]:
    """Return the least that any process wants, whether any has something ready, and the toll.

    The least, since the processes wait for each other: none spends more than it may. The toll is the
    least that any of them `waited`, in seconds, when they last agreed: what the meeting itself takes.
    More than that is the lateness of the last to come, for which training waits all the same.

    Raises
    ------
    DistributedError
        ``E_STEP`` if they are at different steps.

    Examples
    --------
    >>> agree(Alone(), 10, 3, ready=False)
    (3, False, 0.0)
    """
    said = world.meet("step", step, wanted, int(ready), int(waited * 1e6))
    steps = [theirs for theirs, *_ in said]
    if len(set(steps)) > 1:
        raise DistributedError(
            "E_STEP",
            "SpectralMonitor",
            f"process {world.rank} is at step {step}, others at {_others(steps, step)}",
            "every process must call step() after each optimizer step, with the same number",
        )
    _, wants, readies, waits = zip(*said, strict=True)
    return min(wants), any(readies), min(waits) / 1e6


def together(world: World, work: Callable[[], T]) -> list[T]:
    """Do something on every process; if it fails on one, raise on all.

    Returns
    -------
    list
        What it gave on each, in the order of their ranks.

    Raises
    ------
    DistributedError
        ``E_PROCESS`` on those where it did not fail.
    """
    done: list[T] = []
    failed: Exception | None = None
    try:
        done = [work()]
    except Exception as error:
        if world.size == 1:
            raise
        failed = error
    told = world.gather((done, "" if failed is None else f"{type(failed).__name__}: {failed}"))
    if failed is not None:
        raise failed
    for rank, (_, reason) in enumerate(told):
        if reason:
            raise DistributedError("E_PROCESS", f"process {rank}", reason, "see its own error")
    return [one for theirs, _ in told for one in theirs]


def join(world: World, watched: object, work: Callable[[], None]) -> None:
    """Begin together: do something on every process, once it is clear that all watch the same.

    Raises
    ------
    DistributedError
        ``E_LAYERS`` if what they watch, as it prints, is not the same.
    """

    def here() -> str:
        work()
        return hashlib.sha256(repr(watched).encode()).hexdigest()

    world.meet("new")
    if len(set(together(world, here))) > 1:
        raise DistributedError(
            "E_LAYERS",
            "SpectralMonitor",
            "processes watch different layers, or with other options",
            "stages of a pipeline are watched one by one: world=Alone(), a history for each",
        )


def follow_the_first(world: World, history: HistoryFile, change: Callable[[], None]) -> None:
    """Change the history of the first process, which has the file; it is then that of all."""

    def here() -> list[Reading]:
        if world.rank:
            return []
        change()
        return [] if world.size == 1 else history.readings

    readings = together(world, here)[0]
    if world.rank:
        history.hold(list(readings))


def share_out(
    costs: Sequence[float],
    n_processes: int,
    together: Sequence[Hashable] = (),
    homes: Mapping[int, Sequence[int]] | None = None,
) -> list[int]:
    """Give each layer to a process, the dearest first to whoever has least to do.

    Parameters
    ----------
    costs : sequence of float
    n_processes : int
    together : sequence, optional
        Layers for which this is equal go to one process; each by itself when left out.
    homes : Mapping of int to sequence of int, optional
        The processes that may have a layer, where not all may.

    Examples
    --------
    >>> share_out([3.0, 1.0, 1.0, 2.0], 2)
    [0, 1, 0, 1]
    >>> share_out([3.0, 1.0, 1.0, 2.0], 2, "abbc")
    [0, 1, 1, 1]
    """
    lots: dict[Hashable, list[int]] = {}
    for position in range(len(costs)):
        lots.setdefault(together[position] if together else position, []).append(position)
    weighed = [(-sum(costs[i] for i in lot), lot) for lot in lots.values()]
    loads = np.zeros(n_processes)
    owners = [0] * len(costs)
    for cost, lot in sorted(weighed):
        able = (homes or {}).get(lot[0], range(n_processes))
        owner = able[int(np.argmin(loads[able]))]
        loads[owner] -= cost
        for position in lot:
            owners[position] = owner
    return owners


def in_turns(
    positions: Sequence[int], owners: Sequence[int], held: Sequence[Hashable]
) -> Iterator[list[int]]:
    """Cut layers into turns in which every process holds one thing at most, and all have work.

    Parameters
    ----------
    positions : sequence of int
    owners : sequence of int
        Which process reads each layer.
    held : sequence
        What it holds for that: equal for the parts of one gathered tensor.

    Examples
    --------
    >>> list(in_turns([0, 1, 2, 3], [0, 1, 0, 0], "abcc"))
    [[0, 1], [2, 3]]
    """
    turn: list[int] = []
    in_hand: dict[int, Hashable] = {}
    for position in positions:
        owner = owners[position]
        if in_hand.get(owner, held[position]) != held[position]:
            yield turn
            turn, in_hand = [], {}
        turn.append(position)
        in_hand[owner] = held[position]
    if turn:
        yield turn


def _others(steps: Sequence[int], step: int) -> str:
    return ", ".join(str(other) for other in sorted(set(steps) - {step}))
