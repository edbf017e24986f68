"""When which layer is read: rounds over all layers, spread so that their cost stays in a budget.

Reading costs time; the time a training run has spent so far, times the budget, is what may have been
spent on reading. A layer is read as soon as its own cost fits into what is left of that, so the share
of time never exceeds the budget by more than one misjudged layer, however large the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SMOOTHING = 0.3
"""Weight of the newest cost of a layer: the first, with its cold caches, is soon forgotten."""

ROUND_SHARE = 20
"""Ticks a round has where processes must agree on each."""


@dataclass(slots=True)
class Schedule:
    """Which layers are due, and what reading has cost.

    Parameters
    ----------
    predicted : sequence of float
        Seconds that each layer is thought to cost. Only their ratios are believed for long: what the
        layers read so far have cost says what the others will.
    every : int
        Steps from the beginning of one round to that of the next, at least.
    budget : float or None
        Largest share of the run's time that reading may take; None for no limit.
    owners : sequence of int
        Which process reads each layer; the cost of several layers is that of the busiest process.

    Examples
    --------
    >>> schedule = Schedule([0.1, 0.1, 0.1, 0.1], every=10, budget=0.01)
    >>> schedule.due(10, elapsed=50.0)  # half a second may be spent, but who knows on what?
    range(0, 1)
    >>> schedule.cost(0, 0.5)  # five times what was thought
    >>> schedule.done(range(0, 1), seconds=0.5)
    >>> schedule.due(11, elapsed=60.0), schedule.due(12, elapsed=150.0)
    (range(1, 1), range(1, 3))
    """

    predicted: Sequence[float]
    every: int
    budget: float | None
    owners: Sequence[int] = ()
    next_round: int = 0
    cursor: int | None = None
    spent: float = 0.0
    measured: dict[int, float] = field(default_factory=dict)
    affordable: float = 0.0  # seconds into the run at which the next layer will fit

    def __post_init__(self) -> None:
        self.owners = self.owners or [0] * len(self.predicted)

    def rests(self, step: int) -> bool:
        """Tell whether the last round is complete and none is due: a matter of steps alone."""
        return self.cursor is None and step < self.next_round

    def waits(self, step: int, elapsed: float) -> bool:
        """Tell at once, as it is asked at every step, that no layer can be due."""
        if self.cursor is None and step < self.next_round:  # `rests`, without a call
            return True
        return elapsed < self.affordable

    def due(self, step: int, elapsed: float, in_hand: Sequence[int] = ()) -> range:
        """Return the layers to read at this step, as positions; a round begins where one is due.

        Parameters
        ----------
        step : int
        elapsed : float
            Seconds since the run began, those spent on reading among them.
        in_hand : sequence of int
            Layers being read whose cost is not counted yet.
        """
        if self.cursor is None:
            if step < self.next_round or not self.predicted:
                return range(0)
            self.cursor = 0
        if not self.cursor:  # it begins now, or still waits for its first layer
            self.next_round = (step // self.every + 1) * self.every
        return range(self.cursor, self._reach(self.cursor, elapsed, in_hand))

    def _reach(self, first: int, elapsed: float, in_hand: Sequence[int]) -> int:
        last = len(self.predicted)
        if self.budget is None:
            return last
        if not self.measured and in_hand:
            return first  # until the first says what layers cost here
        known = sum(self.predicted[i] for i in self.measured)
        scale = sum(self.measured.values()) / known if known else 1.0

        def cost(position: int) -> float:
            return self.measured.get(position, scale * self.predicted[position])

        spent = self.spent + sum(map(cost, in_hand))
        loads = dict.fromkeys(self.owners, 0.0)
        for position in range(first, last):
            loads[self.owners[position]] += cost(position)
            needed = spent + max(loads.values())
            if needed > self.budget * elapsed:
                self.affordable = needed / self.budget
                return position
            if not self.measured:
                return position + 1
        return last

    def done(self, positions: range, seconds: float) -> None:
        """Take note that layers were read, and of what it cost this process."""
        self.spent += seconds
        if len(positions):
            self.cursor = positions.stop if positions.stop < len(self.predicted) else None

    def cost(self, position: int, seconds: float) -> None:
        """Take note of what a layer cost."""
        self.affordable = 0.0
        before = self.measured.get(position, seconds)
        self.measured[position] = before + SMOOTHING * (seconds - before)

    def is_tick(self, before: int, step: int, n_processes: int) -> bool:
        """Tell whether layers may be read at this step: any, but where processes must agree.

        Steps may be said with gaps: a tick is the first at or after each `stride`-th, which `before` tells.
        """
        stride = 1 if n_processes == 1 else max(1, self.every // ROUND_SHARE)
        return step // stride > before // stride

    def state(self) -> dict[str, Any]:
        """Return where the round stands, as plain values."""
        return {
            "next_round": self.next_round,
            "cursor": self.cursor,
            "spent": self.spent,
            "costs": [self.measured.get(position) for position in range(len(self.predicted))],
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` says."""
        self.next_round, self.cursor = int(state["next_round"]), state["cursor"]
        self.spent, self.affordable = float(state["spent"]), 0.0
        costs = enumerate(state["costs"])
        self.measured = {position: float(cost) for position, cost in costs if cost is not None}
