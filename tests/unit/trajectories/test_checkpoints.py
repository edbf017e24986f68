import json

import numpy as np
import pytest

import spectra
from spectra.errors import CheckpointError
from spectra.trajectories.checkpoints import POSITION, find, numbers_in, steps_of


def steps(*names):
    return steps_of(names)[:2]


@pytest.mark.parametrize(
    ("names", "expected", "unit"),
    [
        (["checkpoint-500", "checkpoint-1000"], [500, 1000], "step"),
        (["step_1000", "step_200"], [1000, 200], "step"),
        (["epoch=3-step=400", "epoch=3-step=800"], [400, 800], "step"),
        (["epoch=3-val_loss=0.50", "epoch=4-val_loss=0.25"], [3, 4], "epoch"),
        (["RFB-Epoch-0-Loss-6.496", "RFB-Epoch-20-Loss-3.70"], [0, 20], "epoch"),
        (["resnet50_iter_0010", "resnet50_iter_0020"], [10, 20], "step"),
        (["global_step10k", "global_step1.5m"], [10_000, 1_500_000], "step"),
        (["0001", "0002", "0010"], [1, 2, 10], "step"),
        (["loss-3", "loss-4"], [None, None], POSITION),
        (["best", "last"], [None, None], POSITION),
        (["epoch-7"], [7], "epoch"),
        (["resnet20"], [None], POSITION),
        (["step1-tokens4B", "step2-tokens8B"], [1, 2], "step"),
    ],
)
def test_the_step_is_the_number_that_varies_and_never_a_result(names, expected, unit):
    assert steps(*names) == (expected, unit)


@pytest.mark.parametrize(
    "names",
    [
        ["run-2024-01-05", "run-2024-01-20", "run-2024-02-01", "run-2024-02-10"],
        ["checkpoint-2023-12-30", "checkpoint-2024-01-02", "checkpoint-2024-01-03"],
        ["20240105-120000", "20240105-180000", "20240106-090000", "20240107-110000"],
        ["20240105T120000", "20240105T180000", "20240106T090000"],
        ["20240105120000", "20240105180000", "20240106090000"],
        ["2024-01-05_12-00-00", "2024-01-05_18.30.00", "2024-01-06_09:00:00"],
        ["2024.01.30", "2024.02.01", "2024.02.02"],
        ["net-1-100", "net-1-500", "net-2-100", "net-2-300"],
    ],
)
def test_dates_and_numbers_without_words_are_compared_whole(names):
    assert steps(*names) == (list(range(len(names))), POSITION)
    assert steps(*names[::-1])[0] == list(range(len(names)))[::-1]


def test_the_day_a_run_began_orders_nothing_and_a_count_is_no_date():
    assert steps("2024-01-05-1000", "2024-01-05-3000") == ([1000, 3000], "step")
    assert steps("20240105-epoch3", "20240106-epoch4") == ([3, 4], "epoch")
    assert steps("step20240105", "step20240106") == ([20240105, 20240106], "step")


@pytest.mark.parametrize(
    ("names", "choice"),
    [
        (["step_1", "step_2"], ""),
        (["epoch=3-loss=1", "epoch=4-loss=2"], ""),
        (["epoch=3-step=4", "epoch=4-step=8"], "step 4, not epoch 3, as in epoch=3-step=4"),
        (["net-1-5", "net-2-1"], "net 1, then 5, as in net-1-5"),
        (["run-2024-01-05", "run-2024-02-01"], ""),
        (["2024-01-05-7", "2024-02-01-8"], "the date 2024-01-05, then 7, as in 2024-01-05-7"),
    ],
)
def test_a_choice_among_numbers_is_told(names, choice):
    assert steps_of(names)[2] == choice


def test_digits_of_some_hashes_are_not_compared_with_the_steps():
    names = ["9a-v100", "ab-v200", "7c-v300", "1d-v400"]
    assert steps(*names) == ([100, 200, 300, 400], "step")
    assert steps_of(names)[2] == "v 100, not 9, as in 9a-v100"


def test_a_number_with_a_word_is_not_compared_with_those_without():
    names = ["epoch3-net-1-5", "epoch3-net-2-1", "epoch2-net-2-3", "epoch2-net-2-4"]
    assert steps(*names)[0] == [0, 1, 2, 3]
    assert "not epoch 3" in steps_of(names)[2]


