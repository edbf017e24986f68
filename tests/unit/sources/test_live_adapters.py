"""What live adapters add, against the files that PEFT saves of them and against dense products."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import spectra
from spectra.records import Status
from spectra.sources import open_source
from spectra.training import SpectralMonitor, parameter_groups

RANK = 24


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(100, 64)
        self.q = nn.Linear(64, 96)
        self.v = nn.Linear(96, 80)
        self.conv = nn.Conv1d(80, 64, 3)
        self.head = nn.Linear(64, 32)

    def forward(self, x):
        hidden = self.v(torch.relu(self.q(self.emb(x)))).transpose(1, 2)
        return self.head(self.conv(hidden).mean(-1))


def adapted(peft, *, targets=("emb", "q", "v", "conv"), seed=11, **options):
    torch.manual_seed(seed)
    settings = {"r": RANK, "lora_alpha": 16, "init_lora_weights": False} | options
    return peft.get_peft_model(Net(), peft.LoraConfig(target_modules=list(targets), **settings))


def dense(layer, adapter="default"):
    up, down = layer.lora_B[adapter].weight, layer.lora_A[adapter].weight
    return (layer.scaling[adapter] * up.double() @ down.double()).detach().numpy()


def squares(matrix, rank):
    return np.linalg.svd(matrix, compute_uv=False)[:rank][::-1] ** 2


@pytest.fixture(scope="module")
def peft():
    import peft

    return peft


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q": 32}, "alpha_pattern": {"v": 5}},
        {"modules_to_save": ["head"]},
    ],
)
def test_a_live_delta_is_that_of_the_saved_adapter_bit_for_bit(options, peft, tmp_path):
    model = adapted(peft, **options)
    model.save_pretrained(tmp_path)
    live, saved = spectra.analyze(model), spectra.analyze(tmp_path)
    assert {layer.name for layer in saved.layers} >= {
        f"{n}.delta" for n in ("emb", "q", "v", "conv")
    }
    for layer in saved.layers:
        mine = live[layer.name]
        assert mine.status is layer.status is Status.OK
        assert (mine.shape, mine.kind) == (layer.shape, layer.kind)
        assert np.array_equal(mine.spectrum.eigenvalues, layer.spectrum.eigenvalues)
        assert mine.metrics == pytest.approx(layer.metrics, abs=0, rel=0, nan_ok=True)
    assert {"emb.weight", "q.weight", "v.weight", "conv.weight"} < {x.name for x in live.layers}
    assert not any("lora" in layer.name for layer in live.layers)


def test_a_delta_is_computed_from_the_factors_and_the_scale_of_now(peft):
    model = adapted(peft, targets=["q"])
    source, layer = open_source(model), model.base_model.model.q
    (name,) = (tensor.name for tensor in source.tensors if "delta" in tensor.name)
    layer.scale_layer(3.0)
    with torch.no_grad():
        layer.lora_B["default"].weight[0] += 1
    found = np.linalg.svd(source.read(name), compute_uv=False)[::-1] ** 2
    assert found == pytest.approx(squares(dense(layer), RANK), rel=1e-9)


def test_of_several_adapters_the_active_ones_are_given_each_by_its_name(peft):
    model = adapted(peft, targets=["q"])
    for name in ("second", "third"):
        model.add_adapter(name, peft.LoraConfig(r=RANK, target_modules=["q"], lora_alpha=4))
    layer = model.base_model.model.q
    (only,) = (x.name for x in spectra.analyze(model).layers if "delta" in x.name)
    assert only == "q.delta"
    model.base_model.set_adapter(["default", "second"])
    with torch.no_grad():
        layer.lora_B["second"].weight.normal_()
    report = spectra.analyze(model)
    assert [x.name for x in report.layers if "delta" in x.name] == [
        "q.delta.default",
        "q.delta.second",
    ]
    found = report["q.delta.second"].spectrum.eigenvalues
    assert found == pytest.approx(squares(dense(layer, "second"), RANK), rel=1e-9)
    reasons = {s.name: s.reason for s in report.skipped if "third" in s.name}
    assert set(reasons.values()) == {"of the adapter 'third', which is not active"}
    assert len(reasons) == 2


def kinds(peft):
    return {
        "DoraLinearVariant": peft.LoraConfig(r=8, target_modules=["q"], use_dora=True),
        "kind loha": peft.LoHaConfig(r=8, target_modules=["q"]),
        "kind vera": peft.VeraConfig(r=8, target_modules=["q"]),
        "kind ia3": peft.IA3Config(target_modules=["q"], feedforward_modules=[]),
    }


@pytest.mark.parametrize("words", ["DoraLinearVariant", "kind loha", "kind vera", "kind ia3"])
def test_other_kinds_are_left_out_by_name_with_all_they_keep(words, peft):
    torch.manual_seed(5)
    model = peft.get_peft_model(Net(), kinds(peft)[words])
    report = spectra.analyze(model)
    assert [x.name for x in report.layers if x.name.startswith("q")] == ["q.weight"]
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    reasons = {s.name: s.reason for s in report.skipped}
    assert trained
    for name in trained:
        assert words in reasons[name]


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd:UserWarning")
def test_factors_of_a_grouped_convolution_are_left_out_and_take_no_other_with_them(peft):
    torch.manual_seed(6)
    net = nn.Sequential(nn.Conv2d(32, 32, 3, groups=2), nn.Linear(40, 30))
    config = peft.LoraConfig(r=RANK, target_modules=["0", "1"], init_lora_weights=False)
    report = spectra.analyze(peft.get_peft_model(net, config))
    assert [x.name for x in report.layers] == ["0.weight", "1.weight", "1.delta"]
    reasons = [s.reason for s in report.skipped if ".0.lora" in s.name]
    words = "of an adapter whose factors (24, 32, 3, 3) and (32, 12, 1, 1) make no single matrix"
    assert reasons == [words, words]


def test_what_is_adapted_is_read_once_and_what_is_added_again_and_again(peft):
    model = adapted(peft)
    monitor = SpectralMonitor(model, every=1, budget=None)
    first = [reading.layer for reading in monitor.step()]
    assert first[:4] == ["emb.weight", "emb.delta", "q.weight", "q.delta"]
    again = [reading.layer for reading in monitor.step()]
    assert again == ["emb.delta", "q.delta", "v.delta", "conv.delta"]
    assert not any("delta" in name for name in monitor.parameters)
    for parameter in model.base_model.model.q.parameters():
        parameter.requires_grad_(False)
    assert "q.delta" in [reading.layer for reading in monitor.step()]
    assert "q.delta" not in [reading.layer for reading in monitor.step()]


def test_a_low_rank_has_norms_and_ranks_and_no_exponent(peft):
    model = adapted(peft, targets=["q"], r=8)
    readings = SpectralMonitor(model, budget=None, layers="*.delta").step()
    (reading,) = readings
    assert reading.status is Status.TOO_FEW_EIGENVALUES
    assert math.isnan(reading["alpha"])
    largest = squares(dense(model.base_model.model.q), 8)[-1]
    assert reading["lambda_max"] == pytest.approx(largest, rel=1e-9)
    assert reading["matrix_rank"] == 8


def test_the_update_of_a_delta_is_the_difference_of_the_products(peft):
    model = adapted(peft, targets=["q", "conv"])
    monitor = SpectralMonitor(model, every=1, budget=None, watch="update", layers="*.delta")
    layers = {"q.delta": model.base_model.model.q, "conv.delta": model.base_model.model.conv}

    def flat(layer):
        up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
        product = up.double().flatten(1) @ down.double().flatten(1)
        return (layer.scaling["default"] * product).detach().numpy()

    assert monitor.step() == ()
    saved = monitor.state_dict()
    before = {name: flat(layer) for name, layer in layers.items()}
    train(model, steps=1)
    readings = {reading.layer: reading for reading in monitor.step()}
    assert set(readings) == set(layers)
    for name, reading in readings.items():
        expected = squares(flat(layers[name]) - before[name], 2 * RANK)
        assert reading.n_eigenvalues == 2 * RANK
        assert reading["lambda_max"] == pytest.approx(expected[-1], rel=1e-6)
        assert 10 ** reading["log_norm"] == pytest.approx(expected.sum(), rel=1e-6)
    again = SpectralMonitor(model, every=1, budget=None, watch="update", layers="*.delta")
    again.load_state_dict(saved)
    before = flat(layers["q.delta"])
    train(model, steps=1)
    largest = np.linalg.norm(flat(layers["q.delta"]) - before, 2) ** 2
    (reading,) = [reading for reading in again.step(2) if reading.layer == "q.delta"]
    assert reading["lambda_max"] == pytest.approx(largest, rel=1e-6)


def train(model, *, steps, monitor=None):
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(torch.randint(0, 100, (4, 9))).square().mean() + torch.rand(())).backward()
        optimizer.step()
        if monitor is not None:
            monitor.step()


@pytest.mark.parametrize("background", [False, True])
def test_training_adapters_with_the_monitor_gives_the_very_weights_without(background, peft):
    plain, watched = (adapted(peft, lora_dropout=0.1, init_lora_weights=True) for _ in range(2))
    torch.manual_seed(2)
    train(plain, steps=6)
    after = torch.rand(4)
    subjects = ("weight", "update", "gradient")
    monitor = SpectralMonitor(watched, every=1, budget=None, watch=subjects, background=background)
    torch.manual_seed(2)
    train(watched, steps=6, monitor=monitor)
    monitor.close()
    assert torch.equal(after, torch.rand(4)), "the global generator moved"
    # In the background a round may be passed over while the one before is in hand.
    found = {r.of for r in monitor.history if r.layer == "q.delta"}
    assert found == {"weight", "update"} or (background and found == {"weight"})
    assert any(r.layer == "q.delta" and r.status is Status.OK for r in monitor.history)
    for (name, a), (_, b) in zip(
        plain.state_dict().items(), watched.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


def test_an_adapter_that_adds_nothing_yet_is_zero_and_no_trap_is_looked_for_in_a_core(peft):
    model = adapted(peft, targets=["q"], init_lora_weights=True)
    readings = {r.layer: r for r in SpectralMonitor(model, budget=None).step()}
    assert readings["q.delta"].status is Status.ZERO
    model = adapted(peft, targets=["q"])
    readings = {r.layer: r for r in SpectralMonitor(model, budget=None).step()}
    assert "n_traps" in readings["q.weight"].values
    assert "n_traps" not in readings["q.delta"].values


def test_factors_are_put_into_the_group_of_what_they_add(peft):
    groups = {g["name"]: g["params"] for g in parameter_groups(adapted(peft), lr=0.1)}
    assert {name: len(held) for name, held in groups.items()} == {
        f"{name}.delta": 2 for name in ("emb", "q", "v", "conv")
    }
