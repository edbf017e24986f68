"""SpectralCallback inside Keras' own fit."""

import csv
import json
import math

import numpy as np
import pytest

from spectra.errors import CheckpointError, SelectionError
from spectra.training import Alarms
from spectra.training import history as histories

# Keras itself turns torch's tensors into arrays in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def callback(keras):
    from spectra.training.adapters.keras import SpectralCallback

    return SpectralCallback


def network(keras, *, accumulate=None, seed=3):
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(48, "relu"), keras.layers.Dropout(0.1), keras.layers.Dense(40)]
    model = keras.Sequential(layers)  # built by its first batch: no weights before
    model.compile(keras.optimizers.Adam(gradient_accumulation_steps=accumulate), "mse")
    return model


def fit(model, *callbacks, epochs=3, **options):
    """Fit to eight batches an epoch."""
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((64, 64)), rng.standard_normal((64, 40))
    settings = {"batch_size": 8, "verbose": 0, "shuffle": False} | options
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **settings).history


def state_of(keras, model):
    variables = (*model.weights, *model.optimizer.variables)
    return [keras.ops.convert_to_numpy(v).copy() for v in variables]


@pytest.mark.parametrize("background", [False, True])
def test_a_fit_with_the_callback_ends_with_the_very_weights_of_one_without(
    background, callback, keras
):
    plain = network(keras)
    fit(plain)
    watched = network(keras)
    spectral = callback(every=1, budget=None, watch=("weight", "update"), background=background)
    fit(watched, spectral)
    assert len(spectral.monitor.history) > 10
    for a, b in zip(state_of(keras, plain), state_of(keras, watched), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("accumulate", "steps"), [(None, [1, 5, 10, 15, 20]), (3, [1, 5]), (2, [1, 5, 10])]
)
def test_steps_are_those_of_the_optimizer(accumulate, steps, callback, keras):
    class Compare(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            said = max((reading.step for reading in spectral.monitor.history), default=0)
            iterations = int(self.model.optimizer.iterations)
            assert iterations - 5 < said <= iterations

    model, spectral = network(keras, accumulate=accumulate), callback(every=5, budget=None)
    fit(model, spectral, Compare())  # eight batches an epoch, of which three make no whole number
    assert sorted({reading.step for reading in spectral.monitor.history}) == steps
    names = {reading.layer for reading in spectral.monitor.history}
    assert names == {"layers.dense.0", "layers.dense_1.0"}


def test_steps_are_those_inside_a_loss_scaler(callback, keras):
    model, spectral = network(keras), callback(every=5, budget=None)
    inner = keras.optimizers.Adam(gradient_accumulation_steps=2)
    model.compile(keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0), "mse")
    fit(model, spectral)
    assert sorted({reading.step for reading in spectral.monitor.history}) == [1, 5, 10]


def test_a_model_that_was_trained_before_goes_on_from_its_own_count(callback, keras):
    model, spectral = network(keras), callback(every=5, budget=None)
    fit(model, epochs=2)
    fit(model, spectral, epochs=1)
    assert sorted({reading.step for reading in spectral.monitor.history}) == [17, 20]


def test_every_epoch_logs_the_same_keys_from_the_first_on(callback, keras, tmp_path):
    model = network(keras)
    spectral = callback(every=10, budget=None, watch=("weight", "update"), per_layer=True)
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    logged = fit(model, spectral, log)
    assert {len(values) for values in logged.values()} == {3}
    mean = logged["spectral/alpha/mean"]
    newest = [r["alpha"] for r in spectral.monitor.latest.values() if r.of == "weight"]
    assert mean[-1] == pytest.approx(np.mean(newest))
    assert logged["spectral/alpha/layers.dense.0"][-1] == newest[0]
    # The first update is known only when a layer is read again, which was not in the first epoch.
    assert math.isnan(logged["spectral/update/alpha/mean"][0])
    assert math.isfinite(logged["spectral/update/alpha/mean"][1])
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [float(row["spectral/alpha/mean"]) for row in rows] == mean


def test_metrics_to_log_are_chosen_and_a_callback_behind_may_act_on_them(callback, keras):
    spectral = callback(every=4, budget=None, drawn=("stable_rank",), prefix="s")
    stop = keras.callbacks.EarlyStopping(
        "s/stable_rank/mean", mode="max", min_delta=100, patience=1
    )
    logged = fit(network(keras), spectral, stop, epochs=9)
    assert len(logged["s/stable_rank/mean"]) == 2
    assert not any("alpha" in key for key in logged)


