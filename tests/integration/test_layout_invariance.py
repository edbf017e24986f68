"""The same weights, laid out in other ways, give the same numbers."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import spectra


class Experts(torch.nn.Module):
    """A mixture's experts as transformers keeps them in memory: stacks of matrices."""

    def __init__(self, gates, ups, downs):
        super().__init__()
        fused = np.concatenate([gates, ups], axis=1)
        self.gate_up_proj = torch.nn.Parameter(torch.from_numpy(fused))
        self.down_proj = torch.nn.Parameter(torch.from_numpy(downs))


@pytest.fixture
def experts(rng):
    gates, ups = (0.02 * rng.standard_t(3, (2, 4, 48, 80))).astype("f4")
    downs = (0.02 * rng.standard_t(3, (4, 80, 48))).astype("f4")
    return gates, ups, downs


def spectra_of(source):
    """Spectra and alphas, whatever the layers are called, in an order that is the spectra's own."""
    report = spectra.analyze(source)
    rows = [(x.spectrum.eigenvalues[-1], x.alpha, x.spectrum.eigenvalues) for x in report.layers]
    return sorted(rows, key=lambda row: row[0])


def test_experts_one_by_one_in_a_stack_and_in_a_module_are_the_same(experts, tmp_path):
    gates, ups, downs = experts
    single = {}
    for e in range(4):
        for name, stack in (("gate_proj", gates), ("up_proj", ups), ("down_proj", downs)):
            single[f"layers.0.mlp.experts.{e}.{name}.weight"] = stack[e].copy()
    save_file(single, tmp_path / "single.safetensors")
    stacked = {
        "layers.0.mlp.experts.gate_up_proj": np.concatenate([gates, ups], axis=1),
        "layers.0.mlp.experts.down_proj": downs,
    }
    save_file(stacked, tmp_path / "stacked.safetensors")
    torch.save({k: torch.from_numpy(v) for k, v in stacked.items()}, tmp_path / "stacked.pt")
    module = torch.nn.ModuleDict({"experts": Experts(gates, ups, downs)})
    expected = spectra_of(tmp_path / "single.safetensors")
    assert len(expected) == 12
    for other in (tmp_path / "stacked.safetensors", tmp_path / "stacked.pt", module):
        for a, b in zip(expected, spectra_of(other), strict=True):
            assert np.allclose(a[2], b[2], rtol=1e-12, atol=1e-13 * a[2][-1])
            assert a[1] == pytest.approx(b[1], rel=1e-9)


def test_fused_and_separate_projections_are_the_same(rng, tmp_path):
    q, k, v = (0.02 * rng.standard_t(3, (3, 64, 64))).astype("f4")
    separate = {"a.q_proj.weight": q, "a.k_proj.weight": k, "a.v_proj.weight": v}
    expected = {name: spectra.analyze(separate)[name].alpha for name in separate}
    turns = np.concatenate([x[16 * h : 16 * h + 16] for h in range(4) for x in (q, k, v)])
    save_file({"a.query_key_value.weight": turns}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        '{"model_type": "gpt_neox", "num_attention_heads": 4, "hidden_size": 64}'
    )
    for fused in (
        {"a.qkv_proj.weight": np.concatenate([q, k, v])},
        {"a.in_proj_weight": np.concatenate([q, k, v])},
        {"a.c_attn.weight": np.concatenate([q.T, k.T, v.T], axis=1)},
        tmp_path,  # beside its config.json
        tmp_path / "model.safetensors",
    ):
        found = [layer.alpha for layer in spectra.analyze(fused).layers]
        assert found == pytest.approx(list(expected.values()), rel=1e-9)


def test_a_kernel_is_its_slices_or_one_matrix_as_asked(rng):
    kernel = 0.02 * rng.standard_t(3, (64, 32, 3, 3))
    slices = spectra.analyze({"conv.weight": kernel})["conv"]
    flat = spectra.analyze({"conv.weight": kernel}, conv="flatten")["conv"]
    linear = spectra.analyze({"fc.weight": kernel.reshape(64, -1)})["fc"]
    assert (slices.n_matrices, slices.N, slices.M) == (9, 64, 32)
    assert (flat.n_matrices, flat.N, flat.M) == (1, 288, 64)
    assert flat.alpha == pytest.approx(linear.alpha, rel=1e-9)
    assert flat.alpha_hat == pytest.approx(linear.alpha_hat, rel=1e-9)  # no factor of slices
    assert slices.alpha != pytest.approx(flat.alpha, rel=1e-3)


def test_tensors_are_counted_once_and_add_up(experts, rng, tmp_path):
    gates, ups, downs = experts
    weights = {
        "mlp.experts.gate_up_proj": np.concatenate([gates, ups], axis=1),
        "mlp.experts.down_proj": downs,
        "attn.qkv.weight": rng.standard_normal((96, 32)).astype("f4"),
        "norm.weight": np.ones(32, "f4"),
        "bad.weight": np.full((30, 30), np.nan, "f4"),
        "ids": np.arange(40).reshape(2, 20),
    }
    save_file(weights, tmp_path / "m.safetensors")
    report = spectra.analyze(tmp_path / "m.safetensors")
    assert report.coverage == {"tensors": 6, "analysed": 3, "failed": 1, "skipped": 2}
    some = spectra.analyze(tmp_path / "m.safetensors", layers=["*down_proj*", "*qkv*"])
    assert some.coverage == {"tensors": 6, "analysed": 2, "failed": 0, "skipped": 4}
    one = spectra.analyze(tmp_path / "m.safetensors", layers="mlp.experts.down_proj[2]")
    assert one.coverage == {"tensors": 6, "analysed": 1, "failed": 0, "skipped": 5}
    assert [layer.name for layer in one.layers] == ["mlp.experts.down_proj[2]"]


def test_missing_shards_are_named_or_taken_and_marked(rng, tmp_path):
    for i in (1, 3):
        name = f"model-0000{i}-of-00003.safetensors"
        save_file({f"layers.{i}.weight": rng.standard_normal((40, 30))}, tmp_path / name)
    with pytest.raises(spectra.SpectraError, match="--allow-partial"):
        spectra.analyze(tmp_path)
    report = spectra.analyze(tmp_path, allow_partial=True)
    assert not report.complete
    assert report.source.partial
    assert any("PARTIAL: 1 of 3" in note for note in report.source.notes)
    assert "partial" in str(report)
