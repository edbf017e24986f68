"""Live Keras models against the files that Keras itself saves of them."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import torch

import spectra
from spectra.errors import SelectionError, WeightError
from spectra.sources import open_source
from spectra.training import SpectralMonitor
from tests.conftest import ROOT

# Keras itself turns torch's tensors into arrays in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def convolutional(keras):
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.layers.Conv2D(32, 3),
            keras.layers.SeparableConv2D(40, 3),
            keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.1),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(64),
            keras.layers.Dense(40),
        ]
    )


def attending(keras):
    inputs = keras.Input((16,), dtype="int32")
    hidden = keras.layers.Embedding(60, 32)(inputs)
    hidden = keras.layers.MultiHeadAttention(2, 16)(hidden, hidden)
    hidden = keras.layers.Conv1D(48, 3)(hidden)
    hidden, _ = keras.layers.LSTM(24, return_sequences=True)(hidden), hidden
    block = keras.Sequential([keras.layers.Dense(32), keras.layers.Dense(32)])
    return keras.Model(inputs, block(block(keras.layers.Dense(32)(hidden))))


def subclassed(keras):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = keras.layers.Dense(48)
            self.blocks = [keras.layers.Dense(48), [keras.layers.Dense(40), keras.layers.Dense(40)]]
            self.named = {"a": keras.layers.Dense(32)}
            self.free = self.add_weight(shape=(32, 24), initializer="glorot_uniform")

        def call(self, x):
            x = self.blocks[0](self.first(x))
            for layer in self.blocks[1]:
                x = layer(x)
            return self.named["a"](x) @ self.free

    net = Net()
    net(np.zeros((1, 30), "float32"))
    return net


def described(source):
    return [(t.name, t.shape, t.dtype, t.nbytes, t.kind) for t in source.tensors]


@pytest.mark.parametrize("ending", ["keras", "weights.h5"])
@pytest.mark.parametrize("build", [convolutional, attending, subclassed])
@pytest.mark.filterwarnings("ignore:.*not be serialized:UserWarning")  # a class made in a test
def test_a_live_model_is_what_its_file_is_bit_for_bit(build, ending, keras, tmp_path):
    keras.utils.set_random_seed(17)
    model = build(keras)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / f"m.{ending}"
    model.save(path) if ending == "keras" else model.save_weights(path)
    live, file = open_source(model), open_source(path)
    assert described(live) == described(file)
    assert live.ignored == file.ignored
    for tensor in file.tensors:
        stored, held = file.read(tensor.name), live.read(tensor.name)
        assert held.dtype == stored.dtype
        assert np.array_equal(held, stored), tensor.name
        if tensor.shape:
            assert np.array_equal(live.read_rows(tensor.name, 1, 3), stored[1:3])
    here, there = spectra.analyze(model), spectra.analyze(path)
    assert here.skipped == there.skipped
    assert here.summary == there.summary
    assert here.summary["n_layers"] >= 4
    for mine, stored in zip(here.layers, there.layers, strict=True):
        assert (mine.name, mine.kind, mine.shape) == (stored.name, stored.kind, stored.shape)
        assert np.array_equal(mine.spectrum.eigenvalues, stored.spectrum.eigenvalues)
        assert mine.metrics == pytest.approx(stored.metrics, abs=0, rel=0, nan_ok=True)


def test_kernels_come_in_torch_s_order_though_the_model_is_a_torch_module(keras):
    model = convolutional(keras)
    assert isinstance(model, torch.nn.Module)
    source = open_source(model)
    assert source.info.format == "live Keras model"
    kernel = keras.ops.convert_to_numpy(model.layers[0].kernel)
    assert np.array_equal(source.read("layers.conv2d.0"), kernel.transpose(3, 2, 0, 1))
    assert spectra.analyze(model)["layers.conv2d.0"].n_matrices == 9
    assert open_source(keras.Sequential([model])).tensors  # one in another
    dense = model.layers[-1]
    assert [t.shape for t in open_source(dense).tensors] == [(64, 40), (40,)]


def test_values_are_those_of_now_and_reading_changes_none(keras):
    model = convolutional(keras)
    source = open_source(model)
    model.layers[-1].kernel.assign_add(np.ones((64, 40)))
    kernel = keras.ops.convert_to_numpy(model.layers[-1].kernel)
    assert np.array_equal(source.read("layers.dense_1.0"), kernel)
    before = [keras.ops.convert_to_numpy(w).copy() for w in model.weights]
    torch_state = torch.get_rng_state()
    spectra.analyze(model)
    assert torch.equal(torch_state, torch.get_rng_state())
    for old, variable in zip(before, model.weights, strict=True):
        assert np.array_equal(old, keras.ops.convert_to_numpy(variable))


def test_reading_warns_of_nothing(keras):
    model = attending(keras)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spectra.analyze(model)
        SpectralMonitor(model, budget=None, watch=("weight", "update")).step()


def test_a_kernel_under_keras_own_lora_is_read_merged_and_as_it_is_now(keras, tmp_path):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((50,)), keras.layers.Dense(40)])
    layer = model.layers[0]
    layer.enable_lora(4)
    source = open_source(model)
    layer.lora_kernel_b.assign(np.random.default_rng(5).standard_normal((4, 40)))
    model.save_weights(tmp_path / "m.weights.h5")
    stored = open_source(tmp_path / "m.weights.h5").read("layers.dense.0")
    assert np.array_equal(source.read("layers.dense.0"), stored)
    assert not np.array_equal(stored, keras.ops.convert_to_numpy(layer._kernel))


def test_half_precision_is_exact(keras):
    layer = keras.layers.Dense(24, dtype="bfloat16")
    layer.build((None, 30))
    kernel = np.random.default_rng(7).standard_normal((30, 24)).astype(ml_dtypes.bfloat16)
    layer.kernel.assign(kernel)
    source = open_source(layer)
    assert (source.tensors[0].dtype, source.tensors[0].nbytes) == ("bfloat16", 2 * 30 * 24)
    assert source.read("0").dtype == np.float32
    assert np.array_equal(source.read("0"), kernel.astype(np.float32))


def test_a_variable_in_two_layers_is_one_layer_of_the_report(keras):
    class Again(keras.layers.Layer):
        def __init__(self, kernel):
            super().__init__()
            self.kernel = kernel

        def save_own_variables(self, store):
            store["0"] = self.kernel

    first = keras.layers.Dense(30, use_bias=False)
    first.build((None, 30))
    report = spectra.analyze(keras.Sequential([first, Again(first.kernel)]))
    assert [layer.aliases for layer in report.layers] == [("layers.dense.0",)]


def test_a_model_without_weights_is_told_what_to_do(keras):
    with pytest.raises(WeightError, match=r"no weights yet; call it on data"):
        spectra.analyze(keras.Sequential([keras.layers.Dense(3)]))


def test_a_model_of_keras_2_is_refused_by_name(monkeypatch):
    class Layer:
        pass

    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(layers=SimpleNamespace(Layer=Layer)))
    with pytest.raises(WeightError, match="Keras 2"):
        open_source(Layer())


def test_nothing_of_spectra_imports_keras_or_peft_by_itself():
    code = (
        "import sys, torch, spectra\n"
        "spectra.analyze(torch.nn.Linear(40, 30)); spectra.SpectralMonitor(torch.nn.Linear(40, 30))\n"
        "print([name for name in ('keras', 'peft') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


def perceptron(keras):
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(48, "relu"), keras.layers.Dropout(0.1), keras.layers.Dense(40)]
    model = keras.Sequential([keras.Input((64,)), *layers])
    model.compile("adam", "mse")
    return model


@pytest.mark.parametrize("background", [False, True])
def test_training_with_the_monitor_gives_the_very_weights_of_training_without(background, keras):
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((32, 64)), rng.standard_normal((32, 40))

    def trained(watched):
        model = perceptron(keras)
        monitor = None
        if watched:
            monitor = SpectralMonitor(
                model, every=1, budget=None, watch=("weight", "update"), background=background
            )
        for _ in range(6):
            model.train_on_batch(x, y)
            if monitor:
                monitor.step()
        if monitor:
            monitor.close()
            assert len({reading.step for reading in monitor.history}) >= 3
            assert {reading.of for reading in monitor.history} == {"weight", "update"}
        held = (*model.weights, *model.optimizer.variables)
        return [keras.ops.convert_to_numpy(v).copy() for v in held]

    for plain, watched in zip(trained(False), trained(True), strict=True):
        assert np.array_equal(plain, watched)


def test_an_update_is_the_difference_of_variables_and_gradients_are_refused(keras):
    model = perceptron(keras)
    monitor = SpectralMonitor(model, every=1, budget=None, watch="update", layers="layers.dense.0")
    assert list(monitor.parameters) == ["layers.dense.0"]
    assert monitor.parameters["layers.dense.0"] is model.layers[0].kernel
    monitor.step()
    before = keras.ops.convert_to_numpy(model.layers[0].kernel).copy()
    model.train_on_batch(np.ones((8, 64)), np.ones((8, 40)))
    difference = keras.ops.convert_to_numpy(model.layers[0].kernel) - before
    (reading,) = monitor.step()
    largest = np.linalg.norm(difference.astype(float), 2) ** 2
    assert reading["lambda_max"] == pytest.approx(largest, rel=1e-6)
    with pytest.raises(SelectionError, match="Sequential of Keras keeps no gradients"):
        SpectralMonitor(model, watch=("weight", "gradient"))


def test_frozen_layers_are_read_once_and_again_when_they_train(keras):
    model = perceptron(keras)
    model.layers[0].trainable = False
    monitor = SpectralMonitor(model, every=1, budget=None)
    assert len(monitor.step()) == 2
    assert [reading.layer for reading in monitor.step()] == ["layers.dense_1.0"]
    model.layers[0].trainable = True
    assert len(monitor.step()) == 2
