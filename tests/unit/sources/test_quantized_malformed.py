"""Codes and scales that do not belong together cost their own layer, with one line, and no other."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectra.errors import CheckpointError
from spectra.records import SourceInfo, Tensor
from spectra.sources import memory, quantized
from tests.reference.quantized import (
    CASES,
    E4M3,
    PERMUTED,
    awq,
    bitsandbytes4,
    bitsandbytes8,
    config_of,
    fp8_block,
    fp8_scaled,
    gptq,
    groups_mxfp8,
    int_quantized,
    mxfp4,
    nvfp4,
    opened,
    pack_quantized,
    refused,
)


def with_value(ending, value, place=0):
    def change(tensors):
        name = next(n for n in tensors if n.endswith(ending))
        spoiled = tensors[name].clone(memory_format=torch.contiguous_format)
        spoiled.view(-1)[place] = value
        return tensors | {name: spoiled}

    return change


def with_shape(ending, *shape):
    def change(tensors):
        name = next(n for n in tensors if n.endswith(ending))
        dtype = tensors[name].dtype
        return tensors | {name: torch.ones(shape, dtype=torch.uint8).to(dtype)}

    return change


def without(ending):
    return lambda tensors: {n: t for n, t in tensors.items() if not n.endswith(ending)}


def as_type(ending, dtype):
    def change(tensors):
        name = next(n for n in tensors if n.endswith(ending))
        return tensors | {name: tensors[name].to(dtype)}

    return change


def said(**entries):
    return lambda config: config_of(**config["quantization_config"] | entries)


def state_of(**entries):
    usual = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [24, 40]}
    return bitsandbytes4("nf4", state=usual | entries)


def same(config):
    return config


BAD_SCALES = [math.nan, math.inf, -math.inf, 0.0]
MALFORMED = {
    **{
        f"{name}_{bad}": (CASES[name][0], with_value(ending, bad), same)
        for bad in BAD_SCALES
        for name, ending in {
            "fp8_block": "scale_inv",
            "fp8_channel": "weight_scale",
            "packed_4": "weight_scale",
            "int_groups": "weight_scale",
            "nvfp4": "global_scale",
            "nvfp4_modelopt": "scale_2",
            "gptq_4": "scales",
            "awq": "scales",
        }.items()
    },
    **{
        f"{name}_{bad}": (CASES[name][0], with_value(ending, bad), same)
        for bad in BAD_SCALES[:3]
        for name, ending in {
            "nf4": "absmax",
            "nf4_nested": "nested_absmax",
            "bnb_int8": "SCB",
        }.items()
    },
    "nvfp4_nan": (nvfp4("modelopt"), with_value("weight_scale", math.nan), same),
    "mxfp4_nan": (mxfp4("quark"), with_value("scale", 255), same),
    "gpt_oss_nan": (mxfp4("gpt-oss"), with_value("_scales", 255), same),
    "mxfp8_nan": (groups_mxfp8(), with_value("scale", 255), same),
    **{
        f"{name}_without_{ending}": (CASES[name][0], without(ending), same)
        for name, ending in (
            ("fp8_block", "scale_inv"),
            ("packed_4", "weight_scale"),
            ("packed_silent", "weight_shape"),
            ("nvfp4", "global_scale"),
            ("nvfp4", "weight_scale"),
            ("nvfp4_modelopt", "weight_scale"),
            ("mxfp4_gpt_oss", "_scales"),
            ("nf4", "absmax"),
            ("nf4", "__nf4"),
            ("nf4_nested", "nested_absmax"),
            ("nf4_nested", "nested_quant_map"),
            ("gptq_4", "scales"),
            ("gptq_4", "qzeros"),
            ("awq", "qzeros"),
        )
    },
    "fp8_block_shape": (fp8_block(), with_shape("scale_inv", 3, 4), same),
    "fp8_block_axes": (fp8_block(), with_shape("scale_inv", 3, 5, 1), same),
    "fp8_empty_scale": (fp8_block(), with_shape("scale_inv", 0, 5), same),
    "fp8_scale_type": (fp8_block(), as_type("scale_inv", torch.int32), same),
    **{
        f"fp8_block_size_{number}": (fp8_block(), same, said(weight_block_size=block))
        for number, block in enumerate(
            ([0, 128], [128, -1], [128], "128", [1.5, 2], [True, 128], [64, 64], {}, 10**30)
        )
    },
    "packed_scale_shape": (pack_quantized(), with_shape("weight_scale", 23, 4), same),
    "packed_no_groups": (pack_quantized(), with_shape("weight_scale", 24, 0), same),
    "packed_shape": (pack_quantized(), with_value("weight_shape", 65, -1), same),
    "packed_shape_silent": (
        pack_quantized(stated=False),
        with_value("weight_shape", 2**40, -1),
        same,
    ),
    "packed_shape_negative": (
        pack_quantized(stated=False),
        with_value("weight_shape", -8, -1),
        same,
    ),
    "packed_shape_float": (
        pack_quantized(stated=False),
        as_type("weight_shape", torch.float32),
        same,
    ),
    "packed_zero_shape": (pack_quantized(zero="packed"), with_shape("zero_point", 2, 4), same),
    "packed_index_high": (pack_quantized(ordered=False), with_value("g_idx", 4), same),
    "packed_index_low": (pack_quantized(ordered=False), with_value("g_idx", -1), same),
    "packed_index_short": (pack_quantized(ordered=False), with_shape("g_idx", 63), same),
    "packed_index_float": (pack_quantized(ordered=False), as_type("g_idx", torch.float32), same),
    "int_zero_shape": (int_quantized((24, 4), zero=True), with_shape("zero_point", 24, 2), same),
    "int_scale_shape": (int_quantized(), with_shape("weight_scale", 23, 1), same),
    "scb_short": (bitsandbytes8(), with_shape("SCB", 23), same),
    "scb_order": (bitsandbytes8(), with_value("weight_format", 2), same),
    "nvfp4_scale_shape": (nvfp4("modelopt"), with_shape("weight_scale", 20, 3), same),
    "nvfp4_second_shape": (nvfp4("modelopt"), with_shape("scale_2", 3), same),
    "gpt_oss_scale_shape": (mxfp4("gpt-oss"), with_shape("_scales", 3, 20, 3), same),
    "gpt_oss_scale_type": (mxfp4("gpt-oss"), as_type("_scales", torch.int32), same),
    "gptq_zeros_shape": (gptq(), with_shape("qzeros", 4, 5), same),
    "gptq_zeros_groups": (gptq(), with_shape("qzeros", 3, 4), same),
    "gptq_zeros_axes": (gptq(), with_shape("qzeros", 16), same),
    "gptq_bits": (gptq(), same, said(bits=8)),
    "gptq_group": (gptq(), same, said(group_size=24)),
    "gptq_no_groups": (gptq(), with_shape("scales", 0, 32), same),
    "gptq_index_high": (gptq(index=PERMUTED), with_value("g_idx", 4), same),
    "gptq_index_low": (gptq(index=PERMUTED), with_value("g_idx", -5), same),
    "gptq_index_short": (gptq(index=PERMUTED), with_shape("g_idx", 60), same),
    "gptq_index_float": (gptq(index=PERMUTED), as_type("g_idx", torch.float32), same),
    "awq_zeros_shape": (awq(), with_shape("qzeros", 4, 4), same),
    "awq_scale_shape": (awq(), with_shape("scales", 4, 23), same),
    "awq_group": (awq(), same, said(group_size=24)),
    "nf4_short": (bitsandbytes4("nf4"), with_shape("absmax", 14), same),
    "nf4_codes_short": (bitsandbytes4("nf4"), with_shape("a.weight", 479, 1), same),
    "nf4_book": (bitsandbytes4("nf4"), with_shape("quant_map", 15), same),
    "nf4_book_nan": (bitsandbytes4("nf4"), with_value("quant_map", math.nan), same),
    "nf4_inner_book": (bitsandbytes4("nf4", True), with_shape("nested_quant_map", 255), same),
    "nf4_storage": (bitsandbytes4("nf4"), as_type("a.weight", torch.bfloat16), same),
    **{
        f"nf4_state_{number}": (state_of(**entries), same, same)
        for number, entries in enumerate(
            (
                {"shape": [2**40, 2**40]},
                {"shape": [-24, -40]},
                {"shape": []},
                {"shape": "24"},
                {"shape": [24.0, 40]},
                {"shape": 960},
                {"blocksize": 0},
                {"blocksize": 10**30},
                {"blocksize": None},
                {"quant_type": "int2"},
                {"quant_type": ["nf4"]},
                {"nested_offset": "x"},
                {"nested_offset": 10**400},
                {"nested_blocksize": 0},
            )
        )
    },
    "nf4_state_list": (bitsandbytes4("nf4", state=[1, 2]), same, same),
    "nf4_state_deep": (bitsandbytes4("nf4"), lambda t: t | deep(), same),
    "nf4_state_long": (bitsandbytes4("nf4", state="x" * 70000), same, same),
}


def deep():
    raw = torch.from_numpy(np.frombuffer(b"[" * 60000, np.uint8).copy())
    return {"a.weight.quant_state.bitsandbytes__nf4": raw}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_cannot_be_costs_its_own_layer_alone(tmp_path, name):
    (tensors, config, _), change, reconfigure = MALFORMED[name]
    good, _, meant = fp8_scaled(torch.tensor(0.3))
    good = {f"good.{n}": t for n, t in good.items()}
    source = opened(tmp_path, change(tensors) | good, config and reconfigure(config))
    (weight,) = (
        t for t in source.tensors if not t.name.startswith("good") and "bias" not in t.name
    )
    refused(source, weight.name)
    np.testing.assert_array_equal(source.read("good.a.weight"), meant)


def test_a_shape_larger_than_its_codes_is_refused_before_anything_is_read():
    info = SourceInfo("x", "x", 0, 0)

    class Vast:
        tensors = (
            Tensor("a.weight", (2**20, 2**20), "float8_e4m3fn", 64),
            Tensor("a.weight_scale", (), "float32", 4),
        )
        ignored = ()

    Vast.info = info
    source = quantized.resolve(Vast())
    refused(source, "a.weight", "claims the shape")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(CASES)), st.data())
def test_headers_that_do_not_belong_together_give_values_or_one_error(name, data):
    (tensors, config, _), _ = CASES[name]
    victim = data.draw(st.sampled_from(sorted(tensors)))
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=4)))
    kinds = [torch.uint8, torch.int8, torch.int32, torch.float32, torch.bfloat16, E4M3]
    dtype = data.draw(st.sampled_from([tensors[victim].dtype, *kinds]))
    changed = tensors | {victim: torch.ones(shape, dtype=torch.float32).to(dtype)}
    source = quantized.resolve(memory.open_mapping(changed), config)
    for tensor in source.tensors:
        if tensor.dequantised_from:
            try:
                values = source.read(tensor.name)
            except CheckpointError as error:
                assert error.code == "E_QUANT"  # noqa: PT017 - either outcome is right
            else:
                assert (values.shape, values.dtype) == (tensor.shape, np.float32)


WORDS = ["gptq", "awq", "fp8", "compressed-tensors", "x\x1b[31m<script>", "int8", "auto-round", ""]
KEYS = [
    *("quant_method", "bits", "group_size", "weight_block_size", "config_groups", "weights"),
    *("checkpoint_format", "version", "sparsity_config", "packing_format", "dynamic", "format"),
    *("num_bits", "block_structure", "sym"),
]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["gptq_4", "awq", "fp8_block", "packed_4", "int_groups"]), TREES)
def test_a_config_of_any_kind_gives_values_or_one_error(name, tree):
    (tensors, _, _), _ = CASES[name]
    source = quantized.resolve(memory.open_mapping(tensors), {"quantization_config": tree})
    for tensor in source.tensors:
        assert tensor.dtype.isprintable()
        if len(tensor.shape) > 1:
            try:
                values = source.read(tensor.name)
            except CheckpointError as error:
                assert error.code == "E_QUANT"  # noqa: PT017 - either outcome is right
            else:
                assert values.dtype == np.float32
