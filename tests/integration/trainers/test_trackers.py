"""Scalars in the trackers themselves: each takes every key as it is, and gives back its number."""

import re

import pytest
from tensorboard.backend.event_processing import event_accumulator
from torch.utils.tensorboard import SummaryWriter

from spectra.training import Reading
from spectra.training.scalars import scalars

NAMES = ["h.0.attn.c_attn.weight[q]", "experts.down_proj[7]", "dense/kernel", "emb ü.weight"]
READINGS = [
    Reading(9, name, "weight", "linear", 64, 48, 48, values={"alpha": 2.5 + i, "stable_rank": 4.0})
    for i, name in enumerate(NAMES)
]
FOUND = scalars(READINGS, per_layer=True)


def test_tensorboard_keeps_every_key(tmp_path, caplog):
    with SummaryWriter(tmp_path) as writer:
        for name, value in FOUND.items():
            writer.add_scalar(name, value, 9)
    assert "illegal" not in caplog.text
    events = event_accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    kept = {name: events.Scalars(name)[0] for name in events.Tags()["scalars"]}
    assert {name: point.value for name, point in kept.items()} == pytest.approx(FOUND)
    assert {point.step for point in kept.values()} == {9}


def test_weights_and_biases_keeps_every_key_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="not of the dev extra: its program is 20 MB")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(project="spectra", dir=str(tmp_path)) as run:
        run.log(FOUND, step=9)
    (kept,) = tmp_path.rglob("*.wandb")
    written = kept.read_bytes()  # a log of records, in which names stand as they are
    assert [name for name in FOUND if name.encode() not in written] == []


def test_mlflow_keeps_every_key(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="not of the dev extra: it brings a server")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database is not in its small package
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run() as run:
        mlflow.log_metrics(FOUND, step=9)
    assert mlflow.get_run(run.info.run_id).data.metrics == FOUND


def test_keys_fit_what_the_others_ask_for():
    """MLflow: letters, digits and _-./ : with no path that leads elsewhere; trackio: no reserved name."""
    for name in FOUND:
        assert re.fullmatch(r"[\w\-. :/]+", name)
        assert all(part.strip(".") for part in name.split("/"))
        assert name not in {"project", "run", "timestamp", "step", "time", "metrics"}
