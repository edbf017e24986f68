"""Each recipe against a packer written out in loops: what the codes mean, and nothing else."""

import math

import ml_dtypes
import numpy as np
import pytest
import torch

from spectra.sources.quantized import dequantize


def rng(seed=0):
    return np.random.default_rng(seed)


def bits_of(values, bits):
    """Lay codes of a row end to end, lowest bit first, and cut the row into words of 32 bits."""
    stream = [(int(value) >> place) & 1 for value in values for place in range(bits)]
    stream += [0] * (-len(stream) % 32)
    words = [
        sum(bit << place for place, bit in enumerate(stream[begin : begin + 32]))
        for begin in range(0, len(stream), 32)
    ]
    return np.array(words, np.uint32).view(np.int32)


def packed_rows(codes, bits):
    return np.stack([bits_of(row, bits) for row in codes])


def packed_columns(codes, bits):
    return packed_rows(np.asarray(codes).T, bits).T


def awq_words(codes):
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
    for row in range(codes.shape[0]):
        for word in range(words.shape[1]):
            for nibble, column in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
                words[row, word] |= np.uint32(int(codes[row, word * 8 + column]) << (4 * nibble))
    return words.view(np.int32)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"])
def test_every_one_byte_float_is_what_two_other_libraries_say(name):
    codes = np.arange(256, dtype=np.uint8)
    theirs = codes.view(getattr(ml_dtypes, name)).astype(np.float32)
    np.testing.assert_array_equal(dequantize.FLOAT8[name], theirs)
    of_torch = torch.from_numpy(codes).view(getattr(torch, name)).float().numpy()
    np.testing.assert_array_equal(dequantize.FLOAT8[name], of_torch)


def test_every_four_bit_float_is_what_another_library_says():
    theirs = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(dequantize.E2M1, theirs)
    assert np.signbit(dequantize.E2M1[8])
    for code, value in [(1, 0.0625 / 12), (2, 2 / 3), (3, 1), (4, 1 / 3), (5, 0.5), (6, 1 / 6)]:
        assert dequantize.FP4[code] == np.float32(value)
        assert dequantize.FP4[code + 8] == -np.float32(value)
    assert (np.diff(dequantize.NF4) > 0).all()
    assert dequantize.NF4[[0, 7, 15]].tolist() == [-1, 0, 1]


