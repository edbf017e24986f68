"""The callback in runs of the real Trainer of Lightning, under both of its names, on the CPU."""

import importlib
import json
import math
import subprocess
import sys

import pytest
import torch
from lightning.pytorch import loggers
from torch import nn

from spectra.errors import SelectionError
from spectra.records import Verdict
from spectra.training import AlarmKind, Alarms
from spectra.training.adapters.lightning import SpectralCallback

NAMES = ("lightning.pytorch", "pytorch_lightning")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # none is wanted
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),  # as of a run that resumes
    pytest.mark.filterwarnings("ignore:.*ended before the epoch ended"),  # the order is fixed here
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # Lightning's use of torch
]


def module_of(library):
    class Perceptron(library.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(48, 40), nn.ReLU(), nn.Dropout(0.1), nn.Linear(40, 32)
            )

        def training_step(self, batch, index):
            if index == getattr(self, "breaks_at", None):
                with torch.no_grad():
                    self.net[0].weight[0, 0] = math.nan
            # Resumed amid an epoch, Lightning begins its data anew: the generator decides here.
            loss = self.net(torch.randn_like(batch[0])).square().mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    torch.manual_seed(3)
    return Perceptron()


def batches(n=12):
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.zeros(4 * n, 48)), batch_size=4
    )


def trainer_of(folder, *callbacks, library=None, **options):
    library = library or importlib.import_module(NAMES[0])
    given = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "default_root_dir": folder,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return library.Trainer(callbacks=list(callbacks), **(given | options))


def watch(**options):
    return SpectralCallback(**({"every": 4, "budget": None, "replicates": 0} | options))


def rows(path):
    return [json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()]


