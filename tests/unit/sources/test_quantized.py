"""Quantised checkpoints end to end: from files that the test writes to the weights they stand for."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spectra.sources import memory, quantized
from spectra.sources.base import totals
from spectra.sources.safetensors_files import SafetensorsFile
from tests.reference.quantized import (
    CASES,
    E4M3,
    E5M2,
    awq,
    block_fp8,
    config_of,
    fp8_block,
    fp8_scaled,
    gptq,
    int_quantized,
    normal,
    opened,
    pack_quantized,
    refused,
)


@pytest.mark.parametrize("name", CASES)
def test_a_weight_is_listed_once_and_is_what_its_codes_mean(tmp_path, name):
    (tensors, config, meant), said = CASES[name]
    rest = {"norm.weight": torch.ones(8), "z.weight": normal(6, 5)}
    source = opened(tmp_path, {**tensors, **rest}, config)
    (weight,) = (t for t in source.tensors if t.dequantised_from)
    meant = np.asarray(meant)
    assert weight.dequantised_from == said
    assert (weight.shape, weight.dtype) == (meant.shape, "float32")
    assert weight.name in ("a.weight", "e.gate_up_proj", "e.up_proj", "e.down_proj")
    codes = next(iter(tensors))
    assert weight.nbytes == tensors[codes].nbytes
    others = {t.name for t in source.tensors} - {weight.name}
    assert others == rest.keys() | {n for n in tensors if n.endswith("_bias")}
    assert {s.name for s in source.ignored} == tensors.keys() - {codes} - others
    assert all(s.reason.endswith(f" of {weight.name}") for s in source.ignored)
    assert source.info.notes == (f"1 weights dequantised from {said}",)
    assert (source.info.n_tensors, source.info.nbytes) == totals(source.tensors)

    values = source.read(weight.name)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, meant)
    for begin, end in [(0, 1), (1, 3), (len(meant) - 1, len(meant)), (0, len(meant)), (2, 2)]:
        np.testing.assert_array_equal(source.read_rows(weight.name, begin, end), meant[begin:end])
    np.testing.assert_array_equal(source.read("z.weight"), rest["z.weight"])
    np.testing.assert_array_equal(source.read_rows("z.weight", 1, 3), rest["z.weight"][1:3])


@pytest.mark.parametrize("name", CASES)
def test_a_state_dict_reads_as_its_file_does(name):
    (tensors, config, meant), said = CASES[name]
    source = quantized.resolve(memory.open_mapping(tensors), config)
    (weight,) = (t for t in source.tensors if t.dequantised_from)
    assert weight.dequantised_from == said
    np.testing.assert_array_equal(source.read(weight.name), np.asarray(meant))


def test_block_scales_keep_the_singular_values(tmp_path):
    weight = normal(300, 576)
    codes, scales, _ = block_fp8(weight)
    source = opened(tmp_path, {"a.weight": codes, "a.weight_scale_inv": scales})
    expected = np.linalg.svd(weight.numpy(), compute_uv=False)
    found = np.linalg.svd(source.read("a.weight"), compute_uv=False)
    # Over a dozen draws the worst of the 300 values is off by 0.5 to 0.9 %, the largest by 0.16 %.
    assert np.abs(found / expected - 1).max() < 0.01
    assert abs(found[0] / expected[0] - 1) < 0.002
    raw = np.linalg.svd(codes.float().numpy(), compute_uv=False)
    assert raw[0] > 50 * expected[0]


def test_some_rows_touch_only_their_own_codes(tmp_path):
    tensors, config, meant = fp8_block(shape=(1024, 256))
    source = opened(tmp_path, tensors, config)
    asked = []
    inner = source._source

    class Watched:
        def read(self, name):
            return inner.read(name)

        def read_rows(self, name, begin, end):
            asked.append((name, begin, end))
            return inner.read_rows(name, begin, end)

    watched = Watched()
    watched.tensors, watched.ignored, watched.info = inner.tensors, inner.ignored, inner.info
    rows = quantized.resolve(watched, config).read_rows("a.weight", 300, 310)
    np.testing.assert_array_equal(rows, meant[300:310])
    assert asked == [("a.weight", 256, 310), ("a.weight_scale_inv", 2, 3)]


def test_a_source_without_codes_is_returned_itself(tmp_path):
    tensors = {"a.weight": normal(8, 8), "ids": torch.arange(8), "m.scale": torch.ones(8)}
    tensors["attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    tensors["attn.logit_scale"] = torch.ones(())
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    source = SafetensorsFile(path)
    for config in (None, {}, {"quantization_config": None}, {"quantization": "no"}):
        assert quantized.resolve(source, config) is source


def test_floats_of_a_byte_without_any_scales_are_the_weights(tmp_path):
    tensors = {"a.weight": normal(8, 6).to(E4M3), "b.weight": normal(4, 8).to(E5M2)}
    # of a norm: no weight stands beside it, so it scales none
    tensors["n.scale"] = torch.ones(6).to(E4M3)
    source = opened(tmp_path, tensors)
    assert [(t.name, t.dtype, t.dequantised_from) for t in source.tensors] == [
        ("a.weight", "float32", "float8_e4m3fn"),
        ("b.weight", "float32", "float8_e5m2"),
        ("n.scale", "float32", "float8_e4m3fn"),
    ]
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(source.read(name), tensor.float())
    np.testing.assert_array_equal(
        source.read_rows("a.weight", 2, 5), tensors["a.weight"][2:5].float()
    )


def test_floats_of_a_byte_are_refused_where_other_weights_have_scales(tmp_path):
    good, _, meant = fp8_scaled(torch.tensor(0.3))
    source = opened(tmp_path, {**good, "b.weight": normal(8, 6).to(E4M3)})
    np.testing.assert_array_equal(source.read("a.weight"), meant)
    refused(source, "b.weight", "lacks its weight_scale_inv")
    alone = opened(tmp_path, {"b.weight": normal(8, 6).to(E4M3)}, config_of(quant_method="fp8"))
    refused(alone, "b.weight", "lacks its weight_scale_inv")
    shard = {"b.weight": normal(8, 6).to(E4M3), "c.weight_scale_inv": torch.ones(4, 4)}
    source = opened(tmp_path, shard)
    refused(source, "b.weight", "lacks its weight_scale_inv")
    assert [s.reason for s in source.ignored] == ["scale of a weight that is not here"]


FOREIGN = {
    "exl2": {
        "a.q_weight": torch.ones(40, 64, dtype=torch.int32),
        "a.q_scale": torch.ones(4, 8, dtype=torch.int32),
        "a.q_scale_max": torch.ones(4, dtype=torch.float16),
        "a.q_invperm": torch.ones(64, dtype=torch.int16),
    },
    "hqq": {
        "a.W_q": torch.ones(64, 64, dtype=torch.uint8),
        "a.scale": torch.ones(16, 64),
        "a.zero": torch.ones(16, 64),
    },
    "aqlm": {
        "a.codes": torch.ones(8, 8, 2, dtype=torch.int8),
        "a.codebooks": torch.ones(2, 256, 1, 8),
        "a.scales": torch.ones(8, 1, 1, 1),
    },
    "torchao": {"a.weight": torch.ones(8, 8, dtype=torch.int8), "a.weight_scale": torch.ones(8, 1)},
    "bitnet": {"a.weight": torch.ones(8, 8, dtype=torch.uint8), "a.weight_scale": torch.ones(1)},
}


@pytest.mark.parametrize("method", FOREIGN)
def test_codes_of_other_methods_are_named_and_never_numbers(tmp_path, method):
    rest = {"z.weight": normal(6, 5), "a.bias": torch.ones(8)}
    source = opened(tmp_path, FOREIGN[method] | rest, config_of(quant_method=method))
    (codes,) = (t for t in source.tensors if "codes" in t.dtype)
    assert (codes.name, codes.dtype) == (next(iter(FOREIGN[method])), f"{method} codes")
    others = {t.name: t for t in source.tensors if t.name not in {codes.name, *rest}}
    assert all(len(t.shape) < 2 for t in others.values())  # vectors are no matter
    refused(source, codes.name, f"holds {method} codes")
    np.testing.assert_array_equal(source.read("z.weight"), rest["z.weight"])


def test_mlx_and_variants_of_known_methods_are_named(tmp_path):
    mlx = {
        "a.weight": torch.ones(8, 8, dtype=torch.uint32),
        "a.scales": torch.ones(8, 2),
        "a.biases": torch.ones(8, 2),
    }
    (tensor,) = opened(tmp_path, mlx, {"quantization": {"bits": 4, "group_size": 32}}).tensors
    assert tensor.dtype == "mlx codes"
    (tensor,) = opened(tmp_path, mlx).tensors
    assert tensor.dtype == "unknown codes (uint32)"
    tensors, config, _ = awq()
    for change, said in (({"version": "gemv"}, "awq gemv"), ({"version": "Marlin"}, "awq marlin")):
        changed = config_of(**config["quantization_config"] | change)
        (tensor,) = opened(tmp_path, tensors, changed).tensors
        assert tensor.dtype == f"{said} codes"
    tensors, config, _ = gptq()
    changed = config_of(**config["quantization_config"] | {"checkpoint_format": "marlin"})
    assert opened(tmp_path, tensors, changed).tensors[0].dtype == "gptq marlin codes"
    sparse = {"format": "sparse-24-bitmask"}
    changed = config_of(quant_method="compressed-tensors", sparsity_config=sparse)
    bitmask = {"a.compressed": torch.ones(32), "a.bitmask": torch.ones(8, 1, dtype=torch.uint8)}
    bitmask["a.weight"] = bitmask.pop("a.bitmask")
    assert opened(tmp_path, bitmask, changed).tensors[1].dtype == "sparse-24-bitmask codes"


def test_auto_round_is_read_where_it_writes_the_format_of_another(tmp_path):
    tensors, config, meant = gptq()
    said = config["quantization_config"] | {"quant_method": "auto-round"}
    source = opened(tmp_path, tensors, config_of(**said, packing_format="auto_round:auto_gptq"))
    np.testing.assert_array_equal(source.read("a.weight"), meant)
    (tensor,) = opened(tmp_path, tensors, config_of(**said, packing_format="auto_round")).tensors
    assert tensor.dtype == "auto-round codes"


@pytest.mark.parametrize("bits", [3, 5])
def test_codes_across_the_borders_of_words_are_refused_by_name(tmp_path, bits):
    tensors = {
        "a.qweight": torch.ones(2 * bits, 32, dtype=torch.int32),
        "a.qzeros": torch.ones(1, bits, dtype=torch.int32),
        "a.scales": torch.ones(1, 32),
    }
    (tensor,) = opened(tmp_path, tensors, config_of(quant_method="gptq", bits=bits)).tensors
    assert (tensor.dtype, tensor.shape) == (f"gptq {bits}-bit codes", (32, 64))
    tensors = {
        "a.weight_packed": torch.ones(8, 2 * bits, dtype=torch.int32),
        "a.weight_scale": torch.ones(8, 1),
        "a.weight_shape": torch.tensor([8, 64]),
    }
    (tensor,) = opened(tmp_path, tensors).tensors
    assert (tensor.dtype, tensor.shape) == (f"pack-quantized int{bits} codes", (8, 64))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fnuz])
def test_codes_of_no_known_scheme_are_never_numbers(dtype):
    codes = torch.ones(8, 8, dtype=torch.int8).to(dtype)
    state = {"a.weight": codes, "a.weight_scales": torch.ones(8, 1), "b.weight": torch.ones(4, 4)}
    source = quantized.resolve(memory.open_mapping(state))
    first, second = source.tensors
    assert first.dtype == f"unknown codes ({str(dtype).removeprefix('torch.')})"
    assert second == memory.open_mapping(state).tensors[2]
    assert [s.reason for s in source.ignored] == ["part of the codes of a.weight"]
    refused(source, "a.weight")


def test_a_method_named_like_a_type_is_not_taken_for_one(tmp_path):
    tensors, _, _ = int_quantized()
    (tensor,) = opened(tmp_path, tensors, config_of(quant_method="int8")).tensors
    assert tensor.dtype == "codes of int8"


def test_tied_codes_stay_tied():
    tensors, _, _ = fp8_scaled(torch.tensor(0.3))
    both = tensors | {n.replace("a.", "b."): t for n, t in tensors.items()}
    first, second = quantized.resolve(memory.open_mapping(both)).tensors
    assert first.storage == second.storage is not None
    assert dataclasses.replace(first, name="b.weight") == second


@pytest.mark.parametrize("bits", [4, 8])
def test_compressed_tensors_itself_says_the_same(tmp_path, bits):
    helpers = pytest.importorskip(
        "compressed_tensors.compressors.pack_quantized.helpers",
        reason="compressed_tensors is not installed",
    )
    tensors, config, meant = pack_quantized(bits, "packed")
    rows, columns = meant.shape
    unpacked = helpers.unpack_from_int32(tensors["a.weight_packed"], bits, (rows, columns))
    zeros = helpers.unpack_from_int32(
        tensors["a.weight_zero_point"], bits, (rows, columns // 16), packed_dim=0
    )
    shift = unpacked.float() - zeros.float().repeat_interleave(16, 1)
    theirs = shift * tensors["a.weight_scale"].float().repeat_interleave(16, 1)
    np.testing.assert_array_equal(theirs, meant)
    np.testing.assert_array_equal(opened(tmp_path, tensors, config).read("a.weight"), theirs)
