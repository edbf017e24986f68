"""The experiment of SETOL section 6 in its short form: two settings, one seed, small made images."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import setol_mlp3

        yield setol_mlp3
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def write_idx(path, values):
    sizes = np.array(values.shape, ">i4").tobytes()
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten smooth shapes, moved, scaled and noisy: learned by a perceptron, but not at once."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(20260711)
    shapes = gaussian_filter(rng.standard_normal((10, 28, 28)), (0, 3, 3))
    shapes /= np.abs(shapes).max(axis=(1, 2), keepdims=True)
    for split, count in (("train", 3000), ("t10k", 1000)):
        labels = rng.integers(0, 10, count)
        moved = np.stack(
            [
                np.roll(shapes[label], rng.integers(-3, 4, 2), axis=(0, 1)) * rng.uniform(0.5, 1)
                for label in labels
            ]
        )
        strokes = 300 * np.maximum(moved - 0.25, 0)  # most pixels are dark, as in MNIST
        images = np.clip(strokes + 40 * rng.standard_normal(moved.shape), 0, 255)
        write_idx(folder / f"{split}-images-idx3-ubyte", images)
        write_idx(folder / f"{split}-labels-idx1-ubyte", labels)
    return folder


def run(script, data, work, *options):
    threads = torch.get_num_threads()
    try:
        script.main(["run", "--data", str(data), "--work", str(work), "--seeds", "1", *options])
    finally:
        torch.set_num_threads(threads)


def test_an_epoch_is_the_one_autograd_would_take(script, data):
    images = script.read_data(data)
    setting = script.Setting("x", 0.16, 32)
    order = script.order_of(0, 1, len(images.images))[:1000]  # the last batch is short
    torch.manual_seed(0)
    fast = script.build()
    torch.manual_seed(0)
    plain = script.build()
    loss = script.sgd_epoch([p.detach() for p in fast.parameters()], images, order, setting)
    optimizer = torch.optim.SGD(plain.parameters(), lr=setting.learning_rate)
    total = 0.0
    for batch in order.split(setting.batch_size):
        here = torch.nn.functional.cross_entropy(plain(images.images[batch]), images.labels[batch])
        optimizer.zero_grad()
        here.backward()
        optimizer.step()
        total += here.item() * len(batch)
    assert loss == pytest.approx(total / len(order), rel=1e-5)
    for a, b in zip(fast.parameters(), plain.parameters(), strict=True):
        # float32, 32 steps: the order of sums is all that differs
        assert torch.allclose(a, b, atol=2e-6)


@pytest.mark.parametrize(
    ("losses", "window", "patience"),
    [
        ([1.0, 0.9, 0.8, 0.7, 0.6], None, None),
        ([1.0, 0.5, 0.5, 0.5, 0.5], 5, 5),
        # falls slowly but steadily: three epochs together still make a difference
        ([1.0, 0.99995, 0.9999, 0.99985, 0.9998], None, 4),
        # a spike: now above what it was three epochs ago, but for one epoch only
        ([1.0, 0.5, 0.4, 0.3, 0.9, 0.2, 0.1], 5, None),
    ],
)
def test_the_two_readings_of_the_rule_to_stop(script, losses, window, patience):
    assert script.stops(losses) == {"window": window, "patience": patience}


@pytest.mark.slow
def test_the_short_form_shows_the_trend_resumes_and_is_collected(script, data, tmp_path):
    settings = ["--settings", "lr1,lr16"]
    run(script, data, tmp_path / "whole", *settings, "--max-epochs", "4")
    # Cut short after two epochs, once between its two files, and gone on with.
    work = tmp_path / "pieces"
    run(script, data, work, *settings, "--max-epochs", "2")
    for done in work.glob("*/done.json"):
        done.unlink()
    rows_file = work / "lr1-seed0" / "rows.json"
    rows = json.loads(rows_file.read_text())
    rows_file.write_text(json.dumps([*rows, rows[-1] | {"epoch": 3}]))
    run(script, data, work, *settings, "--max-epochs", "4")
    for name in ("lr1-seed0", "lr16-seed0"):
        whole = json.loads((tmp_path / "whole" / name / "rows.json").read_text())
        assert json.loads((work / name / "rows.json").read_text()) == whole
        assert [row["epoch"] for row in whole] == [1, 2, 3, 4]

    script.main(["collect", "--work", str(work), "--out", str(tmp_path / "tables")])
    with (tmp_path / "tables" / "runs.csv").open() as file:
        last = {row["setting"]: row for row in csv.DictReader(file) if row["rule"] == "window"}
    slow, fast = last["lr1"], last["lr16"]
    # The larger steps are ahead: better trained, a heavier tail, the ERG gap nearer to closing.
    assert float(fast["train_error"]) < float(slow["train_error"]) < 0.9
    assert float(fast["fc1_alpha"]) < float(slow["fc1_alpha"])
    assert float(fast["fc1_delta_lambda_min"]) < float(slow["fc1_delta_lambda_min"])
    assert float(fast["fc1_n_traps"]) == 0
    for row in (slow, fast):
        # The ERG tail holds the power law's, so that cutting to it loses less.
        assert int(row["fc1_n_erg"]) >= int(row["fc1_n_tail"])
        for split in ("train", "test"):
            lost = [float(row[f"{split}_error_{to}"]) for to in ("erg", "power_law")]
            assert lost[0] <= lost[1] + 0.02
    with (tmp_path / "tables" / "epochs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 8


def test_nothing_finished_is_said(script, tmp_path):
    with pytest.raises(SystemExit, match="no finished run"):
        script.main(["collect", "--work", str(tmp_path), "--out", str(tmp_path)])


def test_watching_a_run_changes_nothing_and_its_table_is_the_one_shown(script, data):
    import alarms_setol

    found, weights = alarms_setol.train(
        script.SETTINGS["lr32"], 0, script.read_data(data), 2, watched=True
    )
    _, plain = alarms_setol.train(
        script.SETTINGS["lr32"], 0, script.read_data(data), 2, watched=False
    )
    assert all(map(torch.equal, weights, plain))
    assert (found["epochs"], found["readings"]) == (2, 2 * 4 * 2)

    stored = (ROOT / "docs/setol/alarms.jsonl").read_text().splitlines()
    shown = (ROOT / "docs/setol-experiment.md").read_text()
    assert alarms_setol.table([json.loads(line) for line in stored]) in shown
