import pytest

from spectra.naming import ROLES, block_of, role_of

NAMES = {
    "model.layers.3.mlp.w1.weight": "gate",
    "blk.0.attn_q.weight": "q",
    "blk.0.attn_output.weight": "o",
    "blk.0.ffn_gate.weight": "gate",
    "blk.0.ffn_down_exps.weight[3]": "down",
    "encoder.layer.0.attention.output.dense.weight": "o",
    "encoder.layer.0.output.dense.weight": "down",
    "encoder.layer.0.attention.self.query.weight": "q",
    "encoder.layer.0.intermediate.dense.weight": "up",
    "h.0.attn.c_proj.weight": "o",
    "h.0.mlp.c_fc.weight": "up",
    "h.0.attn.c_attn.weight[v]": "v",
    "encoder.block.0.layer.0.SelfAttention.o.weight": "o",
    "encoder.block.0.layer.1.DenseReluDense.wo.weight": "down",
    "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": "gate",
    "blocks.0.attn.proj.weight": "o",
    "blocks.0.attn.qkv.weight": "qkv",
    "blocks.0.attn.qkv.weight[q]": "q",
    "blocks.0.mlp.fc1.weight": "up",
    "lstm.weight_ih_l0[input]": "recurrent",
    "model.layers.0.block_sparse_moe.gate.weight": "router",
    "model.layers.0.block_sparse_moe.experts.3.w2.weight": "down",
    "model.layers.0.mlp.experts.gate_up_proj[7,gate]": "gate",
    "transformer.h.0.self_attention.dense.weight": "o",
    "transformer.h.0.mlp.dense_4h_to_h.weight": "down",
    "model.decoder.layers.0.fc2.weight": "down",
    "model.decoder.layers.0.self_attn.out_proj.weight": "o",
    "fc1.weight": "linear",
    "linear.weight": "linear",
    "model.layers.0.self_attn.rotary.weight": "linear",
}


@pytest.mark.parametrize(("name", "role"), NAMES.items())
def test_roles_of_the_usual_names(name, role):
    assert role_of(name, "linear") == role
    assert role in ROLES


def test_the_kind_decides_where_it_says_more_than_the_name():
    assert role_of("q_proj.weight", "conv1d") == "conv"
    assert role_of("model.layers.0.q_proj.weight", "embedding") == "embedding"
    assert role_of("down_proj.weight", "head") == "head"


def test_blocks():
    assert block_of("encoder.layer.11.output.dense.weight") == "encoder.layer.11"
    assert block_of("conv1.weight") == block_of("fc.2") == block_of("") == ""
    assert block_of("0.weight") == "0"