def test_nf4_holds_the_quantiles_of_a_normal_distribution():
    # QLoRA's own recipe: 8 and 7 quantiles on either side of an exact zero, the largest made 1
    from scipy.stats import norm

    offset = 0.9677083
    positive = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    expected = np.sort(np.concatenate([positive, [0], negative])) / positive.max()
    np.testing.assert_allclose(dequantize.NF4, expected, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_come_out_of_words_in_the_order_they_went_in(bits):
    codes = rng(bits).integers(0, 2**bits, (3, 64))
    np.testing.assert_array_equal(dequantize.unpack(packed_rows(codes, bits), bits), codes)


def test_four_bit_floats_come_low_nibble_first():
    codes = rng(1).integers(0, 16, (5, 12))
    stored = np.zeros((5, 6), np.uint8)
    for row in range(5):
        for pair in range(6):
            stored[row, pair] = codes[row, 2 * pair] + 16 * codes[row, 2 * pair + 1]
    np.testing.assert_array_equal(dequantize.float4(stored), dequantize.E2M1[codes])


@pytest.mark.parametrize("shape", [(300, 576), (128, 128), (1, 7), (129, 3), (2, 130, 140)])
@pytest.mark.parametrize("block", [(128, 128), (64, 32), (1, 16), (10**12, 1)])
@pytest.mark.parametrize("piece", [1, 2**20])
def test_each_block_is_multiplied_by_its_own_scale(shape, block, piece, monkeypatch):
    monkeypatch.setattr(dequantize, "PIECE", piece)
    values = rng(2).normal(size=shape).astype(np.float32)
    grid = tuple(math.ceil(n / b) for n, b in zip(shape[-2:], block, strict=True))
    scale = rng(3).uniform(0.5, 2, (*shape[:-2], *grid)).astype(np.float32)
    expected = values.copy()
    for index in np.ndindex(shape):
        place = (*index[:-2], index[-2] // block[0], index[-1] // block[1])
        expected[index] = values[index] * scale[place]
    result = dequantize.scale_blocks(values, scale, block)
    assert result is values
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("piece", [1, 2**20])
def test_groups_in_order_and_by_index_agree_with_the_formula(piece, monkeypatch):
    monkeypatch.setattr(dequantize, "PIECE", piece)
    rows, columns, group = 6, 40, 16
    groups = 3
    codes = rng(4).integers(0, 16, (rows, columns)).astype(np.uint8)
    scale = rng(5).uniform(0.1, 1, (rows, groups)).astype(np.float32)
    zero = rng(6).integers(0, 16, (rows, groups)).astype(np.uint8)
    index = rng(7).integers(0, groups, columns)
    for order in (None, index):
        expected = np.empty((rows, columns), np.float32)
        for n in range(rows):
            for k in range(columns):
                g = k // group if order is None else order[k]
                expected[n, k] = np.float32(int(codes[n, k]) - int(zero[n, g])) * scale[n, g]
        result = dequantize.affine(codes, scale, zero, group=group, index=order)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("ordered", [True, False])
def test_gptq_is_its_formula(bits, version, ordered):
    inputs, outputs, groups = 64, 32, 4
    draw = rng(8)
    codes = draw.integers(0, 2**bits, (inputs, outputs))
    zeros = draw.integers(1, 2**bits, (groups, outputs))
    scale = draw.uniform(0.01, 0.1, (groups, outputs)).astype(np.float32)
    index = np.arange(inputs) // 16 if ordered else draw.integers(0, groups, inputs)
    expected = np.empty((outputs, inputs), np.float32)
    for k in range(inputs):
        for n in range(outputs):
            g = index[k]
            expected[n, k] = np.float32(int(codes[k, n]) - int(zeros[g, n])) * scale[g, n]
    stored = zeros - 1 if version == 1 else zeros
    result = dequantize.gptq(
        packed_columns(codes, bits),
        packed_rows(stored, bits),
        scale,
        bits,
        group=16 if ordered else 0,
        index=None if ordered else index,
        minus_one=version == 1,
    )
    np.testing.assert_array_equal(result, expected)


def test_symmetric_gptq_that_names_the_wrong_version_is_seen_through():
    codes = rng(9).integers(0, 16, (32, 16))
    scale = np.ones((1, 16), np.float32)
    expected = (codes.T - 8).astype(np.float32)
    for stored in (7, 8):
        zeros = packed_rows(np.full((1, 16), stored), 4)
        words = packed_columns(codes, 4)
        result = dequantize.gptq(words, zeros, scale, 4, group=32, symmetric=True)
        np.testing.assert_array_equal(result, expected)


def test_awq_is_its_formula():
    inputs, outputs, groups = 32, 24, 2
    draw = rng(10)
    codes, zeros = (draw.integers(0, 16, (n, outputs)) for n in (inputs, groups))
    scale = draw.uniform(0.01, 0.1, (groups, outputs)).astype(np.float32)
    expected = np.empty((outputs, inputs), np.float32)
    for k in range(inputs):
        for n in range(outputs):
            g = k // 16
            expected[n, k] = np.float32(int(codes[k, n]) - int(zeros[g, n])) * scale[g, n]
    result = dequantize.awq(awq_words(codes), awq_words(zeros), scale, 16)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("shape", [(6, 32), (5, 7), (1, 3), (2, 3, 64)])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_takes_the_high_nibble_first_and_a_maximum_a_block(shape, kind):
    size, block = math.prod(shape), 16
    codes = rng(11).integers(0, 16, size)
    absmax = rng(12).uniform(0.1, 3, math.ceil(size / block)).astype(np.float32)
    book = dequantize.CODE_BOOKS[kind]
    stored = np.zeros((math.ceil(size / 2), 1), np.uint8)
    for place, code in enumerate(codes):
        stored[place // 2, 0] |= code << (4 if place % 2 == 0 else 0)
    expected = np.array([book[code] * absmax[i // block] for i, code in enumerate(codes)])
    result = dequantize.bitsandbytes4(stored, absmax, block, shape, book)
    np.testing.assert_array_equal(result, expected.reshape(shape))


def test_nested_maxima_are_their_formula():
    codes = rng(13).integers(0, 256, 600).astype(np.uint8)
    book = rng(14).uniform(-1, 1, 256).astype(np.float32)
    outer = rng(15).uniform(0, 1, 3).astype(np.float32)
    offset = np.float32(0.25)
    expected = [book[code] * outer[place // 256] + offset for place, code in enumerate(codes)]
    result = dequantize.nested_absmax(codes, book, outer, float(offset), 256)
    np.testing.assert_array_equal(result, np.array(expected, np.float32))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_scales_that_cannot_be_are_refused(bad, dtype):
    with pytest.raises(ValueError, match="a scale is"):
        dequantize.scale_values(np.array([1, bad], dtype), dtype)


def test_exponents_of_255_are_no_scales_and_integers_are_none_either():
    with pytest.raises(ValueError, match="NaN"):
        dequantize.scale_values(np.array([255], np.uint8), "uint8")
    with pytest.raises(ValueError, match="int32"):
        dequantize.scale_values(np.array([1], np.int32), "int32")
    assert dequantize.scale_values(np.array([0.0]), "float64", zero=True).tolist() == [0]


def test_what_does_not_fit_is_a_value_error():
    codes, scale = np.zeros((4, 8), np.uint8), np.ones((4, 2), np.float32)
    ones = np.ones(2, np.float32)
    for call in (
        lambda: dequantize.affine(codes, scale, 0.0, group=0),
        lambda: dequantize.affine(codes, scale, 0.0, group=3),
        lambda: dequantize.affine(codes, scale[:3], 0.0, group=4),
        lambda: dequantize.affine(codes, scale, np.zeros((4, 3)), group=4),
        lambda: dequantize.affine(codes, scale, 0.0, index=np.zeros(7, int)),
        lambda: dequantize.affine(codes, scale, 0.0, index=np.full(8, 2)),
        lambda: dequantize.affine(codes, scale, 0.0, index=np.full(8, -1)),
        lambda: dequantize.scale_blocks(np.ones((4, 8), np.float32), scale, (2, 4)),
        lambda: dequantize.bitsandbytes4(codes, ones, 32, (8, 9), dequantize.NF4),
        lambda: dequantize.bitsandbytes4(codes, ones[:1], 32, (8, 8), dequantize.NF4),
        lambda: dequantize.nested_absmax(codes, ones, ones, 0.0, 16),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            call()
