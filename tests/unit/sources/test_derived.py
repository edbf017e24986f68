"""What parametrisations and adapters hide, against torch and against the dense product."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import spectra
from spectra.errors import CheckpointError
from spectra.sources import derived, memory, open_source


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("new", [True, False])
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_weight_norm_is_folded_as_torch_computes_it(dim, new, rng):
    torch.manual_seed(7)
    layer = torch.nn.Linear(30, 40)
    norm = torch.nn.utils.parametrizations.weight_norm if new else torch.nn.utils.weight_norm
    net = torch.nn.Sequential(norm(layer, dim=dim), torch.nn.Linear(40, 40))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(torch.rand_like(parameter) + 0.5)
    source = open_source(net.state_dict())
    assert [t.name for t in source.tensors if len(t.shape) == 2] == ["0.weight", "1.weight"]
    effective = net[0].weight if new else torch._weight_norm(net[0].weight_v, net[0].weight_g, dim)
    # float32 in torch, float64 here
    assert source.read("0.weight") == pytest.approx(effective.detach().numpy(), rel=1e-5)
    assert np.array_equal(source.read_rows("0.weight", 3, 7), source.read("0.weight")[3:7])
    report = spectra.analyze(net.state_dict())
    assert report["0"].alpha == pytest.approx(spectra.analyze(net)["0"].alpha, rel=1e-4) or not new
    assert report.coverage["tensors"] == len(net.state_dict())


@pytest.mark.parametrize("new", [True, False])
def test_spectral_norm_is_folded_as_torch_computes_it(new):
    torch.manual_seed(8)
    layer = torch.nn.Linear(30, 40)
    norm = torch.nn.utils.parametrizations.spectral_norm if new else torch.nn.utils.spectral_norm
    net = norm(layer)
    net(torch.zeros(1, 30))  # the power iteration and, in the older form, the weight itself
    net.eval()
    state = net.state_dict()
    source = open_source(state)
    expected = net.weight.detach().numpy()
    assert source.read("weight") == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("new", [True, False])
def test_spectral_norm_of_a_transposed_convolution_is_folded_along_its_own_axis(new):
    torch.manual_seed(9)
    layer = torch.nn.ConvTranspose2d(24, 24, 3)
    norm = torch.nn.utils.parametrizations.spectral_norm if new else torch.nn.utils.spectral_norm
    net = norm(layer)
    for _ in range(20):
        net(torch.zeros(1, 24, 5, 5))
    net.eval()
    expected = net.weight.detach().numpy()
    assert open_source(net.state_dict()).read("weight") == pytest.approx(
        expected, rel=1e-3, abs=1e-6
    )


def test_a_weight_stored_beside_its_parts_is_analysed_once(rng):
    v = rng.standard_normal((40, 30)).astype("f4")
    state = {"fc.weight": v[:3, :4], "fc.weight_v": v, "fc.weight_g": np.ones((40, 1), "f4")}
    report = spectra.analyze(state)
    assert [(layer.name, layer.shape) for layer in report.layers] == [("fc.weight", (40, 30))]
    assert report.coverage == {"tensors": 3, "analysed": 1, "failed": 0, "skipped": 2}


def test_a_convolutions_adapter_is_its_two_kernels_as_one(tmp_path, rng):
    a, b = rng.standard_normal((24, 30, 3, 3)), rng.standard_normal((40, 24, 1, 1))
    source = memory.open_mapping({"conv.lora_A.weight": a, "conv.lora_B.weight": b})
    found = derived.lora_deltas(source, {"r": 24, "lora_alpha": 24}).read("conv.delta")
    dense = b.reshape(40, 24) @ a.reshape(24, -1)
    expected = np.linalg.svd(dense, compute_uv=False)[:24]
    assert np.linalg.svd(found, compute_uv=False) == pytest.approx(expected, rel=1e-9)


def test_patterns_of_an_adapter_may_be_regular_expressions(tmp_path, rng):
    for pattern in ("q_proj", ".*q_proj", r"model\.layers\.\d+\.self_attn.q_proj"):
        assert derived._names(pattern, "model.layers.0.self_attn.q_proj"), pattern
        assert not derived._names(pattern, "model.layers.0.self_attn.k_proj"), pattern
    assert not derived._names("(a+)+b", "a" * 40)  # which would take for ever


def test_parts_without_their_other_half_are_skipped_not_guessed():
    report = spectra.analyze({"fc.weight_v": np.ones((30, 30)), "out.weight": np.eye(30)})
    assert [layer.name for layer in report.layers] == ["out.weight"]
    assert "weight_norm" in report.skipped[0].reason


def test_a_direction_of_zero_is_the_layers_own_failure(rng):
    v = rng.standard_normal((40, 30)).astype("f4")
    v[3] = 0
    state = {"fc.weight_v": v, "fc.weight_g": np.ones((40, 1), "f4"), "out.weight": v[4:]}
    report = spectra.analyze(state)
    assert report["fc"].status == "unreadable"
    assert report["out"].status == "ok"


def adapter(folder, rng, rank=24, sides=(60, 50), config=None, layers=("q_proj", "v_proj")):
    """Write a LoRA adapter as peft does, and return its deltas by path."""
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 16} | (config or {})
    weights, deltas = {}, {}
    for layer in layers:
        path = f"model.layers.0.self_attn.{layer}"
        a, b = rng.standard_normal((rank, sides[1])), rng.standard_normal((sides[0], rank))
        weights[f"base_model.model.{path}.lora_A.weight"] = a.astype("f4")
        weights[f"base_model.model.{path}.lora_B.weight"] = b.astype("f4")
        deltas[path] = b.astype("f4").astype(float) @ a.astype("f4")
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return deltas


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 16 / 24),
        ({"use_rslora": True}, 16 / 24**0.5),
        ({"alpha_pattern": {"q_proj": 48}}, 2.0),
        ({"r": 8, "rank_pattern": {"q_proj": 24, "v_proj": 24}}, 16 / 24),
    ],
)
def test_the_spectrum_of_a_delta_is_that_of_the_dense_product(config, scale, tmp_path, rng):
    deltas = adapter(tmp_path / "lora", rng, config=config)
    report = spectra.analyze(tmp_path / "lora")
    path = "model.layers.0.self_attn.q_proj"
    expected = np.linalg.svd(scale * deltas[path], compute_uv=False)[:24][::-1] ** 2
    found = report[f"{path}.delta"].spectrum.eigenvalues
    assert found == pytest.approx(expected, rel=1e-9)
    assert any("LoRA" in note for note in report.source.notes)
    assert report.coverage == {"tensors": 4, "analysed": 2, "failed": 0, "skipped": 2}


def test_no_null_is_taken_from_a_core(tmp_path, rng):
    deltas = adapter(tmp_path / "lora", rng, rank=40)
    report = spectra.analyze(tmp_path / "lora", evidence=True)
    layer = report[f"{next(iter(deltas))}.delta"]
    assert layer.status == "ok"
    # Shuffled, the near-orthogonal core of two Gaussian factors would show a trap.
    for column in ("alpha_null", "alpha_z", "n_traps", "trap_p", "rand_distance", "alpha_farms"):
        assert np.isnan(layer[column]), column
    assert "correlation_trap" not in layer.warnings
    for column in ("gof_p", "alpha_near_low", "lr_lognormal"):  # of the eigenvalues alone
        assert np.isfinite(layer[column]), column


@pytest.mark.parametrize("transposed", [False, True])
def test_with_its_base_an_adapter_is_the_merged_matrix(transposed, tmp_path, rng):
    config = {"fan_in_fan_out": transposed}
    deltas = adapter(tmp_path / "lora", rng, config=config)
    base = {f"{path}.weight": rng.standard_normal((60, 50)) for path in deltas}
    if transposed:
        base = {name: weight.T.copy() for name, weight in base.items()}
    report = spectra.analyze(tmp_path / "lora", base=base)
    for path, delta in deltas.items():
        weight = base[f"{path}.weight"]
        merged = (weight.T if transposed else weight) + 16 / 24 * delta
        expected = np.linalg.svd(merged, compute_uv=False)[::-1] ** 2
        found = report[f"{path}.weight"].spectrum.eigenvalues
        assert found == pytest.approx(expected, rel=1e-8)


def test_magnitudes_of_dora_are_noted(tmp_path, rng):
    adapter(tmp_path / "lora", rng)
    from safetensors.numpy import load_file

    weights = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    save_file(weights | {name: np.ones(60, "f4")}, tmp_path / "lora" / "adapter_model.safetensors")
    notes = spectra.describe(tmp_path / "lora").source.notes
    assert any("DoRA" in note for note in notes)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"r": 0}, "r 0"),
        ({"r": 7}, "r 7"),
        ({"lora_alpha": None}, "lora_alpha None"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan"),
        ({"lora_alpha": "much"}, "lora_alpha 'much'"),
        ({"lora_alpha": 10**400}, "lora_alpha 1000"),
        ({"peft_type": "VERA"}, "VERA"),
    ],
)
def test_an_adapter_without_a_sensible_configuration_is_refused(config, words, tmp_path, rng):
    adapter(tmp_path / "lora", rng, config=config)
    with pytest.raises(CheckpointError, match=words):
        spectra.describe(tmp_path / "lora")


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_factors_that_do_not_fit_are_refused(change, rng):
    weights = {"q.lora_A.weight": np.ones((8, 20)), "q.lora_B.weight": np.ones((30, 8))}
    if change == "missing":
        del weights["q.lora_B.weight"]
    else:
        weights["q.lora_B.weight"] = np.ones((30, 9))
    with pytest.raises(CheckpointError, match=r"lora_B|do not fit"):
        derived.lora_deltas(memory.open_mapping(weights), {"r": 8, "lora_alpha": 8})


def test_a_base_that_is_another_model_is_refused(tmp_path, rng):
    adapter(tmp_path / "lora", rng)
    with pytest.raises(CheckpointError, match="not in the base"):
        spectra.describe(tmp_path / "lora", base={"w.weight": np.ones((30, 30))})
    path = "model.layers.0.self_attn.q_proj.weight"
    with pytest.raises(CheckpointError, match=r"\(30, 31\) in the base"):
        spectra.describe(tmp_path / "lora", base={path: np.ones((30, 31))})
    with pytest.raises(CheckpointError, match="no LoRA adapter"):
        open_source({"w": np.ones((30, 30))}, base={"w": np.ones((30, 30))})
