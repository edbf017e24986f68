"""SpectralCallback for the Trainer of transformers, and those made from it."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from spectra import extras
from spectra.errors import SelectionError
from spectra.training.adapters.watched_run import WatchedRun
from spectra.training.monitor import SpectralMonitor
from spectra.training.options import MonitorOptions
from spectra.training.scalars import SHOWN

extras.require("transformers", "transformers", "watch its Trainer")
from transformers import TrainerCallback  # noqa: E402 - after the error that says how to install it

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)


class SpectralCallback(TrainerCallback):  # type: ignore[misc]  # see pyproject.toml
    """Watch the spectra of a Trainer's model: ``SpectralCallback(every=200).attach(trainer)``.

    Attached, it draws its `scalars` through ``trainer.log``, so they reach every tracker the Trainer
    reports to. A Trainer runs its trackers' callbacks before those of its user and gives no callback
    a way to them: handed over by ``callbacks=[...]`` alone, readings are taken, judged and written,
    but not drawn.

    The monitor is made when training begins and counts optimizer steps. Its state is saved in
    ``trainer_state.json``, and ``train(resume_from_checkpoint=...)`` goes on from there without any
    flag. An alarm named in ``Alarms(stop_on=...)`` ends the training.

    Parameters
    ----------
    history : path or bool, default: True
        A file for readings; True for ``<output_dir>/spectral/history.jsonl``; False for none.
    prefix : str, default: "spectral"
        Of the scalars and of that folder; two callbacks on one Trainer need two.
    per_layer : bool, default: False
        Draw each layer too.
    drawn : sequence of str
        Metrics to draw.
    **options
        Of ``SpectralMonitor``: every, layers, exclude, watch, budget, background, alarms, ...

    Raises
    ------
    SelectionError
        If an option is not known; at the beginning of training if it fits nothing in the model.
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
        self._run = WatchedRun(
            history=history, prefix=prefix, per_layer=per_layer, drawn=drawn, **options
        )
        self._key = f"spectra:{prefix}"
        self._trainer: Any = None

    @property
    def monitor(self) -> SpectralMonitor | None:
        """The monitor of the run, or of the last one; None before the first."""
        return self._run.monitor

    def attach(self, trainer: Any) -> "SpectralCallback":
        """Join a Trainer's callbacks, and log through it; return this callback.

        Raises
        ------
        SelectionError
            If it is no Trainer.
        """
        if not hasattr(trainer, "callback_handler"):
            reason = "is no Trainer of transformers"
            raise SelectionError("E_TRAINER", type(trainer).__name__, reason, "pass the Trainer")
        self._trainer = trainer
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        return self

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: "nn.Module", **_: Any
    ) -> None:
        """Make the monitor; of a resumed run, go on from the checkpoint."""
        saved = (state.stateful_callbacks or {}).get(self._key)
        main = state.is_world_process_zero
        self._run.begin(model, args.output_dir, state.global_step, saved, is_main=main)
        if self._trainer is None and main and args.report_to:
            logger.warning(
                "spectra: no scalars are drawn; use SpectralCallback(...).attach(trainer)"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Read what is due."""
        self._run.step(state.global_step)
        if self._run.should_stop:
            control.should_training_stop = True
        if not control.should_training_stop:
            self._log(self._run.due(), control)
        self._save(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draw what is left before trackers close, as they do before on_train_end comes here."""
        if control.should_training_stop or state.global_step >= state.max_steps:
            self._log(self._run.finish(), control)
        self._save(state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Be ready for a checkpoint that is saved because of the evaluation."""
        if self._run.is_running:
            self._keep_state(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the history."""
        self._run.close()

    def _save(self, state: Any, control: Any) -> None:
        if control.should_save:
            self._keep_state(state)

    def _keep_state(self, state: Any) -> None:
        """Put the monitor's state where the Trainer saves its own.

        Not as an ``ExportableState``: the Trainer asks that for its state in its first process alone,
        makes it anew from plain arguments (alarms are none), and fails on a checkpoint without it.
        """
        state.stateful_callbacks[self._key] = self._run.state_dict()

    def _log(self, found: dict[str, float], control: Any) -> None:
        if not found or self._trainer is None:
            return
        asked = control.should_log
        self._trainer.log(found)
        control.should_log = asked  # logging clears it: the Trainer's own numbers of this step
