"""SpectralCallback for Keras 3, on any of its backends."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from spectra import extras
from spectra.errors import CheckpointError
from spectra.training.adapters.watched_run import WatchedRun
from spectra.training.monitor import SpectralMonitor
from spectra.training.options import MonitorOptions
from spectra.training.readings import Reading
from spectra.training.scalars import SHOWN, scalars
from spectra.writing import write_file

logger = logging.getLogger(__name__)
keras: Any = extras.require("keras", "keras-training", "watch its models train")


class SpectralCallback(keras.callbacks.Callback):  # type: ignore[misc]  # not followed
    """Watch the spectra of a Keras model: ``model.fit(..., callbacks=[SpectralCallback(every=200)])``.

    The monitor is made when the first epoch begins and counts the optimizer's iterations, from where
    they stand at each epoch's begin; batches whose gradients are accumulated are one. Its `scalars`
    are added to the logs of every epoch: what comes behind in the list of callbacks logs them, and
    Keras' own History. The keys are the same at each epoch; those without a reading are NaN.
    ``Alarms(stop_on=...)`` may end the training.

    With `history`, the monitor's state is kept beside it at the end of every epoch, and a run that
    Keras has restored to such an end (``BackupAndRestore``) goes on from there.

    Parameters
    ----------
    history : path, optional
        A file for readings.
    prefix : str, default: "spectral"
        Of the scalars; two callbacks on one model need two.
    per_layer : bool, default: False
        Log each layer too.
    drawn : sequence of str
        Metrics to log.
    **options
        Of ``SpectralMonitor``: every, layers, exclude, watch, budget, background, alarms, ...

    Raises
    ------
    SelectionError
        If an option is not known; when training begins if it fits nothing in the model.
    """

    def __init__(
        self,
        *,
        history: str | Path | None = None,
        prefix: str = "spectral",
        per_layer: bool = False,
        drawn: Sequence[str] = SHOWN,
        **options: Unpack[MonitorOptions],
    ) -> None:
        super().__init__()
        self._run = WatchedRun(
            history=history or False, prefix=prefix, per_layer=per_layer, drawn=drawn, **options
        )
        self._file = None if history is None else Path(history).with_suffix(".state.json")
        self._shown: Any = {"prefix": prefix, "per_layer": per_layer, "metrics": tuple(drawn)}
        self._saved: dict[str, Any] | None = None
        self._keys: tuple[str, ...] = ()
        self._batches, self._before, self._per_step, self._iterations = 0, 0, 1, 0

    @property
    def monitor(self) -> SpectralMonitor | None:
        """The monitor of the run, or of the last one; None before the first."""
        return self._run.monitor

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Make the monitor at the first: what other callbacks restore is there by now."""
        outer = self.model.optimizer
        optimizer = getattr(outer, "inner_optimizer", outer)  # that of a loss scaler
        step = int(optimizer.iterations)
        self._per_step = optimizer.gradient_accumulation_steps or 1
        stands = self._run.is_running and step == self._iterations
        self._iterations = step
        # It stands where a train_step of the model's own has another optimizer: batches count on.
        if self._batches // self._per_step != step and not stands:
            self._batches = step * self._per_step
        self._before = self._batches
        if self._run.is_running:
            return
        saved = self._saved or self._load()
        if saved is not None and saved["monitor"]["step"] != step:
            saved = None  # of another run, or of a later epoch that is taken again
        self._run.begin(self.model, None, step, saved, is_main=True)
        self._keys = self._all_keys()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Read what is due; a batch after which no optimizer stepped is passed over."""
        # Counted from the epoch's begin: to ask for the iterations would wait for the device, and
        # bring the whole state of a JAX model back to it, at every batch.
        before, self._batches = self._batches, self._before + batch + 1
        step = self._batches // self._per_step
        if step > before // self._per_step:
            self._run.step(step)
        if self._run.should_stop:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the scalars to the logs, and keep the state."""
        assert self._run.monitor is not None
        self._saved = self._run.state_dict()  # which waits for what is being read
        self._keep()
        alarms = self._run.monitor.alarms
        raised = () if alarms is None else alarms.active
        found = scalars(self._run.monitor.latest.values(), raised, **self._shown)
        ({} if logs is None else logs).update({key: found.get(key, math.nan) for key in self._keys})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the history; a further ``fit`` goes on with it."""
        if self._run.is_running:
            self._saved = self._run.state_dict()
            self._run.close()

    def _keep(self) -> None:
        """Write the state beside the history; a disk that is full ends no training."""
        if self._file is None:
            return
        try:
            write_file(self._file, json.dumps(self._saved))
        except CheckpointError as error:
            logger.warning("spectra: %s", error)

    def _load(self) -> dict[str, Any] | None:
        """Return the state that lies beside the history, if there is one; E_HISTORY if it is none."""
        if self._file is None or not self._file.exists():
            return None
        try:
            state: dict[str, Any] = json.loads(self._file.read_bytes())
            int(state["monitor"]["step"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = "is no state of a callback"
            raise CheckpointError("E_HISTORY", str(self._file), reason, "move it away") from error
        return state

    def _all_keys(self) -> tuple[str, ...]:
        """Return the keys of all scalars that can come: some loggers take the first epoch's for good."""
        assert self._run.monitor is not None
        values = dict.fromkeys(self._shown["metrics"], 1.0)
        readings = [
            Reading(0, name, subject, kind, 1, 1, 1, values=values)
            for name, kind in self._run.monitor.layers.items()
            for subject in self._run.monitor.watch
        ]
        return tuple(scalars(readings, **self._shown))
