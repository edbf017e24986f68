"""The processes of ``torch.distributed``, which tell each other what they read on the CPU."""

import contextlib
import datetime
import logging
import pickle
import re
import threading
from collections.abc import Iterator
from typing import NoReturn, TypeVar

import torch
from torch import distributed

from spectra.errors import DistributedError
from spectra.training.world import CALLS

T = TypeVar("T")

logger = logging.getLogger(__name__)

TIMEOUT = 1800.0
"""Seconds that a process is waited for: one may be writing a checkpoint, or solving a large layer."""

PATIENCE = 30.0
"""Seconds after which a process that still waits says so."""

GATHER_UP_TO = 2**30
ALIKE = (
    "every process must make the monitor and call step(), measure(), flush() and close() alike; to watch"
    " on one process alone, pass world=Alone()"
)
WIDTH = 4  # numbers that processes say at a meeting, and the call


class Group:
    """All processes of the run, in a group of their own, beside those that training uses.

    Parameters
    ----------
    timeout : float, default: 1800
        Seconds that a process is waited for at a call. After 30 of them a warning says so.
    gather_up_to : int, default: 1 GiB
        Bytes up to which a tall matrix that is cut by rows is gathered, and read to the last bit as
        in one process. Of larger ones only the Gram matrices are summed: readings then agree to
        rounding, and no traps are looked for, since entries in pieces are not shuffled.

    Raises
    ------
    DistributedError
        ``E_GLOO`` if this torch was built without gloo; ``E_ALONE`` if not every process is here.
    """

    def __init__(self, timeout: float = TIMEOUT, gather_up_to: int = GATHER_UP_TO) -> None:
        if not distributed.is_gloo_available():
            raise DistributedError(
                "E_GLOO", "torch.distributed", "has no gloo", "watch with world=Alone() on one rank"
            )
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self.gather_up_to = gather_up_to
        self._timeout = timeout
        self._failed: DistributedError | None = None
        try:
            with self._impatient("new"):
                self._group = distributed.new_group(
                    backend="gloo", timeout=datetime.timedelta(seconds=timeout)
                )
        except RuntimeError as error:
            self._stop("new", error)

    def meet(self, call: str, *numbers: int) -> list[tuple[int, ...]]:
        """Return the numbers that each process says, in the order of their ranks."""
        row = [CALLS.index(call), *numbers]
        mine = torch.tensor(row + [0] * (1 + WIDTH - len(row)), dtype=torch.int64, device="cpu")
        rows = [said.tolist() for said in self._exchange(call, mine)]
        calls = {CALLS[said[0]]: rank for rank, said in enumerate(rows)}
        if len(calls) > 1:
            there = ", ".join(f"process {rank} in {name}" for name, rank in calls.items())
            self._stop(call, f"processes are at different calls: {there}")
        return [tuple(said[1 : len(row)]) for said in rows]

    def gather(self, item: T) -> list[T]:
        """Return what each process gives, in the order of their ranks."""
        content = pickle.dumps(item)
        sizes = [size for (size,) in self.meet("gather", len(content))]
        mine = torch.zeros(max(sizes), dtype=torch.uint8, device="cpu")
        mine[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        received = self._exchange("gather", mine)
        return [
            pickle.loads(theirs[:size].numpy().tobytes())
            for theirs, size in zip(received, sizes, strict=True)
        ]

    def _exchange(self, call: str, mine: torch.Tensor) -> list[torch.Tensor]:
        if self._failed is not None:
            raise self._failed  # the group is of no use any more, and nobody is waited for again
        received = [torch.empty_like(mine) for _ in range(self.size)]
        try:
            with self._impatient(call):
                distributed.all_gather(received, mine, group=self._group)
        except RuntimeError as error:
            self._stop(call, error)
        return received

    @contextlib.contextmanager
    def _impatient(self, call: str) -> Iterator[None]:
        """Say so if this takes long: the timeout is far, and a process that waits looks hung."""
        timer = threading.Timer(
            PATIENCE,
            logger.warning,
            (
                "SpectralMonitor on process %d, in %s, waits for other processes since %g s, and will "
                "for %g s: %s",
                *(self.rank, call, PATIENCE, self._timeout, ALIKE),
            ),
        )
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _stop(self, call: str, why: RuntimeError | str) -> NoReturn:
        reason = (
            why
            if isinstance(why, str)
            else f"a process is gone, or did not come within {self._timeout:g} s ({_first(why)})"
        )
        self._failed = DistributedError(
            "E_ALONE",
            f"SpectralMonitor on process {self.rank}, in {call}",
            reason,
            ALIKE,
        )
        raise self._failed from (why if isinstance(why, RuntimeError) else None)


def _first(error: RuntimeError) -> str:
    """Return the beginning of torch's message, without the place in its source."""
    return re.sub(r"^\[[^\]]*\] *", "", str(error).partition("\n")[0])[:80]
