"""Small quantised checkpoints, packed one code at a time, with the weights they stand for."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spectra.errors import CheckpointError
from spectra.sources import quantized
from spectra.sources.quantized import dequantize
from spectra.sources.safetensors_files import SafetensorsFile

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def rng(seed=0):
    return np.random.default_rng(seed)


def normal(*shape, seed=0):
    return torch.from_numpy(rng(seed).normal(size=shape).astype(np.float32))


def words(codes, bits, axis=1):
    """Pack codes into words along an axis, one at a time."""
    codes = np.moveaxis(np.asarray(codes), axis, -1)
    many = 32 // bits
    out = np.zeros((*codes.shape[:-1], math.ceil(codes.shape[-1] / many)), np.uint32)
    for place in np.ndindex(codes.shape):
        target = (*place[:-1], place[-1] // many)
        out[target] |= np.uint32(int(codes[place]) << (bits * (place[-1] % many)))
    return torch.from_numpy(np.moveaxis(out, -1, axis).copy().view(np.int32))


def nibbles(codes, *, high_first=False):
    codes = np.asarray(codes)
    first, second = codes[..., ::2], codes[..., 1::2]
    packed = first * 16 + second if high_first else first + second * 16
    return torch.from_numpy(packed.astype(np.uint8))


def text(value):
    return torch.from_numpy(np.frombuffer(json.dumps(value).encode(), np.uint8).copy())


def opened(tmp_path, tensors, config=None):
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return quantized.resolve(SafetensorsFile(path), config)


def config_of(**entries):
    return {"quantization_config": entries}


def block_fp8(weight, block=(128, 128), dtype=torch.float32):
    """Quantise by blocks, one block at a time; return codes, scales, and what the codes mean."""
    rows, columns = weight.shape
    codes, meant = torch.empty(rows, columns, dtype=E4M3), torch.empty(rows, columns)
    grid = (math.ceil(rows / block[0]), math.ceil(columns / block[1]))
    scales = torch.empty(grid, dtype=dtype)
    for i in range(grid[0]):
        for j in range(grid[1]):
            place = (
                slice(i * block[0], (i + 1) * block[0]),
                slice(j * block[1], (j + 1) * block[1]),
            )
            scale = weight[place].abs().max() / 448
            if dtype == torch.float8_e8m0fnu:
                scale = 2.0 ** torch.ceil(torch.log2(scale))
            scales[i, j] = scale
            codes[place] = (weight[place] / scales[i, j].float()).to(E4M3)
            meant[place] = codes[place].float() * scales[i, j].float()
    return codes, scales, meant


def integer_codes(bits, rows=24, columns=64, group=16, seed=3):
    draw = rng(seed)
    groups = columns // group
    codes = draw.integers(0, 2**bits, (rows, columns))
    zeros = draw.integers(1, 2**bits, (rows, groups))
    scales = draw.uniform(0.01, 0.1, (rows, groups)).astype(np.float16)
    wide = np.repeat(scales.astype(np.float32), group, axis=1)
    shift = codes - np.repeat(zeros, group, axis=1)
    return codes, zeros, torch.from_numpy(scales), shift.astype(np.float32) * wide


def fp8_block(dtype=torch.float32, ending="weight_scale_inv", block=(128, 128), shape=(300, 576)):
    codes, scales, meant = block_fp8(normal(*shape), block, dtype)
    config = config_of(quant_method="fp8", weight_block_size=list(block))
    return {"a.weight": codes, f"a.{ending}": scales}, config, meant


def fp8_scaled(scale, dtype=E4M3, shape=(40, 24)):
    codes = normal(*shape, seed=1).to(dtype)
    return {"a.weight": codes, "a.weight_scale": scale}, None, codes.float() * wide(scale, shape)


def wide(scale, shape):
    return scale.float().reshape(-1, *(1,) * (len(shape) - 1)) if scale.numel() > 1 else scale


def groups_mxfp8():
    codes = normal(40, 64).to(E4M3)
    exponents = torch.from_numpy(rng(2).integers(120, 130, (40, 2)).astype(np.uint8))
    scales = torch.ldexp(torch.ones(40, 2), exponents.int() - 127)
    meant = codes.float() * scales.repeat_interleave(32, 1)
    return {"a.weight": codes, "a.weight_scale": exponents}, None, meant


def fused_fp8():
    codes, scales, meant = zip(
        *(block_fp8(normal(130, 140, seed=s)) for s in range(3)), strict=True
    )
    tensors = {
        "e.gate_up_proj": torch.stack(codes),
        "e.gate_up_proj_scale_inv": torch.stack(scales),
    }
    return tensors, None, torch.stack(meant)


def experts_fp8(scale_shape):
    codes = normal(3, 20, 16).to(E4M3)
    scale = normal(*scale_shape, seed=4).abs() + 0.1
    meant = codes.float() * scale.reshape(*scale_shape, *(1,) * (3 - len(scale_shape)))
    return {"e.up_proj": codes, "e.up_proj_scale": scale}, None, meant


def pack_quantized(bits=4, zero="", ordered=True, stated=True, columns=64):
    group = 16
    codes, zeros, scales, meant = integer_codes(bits, columns=columns)
    middle = 2 ** (bits - 1)
    index = np.arange(columns) // group
    if not ordered:
        index = rng(5).permutation(index)
    shift = zeros[:, index] if zero else middle
    meant = (codes - shift).astype(np.float32) * scales.float().numpy()[:, index]
    tensors = {
        "a.weight_packed": words(codes, bits),
        "a.weight_scale": scales,
        "a.weight_shape": torch.tensor(codes.shape),
    }
    if zero == "packed":
        tensors["a.weight_zero_point"] = words(zeros, bits, axis=0)
    elif zero == "plain":
        tensors["a.weight_zero_point"] = torch.from_numpy((zeros - middle).astype(np.int8))
    if not ordered:
        tensors["a.weight_g_idx"] = torch.from_numpy(index.astype(np.int32))
    scheme = {"weights": {"num_bits": bits, "group_size": group}}
    config = config_of(quant_method="compressed-tensors", config_groups={"group_0": scheme})
    return tensors, config if stated else None, meant


def pack_quantized_channel():
    codes = rng(6).integers(0, 16, (12, 50))  # the last word is not full
    scales = torch.from_numpy(rng(7).uniform(0.1, 1, (12, 1)).astype(np.float32))
    tensors = {"a.weight_packed": words(codes, 4), "a.weight_scale": scales}
    tensors["a.weight_shape"] = torch.tensor([12, 50])
    config = config_of(quant_method="compressed-tensors", bits=4)
    return tensors, config, (codes - 8).astype(np.float32) * scales.numpy()


def int_quantized(scale_shape=(24, 1), zero=False):
    codes = rng(8).integers(-128, 128, (24, 64)).astype(np.int8)
    scales = rng(9).uniform(0.1, 1, scale_shape).astype(np.float32)
    zeros = rng(10).integers(-9, 9, scale_shape).astype(np.int8)
    groups = scale_shape[1] if len(scale_shape) > 1 else 1
    meant = np.empty(codes.shape, np.float32)
    for n, k in np.ndindex(codes.shape):
        place = n * groups + k // (64 // groups) if scales.size > 1 else 0
        shift = int(zeros.flat[place]) if zero else 0
        meant[n, k] = np.float32(int(codes[n, k]) - shift) * scales.flat[place]
    tensors = {"a.weight": torch.from_numpy(codes), "a.weight_scale": torch.from_numpy(scales)}
    if zero:
        tensors["a.weight_zero_point"] = torch.from_numpy(zeros)
    return tensors, None, meant


def four_bit_floats(shape, group, seed=11):
    codes = rng(seed).integers(0, 16, shape)
    return codes, dequantize.E2M1[codes], (*shape[:-1], shape[-1] // group)


def nvfp4(who, shape=(20, 64)):
    codes, plain, grid = four_bit_floats(shape, 16)
    scales = normal(*grid, seed=12).abs().to(E4M3)
    scales.view(torch.uint8)[..., 0, 0] = 0  # so small that it has become zero
    second = torch.tensor([37.0]) if who == "compressed-tensors" else torch.tensor(0.0123)
    total = scales.float() / second if who == "compressed-tensors" else scales.float() * second
    meant = plain * total.repeat_interleave(16, -1).numpy()
    names = {
        "compressed-tensors": ("weight_packed", "weight_global_scale"),
        "modelopt": ("weight", "weight_scale_2"),
    }[who]
    tensors = {f"a.{names[0]}": nibbles(codes), "a.weight_scale": scales, f"a.{names[1]}": second}
    tensors["a.input_scale"] = torch.tensor(0.5)
    return tensors, None, meant


def modelopt_experts():
    tensors, _, _ = nvfp4("modelopt", (3, 20, 64))
    tensors["a.weight_scale_2"] = torch.tensor([0.5, 0.25, 2.0])
    _, plain, _ = four_bit_floats((3, 20, 64), 16)
    total = tensors["a.weight_scale"].float() * tensors["a.weight_scale_2"].reshape(3, 1, 1)
    return tensors, None, plain * total.repeat_interleave(16, -1).numpy()


def mxfp4(who):
    shape = (3, 20, 64) if who == "gpt-oss" else (20, 64)
    codes, plain, grid = four_bit_floats(shape, 32)
    exponents = rng(13).integers(110, 140, grid).astype(np.uint8)
    meant = np.ldexp(plain, np.repeat(exponents.astype(int) - 127, 32, axis=-1))
    stored, scales = nibbles(codes), torch.from_numpy(exponents)
    if who == "gpt-oss":
        tensors = {"e.down_proj_blocks": stored.reshape(3, 20, 2, 16), "e.down_proj_scales": scales}
        tensors["e.down_proj_bias"] = normal(3, 20)
        return tensors, config_of(quant_method="mxfp4"), meant.transpose(0, 2, 1)
    if who == "deepseek":
        tensors = {
            "a.weight": stored.view(torch.int8),
            "a.scale": scales.view(torch.float8_e8m0fnu),
        }
        return tensors, config_of(quant_method="fp8", weight_block_size=[128, 128]), meant
    if who == "quark":
        return {"a.weight": stored, "a.weight_scale": scales}, None, meant
    return {"a.weight_packed": stored, "a.weight_scale": scales}, None, meant


def bitsandbytes4(kind, nested=False, shape=(24, 40), state=None):
    size = math.prod(shape)
    codes = rng(14).integers(0, 16, size)
    book = dequantize.CODE_BOOKS[kind]
    said = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": list(shape)}
    tensors = {
        "a.weight": nibbles(codes, high_first=True).reshape(-1, 1),
        "a.weight.quant_map": torch.from_numpy(book),
    }
    blocks = math.ceil(size / 64)
    if nested:
        inner = rng(15).integers(0, 256, blocks).astype(np.uint8)
        inner_book = rng(16).uniform(0, 1, 256).astype(np.float32)
        outer = rng(17).uniform(0.1, 1, math.ceil(blocks / 256)).astype(np.float32)
        absmax = inner_book[inner] * np.repeat(outer, 256)[:blocks] + np.float32(0.5)
        said |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5}
        tensors["a.weight.absmax"] = torch.from_numpy(inner)
        tensors["a.weight.nested_absmax"] = torch.from_numpy(outer)
        tensors["a.weight.nested_quant_map"] = torch.from_numpy(inner_book)
    else:
        absmax = rng(18).uniform(0.1, 2, blocks).astype(np.float32)
        absmax[0] = 0  # a block of zeros
        tensors["a.weight.absmax"] = torch.from_numpy(absmax)
    tensors[f"a.weight.quant_state.bitsandbytes__{kind}"] = text(said if state is None else state)
    meant = book[codes] * np.repeat(absmax, 64)[:size]
    return tensors, config_of(quant_method="bitsandbytes"), meant.reshape(shape)


def bitsandbytes8():
    codes = rng(19).integers(-127, 128, (24, 40)).astype(np.int8)
    largest = rng(20).uniform(0.1, 2, 24).astype(np.float32)
    largest[3] = 0
    tensors = {"a.weight": torch.from_numpy(codes), "a.SCB": torch.from_numpy(largest)}
    tensors["a.weight_format"] = torch.tensor(0, dtype=torch.uint8)
    return tensors, None, codes * (largest.astype(np.float64) / 127).astype(np.float32)[:, None]


def gptq(bits=4, form="gptq", index=None, stated=True):
    codes, zeros, scales, meant = integer_codes(bits, rows=32)
    if index is not None:
        spread = scales.float().numpy()[:, index]
        meant = (codes - zeros[:, index]).astype(np.float32) * spread
    stored = zeros - 1 if form == "gptq" else zeros
    tensors = {
        "a.qweight": words(codes, bits).T,
        "a.qzeros": words(stored.T, bits),
        "a.scales": scales.T,
    }
    if index is not None:
        tensors["a.g_idx"] = torch.from_numpy(np.asarray(index, np.int32))
    config = config_of(quant_method="gptq", bits=bits, group_size=16, checkpoint_format=form)
    return tensors, config if stated else None, meant


def awq(stated=True):
    codes, zeros, scales, meant = integer_codes(4)
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7])

    def mixed(table):
        return words(table.reshape(len(table), -1, 8)[..., order].reshape(len(table), -1), 4)

    tensors = {"a.qweight": mixed(codes.T), "a.qzeros": mixed(zeros.T), "a.scales": scales.T}
    config = config_of(quant_method="awq", bits=4, group_size=16, version="gemm")
    return tensors, config if stated else None, meant


PERMUTED = rng(21).permutation(np.arange(64) // 16)
CASES = {
    "fp8_block": (fp8_block(), "fp8 e4m3, blocks of 128×128"),
    "fp8_block_bf16": (fp8_block(torch.bfloat16), "fp8 e4m3, blocks of 128×128"),
    "fp8_block_e8m0": (fp8_block(torch.float8_e8m0fnu, "scale"), "fp8 e4m3, blocks of 128×128"),
    "fp8_block_quark": (fp8_block(ending="weight_scale"), "fp8 e4m3, blocks of 128×128"),
    "fp8_block_64": (fp8_block(block=(64, 32)), "fp8 e4m3, blocks of 64×32"),
    "fp8_block_small": (fp8_block(shape=(60, 256)), "fp8 e4m3, blocks of 128×128"),
    "fp8_tensor": (fp8_scaled(torch.tensor(0.3)), "fp8 e4m3, per tensor"),
    "fp8_one": (fp8_scaled(torch.tensor([0.3])), "fp8 e4m3, per tensor"),
    "fp8_channel": (fp8_scaled(normal(40, 1).abs() + 1), "fp8 e4m3, per channel"),
    "fp8_channel_flat": (fp8_scaled(normal(40).abs() + 1), "fp8 e4m3, per channel"),
    "fp8_e5m2": (fp8_scaled(torch.tensor(2.0), E5M2), "fp8 e5m2, per tensor"),
    "mxfp8": (groups_mxfp8(), "fp8 e4m3, groups of 32"),
    "fp8_fused": (fused_fp8(), "fp8 e4m3, blocks of 128×128"),
    "fp8_experts": (experts_fp8((3,)), "fp8 e4m3, per expert"),
    "fp8_expert_rows": (experts_fp8((3, 20)), "fp8 e4m3, per channel"),
    "fp8_expert_columns": (experts_fp8((3, 1, 16)), "fp8 e4m3, per channel"),
    "packed_4": (pack_quantized(), "int4 pack-quantized, groups of 16"),
    "packed_8": (pack_quantized(8, "packed"), "int8 pack-quantized, groups of 16"),
    "packed_2": (pack_quantized(2), "int2 pack-quantized, groups of 16"),
    "packed_zero": (pack_quantized(zero="packed"), "int4 pack-quantized, groups of 16"),
    "packed_plain_zero": (pack_quantized(zero="plain"), "int4 pack-quantized, groups of 16"),
    "packed_order": (pack_quantized(ordered=False), "int4 pack-quantized, groups of 16"),
    "packed_silent": (pack_quantized(stated=False), "int4 pack-quantized, groups of 16"),
    "packed_channel": (pack_quantized_channel(), "int4 pack-quantized, per channel"),
    "int_channel": (int_quantized(), "int8, per channel"),
    "int_channel_flat": (int_quantized((24,)), "int8, per channel"),
    "int_tensor": (int_quantized((1,)), "int8, per tensor"),
    "int_groups": (int_quantized((24, 4)), "int8, groups of 16"),
    "int_zero": (int_quantized((24, 4), zero=True), "int8, groups of 16"),
    "int_zero_channel": (int_quantized((24, 1), zero=True), "int8, per channel"),
    "int_zero_tensor": (int_quantized((1,), zero=True), "int8, per tensor"),
    "nvfp4": (nvfp4("compressed-tensors"), "nvfp4"),
    "nvfp4_modelopt": (nvfp4("modelopt"), "nvfp4"),
    "nvfp4_experts": (modelopt_experts(), "nvfp4"),
    "mxfp4_gpt_oss": (mxfp4("gpt-oss"), "mxfp4"),
    "mxfp4_deepseek": (mxfp4("deepseek"), "mxfp4"),
    "mxfp4_quark": (mxfp4("quark"), "mxfp4"),
    "mxfp4_packed": (mxfp4("compressed-tensors"), "mxfp4"),
    "nf4": (bitsandbytes4("nf4"), "bitsandbytes nf4"),
    "fp4": (bitsandbytes4("fp4"), "bitsandbytes fp4"),
    "nf4_nested": (bitsandbytes4("nf4", nested=True), "bitsandbytes nf4"),
    "bnb_int8": (bitsandbytes8(), "bitsandbytes int8"),
    **{f"gptq_{b}": (gptq(b), f"gptq {b}-bit") for b in (2, 4, 8)},
    "gptq_v2": (gptq(form="gptq_v2"), "gptq 4-bit"),
    "gptq_order": (gptq(index=PERMUTED), "gptq 4-bit"),
    "gptq_silent": (gptq(stated=False), "gptq 4-bit"),
    "awq": (awq(), "awq 4-bit"),
    "awq_silent": (awq(stated=False), "awq 4-bit"),
}


def refused(source, name, reason=""):
    for call in (lambda: source.read(name), lambda: source.read_rows(name, 0, 1)):
        with pytest.raises(CheckpointError) as caught:
            call()
        assert caught.value.code == "E_QUANT"
        assert caught.value.subject == name
        assert reason in caught.value.reason
        assert caught.value.advice
