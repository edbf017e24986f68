"""Fused tensors: each rule takes back apart what the test put together."""

import numpy as np
import pytest

from spectra.conventions import HTSR, WEIGHTWATCHER
from spectra.records import Tensor
from spectra.sources import cuts, layouts, memory

HEADS = {"num_attention_heads": 4, "hidden_size": 32}
GROUPS = HEADS | {"num_key_value_heads": 2}


def read_all(arrays, config=None, convention=HTSR):
    """Every matrix by name, as the engine reads it."""
    source = memory.open_mapping(arrays)
    matrices, _ = layouts.matrices_of(source.tensors, convention, config=config or {})
    return {m.name: layouts.read(m, source)[0] for m in matrices}, {m.name: m for m in matrices}


def projections(rng, *rows, columns=32):
    return [rng.standard_normal((n, columns)) for n in rows]


def assert_parts(found, name, labels, expected):
    assert set(found) == {f"{name}[{label}]" for label in labels}
    for label, matrix in zip(labels, expected, strict=True):
        assert np.array_equal(found[f"{name}[{label}]"], matrix), label


@pytest.mark.parametrize(
    "name", ["attn.in_proj_weight", "attn.qkv.weight", "attn.Wqkv.weight", "W_pack.weight"]
)
def test_q_k_and_v_one_after_the_other_are_thirds(name, rng):
    parts = projections(rng, 32, 32, 32)
    found, matrices = read_all({name: np.concatenate(parts)})
    assert_parts(found, name, "qkv", parts)
    assert {m.layout for m in matrices.values()} == {"fused q, k, v: thirds"}


def test_fewer_heads_of_keys_are_told_by_the_config(rng):
    parts = projections(rng, 32, 16, 16)
    found, _ = read_all({"a.qkv_proj.weight": np.concatenate(parts)}, GROUPS)
    assert_parts(found, "a.qkv_proj.weight", "qkv", parts)
    whole, matrices = read_all({"a.qkv_proj.weight": np.concatenate(parts)})
    assert list(whole) == ["a.qkv_proj.weight"]
    assert matrices["a.qkv_proj.weight"].layout == cuts.WHOLE


@pytest.mark.parametrize("axis", [0, 1])
def test_gpt2_stores_its_projection_with_the_output_last(axis, rng):
    parts = [p if axis == 0 else p.T for p in projections(rng, 32, 32, 32)]
    found, _ = read_all({"h.0.attn.c_attn.weight": np.concatenate(parts, axis)})
    assert_parts(found, "h.0.attn.c_attn.weight", "qkv", parts)


@pytest.mark.parametrize("model_type", ["gpt_neox", "bloom", "falcon"])
def test_heads_that_take_turns_are_put_together(model_type, rng):
    q, k, v = projections(rng, 32, 32, 32)  # four heads of eight rows
    turns = [part[8 * h : 8 * h + 8] for h in range(4) for part in (q, k, v)]
    name = "attention.query_key_value.weight"
    fused = {name: np.concatenate(turns)}
    found, _ = read_all(fused, HEADS | {"model_type": model_type})
    assert_parts(found, name, "qkv", (q, k, v))
    assert list(read_all(fused)[0]) == [name]  # without a config nobody can tell


def test_groups_of_heads_take_turns_too(rng):
    q, k, v = projections(rng, 32, 16, 16)  # two groups: two heads of queries, a key, a value
    turns = [x for g in range(2) for x in (q[16 * g : 16 * g + 16], k[8 * g :][:8], v[8 * g :][:8])]
    name = "attention.query_key_value.weight"
    config = HEADS | {
        "model_type": "falcon",
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
        "multi_query": True,
    }
    found, _ = read_all({name: np.concatenate(turns)}, config)
    assert_parts(found, name, "qkv", (q, k, v))


def test_one_key_for_all_heads_is_a_single_group(rng):
    q, k, v = projections(rng, 32, 8, 8)
    name = "attention.query_key_value.weight"
    config = HEADS | {"model_type": "falcon", "multi_query": True}
    found, _ = read_all({name: np.concatenate([q, k, v])}, config)
    assert_parts(found, name, "qkv", (q, k, v))


def test_gate_and_up_are_halves(rng):
    parts = projections(rng, 48, 48)
    found, _ = read_all({"mlp.gate_up_proj.weight": np.concatenate(parts)})
    assert_parts(found, "mlp.gate_up_proj.weight", ("gate", "up"), parts)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("in_turn", [False, True])
def test_experts_are_cut_along_the_axis_their_down_projection_tells(axis, in_turn, rng):
    gates, ups = rng.standard_normal((2, 3, 24, 40))  # three experts, 24 units, width 40
    down = rng.standard_normal((3, 40, 24))
    fused = np.stack([gates, ups], 2).reshape(3, 48, 40) if in_turn else np.hstack([gates, ups])
    if axis == 1:
        fused = fused.swapaxes(1, 2)
    arrays = {"mlp.experts.gate_up_proj": fused, "mlp.experts.down_proj": down}
    found, _ = read_all(arrays, {"model_type": "gpt_oss"} if in_turn else {})
    for e in range(3):
        for label, expected in (("gate", gates[e]), ("up", ups[e])):
            matrix = found[f"mlp.experts.gate_up_proj[{e},{label}]"]
            assert np.array_equal(matrix, expected.T if axis else expected)
        assert np.array_equal(found[f"mlp.experts.down_proj[{e}]"], down[e])
    assert len(found) == 9


