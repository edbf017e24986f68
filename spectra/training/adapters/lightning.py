"""SpectralCallback for Lightning's Trainer, of ``lightning`` or ``pytorch_lightning``."""

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from spectra import extras
from spectra.training.adapters.watched_run import WatchedRun
from spectra.training.monitor import SpectralMonitor
from spectra.training.options import MonitorOptions
from spectra.training.scalars import SHOWN

if TYPE_CHECKING:
    from torch import nn


def _library() -> str:
    """Return the name under which Lightning is used: imported already, or else installed."""
    names = ("lightning.pytorch", "pytorch_lightning")
    imported = [name for name in names if name in sys.modules]
    installed = [name for name in names if find_spec(name.partition(".")[0])]
    return next(iter([*imported, *installed, *names]))


Callback: Any = extras.require(_library(), "lightning", "watch its Trainer").Callback


class SpectralCallback(Callback):  # type: ignore[misc]  # see pyproject.toml
    """Watch the spectra of a LightningModule: ``Trainer(callbacks=[SpectralCallback(every=200)])``.

    The monitor is made when training begins and counts optimizer steps, so batches whose gradients are
    accumulated are one. Its `scalars` go to every logger of the Trainer, its state into every
    checkpoint, and ``fit(ckpt_path=...)`` goes on from there, with the history taken along to the new
    run's folder. An alarm named in ``Alarms(stop_on=...)`` ends the training.

    Parameters
    ----------
    history : path or bool, default: True
        A file for readings; True for ``spectral/history.jsonl`` in the folder of the first logger, or
        in ``default_root_dir`` without one; False for none.
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
        self._saved: Mapping[str, Any] | None = None

    @property
    def monitor(self) -> SpectralMonitor | None:
        """The monitor of the run, or of the last one; None before the first."""
        return self._run.monitor

    @property
    def state_key(self) -> str:
        """The name of this callback's state in a checkpoint."""
        return f"SpectralCallback[{self._run.prefix}]"

    def on_train_start(self, trainer: Any, pl_module: "nn.Module") -> None:
        """Make the monitor; of a resumed run, go on from the checkpoint."""
        # Asked for in every process, as they agree on it.
        folder = trainer.log_dir or trainer.default_root_dir
        saved, self._saved = self._saved, None
        self._run.begin(
            pl_module,
            None if trainer.fast_dev_run else folder,
            trainer.global_step,
            saved,
            is_main=trainer.is_global_zero,
        )

    def on_train_batch_end(
        self, trainer: Any, pl_module: "nn.Module", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read what is due; a batch after which no optimizer stepped is passed over."""
        self._run.step(trainer.global_step)
        self._log(trainer, self._run.due())
        if self._run.should_stop:
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: "nn.Module") -> None:
        """Draw what is left, and close the history."""
        self._log(trainer, self._run.finish())
        self._run.close()

    def state_dict(self) -> dict[str, Any]:
        """Return plain values to go on from."""
        return dict(self._saved or {}) if self._run.monitor is None else self._run.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what a checkpoint holds until training begins."""
        self._saved = state_dict or None

    def _log(self, trainer: Any, found: dict[str, float]) -> None:
        for logger in trainer.loggers if found else ():
            logger.log_metrics(found, step=trainer.global_step)
