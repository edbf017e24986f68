"""The threads of a run: what they wait for, what they are limited to, when they end."""

import threading
import time

import numpy as np
import pytest
import threadpoolctl

from spectra.engine import cpu, pool
from spectra.engine.planning import Job, Machine, Plan, Stage
from spectra.engine.weights import Weights
from tests.reference.engine import matrix_of


def plan_of(n_jobs, *, solvers=4, threads=1, nbytes=60, in_flight=1000):
    matrix = matrix_of("w", np.zeros((4, 3)))
    jobs = tuple(Job((matrix,), (i,), "batched", 1.0, nbytes) for i in range(n_jobs))
    return Plan((Stage(jobs, solvers, threads),), "double", Machine(), in_flight)


def read(matrix, rows=None):
    return np.zeros((1, 4, 3))


class Watch:
    """Work that takes a moment, and remembers how much of it ran at once."""

    def __init__(self):
        self.now = self.most = 0
        self.begun = []
        self.lock = threading.Lock()

    def __call__(self, job, loaded):
        with self.lock:
            self.now += 1
            self.begun.append(job.positions[0])
            self.most = max(self.most, self.now)
        time.sleep(0.01)
        with self.lock:
            self.now -= 1
        return job.positions[0]


@pytest.mark.parametrize(("in_flight", "at_once"), [(10, 1), (100, 1), (130, 2), (1000, 4)])
def test_no_more_is_begun_than_the_memory_holds(in_flight, at_once):
    watch = Watch()
    plan = plan_of(20, in_flight=in_flight)  # a job larger than all of it goes alone
    assert sorted(pool.run(plan, read, watch, threading.Event())) == list(range(20))
    assert watch.most == at_once
    assert sorted(watch.begun) == list(range(20))


def blas_threads():
    return {m["num_threads"] for m in threadpoolctl.threadpool_info() if m["user_api"] == "blas"}


def test_the_blas_has_the_threads_of_the_stage_and_has_its_own_again_after_it():
    before = blas_threads()
    seen = list(pool.run(plan_of(3, threads=1), read, lambda *_: blas_threads(), threading.Event()))
    assert seen == [{1}] * 3
    deadline = time.monotonic() + 5
    while pool.is_solving() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert blas_threads() == before


def test_a_run_that_is_left_early_begins_no_more():
    watch = Watch()
    running = pool.run(plan_of(200, solvers=1), read, watch, threading.Event())
    next(running)
    running.close()
    deadline = time.monotonic() + 5
    while pool.is_solving() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not pool.is_solving()
    assert len(watch.begun) < 10


def test_a_mistake_in_one_thread_ends_the_others(monkeypatch):
    def work(job, loaded):
        raise ZeroDivisionError("a mistake")

    with pytest.raises(ZeroDivisionError):
        list(pool.run(plan_of(50), read, work, threading.Event()))


def test_weights_are_let_go_before_their_gram_matrix_is_solved(rng, monkeypatch):
    array = rng.standard_normal((30, 20))
    weights = Weights(matrix_of("w", array), lambda *_: array[np.newaxis], array[np.newaxis])
    held = []
    true = cpu._eigenvalues
    monkeypatch.setattr(
        cpu, "_eigenvalues", lambda *a, **k: held.append(weights.stack) or true(*a, **k)
    )
    cpu.solve(weights, "double", 0.0, two_stage=False)
    assert held == [None]
