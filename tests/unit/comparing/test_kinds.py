"""Every kind of change, on weights made for it."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

import spectra
from spectra.comparing import Change
from spectra.comparing.kinds import most_structure_of_noise
from spectra.reports.comparing_terminal import show_comparison
from spectra.reports.comparisons import comparison_to_json

SHAPES = {
    "layers.0.attn.q_proj.weight": (96, 80),
    "layers.0.mlp.up_proj.weight": (128, 96),
    "layers.1.attn.q_proj.weight": (96, 80),
    "layers.1.mlp.up_proj.weight": (128, 96),
}


@pytest.fixture
def base(rng):
    return {name: heavy(rng, shape) for name, shape in SHAPES.items()}


def heavy(rng, shape):
    """Weights with a heavy-tailed spectrum and rows of unequal size, as trained ones have."""
    u, s, v = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    rows = np.exp(0.7 * rng.standard_normal((shape[0], 1)))
    return (0.1 * rows * ((u * np.arange(1, len(s) + 1) ** -0.7) @ v)).astype(np.float32)


def compared(base, change, **options):
    other = {name: change(weights).astype(weights.dtype) for name, weights in base.items()}
    return spectra.compare(base, other, replicates=0, **options)


def quantised(weights, bits):
    """Round each row to its own grid."""
    step = np.abs(weights).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    return np.round(weights / step) * step


def low_rank(rng, shape, rank):
    return rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))


def sized(change, weights, size):
    return change * (size * np.linalg.norm(weights) / np.linalg.norm(change))


def test_the_same_weights_are_identical(base):
    comparison = compared(base, np.copy)
    assert comparison.change is Change.IDENTICAL
    assert {layer.change for layer in comparison.layers} == {Change.IDENTICAL}
    assert comparison.summary["n_identical"] == 4
    assert all(layer.alpha_change == 0 for layer in comparison.layers)


def test_a_few_changed_layers_are_named(base, rng):
    name = "layers.1.mlp.up_proj.weight"
    other = dict(base)
    other[name] = base[name] + sized(heavy(rng, SHAPES[name]), base[name], 0.3)
    comparison = spectra.compare(base, other, replicates=0)
    assert comparison.change is Change.FEW_LAYERS
    assert name in comparison.verdict
    assert "1 of 4" in comparison.verdict
    changed = [layer.name for layer in comparison.layers if layer.change is not Change.IDENTICAL]
    assert changed == [name]


@pytest.mark.parametrize("factor", [1.001, 0.5, -2.0])
def test_a_factor_is_told_and_its_size(base, factor):
    comparison = compared(base, lambda w: factor * w)
    assert comparison.change is Change.RESCALED
    for layer in comparison.layers:
        assert layer.delta.scale == pytest.approx(factor, rel=1e-6)
        assert layer.delta.norm == pytest.approx(abs(factor - 1), rel=1e-3)


@pytest.mark.parametrize(("rank", "size"), [(1, 0.1), (8, 1e-3), (16, 0.3)])
def test_merged_factors_are_told_with_their_rank_and_roles(base, rng, rank, size):
    other = dict(base)
    for name in base:
        if "q_proj" in name:
            change = low_rank(rng, SHAPES[name], rank)
            other[name] = (base[name] + sized(change, base[name], size)).astype(np.float32)
    comparison = spectra.compare(base, other, replicates=0)
    assert comparison.change is Change.LOW_RANK
    assert "2 q" in comparison.verdict
    assert "2 layers are identical" in comparison.verdict
    ranks = [layer.delta.rank for layer in comparison.layers if layer.delta.rank]
    assert ranks == [rank, rank]


def test_factors_merged_in_half_precision_are_of_low_rank_all_the_same(base, rng):
    half = {name: weights.astype(np.float16) for name, weights in base.items()}
    comparison = compared(half, lambda w: w + sized(low_rank(rng, w.shape, 4), w, 0.1))
    assert comparison.change is Change.LOW_RANK
    assert {layer.delta.rank for layer in comparison.layers} == {4}


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_quantised_weights_are_told_though_rows_have_unequal_steps(base, bits):
    comparison = compared(base, lambda w: quantised(w, bits))
    assert comparison.change is Change.NOISE_LIKE
    for layer in comparison.layers:
        assert 0.9 < layer.delta.structure <= most_structure_of_noise(layer.base)


def test_half_precision_is_rounding(base):
    comparison = spectra.compare(
        base, {name: weights.astype(np.float16) for name, weights in base.items()}, replicates=0
    )
    assert comparison.change is Change.NOISE_LIKE
    assert all(layer.delta.rank == 0 for layer in comparison.layers)


def test_a_change_with_a_spectrum_of_its_own_is_training(base, rng):
    comparison = compared(base, lambda w: w + sized(heavy(rng, w.shape), w, 0.2))
    assert comparison.change is Change.FINE_TUNED
    assert all(layer.delta.structure > 1.2 for layer in comparison.layers)


def test_noise_that_drowns_the_weights_is_not_called_rounding(base, rng):
    comparison = compared(base, lambda w: w + sized(rng.standard_normal(w.shape), w, 0.6))
    assert comparison.change is Change.NOISE_LIKE
    assert comparison.verdict.startswith("Noise was added: ")


def test_factors_in_some_layers_and_rounding_in_the_rest_are_of_low_rank(base, rng):
    names = list(base)
    merged = names[: len(names) // 2]
    changed = {
        n: w + sized(low_rank(rng, w.shape, 3), w, 0.1) for n, w in base.items() if n in merged
    }
    other = {name: w.astype(np.float16) for name, w in (base | changed).items()}
    comparison = spectra.compare(base, other, replicates=0)
    assert comparison.change is Change.LOW_RANK
    assert f"in {len(merged)} of {len(names)} layers" in comparison.verdict


def test_random_weights_in_place_of_trained_ones_are_named(base, rng):
    comparison = compared(base, lambda w: sized(rng.standard_normal(w.shape), w, 1.0))
    assert comparison.change is Change.UNRELATED
    assert "layers of OTHER are like random weights" in comparison.verdict
    assert "of BASE are" not in comparison.verdict


@pytest.mark.parametrize("subspaces", [True, False])
def test_weights_of_another_run_have_nothing_in_common(base, rng, subspaces):
    comparison = compared(base, lambda w: heavy(rng, w.shape), subspaces=subspaces)
    assert comparison.change is Change.UNRELATED
    for layer in comparison.layers:
        assert abs(layer.delta.cosine) < 0.1
        assert (layer.overlap is not None) == subspaces


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["base", "other"])
def test_a_layer_that_broke_is_no_identical_one(base, value, side):
    broken = {name: weights.copy() for name, weights in base.items()}
    broken["layers.0.attn.q_proj.weight"][3, 4] = value
    pair = (broken, base) if side == "base" else (base, broken)
    comparison = spectra.compare(*pair, replicates=0)
    assert comparison["layers.0.attn.q_proj"].change is Change.NON_FINITE
    assert comparison.change is Change.FEW_LAYERS
    assert comparison.verdict.endswith("NaN or infinite in one model alone: 1 of them.")
    assert comparison.summary["n_identical"] == 3


def test_a_model_that_broke_is_called_broken(base):
    broken = {name: np.full_like(weights, np.nan) for name, weights in base.items()}
    name = "layers.0.attn.q_proj.weight"
    broken[name] = base[name].copy()
    comparison = spectra.compare(base, broken, replicates=0)
    assert comparison.change is Change.NON_FINITE
    assert "3 of 4 layers" in comparison.verdict


def test_what_could_not_be_compared_is_not_called_identical(base):
    broken = {name: weights.copy() for name, weights in base.items()}
    broken["layers.0.attn.q_proj.weight"][3, 4] = np.nan
    comparison = spectra.compare(broken, {k: w.copy() for k, w in broken.items()}, replicates=0)
    assert comparison["layers.0.attn.q_proj"].change is Change.UNKNOWN
    assert comparison.change is Change.UNKNOWN
    assert comparison.verdict == (
        "3 of 4 matched layers are identical. 1 matched layer could not be compared:"
        " layers.0.attn.q_proj.weight (non_finite)."
    )


def test_a_broken_layer_in_a_report_is_told_though_weights_are_not_at_hand(base):
    broken = {name: weights.copy() for name, weights in base.items()}
    broken["layers.0.attn.q_proj.weight"][3, 4] = np.nan
    reports = [spectra.analyze(weights, replicates=0) for weights in (base, broken)]
    comparison = spectra.compare(*reports)
    assert comparison.change is Change.UNKNOWN
    assert "NaN or infinite in one model alone: 1" in comparison.verdict


def as_bfloat16(weights):
    return torch.from_numpy(np.ascontiguousarray(weights, np.float32)).to(torch.bfloat16)


@pytest.mark.parametrize("size", [1e-3, 2e-3, 0.05])
def test_a_small_step_from_half_precision_is_training_and_not_rounding(base, rng, size):
    """What W_base is stored in rounds nothing: a model is tuned from bfloat16 and saved in float32."""
    half = {name: as_bfloat16(weights) for name, weights in base.items()}
    tuned = {
        name: (w := weights.float().numpy()) + sized(heavy(rng, w.shape), w, size)
        for name, weights in half.items()
    }
    comparison = spectra.compare(half, tuned, replicates=0)
    assert comparison.change is Change.FINE_TUNED
    assert all(layer.delta.rank == layer.M for layer in comparison.layers)


@pytest.mark.parametrize("size", [1e-3, 0.05])
def test_factors_added_to_half_precision_and_saved_in_single_keep_their_rank(base, rng, size):
    half = {name: as_bfloat16(weights) for name, weights in base.items()}
    merged = {
        name: (w := weights.float().numpy())
        + sized(low_rank(rng, w.shape, 3), w, size).astype(np.float32)
        for name, weights in half.items()
    }
    comparison = spectra.compare(half, merged, replicates=0)
    assert comparison.change is Change.LOW_RANK
    assert {layer.delta.rank for layer in comparison.layers} == {3}


@pytest.mark.parametrize("size", [2e-4, 1e-3])
def test_structure_that_hardly_stands_out_of_rounding_is_still_structure(base, rng, size):
    """Both in half precision, and a step as small as rounding, or some times larger."""
    half = {name: weights.astype(np.float16) for name, weights in base.items()}
    comparison = compared(half, lambda w: w + sized(heavy(rng, w.shape), w, size))
    assert comparison.change is Change.FINE_TUNED
    assert all(layer.delta.structure > 1.2 for layer in comparison.layers)
    assert all(layer.delta.rank < layer.M / 4 for layer in comparison.layers)


def test_factors_that_rounding_nearly_hides_are_of_low_rank(base, rng):
    """ΔW holds less than nine tenths of itself in the factors, and all but rounding."""
    half = {name: weights.astype(np.float16) for name, weights in base.items()}
    comparison = compared(half, lambda w: w + sized(low_rank(rng, w.shape, 2), w, 3e-4))
    assert comparison.change is Change.LOW_RANK
    for layer in comparison.layers:
        assert layer.delta.rank == 2
        assert layer.delta.rank_share < 0.9
        assert 0.4 < layer.delta.rank_rest < 1


def test_a_layer_trained_from_zero_has_changed_though_by_no_relative_size():
    zero = {"a.weight": np.zeros((30, 30)), "b.weight": np.eye(30)}
    comparison = spectra.compare(zero, {name: w + 1.0 for name, w in zero.items()}, replicates=0)
    assert comparison["a"].change is Change.FINE_TUNED
    assert np.isnan(comparison["a"].delta.norm)
    assert comparison["b"].delta.rank == 1
    assert comparison.verdict.endswith("Zero in the base alone: 1 of them.")
    assert "nan" not in comparison.verdict


def test_one_layer_trained_from_zero_beside_identical_ones_is_named(base):
    name = "layers.1.mlp.up_proj.weight"
    zero = {**base, name: np.zeros_like(base[name])}
    comparison = spectra.compare(zero, base, replicates=0)
    assert comparison.change is Change.FEW_LAYERS
    assert comparison.verdict == (
        f"Identical but for 1 of 4 layers: {name}. Zero in the base alone: 1 of them."
    )
    assert json.loads(comparison_to_json(comparison))["layers"][3]["delta_norm"] is None
    console = Console(width=80, file=io.StringIO(), color_system=None)
    show_comparison(comparison, console, rows=1)
    assert "layers.1.mlp.up_proj" in console.file.getvalue().split("change\n")[1]


def test_a_model_trained_from_zero_has_no_size(base):
    zero = {name: np.zeros_like(weights) for name, weights in base.items()}
    comparison = spectra.compare(zero, base, replicates=0)
    assert comparison.change is Change.FINE_TUNED
    assert "4 of 4 layers moved (4 trained)" in comparison.verdict


def test_a_factor_is_spanned_over_the_rescaled_layers_alone(rng):
    base = {f"{i}.weight": rng.standard_t(3, (40, 30)) for i in range(11)}
    other = {name: 2 * weights for name, weights in base.items()}
    base["0.weight"] = np.zeros((40, 30))
    comparison = spectra.compare(base, other, replicates=0)
    assert comparison.change is Change.RESCALED
    assert "(2)" in comparison.verdict


def test_layers_that_are_zero_in_both_are_identical(base):
    name = "layers.1.mlp.up_proj.weight"
    zero = {**base, name: np.zeros_like(base[name])}
    comparison = spectra.compare(zero, {k: w.copy() for k, w in zero.items()}, replicates=0)
    assert comparison[name].change is Change.IDENTICAL
    assert comparison.change is Change.IDENTICAL


def test_broken_models_name_what_could_not_be_compared(base):
    names = list(base)
    broken = {name: np.full_like(weights, np.nan) for name, weights in base.items()}
    mine = {**base, names[0]: broken[names[0]]}
    broken[names[1]] = base[names[1]]
    comparison = spectra.compare(mine, broken, replicates=0)
    assert comparison.change is Change.NON_FINITE
    assert comparison.verdict.endswith(f"could not be compared: {names[0]} (non_finite).")