def test_experts_whose_axis_cannot_be_told_stay_together(rng):
    found, matrices = read_all({"experts.gate_up_proj": rng.standard_normal((3, 48, 40))})
    assert sorted(found) == [f"experts.gate_up_proj[{e}]" for e in range(3)]
    assert "left together" in matrices["experts.gate_up_proj[0]"].layout


@pytest.mark.parametrize(("labels", "prefix"), [("ifgo", "lstm."), ("rzn", "gru."), ("rzn", "")])
def test_gates_of_recurrent_cells_are_matrices_of_their_own(labels, prefix, rng):
    inputs, recurrent = ([rng.standard_normal((20, size)) for _ in labels] for size in (30, 20))
    arrays = {
        f"{prefix}weight_ih_l0": np.concatenate(inputs),
        f"{prefix}weight_hh_l0": np.concatenate(recurrent),
    }
    found, _ = read_all(arrays)
    expected = {
        f"{prefix}weight_{kind}_l0[{label}]": part
        for kind, parts in (("ih", inputs), ("hh", recurrent))
        for label, part in zip(labels, parts, strict=True)
    }
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        assert np.array_equal(found[name], part)


def test_a_plain_recurrent_cell_has_nothing_to_cut(rng):
    arrays = {"weight_ih_l0": np.ones((20, 30)), "weight_hh_l0": np.ones((20, 20))}
    assert set(read_all(arrays)[0]) == set(arrays)


def test_kernels_with_three_axes_are_no_experts(rng):
    _found, matrices = read_all({"moe_audio.conv.weight": rng.standard_normal((32, 24, 3))})
    assert matrices["moe_audio.conv.weight"].kind == "conv1d"


@pytest.mark.parametrize("size", [0, -4, 2.5, "4", None, True])
def test_a_config_without_sense_is_no_guide(size):
    fused = Tensor("qkv_proj.weight", (64, 32), "float32", 0)
    config = GROUPS | {"num_attention_heads": size}
    assert cuts.cut("qkv_proj.weight", fused, config, {}) == cuts.Cut((), cuts.WHOLE)


def test_only_the_bytes_of_one_expert_are_read(rng):
    class Counting(memory.MemorySource):
        def read(self, name):
            raise AssertionError("the whole stack was read")

    arrays = {"experts.down_proj": rng.standard_normal((4, 40, 30))}
    source = memory.open_mapping(arrays)
    counting = Counting(arrays, source.tensors, source.info)
    matrices, _ = layouts.matrices_of(source.tensors, HTSR)
    for e, matrix in enumerate(matrices):
        assert np.array_equal(layouts.read(matrix, counting)[0], arrays["experts.down_proj"][e])


def test_rows_of_a_part_are_those_of_its_matrix(rng):
    parts = projections(rng, 64, 64, 64)
    source = memory.open_mapping({"qkv.weight": np.concatenate(parts)})
    matrices, _ = layouts.matrices_of(source.tensors, HTSR, config={"n_head": 4, "head_dim": 16})
    for matrix, part in zip(matrices, parts, strict=True):
        assert matrix.first_row is not None
        assert np.array_equal(layouts.read(matrix, source, (10, 30))[0], part[10:30])


def test_the_peers_convention_cuts_nothing(rng):
    arrays = {"attn.qkv.weight": rng.standard_normal((96, 32))}
    assert list(read_all(arrays, convention=WEIGHTWATCHER)[0]) == ["attn.qkv.weight"]


@pytest.mark.parametrize("name", ["attn.qkv.weight", "c_attn.weight", "in_proj_weight"])
def test_a_kernel_under_a_fused_name_is_a_kernel(name, rng):
    _, matrices = read_all({name: rng.standard_normal((96, 32, 1))})
    assert matrices[name].kind == "conv1d"


def test_codegen_keeps_its_projections_in_four_blocks(rng):
    q, k, v = projections(rng, 32, 32, 32)
    blocks = [part[8 * b : 8 * b + 8] for b in range(4) for part in (q, v, k)]
    fused = {"attn.qkv_proj.weight": np.concatenate(blocks)}
    found, _ = read_all(fused, HEADS | {"model_type": "codegen"})
    assert_parts(found, "attn.qkv_proj.weight", "qkv", (q, k, v))


def test_bigcode_with_all_its_keys_takes_turns(rng):
    q, k, v = projections(rng, 32, 32, 32)
    turns = [part[8 * h : 8 * h + 8] for h in range(4) for part in (q, k, v)]
    config = HEADS | {"model_type": "gpt_bigcode", "multi_query": False}
    found, _ = read_all({"attn.c_attn.weight": np.concatenate(turns)}, config)
    assert_parts(found, "attn.c_attn.weight", "qkv", (q, k, v))


def test_parts_take_no_name_that_another_tensor_has(rng):
    arrays = {"c_attn.weight": np.ones((32, 96)), "c_attn.weight[q]": np.ones((30, 30))}
    assert set(read_all(arrays)[0]) == set(arrays)


def test_biases_of_experts_are_no_weights(rng):
    found, _ = read_all({"experts.gate_up_proj_bias": rng.standard_normal((4, 96))})
    assert not found


def test_every_rule_says_in_words_what_it_does():
    for rule in cuts.RULES:
        assert len(rule.words) > 20
