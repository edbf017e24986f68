"""The monitor in a loop of accelerate, as docs/trainers.md has it, on the CPU."""

import json

import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, on_main_process
from torch import nn

from spectra.training import Alarms, SpectralMonitor
from spectra.training.scalars import scalars


class Kept(GeneralTracker):
    name = "kept"
    requires_logging_directory = False

    def __init__(self):
        super().__init__()
        self.told = []

    tracker = None

    def store_init_configuration(self, values):
        pass

    @on_main_process
    def log(self, values, step, **_):
        self.told.append((step, values))


class Killed(Exception):
    pass


def train(folder, *, resume=False, killed_at=None, steps=12):
    """The recipe: two batches an optimizer step, a checkpoint after the fourth."""
    kept = Kept()
    accelerator = Accelerator(cpu=True, log_with=kept, gradient_accumulation_steps=2)
    accelerator.init_trackers("run")
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(48, 40), nn.ReLU(), nn.Dropout(0.1), nn.Linear(40, 32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer = accelerator.prepare(model, optimizer)
    monitor = SpectralMonitor(
        accelerator.unwrap_model(model),
        every=3,
        budget=None,
        replicates=0,
        alarms=Alarms(),
        history=folder / "history.jsonl",
    )
    accelerator.register_for_checkpointing(monitor)
    step = 0
    if resume:
        accelerator.load_state(folder / "saved")
        step = monitor.state_dict()["step"]
    try:
        while step < steps:
            for _ in range(2):
                with accelerator.accumulate(model):
                    accelerator.backward(model(torch.randn(8, 48)).square().mean())
                    optimizer.step()
                    optimizer.zero_grad()
                if accelerator.sync_gradients:
                    step += 1
                    if monitor.step(step):
                        told = scalars(monitor.latest.values(), monitor.alarms.active)
                        accelerator.log(told, step=step)
            if step == 4 and not resume:
                accelerator.save_state(folder / "saved")
            if step == killed_at:
                raise Killed
    finally:
        monitor.close()
    return kept.told, accelerator.unwrap_model(model).state_dict()


def rows(folder):
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [json.loads(line) | {"seconds": 0} for line in lines]


def test_a_loop_of_accelerate_saves_resumes_and_draws(tmp_path):
    drawn, weights = train(tmp_path / "whole")
    assert [step for step, _ in drawn] == [1, 3, 6, 9, 12]
    assert drawn[-1][1]["spectral/alpha/mean"] > 1

    with pytest.raises(Killed):
        train(tmp_path / "killed", killed_at=8)
    assert rows(tmp_path / "killed")[-1]["step"] == 6, "read after the checkpoint"
    again, resumed = train(tmp_path / "killed", resume=True)
    assert [step for step, _ in again] == [6, 9, 12]
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