class Kept(loggers.logger.DummyLogger):
    """A logger that keeps what it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def log_metrics(self, metrics, step=None):
        self.told.append((step, dict(metrics)))

    def drawn(self):
        return [(step, told) for step, told in self.told if "spectral/alpha/typical" in told]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("background", [False, True])
def test_training_with_the_callback_gives_the_very_weights_of_training_without(
    tmp_path, name, background
):
    library = importlib.import_module(name)
    weights, losses = [], []
    callback = watch(watch=("weight", "update", "gradient"), background=background, every=2)
    for callbacks in ((), (callback,)):
        module, kept = module_of(library), Kept()
        trainer_of(tmp_path, *callbacks, library=library, logger=kept).fit(module, batches())
        weights.append(module.state_dict())
        losses.append([told["loss"] for _, told in kept.told if "loss" in told])
    assert len(callback.monitor.history) > 10
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


def test_scalars_go_to_every_logger_at_optimizer_steps(tmp_path):
    first, second = Kept(), Kept()
    callback = watch(every=2, per_layer=True)
    trainer = trainer_of(tmp_path, callback, logger=[first, second], accumulate_grad_batches=3)
    trainer.fit(module_of(importlib.import_module(NAMES[0])), batches())
    assert [step for step, _ in first.drawn()] == [1, 2, 4], "of four optimizer steps"
    assert first.drawn() == second.drawn()
    assert sorted({reading.step for reading in callback.monitor.history}) == [1, 2, 4]
    last = {r.layer: r["alpha"] for r in callback.monitor.history if r.step == 4}
    assert first.drawn()[-1][1]["spectral/alpha/net.0.weight"] == last["net.0.weight"]


def test_what_is_in_hand_at_the_end_is_drawn(tmp_path):
    kept = Kept()
    callback = watch(every=100, background=True)
    trainer_of(tmp_path, callback, logger=kept, max_steps=1).fit(
        module_of(importlib.import_module(NAMES[0])), batches()
    )
    step, told = kept.drawn()[-1]
    assert step == 1
    assert sum(told[f"spectral/layers/{verdict.value}"] for verdict in Verdict) == 2


@pytest.mark.slow
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_run_killed_and_resumed_continues_its_history_without_a_gap_or_a_repeat(
    tmp_path, name, background
):
    library = importlib.import_module(name)
    options = {"watch": ("weight", "gradient"), "background": background, "every": 3}

    class Waits(library.Callback):
        """In the background, how long a round takes is left to chance."""

        def __init__(self, watching, killed_at=None):
            self.watching, self.killed_at = watching, killed_at

        def on_train_batch_start(self, trainer, module, batch, index):
            torch.manual_seed(trainer.global_step)  # which Lightning does not restore
            if self.watching.monitor is not None:
                self.watching.monitor.flush()
            if trainer.global_step == self.killed_at:
                raise SystemExit

    def saving():
        logger = importlib.import_module(f"{name}.loggers").CSVLogger(tmp_path / "logs", name="")
        checkpoints = importlib.import_module(f"{name}.callbacks").ModelCheckpoint(
            tmp_path / "saved", filename="at-{step}", every_n_train_steps=4, save_top_k=-1
        )
        return checkpoints, {"logger": logger, "enable_checkpointing": True}

    whole = watch(alarms=Alarms(), **options)
    trainer_of(tmp_path / "whole", whole, Waits(whole), library=library).fit(
        module_of(library), batches()
    )

    killed = watch(alarms=Alarms(), **options)
    saves, given = saving()
    trainer = trainer_of(tmp_path, saves, killed, Waits(killed, 7), library=library, **given)
    with pytest.raises(SystemExit):
        trainer.fit(module_of(library), batches())
    before = tmp_path / "logs/version_0/spectral/history.jsonl"
    assert max(row["step"] for row in rows(before)) > 4, "read after the checkpoint"

    again = watch(alarms=Alarms(), **options)
    saves, given = saving()
    trainer = trainer_of(tmp_path, saves, again, Waits(again), library=library, **given)
    trainer.fit(module_of(library), batches(), ckpt_path=tmp_path / "saved/at-step=4.ckpt")
    after = tmp_path / "logs/version_1/spectral/history.jsonl"
    assert rows(after) == rows(tmp_path / "whole/spectral/history.jsonl")
    assert again.monitor.alarms.state_dict() == whole.monitor.alarms.state_dict()
    assert max(row["step"] for row in rows(before)) > 4, "the killed run's own stays as it is"
    killed._run.close()


def test_a_history_that_is_gone_is_told_and_the_run_goes_on(tmp_path, caplog):
    library = importlib.import_module(NAMES[0])
    trainer = trainer_of(tmp_path, watch(every=2), max_steps=4)
    trainer.fit(module_of(library), batches())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "spectral/history.jsonl").unlink()
    again = watch(every=2)
    trainer_of(tmp_path, again, max_steps=8, max_epochs=3).fit(
        module_of(library), batches(), ckpt_path=tmp_path / "last.ckpt"
    )
    assert "a new one begins at step 4" in caplog.text
    assert [row["step"] for row in rows(tmp_path / "spectral/history.jsonl")] == [6, 6, 8, 8]


@pytest.mark.parametrize("stop_on", [(), ("non_finite",)])
def test_an_alarm_ends_the_training_if_it_was_asked_to(tmp_path, stop_on):
    alarms = Alarms(stop_on=stop_on)
    module = module_of(importlib.import_module(NAMES[0]))
    module.breaks_at = 4
    trainer = trainer_of(tmp_path, watch(every=1, alarms=alarms))
    trainer.fit(module, batches())
    assert trainer.global_step == (5 if stop_on else 12)
    assert any(alarm.kind is AlarmKind.NON_FINITE for alarm in alarms.active)


def test_a_fast_run_for_development_leaves_no_file(tmp_path):
    trainer_of(tmp_path, watch(), fast_dev_run=True).fit(
        module_of(importlib.import_module(NAMES[0])), batches()
    )
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_option_is_told_when_the_callback_is_made():
    with pytest.raises(SelectionError, match="did you mean every"):
        SpectralCallback(evry=3)


@pytest.mark.slow
def test_whoever_uses_the_older_name_loads_no_second_library():
    code = (
        "import sys, pytorch_lightning\n"
        "from spectra.training.adapters.lightning import SpectralCallback\n"
        "assert issubclass(SpectralCallback, pytorch_lightning.Callback)\n"
        "assert 'lightning.pytorch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
