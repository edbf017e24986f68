"""What the callbacks of all trainers share: a monitor's life in a run, and when it is drawn."""

import inspect
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from spectra.training import history as histories
from spectra.training.monitor import SpectralMonitor
from spectra.training.options import MonitorOptions, check
from spectra.training.scalars import SHOWN, scalars

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)


EVERY: int = inspect.signature(SpectralMonitor).parameters["every"].default


class WatchedRun:
    """A monitor that begins and ends with a trainer's run.

    Every process of a run makes the same calls in the same order, as the monitor asks.

    Parameters
    ----------
    history : path or bool, default: True
        Where readings are written: a file; True for ``<folder>/<prefix>/history.jsonl``; False for
        nowhere.
    prefix, per_layer, drawn
        Of the `scalars`; `drawn` are their metrics.
    **options
        Of ``SpectralMonitor``.

    Attributes
    ----------
    monitor : SpectralMonitor or None
        None before the first run; closed, with its history, after one.
    is_running : bool
        Whether a run has begun and not ended.

    Raises
    ------
    SelectionError
        If there is no such option or metric, or the prefix does not fit.
    """

    def __init__(
        self,
        *,
        history: str | Path | bool = True,
        prefix: str = "spectral",
        per_layer: bool = False,
        drawn: Sequence[str] = SHOWN,
        **options: Unpack[MonitorOptions],
    ) -> None:
        check(**options)  # a slip is told now, not at the first step
        scalars((), prefix=prefix, metrics=drawn)
        self.prefix = prefix
        self.monitor: SpectralMonitor | None = None
        self.is_running = False
        self._history = history
        self._file: Path | None = None
        self._per_layer, self._drawn = per_layer, tuple(drawn)
        self._options = options
        alarms = options.get("alarms")
        self._unalarmed = None if alarms is None else alarms.state_dict()
        self._every = options.get("every", EVERY)
        self._is_news = False
        self._step = self._block = 0

    def begin(
        self,
        model: "nn.Module",
        folder: str | Path | None,
        step: int,
        saved: Mapping[str, Any] | None,
        *,
        is_main: bool,
    ) -> None:
        """Make the monitor of a run that has taken `step` steps, and go on from what was saved.

        A state that is older than the checkpoint it lies in is gone on from too: the history is whole,
        alarms and costs are those of the state. Without one, what a history file holds of earlier steps
        is kept, and alarms begin anew.

        Raises
        ------
        SelectionError
            If an option fits nothing in the model.
        CheckpointError
            If the history file is no such file, or that of another run.
        """
        self.close()
        self._file = path = self._path(folder)
        state: dict[str, Any] | None = None
        if saved is not None:
            state = dict(saved["monitor"])
            if is_main and not _carry_over(saved["history"], path):
                logger.warning("spectra: no history at %s: a new one begins at step %d", path, step)
                state["n_readings"] = 0
            elif state["step"] != step:  # a save that nothing told of beforehand, as on a signal
                state |= {"step": step, "n_readings": _count(path, step)}
        self.monitor = SpectralMonitor(model, history=path, **self._options)
        if state is not None and list(state["layers"]) != list(self.monitor.layers):
            logger.warning(
                "spectra: other layers are watched than when the run was saved: alarms and the account of"
                " time begin anew at step %d",
                step,
            )
            state = None
        if state is not None:
            self.monitor.load_state_dict(state)
        elif self.monitor.alarms is not None and self._unalarmed is not None:
            self.monitor.alarms.load_state_dict(self._unalarmed)  # not those of the run before
        self.is_running = True
        self._is_news = False
        self._step = step
        self._block = step // self._every if step else -1

    def step(self, step: int) -> None:
        """Say that the optimizer has taken its `step`-th step; said again, it is passed over."""
        assert self.monitor is not None  # a run has begun
        if step > self._step:
            self._is_news |= bool(self.monitor.step(step))
            self._step = step

    def due(self) -> dict[str, float]:
        """Return what to draw at this step, mostly nothing.

        That is with the first news of every so many steps, those from one round to the next: with a
        budget, layers come one by one.
        """
        block = self._step // self._every
        if not self._is_news or block == self._block:
            return {}
        self._block = block
        return self._scalars()

    def finish(self) -> dict[str, float]:
        """Wait for what is being read; return what to draw last."""
        if self.monitor is None:
            return {}
        self._is_news |= bool(self.monitor.flush())
        return self._scalars() if self._is_news else {}

    def close(self) -> None:
        """Let go of the file and the thread; the monitor's history stays."""
        self.is_running = False
        if self.monitor is not None:
            self.monitor.close()

    @property
    def should_stop(self) -> bool:
        """Whether an alarm asks for the end of training: see ``Alarms(stop_on=...)``."""
        alarms = self._options.get("alarms")
        return alarms is not None and alarms.should_stop

    def state_dict(self) -> dict[str, Any]:
        """Return plain values to go on from, after waiting for what is being read."""
        assert self.monitor is not None  # a run has begun
        self._is_news |= bool(self.monitor.flush())
        return {
            "monitor": self.monitor.state_dict(),
            "history": None if self._file is None else str(self._file.resolve()),
        }

    def _scalars(self) -> dict[str, float]:
        assert self.monitor is not None
        self._is_news = False
        alarms = self._options.get("alarms")
        return scalars(
            self.monitor.latest.values(),
            () if alarms is None else alarms.active,
            prefix=self.prefix,
            per_layer=self._per_layer,
            metrics=self._drawn,
        )

    def _path(self, folder: str | Path | None) -> Path | None:
        if self._history is True:
            return None if folder is None else Path(folder, self.prefix, "history.jsonl")
        return None if self._history is False else Path(self._history)


def _carry_over(before: str | None, path: Path | None) -> bool:
    """Take the history of the saved run along to where this run writes; tell whether it is there.

    A trainer may give each run a folder of its own; the old file stays as it is.
    """
    if path is None or path.exists():
        return True
    if before is None or not Path(before).exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(before, path)
    return True


def _count(path: Path | None, step: int) -> int:
    """Return how many readings a history holds of the first `step` steps."""
    if path is None or not path.exists():
        return 0
    return sum(reading.step <= step for reading in histories.load(path))