def test_digits_of_hashes_are_no_steps():
    assert steps("net-a1f", "net-bb2", "net-3ce", "net-0d4")[1] == POSITION


def test_a_number_too_long_is_no_step():
    assert numbers_in("step" + "9" * 5000) == {}


@pytest.fixture
def folder(tmp_path):
    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return tmp_path

    return make


def listed(place):
    found, unit, _, skipped = find(place)
    return [(item.name, item.step) for item in found], unit, {x.source: x.reason for x in skipped}


def test_folders_are_taken_by_step_and_what_lies_beside_is_listed(folder):
    place = folder(
        "checkpoint-1000/model.safetensors",
        "checkpoint-500/model.safetensors",
        "checkpoint-500/optimizer.pt",
        "runs/events.out",
        "model.safetensors",
        "trainer_state.json",
        "training_args.bin",
        "log.txt",
        ".hidden",
    )
    found, unit, skipped = listed(place)
    assert found == [("checkpoint-500", 500), ("checkpoint-1000", 1000)]
    assert unit == "step"
    assert set(skipped) == {
        "runs", "model.safetensors", "trainer_state.json", "training_args.bin", "log.txt", ".hidden"
    }  # fmt: skip
    assert skipped["model.safetensors"] == "no step in its name"
    assert "optimizer" in skipped["training_args.bin"]


def test_optimizer_states_are_skipped_by_a_word_of_their_names(folder):
    place = folder("step_1.pt", "step_1_optim.pt", "optimizer-step1.pt", "optimal_step_2.pt")
    found, _, skipped = listed(place)
    assert [step for _, step in found] == [1, 2]
    assert set(skipped) == {"step_1_optim.pt", "optimizer-step1.pt"}


def test_a_step_stored_twice_is_taken_once_in_the_better_format(folder):
    found, _, skipped = listed(folder("step_1.pt", "step_1.safetensors", "step_2.pt"))
    assert found == [("step_1", 1), ("step_2", 2)]
    assert skipped == {"step_1.pt": "step 1 a second time: step_1.safetensors"}
    place = find(folder())[0][0].source
    assert place.name == "step_1.safetensors"


def test_without_steps_the_natural_order_counts_and_formats_do_not(folder):
    found, unit, _ = listed(folder("warm.pt", "cold.pt", "cold.onnx"))
    assert (found, unit) == ([("cold", 0), ("warm", 1)], POSITION)


def test_shards_are_one_checkpoint_by_their_index(folder):
    place = folder(
        "step-1-00001-of-00002.safetensors",
        "step-1-00002-of-00002.safetensors",
        "step-1.safetensors.index.json",
        "step-2.safetensors",
    )
    found, _, skipped = listed(place)
    assert found == [("step-1", 1), ("step-2", 2)]
    assert len(skipped) == 2


def test_a_folder_that_is_one_sharded_checkpoint_is_a_run_of_one(folder):
    place = folder("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    (only,), unit, _, _ = find(place)
    assert (only.source, only.step, unit) == (place, 0, POSITION)


def test_saved_reports_count_and_other_json_does_not(folder, rng):
    place = folder("notes.json")
    report = spectra.analyze({"fc.weight": rng.standard_normal((60, 50))}, replicates=0)
    report.write(place / "step-3.json")
    for name, extra in (("ranking", {"metric": "alpha"}), ("history", {"unit": "step"})):
        content = {"schema_version": 1, "spectra_version": "1", **extra, "source": ""}
        (place / f"{name}-4.json").write_text(json.dumps(content))
    found, _, skipped = listed(place)
    assert found == [("step-3", 3)]
    assert set(skipped) == {"notes.json", "ranking-4.json", "history-4.json"}


def test_an_empty_folder_and_one_without_checkpoints_are_refused(folder):
    with pytest.raises(CheckpointError, match="holds no checkpoints"):
        find(folder())
    with pytest.raises(CheckpointError, match=r"expected folders.*safetensors"):
        find(folder("log.txt", "runs/events.out"))


def test_names_may_hold_anything(folder):
    found, _, _ = listed(folder("step_\x1b[31m1.pt", "step_٣.pt", "step_2.pt"))
    assert [step for _, step in found][:1] != []
    assert np.all(np.diff([step for _, step in found]) > 0)
