"""Processes that watch together, played by threads: what they agree on and who does what."""

import copy
import functools
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from spectra.errors import DistributedError
from spectra.training import group
from spectra.training.monitor import SpectralMonitor
from spectra.training.schedule import Schedule
from spectra.training.world import Alone, agree, in_turns, share_out, together, world_of_run


class Thread:
    """One of several threads that are the processes of a run."""

    gather_up_to = 2**30

    def __init__(self, rank, places, barrier):
        self.rank, self.size = rank, len(places)
        self._places, self._barrier = places, barrier
        self.calls = []

    def meet(self, call, *numbers):
        self.calls.append(call)
        return self._exchange(numbers)

    def gather(self, item):
        self.calls.append("gather")
        return [pickle.loads(one) for one in self._exchange(pickle.dumps(item))]

    def _exchange(self, item):
        self._places[self.rank] = item
        self._barrier.wait(20)
        found = list(self._places)
        self._barrier.wait(20)
        return found


def in_threads(size, work):
    """Return what ``work(world)`` gives in each of so many threads."""
    places, barrier = [None] * size, threading.Barrier(size)

    def one(rank):
        try:
            return work(Thread(rank, places, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


torch.manual_seed(1)
MODEL = nn.Sequential(*(nn.Linear(32, 30 + i) for i in range(5)))


def deep():
    return copy.deepcopy(MODEL)  # threads share torch's random state


def without_cost(readings):
    return [reading.to_row() | {"seconds": 0} for reading in readings]


@pytest.mark.parametrize("background", [False, True])
def test_all_hear_what_one_alone_would_read_in_the_order_of_the_layers(background):
    options = {"every": 3, "budget": None, "background": background, "replicates": 0}

    def watch(world):
        monitor = SpectralMonitor(deep(), world=world, **options)
        for _ in range(7):
            monitor.step()
            monitor.flush()
        monitor.close()
        rows = without_cost(monitor.history)
        # Of a thread, what is finished at once comes before the rest of its round.
        return sorted(rows, key=lambda row: (row["step"], row["layer"])) if background else rows

    expected = watch(Alone())
    assert len(expected) == 15
    assert in_threads(3, watch) == [expected] * 3


def test_between_two_rounds_nothing_is_said():
    def watch(world):
        monitor = SpectralMonitor(deep(), world=world, every=100, budget=None, replicates=0)
        said = []
        for _ in range(20):
            world.calls.clear()
            monitor.step()
            said.append(list(world.calls))
        return said

    for said in in_threads(2, watch):
        assert said[0] == ["begin", "gather", "gather"], "the first step, whatever its number"
        assert said[4] == ["step", "gather"], "a round"
        assert not any(said[step] for step in range(1, 20) if step != 4)


def test_between_rounds_processes_meet_as_long_as_one_has_something_in_hand():
    finish = threading.Event()

    def watch(world):
        options = {"every": 100, "budget": None, "background": True, "replicates": 0}
        monitor = SpectralMonitor(deep(), world=world, **options)
        solve = monitor._solved_apart
        monitor._solved_apart = lambda *taken: finish.wait(20) and solve(*taken)
        said = []
        for step in range(1, 31):
            world.calls.clear()
            if step == 16:
                finish.set()
                [one.future.result() for one in monitor._pending]
            monitor.step()
            said.append(list(world.calls))
        monitor.close()
        return said, len(monitor.history)

    for said, count in in_threads(2, watch):
        assert said[9] == said[14] == ["step"], "in hand"
        assert said[19] == ["step", "gather"]
        assert said[24] == said[29] == [], "all is told"
        assert count == 5


def test_a_state_is_had_by_one_process_alone():
    def watch(world):
        monitor = SpectralMonitor(
            deep(), world=world, every=1, budget=None, background=True, replicates=0
        )
        monitor.step()
        monitor.flush()
        world.calls.clear()
        state = monitor.state_dict()
        monitor_called = list(world.calls)
        monitor.close()
        return monitor_called, {**state, "elapsed": 0, "schedule": None}

    (first, state), (second, other) = in_threads(2, watch)
    assert first == second == []
    assert state == other
    assert state["n_readings"] == 5


def test_processes_that_hold_different_weights_are_told_so_once(caplog):
    def watch(world, *, apart):
        model = deep()
        with torch.no_grad():
            model[2].weight += world.rank * apart
        monitor = SpectralMonitor(model, world=world, every=1, budget=None, replicates=0)
        monitor.step()
        monitor.step()

    in_threads(2, functools.partial(watch, apart=0.0))
    assert not caplog.records
    in_threads(2, functools.partial(watch, apart=1.0))
    (told,) = [record.getMessage() for record in caplog.records]
    assert "different weights of 1 layers (2.weight)" in told


def test_a_layer_that_one_process_cannot_take_is_told_to_all():
    def watch(world):
        monitor = SpectralMonitor(deep(), world=world, every=1, budget=None, replicates=0)
        if world.rank == 1:

            def no_room(*_, **__):
                raise MemoryError("no room")

            monitor._taker._read = no_room
        return [reading.reason for reading in monitor.step()], monitor._schedule.owners

    (reasons, owners), (others, _) = in_threads(2, watch)
    assert reasons == others
    assert [reason == "MemoryError: no room" for reason in reasons] == [o == 1 for o in owners]


def test_leaving_by_an_error_waits_for_nobody():
    def fail_in(monitor, world):
        with monitor:
            world.calls.clear()
            raise ZeroDivisionError

    def watch(world):
        monitor = SpectralMonitor(deep(), world=world, background=True, replicates=0)
        with pytest.raises(ZeroDivisionError):
            fail_in(monitor, world)
        return world.calls

    assert in_threads(2, watch) == [[], []]


def test_the_least_that_any_wants_is_agreed_on_and_steps_must_be_the_same():
    found = in_threads(3, lambda world: agree(world, 4, 5 - world.rank, ready=world.rank == 1))
    assert found == [(3, True, 0.0)] * 3

    def apart(world):
        with pytest.raises(DistributedError, match=f"process {world.rank} is at step {world.rank}"):
            agree(world, world.rank, 1, ready=False)

    in_threads(2, apart)


def test_what_fails_on_one_fails_on_all():
    def work(world):
        def fail_on_the_second():
            if world.rank == 1:
                raise KeyError("gone")
            return world.rank

        try:
            together(world, fail_on_the_second)
        except (KeyError, DistributedError) as error:
            return str(error)

    first, second = in_threads(2, work)
    assert first == "process 1: KeyError: 'gone'; see its own error"
    assert second == "'gone'"
    assert together(Alone(), lambda: 7) == [7]


def test_every_layer_has_one_owner_and_none_has_much_more_to_do():
    costs = [1 / (i + 1) for i in range(40)]
    for size in (1, 2, 7, 64):
        owners = share_out(costs, size)
        loads = [
            sum(c for c, owner in zip(costs, owners, strict=True) if owner == rank)
            for rank in range(size)
        ]
        # A greedy share is at most 4/3 of the best (Graham 1969), which is at least these two.
        assert max(loads) <= 4 / 3 * max(sum(costs) / size, costs[0]) + 1e-12
        assert set(owners) <= set(range(size))


def test_turns_hold_one_tensor_a_process_and_lose_no_layer():
    owners, held = [0, 1, 1, 0, 2, 2], ["a", "b", "b", "c", "d", "e"]
    turns = list(in_turns(range(6), owners, held))
    assert turns == [[0, 1, 2], [3, 4], [5]]
    assert list(in_turns([], owners, held)) == []


def test_what_a_round_costs_is_what_its_busiest_process_pays():
    schedule = Schedule([1.0] * 4, every=1, budget=0.5, owners=[0, 1, 0, 0])
    for position in range(4):
        schedule.cost(position, 1.0)
    assert schedule.due(1, elapsed=2.0) == range(2), "two at once on two processes"
    assert schedule.due(1, elapsed=4.0) == range(3)


def test_a_run_of_one_process_is_alone():
    assert isinstance(world_of_run(), Alone)


def test_who_waits_for_one_that_is_late_has_spent_nothing_on_reading():
    def watch(world):
        monitor = SpectralMonitor(deep(), every=1, budget=0.9, world=world, replicates=0)
        for step in range(1, 4):
            if step != 2 and world.rank == 0:
                time.sleep(1)  # as one that validates, or writes a checkpoint
            monitor.step()
        return monitor.overhead

    assert max(in_threads(2, watch)) < 0.5


def test_steps_whose_numbers_leave_gaps_are_read_at_too():
    def watch(world):
        monitor = SpectralMonitor(deep(), every=80, budget=None, world=world, replicates=0)
        return [step for step in range(7, 330, 8) if monitor.step(step)]  # none a multiple of 4

    assert in_threads(2, watch) == [[15, 87, 167, 247, 327]] * 2


def test_who_waits_for_long_says_so_long_before_the_timeout(monkeypatch, caplog):
    waiting = group.Group.__new__(group.Group)  # no processes are needed to wait
    waiting.rank, waiting._timeout = 1, 1800.0
    with waiting._impatient("step"):
        pass
    assert not caplog.records
    monkeypatch.setattr(group, "PATIENCE", 0.01)
    with waiting._impatient("step"):
        time.sleep(0.5)
    assert "process 1, in step, waits for other processes" in caplog.text
    assert "world=Alone()" in caplog.text
