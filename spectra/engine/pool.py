"""Running a plan: threads that read, solve and hand over, within the memory the plan allows."""

import queue
import threading
from collections.abc import Callable, Iterator

from spectra.engine import lapack
from spectra.engine.planning import Job, Plan, Stage
from spectra.engine.weights import Failure, Read, Weights, load, out_of_memory

THREAD = "spectra-solver"

_limiting = threading.Lock()

Load = list[Weights | Failure]
Work = Callable[[Job, Load], object]


class _Gate:
    """Lets work begin while the bytes of all that is unfinished stay within a limit."""

    def __init__(self, limit: int) -> None:
        self._limit, self._taken = limit, 0
        self._change = threading.Condition()

    def enter(self, nbytes: int) -> None:
        with self._change:
            # What is too large for the limit goes in alone.
            self._change.wait_for(lambda: not self._taken or self._taken + nbytes <= self._limit)
            self._taken += nbytes

    def leave(self, nbytes: int) -> None:
        with self._change:
            self._taken -= nbytes
            self._change.notify_all()


class _End:
    """Put last into the results; carries what went wrong in a thread, if anything did."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def run(plan: Plan, read: Read, work: Work, stop: threading.Event) -> Iterator[object]:
    """Yield what `work` makes of each job of a plan, as it finishes.

    In every stage one thread more than may solve is at hand, so that one reads while others solve.
    Once `stop` is set no job is begun; what is being solved is finished and yielded. A program that
    ends before that waits for it: LAPACK cannot be stopped, and torn down beneath it crashes.

    Raises
    ------
    Exception
        What `work` raised; the jobs not begun are left.
    """
    results: queue.SimpleQueue[object] = queue.SimpleQueue()
    _thread(_conduct, plan, read, work, stop, results).start()
    try:
        while not isinstance(result := results.get(), _End):
            yield result
    except BaseException:
        stop.set()  # left early: let the threads end
        raise
    if result.error is not None:
        raise result.error


def is_solving() -> bool:
    """Tell whether threads of a run are still at work, as after a second Ctrl-C."""
    return any(thread.name == THREAD for thread in threading.enumerate())


def _thread(target: Callable[..., None], *args: object) -> threading.Thread:
    return threading.Thread(target=target, args=args, name=THREAD, daemon=False)


def _conduct(
    plan: Plan,
    read: Read,
    work: Work,
    stop: threading.Event,
    results: "queue.SimpleQueue[object]",
) -> None:
    """Run the stages one after the other, each with its own number of threads in the BLAS."""
    errors: list[BaseException] = []
    try:
        with _limiting:  # the limit is the process's: one run at a time has it
            for stage in plan.stages:
                with lapack.controller().limit(limits=stage.threads, user_api="blas"):
                    _run_stage(plan, stage, read, work, stop, results, errors)
    except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
        errors.append(error)
    finally:
        results.put(_End(errors[0] if errors else None))


def _loaded(job: Job, read: Read, memory: int) -> Load:
    if job.nbytes > memory:  # known beforehand, and not tried: the system would kill the process
        return [out_of_memory(job.nbytes, memory)] * len(job.matrices)
    return [load(matrix, read, streamed=job.streamed) for matrix in job.matrices]


def _run_stage(
    plan: Plan,
    stage: Stage,
    read: Read,
    work: Work,
    stop: threading.Event,
    results: "queue.SimpleQueue[object]",
    errors: list[BaseException],
) -> None:
    gate, solving = _Gate(plan.in_flight), threading.Semaphore(stage.solvers)
    left = iter(stage.jobs)
    taking = threading.Lock()

    def take() -> Job | None:
        """Take the next job once there is memory for it: in order, so that large ones do not starve."""
        with taking:
            job = None if stop.is_set() else next(left, None)
            if job is not None:
                gate.enter(job.nbytes)
        return job

    def worker() -> None:
        while (job := take()) is not None:
            try:
                if stop.is_set():
                    continue  # set while it waited for memory
                loaded = _loaded(job, read, plan.machine.memory)
                with solving:
                    if not stop.is_set():
                        results.put(work(job, loaded))
                del loaded
            except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
                errors.append(error)
                stop.set()
            finally:
                gate.leave(job.nbytes)

    count = min(stage.solvers + 1, len(stage.jobs))
    threads: list[threading.Thread] = []
    try:
        for _ in range(count):
            threads.append(_thread(worker))
            threads[-1].start()
    except BaseException:
        threads.pop()
        stop.set()
        raise
    finally:
        for thread in threads:
            thread.join()
