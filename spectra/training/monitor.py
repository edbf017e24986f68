"""SpectralMonitor: the spectra of a model while it trains, within a budget of time."""

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from spectra import analysis, conventions, engine
from spectra.engine import lapack
from spectra.errors import CheckpointError, SelectionError
from spectra.inventory import as_tuple, take_stock
from spectra.records import Kind, Status
from spectra.sources import layouts, open_source, shards
from spectra.training.history import HistoryFile
from spectra.training.live import live
from spectra.training.options import check
from spectra.training.reader import Reader
from spectra.training.readings import Reading, Subject
from spectra.training.schedule import Schedule
from spectra.training.taking import Content, Taken, Taker, sized
from spectra.training.tracking import Alarm, Judge
from spectra.training.world import (
    World,
    agree,
    follow_the_first,
    in_turns,
    join,
    share_out,
    world_of_run,
)

if TYPE_CHECKING:
    from torch import nn

METRICS_READ = (
    "alpha",
    "alpha_low",
    "alpha_high",
    "alpha_stderr",
    "ks",
    "n_tail",
    "alpha_hat",
    "lambda_max",
    "log_norm",
    "stable_rank",
    "matrix_rank",
    "rank_loss",
    "erg_gap",
    "delta_lambda_min",
)
IN_HAND = 4
"""Layers copied and not yet solved, at most: what the background may hold of memory within a budget."""

logger = logging.getLogger(__name__)


class _InHand(NamedTuple):
    """A layer that was copied, in so many seconds, and is being solved in the background."""

    position: int
    copied: float
    future: Future[tuple[list[Reading], float]]