def test_a_second_fit_goes_on_with_the_history(callback, keras, tmp_path):
    model, path = network(keras), tmp_path / "run" / "h.jsonl"
    spectral = callback(every=8, budget=None, history=path)
    fit(model, spectral, epochs=1)
    fit(model, spectral, epochs=2)
    found = histories.load(path)
    assert [reading.step for reading in found] == [n for n in (1, 8, 16, 24) for _ in range(2)]
    assert [r.step for r in spectral.monitor.history] == [r.step for r in found]


def test_a_second_fit_without_a_history_goes_on_with_the_rounds(callback, keras):
    model, spectral = network(keras), callback(every=5, budget=None)
    fit(model, spectral, epochs=1)
    fit(model, spectral, epochs=1)
    assert sorted({reading.step for reading in spectral.monitor.history}) == [10, 15]


@pytest.mark.slow
def test_a_run_that_keras_restores_continues_its_history_and_its_alarms(callback, keras, tmp_path):
    class Killed(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 21:
                raise Killed

    def begin(folder):
        alarms = Alarms()
        return alarms, [
            callback(every=2, budget=None, history=folder / "h.jsonl", alarms=alarms),
            keras.callbacks.BackupAndRestore(folder / "backup"),
        ]

    _, watched = begin(tmp_path / "whole")
    fit(network(keras), *watched)
    _, watched = begin(tmp_path / "killed")
    with pytest.raises(Killed):
        fit(network(keras), *watched, Kill())
    watched[0].monitor.close()
    alarms, watched = begin(tmp_path / "killed")
    taken = []
    alarms.load_state_dict = taken.append
    fit(network(keras), *watched)
    assert len(taken) == 1

    def steps(name):
        return [r.step for r in histories.load(tmp_path / name / "h.jsonl")]

    assert steps("killed") == steps("whole")
    # The state knew of every reading kept: none had to be set aside.
    assert not list((tmp_path / "killed").glob("h.1.jsonl"))


def test_a_state_of_another_run_is_passed_over_and_one_that_is_none_told(callback, keras, tmp_path):
    path = tmp_path / "h.jsonl"
    fit(network(keras), callback(every=2, budget=None, history=path), epochs=1)
    kept = tmp_path / "h.state.json"
    assert json.loads(kept.read_text())["monitor"]["step"] == 8
    spectral = callback(every=2, budget=None, history=path)
    fit(network(keras), spectral, epochs=1)
    assert len(histories.load(path)) == len(histories.load(tmp_path / "h.1.jsonl"))
    kept.write_text('{"monitor": 3}')
    with pytest.raises(CheckpointError, match=r"h.state.json: is no state of a callback"):
        fit(network(keras), callback(history=path), epochs=1)


def test_a_full_disk_ends_no_training(callback, keras, tmp_path, caplog):
    (tmp_path / "h.state.json").mkdir()
    spectral = callback(budget=None, history=tmp_path / "h.jsonl")
    spectral._load = lambda: None
    fit(network(keras), spectral, epochs=1)
    assert "h.state.json" in caplog.text


def test_an_alarm_that_was_asked_to_ends_the_training(callback, keras):
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 3:
                kernel = self.model.layers[0].kernel
                kernel.assign(keras.ops.full(kernel.shape, math.nan))

    model = network(keras)
    spectral = callback(every=1, budget=None, alarms=Alarms(stop_on=["non_finite"]))
    logged = fit(model, Spoil(), spectral, epochs=4)
    assert int(model.optimizer.iterations) == 4
    assert logged["spectral/alarms"][0] >= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evry": 5}, "did you mean every"),
        ({"drawn": ("alpa",)}, "alpa"),
        ({"prefix": "a b"}, "prefix"),
    ],
)
def test_a_wrong_option_is_told_at_once(options, message, callback):
    with pytest.raises(SelectionError, match=message):
        callback(**options)


def test_what_does_not_fit_the_model_is_told_before_the_first_step(callback, keras):
    model = network(keras)
    with pytest.raises(SelectionError, match="matches none"):
        fit(model, callback(layers="nothing*"))
    with pytest.raises(SelectionError, match="no gradients"):
        fit(model, callback(watch="gradient"))
    assert int(model.optimizer.iterations) == 0


def test_batches_count_on_where_the_model_has_optimizers_of_its_own(callback, keras):
    class Own(keras.Sequential):
        def train_step(self, *data):  # as of a GAN, that never asks self.optimizer
            return {"loss": 0.0} if keras.backend.backend() != "jax" else ({"loss": 0.0}, data[0])

    model = Own([keras.layers.Input((64,)), keras.layers.Dense(40)])
    model.compile("adam", "mse")
    spectral = callback(every=4, budget=None)
    fit(model, spectral, epochs=3)  # of eight batches
    assert int(model.optimizer.iterations) == 0
    assert [reading.step for reading in spectral.monitor.history] == [1, 4, 8, 12, 16, 20, 24]
