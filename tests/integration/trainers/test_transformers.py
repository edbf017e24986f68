"""The callback in runs of the real Trainer, on the CPU."""

import json
import math

import pytest
import torch
from tensorboard.backend.event_processing import event_accumulator
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from spectra.errors import SelectionError
from spectra.training import AlarmKind, Alarms
from spectra.training.adapters.transformers import SpectralCallback

STEPS = 12


class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return 96

    def __getitem__(self, index):
        tokens = torch.randint(0, 50, (12,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens}


def language_model():
    torch.manual_seed(5)
    config = GPT2Config(
        n_embd=48,
        n_layer=2,
        n_head=2,
        vocab_size=50,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def trainer_of(folder, *callbacks, model=None, optimizers=(None, None), **arguments):
    """A Trainer of a small language model with dropout, in a folder of its own."""
    given = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return Trainer(
        model=language_model() if model is None else model,
        args=TrainingArguments(str(folder), **(given | arguments)),
        train_dataset=Tokens(),
        eval_dataset=Tokens(),
        callbacks=list(callbacks),
        optimizers=optimizers,
    )


def watch(**options):
    return SpectralCallback(**({"every": 4, "budget": None, "replicates": 0} | options))


def rows(path):
    return [json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()]


class Killed(TrainerCallback):
    """Ends a run as a kill would, with nothing said to anyone."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Late(TrainerCallback):
    """Asks for a checkpoint after all others had their say."""

    def on_step_end(self, args, state, control, **_):
        control.should_save |= state.global_step == 7


class Breaks(TrainerCallback):
    def on_step_end(self, args, state, control, model, **_):
        if state.global_step == 5:
            with torch.no_grad():
                model.transformer.h[0].mlp.c_fc.weight[0, 0] = math.nan


@pytest.mark.slow
@pytest.mark.parametrize("background", [False, True])
def test_training_with_the_callback_gives_the_very_weights_of_training_without(
    tmp_path, background
):
    plain = trainer_of(tmp_path / "plain")
    plain.train()
    watched = trainer_of(tmp_path / "watched")
    subjects = ("weight", "update", "gradient")
    callback = watch(watch=subjects, background=background, every=2).attach(watched)
    watched.train()
    assert {reading.of for reading in callback.monitor.history} >= {"weight", "update"}
    for (name, a), b in zip(
        plain.model.state_dict().items(), watched.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    theirs = [row["loss"] for row in plain.state.log_history if "loss" in row]
    assert [row["loss"] for row in watched.state.log_history if "loss" in row] == theirs
    assert len(theirs) == STEPS, "the Trainer's own numbers are logged beside ours"


def test_scalars_go_where_the_trainer_logs_and_readings_into_its_folder(tmp_path):
    trainer = trainer_of(tmp_path)
    callback = watch(per_layer=True).attach(trainer)
    trainer.train()
    drawn = [row for row in trainer.state.log_history if "spectral/alpha/typical" in row]
    assert [row["step"] for row in drawn] == [1, 4, 8, 12]
    readings = callback.monitor.history
    assert [row["step"] for row in rows(tmp_path / "spectral/history.jsonl")] == [
        reading.step for reading in readings
    ]
    last = {r.layer: r["alpha"] for r in readings if r.step == STEPS}
    name = "transformer.h.1.mlp.c_fc.weight"
    assert drawn[-1][f"spectral/alpha/{name}"] == last[name]
    assert drawn[-1]["spectral/alarms"] == 0


def test_without_attaching_readings_are_written_and_it_is_told_that_none_is_drawn(tmp_path, caplog):
    callback = watch()
    trainer_of(tmp_path, callback, report_to="tensorboard", max_steps=1).train()
    assert rows(tmp_path / "spectral/history.jsonl")
    assert "attach(trainer)" in caplog.text
    caplog.clear()
    trainer_of(tmp_path / "b", watch(), max_steps=1).train()
    assert "attach(trainer)" not in caplog.text, "no tracker, nothing missed"


@pytest.mark.slow
@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_a_run_killed_and_resumed_continues_its_history_without_a_gap_or_a_repeat(
    tmp_path, flag, background
):
    options = {"watch": ("weight", "gradient"), "background": background, "every": 3}

    class Waits(TrainerCallback):
        """In the background, how long a round takes is left to chance."""

        def on_step_begin(self, args, state, control, **_):
            for callback in (whole, killed, again):
                if callback.monitor is not None:
                    callback.monitor.flush()

    whole, killed, again = (watch(alarms=Alarms(), **options) for _ in range(3))
    trainer = trainer_of(tmp_path / "whole", Waits())
    whole.attach(trainer)
    trainer.train()

    saving = {"save_strategy": "steps", "save_steps": 4}
    trainer = trainer_of(tmp_path / "killed", Waits(), Killed(7), **saving)
    killed.attach(trainer)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    path = tmp_path / "killed/spectral/history.jsonl"
    assert max(row["step"] for row in rows(path)) > 4, "read after the checkpoint"

    trainer = trainer_of(
        tmp_path / "killed", Waits(), restore_callback_states_from_checkpoint=flag, **saving
    )
    again.attach(trainer)
    trainer.train(resume_from_checkpoint=True)
    assert rows(path) == rows(tmp_path / "whole/spectral/history.jsonl")
    assert again.monitor.alarms.state_dict() == whole.monitor.alarms.state_dict()
    steps = [r["step"] for r in trainer.state.log_history if "spectral/alpha/typical" in r]
    assert len(steps) == len(set(steps))
    killed._run.close()


@pytest.mark.parametrize(
    ("saving", "expected"),
    [
        ({}, [1, 3, 6, 8, 9, 12]),  # no state: a round begins at once
        ({"save_strategy": "steps", "save_steps": 6}, [1, 3, 6, 9, 12]),  # that of step 6
    ],
)
def test_a_checkpoint_with_an_older_state_or_none_is_gone_on_from(tmp_path, saving, expected):
    trainer = trainer_of(tmp_path, Killed(9), **saving)
    killed = watch(every=3).attach(trainer)
    trainer.add_callback(Late())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    killed._run.close()
    state = json.loads((tmp_path / "checkpoint-7/trainer_state.json").read_text())
    held = state["stateful_callbacks"].get("spectra:spectral", {"monitor": {"step": None}})
    assert held["monitor"]["step"] == (6 if saving else None), "that is the case to be tested"
    trainer = trainer_of(tmp_path)
    callback = watch(every=3).attach(trainer)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    assert sorted({reading.step for reading in callback.monitor.history}) == expected
    written = [(row["step"], row["layer"]) for row in rows(tmp_path / "spectral/history.jsonl")]
    assert written == [(reading.step, reading.layer) for reading in callback.monitor.history]
    assert len(set(written)) == len(written)


def test_a_checkpoint_saved_for_its_evaluation_holds_the_state_of_its_step(tmp_path):
    trainer = trainer_of(
        tmp_path,
        save_strategy="best",
        eval_strategy="steps",
        eval_steps=4,
        metric_for_best_model="loss",
        max_steps=4,
    )
    watch(every=3).attach(trainer)
    trainer.evaluate()  # before any run
    trainer.train()
    state = json.loads((tmp_path / "checkpoint-4/trainer_state.json").read_text())
    assert state["stateful_callbacks"]["spectra:spectral"]["monitor"]["step"] == 4


def test_only_optimizer_steps_count(tmp_path):
    trainer = trainer_of(tmp_path, gradient_accumulation_steps=3, max_steps=5)
    callback = watch(every=2).attach(trainer)
    trainer.train()
    assert sorted({reading.step for reading in callback.monitor.history}) == [1, 2, 4]
    assert callback.monitor.state_dict()["step"] == 5


@pytest.mark.parametrize("stop_on", [(), ("non_finite",)])
def test_an_alarm_ends_the_training_if_it_was_asked_to(tmp_path, stop_on, caplog):
    alarms = Alarms(stop_on=stop_on)
    trainer = trainer_of(tmp_path, Breaks(), max_steps=8)
    watch(every=1, alarms=alarms).attach(trainer)
    trainer.train()
    assert trainer.state.global_step == (5 if stop_on else 8)
    assert any(alarm.kind is AlarmKind.NON_FINITE for alarm in alarms.active)
    drawn = [row for row in trainer.state.log_history if "spectral/alarms" in row]
    assert [row["spectral/alarms"] >= 1 for row in drawn] == [row["step"] >= 5 for row in drawn]


def test_what_is_in_hand_at_the_end_is_drawn_before_trackers_close(tmp_path):
    trainer = trainer_of(tmp_path, report_to="tensorboard", max_steps=6)
    watch(every=3, background=True).attach(trainer)
    trainer.train()
    files = list((tmp_path / "runs").rglob("events.*"))
    assert len(files) == 1, "nothing was drawn after the writer had closed"
    events = event_accumulator.EventAccumulator(str(files[0]))
    events.Reload()
    points = events.Scalars("train/spectral/alpha/typical")
    assert points[-1].step == 6
    newest = [r for r in trainer.state.log_history if "spectral/alpha/typical" in r][-1]
    assert points[-1].value == pytest.approx(newest["spectral/alpha/typical"])
    assert len(events.Scalars("train/loss")) == 6


def test_two_callbacks_with_their_own_prefixes_do_not_meet(tmp_path, caplog):
    trainer = trainer_of(tmp_path, save_strategy="steps", save_steps=2, max_steps=2)
    watch(every=1).attach(trainer)
    watch(every=1, watch="gradient", prefix="grads").attach(trainer)
    trainer.train()
    subjects = {
        folder: {row["of"] for row in rows(tmp_path / folder / "history.jsonl")}
        for folder in ("spectral", "grads")
    }
    assert subjects["spectral"] == {"weight"}
    assert subjects["grads"] <= {"gradient"}
    state = json.loads((tmp_path / "checkpoint-2/trainer_state.json").read_text())
    assert {"spectra:spectral", "spectra:grads"} <= set(state["stateful_callbacks"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evry": 3}, "did you mean every"),
        ({"prefix": "a b"}, "prefix"),
        ({"drawn": ["alfa"]}, "alpha"),
    ],
)
def test_a_wrong_option_is_told_when_the_callback_is_made(options, message):
    with pytest.raises(SelectionError, match=message):
        SpectralCallback(**options)


def test_a_pattern_that_fits_nothing_is_told_before_the_first_step(tmp_path):
    trainer = trainer_of(tmp_path)
    watch(layers="nothing*").attach(trainer)
    with pytest.raises(SelectionError, match="matches none"):
        trainer.train()
    assert trainer.state.global_step == 0