class SpectralMonitor:
    """Read the spectra of a model's layers while it trains.

    Call `step` after each optimizer step. Rounds over all layers begin every `every` steps and are
    spread over as many steps as it takes to stay in the budget, which the monitor measures itself.
    It only ever reads: random states, gradients, modes and weights are left as they are, and a run
    with it ends with the very weights of a run without.

    Parameters
    ----------
    model : torch.nn.Module or keras.Model
        As it is trained: compiled, wrapped or sharded; names are freed of the wrappers' prefixes.
    every : int, default: 100
        Steps between the beginnings of two rounds; more where the budget needs it.
    layers, exclude : str or sequence of str
        Glob patterns on names, with or without ``.weight``.
    watch : str or sequence of str, default: "weight"
        Of ``weight``, ``update`` (the difference to the weights last read, which takes a copy of
        them) and ``gradient`` (as it is when `step` is called; Keras keeps none, and weights that
        are computed, as what a LoRA adapter adds, have none).
    metrics : sequence of str
        Names in ``spectra.metrics.METRICS``.
    budget : float or None, default: 0.01
        Largest share of wall time that reading may take; None for no limit: whole rounds at once.
    background : bool, default: False
        Copy the weights in `step` and solve in a thread; readings come some steps later. Time that
        the thread takes counts as spent where the model trains on the CPU, whose cores it shares.
    history : path, optional
        A file of JSON lines that readings are added to as they come.
    traps : int, default: 1
        Shuffles in which correlation traps are looked for, each of which costs a decomposition more.
    convention, estimator, seed, replicates
        As for ``spectra.analyze``.
    alarms : Alarms, optional
        Told of each reading.
    on_alarm : callable, optional
        Called with each alarm raised or cleared, on every process; left out, the first logs them.
    world : World, optional
        Processes that train together: those of ``torch.distributed`` when left out. ``Group`` has
        options, ``Alone()`` watches what one process holds.

    Attributes
    ----------
    parameters : Mapping[str, torch.nn.Parameter or keras.Variable]
        The parameters watched, by clean name: to find them in an optimizer's groups.

    Raises
    ------
    SelectionError
        If a name or pattern fits nothing, or the model holds nothing that is analysed.
    DistributedError
        If processes do not watch the same layers, or not all of them call.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.Linear(48, 32))
    >>> monitor = SpectralMonitor(model, every=10, budget=None)
    >>> [(reading.layer, reading.step) for reading in monitor.step()]
    [('0.weight', 1), ('1.weight', 1)]
    """

    def __init__(
        self,
        model: "nn.Module | Any",  # noqa: ANN401 - Any for Keras' models, which have no types
        *,
        every: int = 100,
        layers: str | Sequence[str] = (),
        exclude: str | Sequence[str] = (),
        watch: Subject | Sequence[Subject] = "weight",
        metrics: Sequence[str] = METRICS_READ,
        budget: float | None = 0.01,
        background: bool = False,
        history: str | Path | None = None,
        traps: int = 1,
        convention: str = "htsr",
        estimator: str = "csn",
        seed: int = 0,
        replicates: int = analysis.REPLICATES,
        alarms: Judge | None = None,
        on_alarm: Callable[[Alarm], None] | None = None,
        world: World | None = None,
    ) -> None:
        check(
            every=every,
            watch=watch,
            metrics=metrics,
            budget=budget,
            traps=traps,
            estimator=estimator,
            replicates=replicates,
            alarms=alarms,
            on_alarm=on_alarm,
        )
        if isinstance(model, str | Path | Mapping):
            raise SelectionError(
                "E_MODEL",
                "SpectralMonitor",
                f"watches a live model, not a {type(model).__name__}",
                "spectra.analyze reads files and state dicts",
            )
        self.watch: tuple[Subject, ...] = as_tuple(watch)  # type: ignore[assignment]
        self._reader = Reader(
            conventions.named(convention), estimator, tuple(metrics), traps, seed, replicates
        )

        # Shuffled, the entries of a product's core say nothing of the product.
        self._core_reader = dataclasses.replace(self._reader, traps=0)

        shards.settle(model)
        source = open_source(model)
        stock = take_stock(source, self._reader.rules, as_tuple(layers), as_tuple(exclude))
        self._matrices = stock.matrices
        if not self._matrices:
            raise SelectionError(
                "E_NO_LAYERS", type(model).__name__, "holds no weights that are analysed"
            )
        self._names = [matrix.name for matrix in self._matrices]
        self._place = {name: position for position, name in enumerate(self._names)}
        self._cores = {i for i, m in enumerate(self._matrices) if source.is_product(m.tensor)}
        opened = live(model, source)
        if "gradient" in self.watch and not opened.has_gradients:
            raise SelectionError(
                "E_OPTION",
                "watch",
                f"a {type(model).__name__} of Keras keeps no gradients",
                "watch its weights and updates",
            )
        self._world = world_of_run() if world is None else world
        self._taker = Taker(opened, source, self._matrices, self.watch, self._world)
        self.parameters: Mapping[str, Any] = {
            layouts.whole_name(name): self._taker.held[matrix.tensor]
            for name, matrix in zip(self._names, self._matrices, strict=True)
            if matrix.tensor in self._taker.held
        }
        # What one process holds for a layer: of those that are gathered, the tensor.
        self._held = [
            matrix.tensor if self._taker.is_sharded(position) else position
            for position, matrix in enumerate(self._matrices)
        ]
        costs = [self._reader.foreseen(matrix) for matrix in self._matrices]
        slowness = self._reader.warm_up()
        self._schedule = Schedule(
            [slowness * cost for cost in costs],
            every,
            budget,
            share_out(costs, self._world.size, self._held, self._taker.homes),
        )
        self._worker = ThreadPoolExecutor(1, "spectra-monitor") if background else None
        self._pending: deque[_InHand] = deque()
        self._costs: list[tuple[int, float]] = []  # not told yet
        self._waited = 0.0  # for the others, when they last agreed
        self._unheard = 0  # layers that any process has taken and has not told of
        self._on_cpu = opened.on_cpu
        self.alarms = alarms
        self._on_alarm = on_alarm or (_log if self._world.rank == 0 else _ignore)
        self._step = 0
        self._began = False
        self._closed = False
        self._history = HistoryFile()
        first = [(name, m.shape) for name, m in zip(self._names, self._matrices, strict=True)]
        watched = (first, self._held, self.watch, every, background)
        join(self._world, watched, lambda: self._open(history if self._world.rank == 0 else None))
        self._elapsed_before = 0.0
        self._clock: float | None = None

    def step(self, step: int | None = None) -> tuple[Reading, ...]:
        """Say that the optimizer has taken a step; return the readings that became ready.

        Parameters
        ----------
        step : int, optional
            Its number; counted from one when left out. A number that was said before is passed over, as
            are steps after `close`.
        """
        number = self._step + 1 if step is None else step
        before = self._step if self._began else number - 1
        if self._closed or number <= before:
            return ()
        if not self._began:
            self._begin(number)
        begun = time.perf_counter()
        if self._clock is None:
            self._clock = begun
        self._step = number
        elapsed = self._elapsed(begun)
        if self._world.size == 1 and not self._is_ready() and self._schedule.waits(number, elapsed):
            return ()  # as at nearly every step: this must cost next to nothing
        if not self._schedule.is_tick(before, number, self._world.size) or _is_capturing():
            return ()
        if self._schedule.rests(number) and not self._unheard:
            return ()  # as every process knows by itself
        due = self._schedule.due(number, elapsed, [one.position for one in self._pending])
        stop = self._as_far_as_fits(due)
        asked = time.perf_counter()
        stop, any_ready, toll = agree(
            self._world, number, stop, ready=self._is_ready(), waited=self._waited
        )
        self._waited = time.perf_counter() - asked
        due = range(due.start, stop)
        read: list[Reading] = []
        if due or any_ready:
            with self._few_threads():
                read = self._read(due)
        try:
            return self._tell([*self._ready(), *read]) if due or any_ready else ()
        finally:  # read they were, whatever `on_alarm` raises
            self._schedule.done(due, time.perf_counter() - begun - self._waited + toll)

    def measure(self) -> tuple[Reading, ...]:
        """Read every layer now, whatever the budget; its cost is not held against the run.

        But for frozen layers that were read already.
        """
        self._world.meet("measure")
        done = self.flush()
        everything = range(len(self._matrices))
        readings = self._tell([*self._read(everything), *self._wait()])
        return (*done, *readings)

    def flush(self) -> tuple[Reading, ...]:
        """Wait for what is being read in the background, and return it."""
        if self._worker is None:
            return ()
        self._world.meet("flush")
        return self._tell(self._wait())

    @property
    def layers(self) -> dict[str, Kind]:
        """The layers watched, by the names that readings have, and of which kind each is."""
        kinds = [matrix.kind for matrix in self._matrices]
        return dict(zip(self._names, kinds, strict=True))

    @property
    def history(self) -> tuple[Reading, ...]:
        """Every reading of the run so far, oldest first."""
        return tuple(self._history.readings)

    @property
    def latest(self) -> dict[tuple[str, Subject], Reading]:
        """The newest reading of each layer and subject."""
        return dict(self._history.latest)

    @property
    def overhead(self) -> float:
        """The share of the run's time that reading has taken so far."""
        elapsed = self._elapsed(time.perf_counter())
        return self._schedule.spent / elapsed if elapsed > 0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return plain values to go on from, after waiting for what is being read.

        In a run of several processes nothing is waited for, so that one may call it alone: call
        `flush` on all before, if they read in the background. Any process's state serves all.
        """
        if self._world.size == 1:
            self.flush()
        return {
            "version": 1,
            "layers": list(self._names),
            "step": self._step,
            "elapsed": self._elapsed(time.perf_counter()),
            "n_readings": len(self._history.readings),
            "schedule": self._schedule.state(),
            "frozen": [self._names[position] for position in sorted(self._taker.frozen_read)],
            "alarms": self.alarms.state_dict() if self.alarms else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a saved run ended: readings of its file after that step are made again.

        Raises
        ------
        CheckpointError
            ``E_STATE`` if it is no state of a monitor of these layers, ``E_HISTORY`` if the history
            file is not that of the saved run.
        """
        if not isinstance(state, Mapping) or state.get("version") != 1:
            raise CheckpointError(
                "E_STATE", "state", "is not one of a monitor", "load what state_dict() returned"
            )
        if (theirs := list(state["layers"])) != self._names:
            raise CheckpointError(
                "E_STATE",
                "state",
                f"is that of a monitor of other layers, {len(theirs)}; here are {len(self._names)}",
                "watch the same layers of the same model, or begin a new history",
            )
        self._step = int(state["step"])
        self._world.meet("load_state_dict")
        count = int(state["n_readings"])
        follow_the_first(
            self._world, self._history, lambda: self._history.resume(count, self._step)
        )
        for one in self._pending:  # of steps that will be taken again
            one.future.cancel()
        self._pending.clear()
        self._costs, self._unheard = [], 0
        self._schedule.resume(state["schedule"])
        # Once in a history, which may be a new one.
        frozen = set(state["frozen"]) & {reading.layer for reading in self._history.readings}
        self._taker.frozen_read = {i for i, name in enumerate(self._names) if name in frozen}
        self._elapsed_before, self._clock = float(state["elapsed"]), None
        if self.alarms and state["alarms"] is not None:
            self.alarms.load_state_dict(state["alarms"])
        self._began = True
        positions = range(len(self._matrices))
        self._taker.remember([i for i in positions if self._takes(i)], self._step)

    def close(self) -> None:
        """Wait for what is being read, write it, and let go of the file and the thread."""
        try:
            self.flush()
        finally:
            self._let_go()

    def __enter__(self) -> "SpectralMonitor":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._world.size > 1:
            self._let_go()  # the others may have met with no error, and wait for nothing
        else:
            self.close()

    def __repr__(self) -> str:
        return (
            f"<SpectralMonitor of {len(self._matrices)} layers, step {self._step}, "
            f"{len(self._history.readings)} readings, overhead {self.overhead:.2%}>"
        )

    def _open(self, history: str | Path | None) -> None:
        for parameter in self.parameters.values():
            shards.refuse_outside(parameter, self._world.size)
        self._history = HistoryFile(history)

    def _let_go(self) -> None:
        self._closed = True
        if self._worker:
            self._worker.shutdown()
            self._worker = None  # what is still measured is read here
        self._history.close()

    def _few_threads(self) -> AbstractContextManager[object]:
        """Solve on one thread between steps: the others of a BLAS spin on after it, in training's way."""
        if self._worker is not None or self._schedule.budget is None:
            return nullcontext()
        limit: AbstractContextManager[object] = lapack.controller().limit(limits=1, user_api="blas")
        return limit

    def _begin(self, number: int) -> None:
        self._world.meet("begin")
        follow_the_first(self._world, self._history, lambda: self._history.begin(number))
        self._taker.warn_of_strangers(self._names)
        self._began = True

    def _elapsed(self, now: float) -> float:
        return self._elapsed_before + (0.0 if self._clock is None else now - self._clock)

    def _read(self, positions: range) -> list[Reading]:
        """Read this process's share of some layers, or hand copies of them to the background."""
        readings: list[Reading] = []
        new = [i for i in positions if not self._taker.is_known(i)]
        self._unheard += len(new)
        for turn in in_turns(new, self._schedule.owners, self._held):
            in_hand = [self._take(position) for position in turn if self._takes(position)]
            self._taker.end_turn()
            for position, stacks, seconds in in_hand:
                if not self._owns(position):
                    continue
                if self._worker is None:
                    begun = time.perf_counter()
                    readings += self._solved(position, self._step, stacks)
                    self._costs.append((position, seconds + time.perf_counter() - begun))
                else:
                    future = self._worker.submit(self._solved_apart, position, self._step, stacks)
                    self._pending.append(_InHand(position, seconds, future))
        return readings

    def _as_far_as_fits(self, due: range) -> int:
        """Return where to stop so as to have no more in hand than `IN_HAND`, or one whole round."""
        room = max(0, IN_HAND - len(self._pending))
        if self._worker is None or (self._schedule.budget is None and room > 0):
            return due.stop
        own = [position for position in due if self._owns(position)]
        return own[room] if len(own) > room else due.stop

    def _take(self, position: int) -> tuple[int, list[Taken], float]:
        """Take a layer out of the model; return the seconds too that it took."""
        begun = time.perf_counter()
        copied, keep = self._worker is not None, self._owns(position)
        stacks = self._taker.take(position, self._step, copied=copied, keep=keep)
        return position, stacks, time.perf_counter() - begun

    def _owns(self, position: int) -> bool:
        """Tell whether this process reads a layer."""
        return self._schedule.owners[position] == self._world.rank

    def _takes(self, position: int) -> bool:
        """Tell whether this process is needed to take a layer: for its own, and where it has a piece."""
        return self._owns(position) or self._taker.is_sharded(position)

    def _solved(self, position: int, step: int, stacks: list[Taken]) -> list[Reading]:
        return [self._reading(position, step, *taken) for taken in stacks]

    def _reading(
        self, position: int, step: int, subject: Subject, span: int, of: Content
    ) -> Reading:
        matrix, name = sized(self._matrices[position], of), self._names[position]
        reader = self._core_reader if position in self._cores else self._reader
        try:
            return reader.reading(matrix, name, step, subject, span, of)
        except Exception as error:
            if self._world.size == 1:
                raise
            logger.exception("%s cannot be read", name)  # the others wait, and are told
            failure = engine.Failure(Status.UNREADABLE, f"{type(error).__name__}: {error}")
            return reader.reading(matrix, name, step, subject, span, failure)

    def _solved_apart(
        self, position: int, step: int, stacks: list[Taken]
    ) -> tuple[list[Reading], float]:
        """Solve in the background; return the seconds too that this takes from training."""
        begun = time.perf_counter()
        readings = self._solved(position, step, stacks)
        return readings, time.perf_counter() - begun if self._on_cpu else 0.0

    def _is_ready(self) -> bool:
        """Tell whether the background has finished something."""
        return bool(self._pending) and self._pending[0].future.done()

    def _ready(self) -> list[Reading]:
        """Return what the background has finished."""
        readings: list[Reading] = []
        while self._is_ready():
            readings += self._finished()
        return readings

    def _wait(self) -> list[Reading]:
        """Return what the background has in hand, once it is finished."""
        readings: list[Reading] = []
        while self._pending:
            readings += self._finished()
        return readings

    def _finished(self) -> list[Reading]:
        position, copied, future = self._pending.popleft()
        readings, seconds = future.result()
        self._schedule.spent += seconds  # the copy was counted in its step
        self._costs.append((position, copied + seconds))
        return readings

    def _tell(self, read: Sequence[Reading]) -> tuple[Reading, ...]:
        """Tell every process what this one has read, and all who listen what all have."""
        costs, self._costs = self._costs, []
        readings: list[Reading] = []
        for theirs, spent in self._world.gather((read, costs)):
            readings += theirs
            self._unheard -= len(spent)
            for position, seconds in spent:
                self._schedule.cost(position, seconds)
        if self._world.size > 1:
            readings.sort(key=lambda reading: (reading.step, self._place[reading.layer]))
        self._history.extend(readings)
        for reading in readings:
            for alarm in self.alarms.observe(reading) if self.alarms else ():
                self._on_alarm(alarm)
        return tuple(readings)


def _is_capturing() -> bool:
    """Tell whether a CUDA graph is being captured, into which nothing of ours belongs."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _log(alarm: Alarm) -> None:
    logger.warning("%s", alarm.text)


def _ignore(_: Alarm) -> None:
    """Leave the log to the first process."""
