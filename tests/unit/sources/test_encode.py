import numpy as np
import pytest

from spectra.records import Matrix
from spectra.sources import layouts
from spectra.sources.base import CODE_TYPES, FLOAT_TYPES, decode, encode
from spectra.sources.cuts import put, take
from spectra.sources.safetensors_files import CODES


def nearest_bfloat16(values):
    """Eight bits of precision by arithmetic alone; NumPy rounds halves to the even number."""
    step = np.exp2(np.floor(np.log2(np.abs(values))) - 7)
    return np.rint(values / step) * step


def test_bfloat16_is_rounded_once_and_to_the_nearest(rng):
    values = rng.standard_normal(20_000) * 10.0 ** rng.integers(-30, 30, 20_000)
    # Beside the middle of two neighbours, closer than float32 can tell: what two roundings get wrong.
    middle = np.float64(1 + 2.0**-8) + np.array([-1, 0, 1]) * 2.0**-40
    middle = np.concatenate([middle, middle + 2.0**-7, -middle])
    for numbers in (values, middle):
        found = decode(encode(numbers, "bfloat16").tobytes(), "bfloat16", numbers.shape)
        assert np.array_equal(found, nearest_bfloat16(numbers))


def test_numbers_no_bfloat16_holds_are_infinite_and_nan_stays_nan():
    largest = 2.0**127 * (2 - 2.0**-7)
    numbers = np.array([largest, largest * (1 + 2.0**-8.5), 1e300, -np.inf, np.nan, 0.0, -0.0])
    found = decode(encode(numbers, "bfloat16").tobytes(), "bfloat16", numbers.shape)
    assert found.tolist()[:4] == [largest, np.inf, np.inf, -np.inf]
    assert np.isnan(found[4])
    assert np.signbit(found[5:]).tolist() == [False, True]


def test_every_code_of_a_half_precision_comes_back_to_the_bit():
    codes = np.arange(2**16, dtype="<u2")
    for dtype in ("bfloat16", "float16"):
        read = decode(codes.tobytes(), dtype, codes.shape)
        assert encode(read, dtype).tobytes() == codes.tobytes()


@pytest.mark.parametrize("dtype", sorted((FLOAT_TYPES | CODE_TYPES).keys() & CODES.keys()))
def test_decoding_is_taken_back(dtype, rng):
    raw = rng.integers(0, 2, 64, dtype=np.uint8).tobytes()
    count = 64 // np.dtype((FLOAT_TYPES | CODE_TYPES)[dtype]).itemsize
    assert encode(decode(raw, dtype, (count,)), dtype).tobytes() == raw


KERNELS = [
    ((8, 6, 3, 3), 1, 9),
    ((8, 6, 3, 3), 2, 18),
    ((8, 6, 1, 1), 1, 1),
    ((8, 6, 3, 3), 1, 1),  # flattened
    ((8, 6, 5), 4, 20),
    ((4, 6, 2, 3, 2), 2, 24),
    ((7, 5), 1, 1),
]


@pytest.mark.parametrize(("shape", "groups", "n_matrices"), KERNELS)
def test_slices_go_back_to_where_they_came_from(shape, groups, n_matrices):
    kernel = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    kind = {2: "linear", 3: "conv1d", 4: "conv2d", 5: "conv3d"}[len(shape)]
    matrix = Matrix("w", "w", kind, shape, "float32", 0, 8, 6, n_matrices, groups)
    slices = layouts.stack(matrix, kernel)
    assert len(slices) == n_matrices
    back = np.full_like(kernel, -1)
    layouts.put(matrix, back, slices)
    assert np.array_equal(back, kernel)


def test_a_part_goes_back_and_nothing_else_is_touched(rng):
    from spectra.records import Part

    for axis, period, begin, length in ((0, 12, 4, 4), (0, 4, 1, 2), (1, 6, 3, 1), (1, 3, 0, 2)):
        part = Part("p", axis, period, begin, length)
        whole = rng.standard_normal((12, 6))
        where = np.zeros_like(whole)
        put(where, part, np.ones_like(take(whole, part)))
        changed = whole.copy()
        put(changed, part, 2 * take(whole, part))
        assert np.array_equal(changed, np.where(where == 1, 2 * whole, whole))
        assert where.sum() == take(whole, part).size
