"""A controller in the place of the Trainer's scheduler, as docs/trainers.md has it."""

import dataclasses

import pytest
import torch
from transformers import TrainerCallback, get_linear_schedule_with_warmup

from spectra.training import TEMPBALANCE, LayerwiseLR, parameter_groups
from tests.integration.trainers.test_transformers import Killed, language_model, trainer_of

RULE = dataclasses.replace(TEMPBALANCE, every=4, min_eigenvalues=20)


class Rates(TrainerCallback):
    def __init__(self):
        self.seen = {}

    def on_step_begin(self, args, state, control, optimizer, **_):
        self.seen[state.global_step] = [group["lr"] for group in optimizer.param_groups]


def run(folder, *callbacks, resume=False):
    model = language_model()
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=1e-2)
    schedule = get_linear_schedule_with_warmup(optimizer, 2, 12)
    control = LayerwiseLR(model, optimizer, schedule, rule=RULE, saves_scheduler=True)
    rates = Rates()
    trainer = trainer_of(
        folder,
        rates,
        *callbacks,
        model=model,
        optimizers=(optimizer, control),
        save_strategy="steps",
        save_steps=5,
    )
    if callbacks:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    else:
        trainer.train(resume_from_checkpoint=resume)
    return rates.seen, model.state_dict(), control


@pytest.mark.slow
def test_a_controller_steps_the_schedule_of_a_trainer_and_resumes_with_it(tmp_path):
    rates, weights, control = run(tmp_path / "whole")
    warm, later = set(rates[1]), set(rates[9])
    assert warm == {0.5e-2}, "all begin alike"
    assert len(later) > 4, "layers have rates of their own"
    assert max(control.multipliers.values()) == pytest.approx(1.5)
    scheduled = 1e-2 * (12 - 9) / 10
    assert max(later) == pytest.approx(1.5 * scheduled)

    run(tmp_path / "killed", Killed(7))
    again, resumed, _ = run(tmp_path / "killed", resume=True)
    assert again == {step: rates[step] for step in range(5, 12)}
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
