"""Several processes of one run, on gloo: what they read together is what one process reads."""

import json
import os
import pickle
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.processes import SCENARIOS

pytestmark = pytest.mark.slow

LAYERS = ["embed.weight", "attn.qkv.weight", "up.weight", "down.weight", "out.weight"]
SECONDS = 150


def run(size, folder):
    """Run the scenarios of so many processes; return what each process left."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error:::spectra", "-m", "tests.processes"]
    logs = [(folder / f"{rank}.log").open("w") for rank in range(size)]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(size), str(folder)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        for rank, log in enumerate(logs)
    ]
    try:
        for process in running:
            process.wait(SECONDS)
    finally:
        for process, log in zip(running, logs, strict=True):
            process.kill()
            process.wait()
            log.close()
    left = [folder / f"{rank}.pickle" for rank in range(size)]
    missing = [path.with_suffix(".log").read_text()[-2000:] for path in left if not path.exists()]
    assert not missing, missing
    return [pickle.loads(path.read_bytes()) for path in left]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {size: run(size, tmp_path_factory.mktemp(f"of{size}")) for size in SCENARIOS}


@pytest.fixture
def results(runs):
    """What a scenario returned on each process."""

    def of(size, name):
        found = [left.get(name, "was not reached") for left in runs[size]]
        for rank, result in enumerate(found):
            assert not isinstance(result, str), f"process {rank}: {result}"
        return found

    return of


TRAINED = [
    (2, "ddp"),
    (2, "sharded"),
    (2, "halves"),
    (2, "tensor_parallel"),
    (4, "ddp"),
    (4, "sharded"),  # of rows that four do not divide, and of two rows: two pieces are empty
    (4, "hybrid"),
    (4, "sharded_and_cut"),
]


@pytest.mark.parametrize(("size", "name"), TRAINED)
def test_every_process_gets_the_very_readings_of_one_process(results, size, name):
    expected = results(size, name)[0]["expected"]
    for found in results(size, name):
        assert {row["of"] for row in found["rows"]} == {"weight", "update", "gradient"}
        assert {row["status"] for row in found["rows"]} == {"ok", "too_few_eigenvalues"}
        assert found["rows"] == expected
        assert found["names"] == LAYERS
    assert len(set(found["owners"])) > 1, "the work is shared out"


@pytest.mark.parametrize(("size", "name"), TRAINED)
def test_training_watched_gives_the_very_weights_of_training_unwatched(results, size, name):
    assert all(found["same_weights"] for found in results(size, name))


def test_experts_are_read_by_a_process_that_holds_them(results):
    for found in results(2, "experts"):
        assert found["rows"] == found["expected"]
        assert found["owners"][:5] == [0, 0, 0, 1, 1], "where each is, of five"
        assert found["gathered"] == {(36, 44)}, "cut by columns, which is no expert"


def test_of_a_matrix_too_large_to_gather_the_gram_matrices_are_summed(results):
    for found in results(4, "summed"):
        (row,), (expected,) = found["rows"], found["expected"]
        assert set(expected) - set(row) == {"n_traps", "trap_p", "trap_size"}
        numbers = {key for key, value in row.items() if isinstance(value, float)}
        for key in row:
            same = pytest.approx(expected[key], rel=1e-10) if key in numbers else expected[key]
            assert row[key] == same, key
        assert any(row[key] != expected[key] for key in numbers), "it was gathered"


def test_where_a_gram_matrix_does_not_tell_the_tensor_is_gathered_after_all(results):
    for found in results(4, "summed"):
        assert found["deficient"][0]["matrix_rank"] == 47
        assert found["deficient"] == found["deficient_expected"]


def test_processes_whose_clocks_disagree_read_the_same_layers_at_the_same_steps(results):
    first, *others = results(4, "budgeted")
    assert first["told"] == len(first["steps"]) > 40
    for other in others:
        for key in ("steps", "told", "state", "measured"):
            assert other[key] == first[key], key
    assert all(step % 2 == 0 for step, _ in first["steps"]), "every // 20 is the stride"
    slowest = max(found["overhead"] for found in (first, *others))
    assert 0.01 < slowest <= 0.055


def test_threads_lose_nothing_and_frozen_layers_are_read_once_by_one_process(results):
    for found in results(2, "background"):
        assert found["rows"] == results(2, "background")[0]["rows"]
        steps = [row["step"] for row in found["rows"] if row["layer"] == "down.weight"]
        assert steps == [1, 2, 4, 6, 6]
        assert [row["step"] for row in found["rows"] if row["layer"] == "up.weight"] == [1]
        assert found["measured"] == 6
        written = [json.loads(line) | {"seconds": 0} for line in found["file"].splitlines()]
        assert written == found["rows"], "once, by the first"


def test_a_run_killed_goes_on_from_the_state_of_any_process(results):
    for found in results(2, "resumed"):
        assert found["same"]
        assert found["held"] == found["saved"] > 0
        assert found["memory"] == found["again"]
        early = [row for row in found["again"] if row["step"] <= 5]
        assert early == found["whole"][: len(early)]
        # An update after a resumed run is to the weights of the checkpoint.
        after = [row for row in found["again"] if row["step"] > 5 and row["of"] == "weight"]
        assert after == [row for row in found["whole"] if row["step"] > 5 and row["of"] == "weight"]
        spans = {row["span"] for row in found["again"] if row["of"] == "update"}
        assert spans == {1, 2}


def test_copies_that_a_forward_pass_left_are_not_what_is_watched(results):
    expected = results(2, "settled")[0]["expected"]
    for found in results(2, "settled"):
        assert found["was"]
        for row, other in zip(found["rows"], expected, strict=True):
            # Computing it could take all processes, so it is not, and says so.
            assert row == other or row["reason"].startswith("is computed, in a model")
        assert [row["status"] for row in found["rows"]].count("unreadable") == 1


def test_alarms_stop_all_processes_or_none(results):
    for found in results(2, "alarmed"):
        assert not found["before"]
        assert found["after"]
        assert len(found["told"]) == 1
        assert found["told"][0].startswith("down.weight: 0 NaN and 1 infinite")


def test_what_fails_on_one_process_is_told_to_all_and_takes_no_other_layer_with_it(results):
    first, second = results(2, "failing")
    for case in ("no_gradient", "no_piece", "no_room", "slip"):
        assert first[case] == second[case], case
    reasons = {row["layer"]: row["reason"] for row in first["no_gradient"] if row["reason"]}
    assert reasons.pop("down.weight") == "not all hold a piece of it"
    assert list(reasons) == ["out.weight"]
    status = {row["layer"]: row["status"] for row in first["no_piece"]}
    assert status["up.weight"] == "unreadable"
    assert list(status.values()).count("unreadable") == 1
    rooms = {row["layer"]: row["reason"] for row in first["no_room"] if row["status"] != "ok"}
    owner = first["owners"][LAYERS.index("down.weight") + 2]  # after two more of three parts
    assert rooms.get("down.weight", "") == (
        "MemoryError: no room for the whole" if owner == 1 else ""
    )
    slips = [row["reason"] == "KeyError: 'a slip'" for row in first["slip"]]
    assert slips == [owner == 1 for owner in first["owners"]]
    assert first["well_again"] == {"ok", "too_few_eigenvalues"}


@pytest.mark.parametrize(
    ("case", "code", "text"),
    [
        ("flat", "E_SHARDED", "FSDP1"),
        ("flat_views", "E_SHARDED", "FSDP1"),
        ("zero", "E_SHARDED", "GatheredParameters"),
        ("analyze", "E_SHARDED", "full_state_dict=True"),
        ("analyze_state", "E_SHARDED", "full_state_dict=True"),
        ("one_alone", "E_SHARDED", "leave `world` out"),
        ("other_layers", "E_LAYERS", "world=Alone()"),
    ],
)
def test_pieces_that_cannot_be_put_together_are_refused_and_never_read(results, case, code, text):
    for found in results(2, "refused"):
        assert found[case]["code"] == code
        assert text in found[case]["text"]


def test_the_ways_out_that_refusals_name_lead_to_the_right_numbers(results):
    found = results(2, "refused")[0]
    for way in ("gathered", "gathered_flat"):
        for ours, (name, *values) in zip(found[way], found["expected_rows"], strict=True):
            assert ours[0] == name
            assert list(ours[1:]) == pytest.approx(values, abs=0, nan_ok=True)


def test_memory_that_was_given_back_is_not_read(results):
    (row,) = results(2, "refused")[0]["freed"]
    assert row["status"] == "unreadable"
    assert "given back" in row["reason"]


def test_an_error_of_the_first_process_stops_all(results):
    first, second = (found["bad_history"] for found in results(2, "refused"))
    assert first["code"] == "E_HISTORY"
    assert second["code"] == "E_PROCESS"
    assert "process 0: CheckpointError" in second["text"]


def test_calls_that_do_not_match_are_told_at_once_or_in_time(results):
    first, second = results(2, "mismatched")
    assert {found["step"]["code"] for found in (first, second)} == {"E_STEP"}
    assert "process 0 is at step 6, others at 5" in first["step"]["text"]
    for found in (first, second):
        assert "process 0 in step, process 1 in measure" in found["call"]["text"]
        assert found["call"]["seconds"] < 2
    assert "did not come within 3 s" in first["missing"]["text"]
    assert "every process must make the monitor" in first["missing"]["text"]
    assert 2 < first["missing"]["seconds"] < 20
    assert first["again"]["seconds"] < 1
    assert first["made_alone"]["code"] == "E_ALONE"
