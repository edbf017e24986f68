"""Flax files: what its msgpack says comes back, the kernels in torch's order, nothing else read."""

import struct
import tracemalloc

import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra.errors import CheckpointError
from spectra.sources import msgpack_headers
from spectra.sources.flax_files import FlaxFile


def payload(array, *, shape=None, dtype=None):
    parts = (shape or array.shape, dtype or array.dtype.name, array.tobytes())
    return msgpack.packb(parts, use_bin_type=True)


def encode(value):
    """Pack arrays and their scalars as Flax does; chunks are made by `chunked`."""
    code = 1 if isinstance(value, np.ndarray) else 3
    return msgpack.ExtType(code, payload(np.asarray(value)))


def write(path, tree):
    path.write_bytes(msgpack.packb(tree, default=encode, strict_types=True))
    return path


def indexed(values):
    return {str(place): value for place, value in enumerate(values)}


def chunked(array, size):
    flat = array.reshape(-1)
    chunks = [flat[begin : begin + size] for begin in range(0, flat.size, size)]
    return {
        "__msgpack_chunked_array__": True,
        "shape": indexed(array.shape),
        "chunks": indexed(chunks),
    }


def test_nested_maps_are_joined_and_kernels_turned(tmp_path, rng):
    dense, conv = rng.standard_normal((5, 4)), rng.standard_normal((3, 2, 6, 8))
    tree = {
        "step": 3,
        "rate": 0.1,
        "note": "none",
        "params": {
            "Dense_0": {"kernel": dense, "bias": np.zeros(4, np.float32)},
            "Conv_0": {"kernel": conv},
            "Embed_0": {"embedding": rng.standard_normal((9, 3)).astype(np.float16)},
        },
        "scale": np.float32(2.5),
        "opt_state": {
            "0": {"mu": {"kernel": dense}, "nu": {"kernel": dense}, "count": np.int32(1)}
        },
    }
    source = FlaxFile(write(tmp_path / "m.msgpack", tree))
    shapes = {tensor.name: (tensor.shape, tensor.dtype) for tensor in source.tensors}
    assert shapes == {
        "params.Dense_0.kernel": ((5, 4), "float64"),
        "params.Dense_0.bias": ((4,), "float32"),
        "params.Conv_0.kernel": ((8, 6, 3, 2), "float64"),
        "params.Embed_0.embedding": ((9, 3), "float16"),
        "scale": ((), "float32"),
    }
    assert np.array_equal(source.read("params.Dense_0.kernel"), dense)
    assert np.array_equal(source.read("params.Conv_0.kernel"), conv.transpose(3, 2, 0, 1))
    assert np.array_equal(
        source.read_rows("params.Conv_0.kernel", 2, 4), conv.transpose(3, 2, 0, 1)[2:4]
    )
    assert np.array_equal(source.read_rows("params.Dense_0.kernel", 1, 9), dense[1:])
    assert source.read("scale") == np.float32(2.5)
    assert [(s.name, s.reason, s.count) for s in source.ignored] == [
        ("opt_state.*", "optimizer state (3 tensors)", 3)
    ]


def test_flat_maps_are_read_alike(tmp_path, rng):
    conv = rng.standard_normal((3, 3, 2, 4))
    tree = {"net/conv/kernel": conv, "opt_state.0.mu": conv, "blocks": [conv, {"kernel": conv}]}
    source = FlaxFile(write(tmp_path / "m.msgpack", tree))
    assert [(tensor.name, tensor.shape) for tensor in source.tensors] == [
        ("net/conv/kernel", (4, 2, 3, 3)),
        ("blocks.0", (3, 3, 2, 4)),
        ("blocks.1.kernel", (4, 2, 3, 3)),
    ]


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint32", "bool", "complex64"])
def test_types_are_kept(dtype, tmp_path, rng):
    array = (9 * rng.standard_normal((3, 4))).astype(dtype)
    read = FlaxFile(write(tmp_path / "m", {"w": array})).read("w")
    assert read.dtype == dtype
    assert np.array_equal(read, array)


def test_bfloat16_is_read_exactly_and_float8_as_codes(tmp_path, rng):
    values = rng.standard_normal((6, 4))
    half, byte = values.astype(ml_dtypes.bfloat16), values.astype(ml_dtypes.float8_e4m3fn)
    source = FlaxFile(write(tmp_path / "m", {"w": half, "q": byte}))
    assert [tensor.dtype for tensor in source.tensors] == ["bfloat16", "float8_e4m3fn"]
    assert source.read("w").dtype == np.float32
    assert np.array_equal(source.read("w"), half.astype(np.float32))
    assert np.array_equal(source.read_rows("w", 2, 5), half[2:5].astype(np.float32))
    assert np.array_equal(source.read("q"), byte.view(np.uint8))


@pytest.mark.parametrize("size", [1, 7, 24, 100])
def test_arrays_in_chunks_are_put_together(size, tmp_path, rng):
    array = rng.standard_normal((6, 4))
    tree = {"a": array, "w": {"kernel": chunked(array, size)}, "z": array}
    source = FlaxFile(write(tmp_path / "m", tree))
    assert [tensor.name for tensor in source.tensors] == ["a", "w.kernel", "z"]
    assert np.array_equal(source.read("w.kernel"), array)
    for begin in range(6):
        assert np.array_equal(
            source.read_rows("w.kernel", begin, begin + 2), array[begin : begin + 2]
        )


def test_a_bare_array_is_called_tensor(tmp_path):
    source = FlaxFile(write(tmp_path / "m", np.eye(3)))
    assert [tensor.name for tensor in source.tensors] == ["tensor"]
    assert np.array_equal(source.read("tensor"), np.eye(3))


def test_an_optimizer_that_holds_the_model_is_no_state(tmp_path):
    tree = {"optimizer": {"target": {"w": np.eye(3)}, "state": {"w": np.eye(3)}}}
    source = FlaxFile(write(tmp_path / "m", tree))
    assert [tensor.name for tensor in source.tensors] == ["optimizer.target.w"]
    assert [skipped.count for skipped in source.ignored] == [1]


def test_unknown_types_are_listed_and_not_read(tmp_path):
    odd = msgpack.ExtType(1, payload(np.zeros(8, np.uint8), shape=(2, 3), dtype="float3_e1m1"))
    source = FlaxFile(write(tmp_path / "m", {"w": odd, "other": msgpack.ExtType(7, b"x")}))
    assert [(tensor.dtype, tensor.nbytes) for tensor in source.tensors] == [("float3_e1m1", 8)]
    with pytest.raises(CheckpointError, match="not read"):
        source.read("w")


def test_listing_and_rows_do_not_read_the_arrays(tmp_path):
    path = write(tmp_path / "m", {"w": np.ones((1000, 4000))})
    tracemalloc.start()
    source = FlaxFile(path)
    source.read_rows("w", 3, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400_000


def test_a_file_cut_after_the_listing_is_noticed(tmp_path):
    path = write(tmp_path / "m", {"w": np.ones((100, 100))})
    source = FlaxFile(path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(CheckpointError) as caught:
        source.read("w")
    assert caught.value.code == "E_TRUNCATED"
    path.unlink()
    with pytest.raises(CheckpointError) as caught:
        source.read("w")
    assert caught.value.code == "E_UNREADABLE"


def array(count):
    return b"\xdd" + struct.pack(">I", count)


def extension(*parts):
    return msgpack.packb({"w": msgpack.ExtType(1, msgpack.packb(parts, use_bin_type=True))})


GOOD = msgpack.packb({"w": np.eye(2)}, default=encode)
BAD = {
    "empty": (b"", "E_EMPTY"),
    "nested_arrays": (b"\x91" * 500_000, "E_LIMIT"),
    "nested_maps": (b"\x81\xa1a" * 200_000, "E_LIMIT"),
    "huge_array": (array(2**32 - 1), "E_TRUNCATED"),
    "huge_arrays": (array(20_000) * 50 + b"\0" * 20_000, "E_TRUNCATED"),
    "huge_map": (b"\xdf" + b"\xff" * 4 + b"\xa1a", "E_TRUNCATED"),
    "huge_text": (b"\x81\xa1a\xdb\xff\xff\xff\xff", "E_TRUNCATED"),
    "huge_extension": (b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", "E_TRUNCATED"),
    "long_key": (msgpack.packb({"k" * 5000: 1}), "E_LIMIT"),
    "long_path": (msgpack.packb({"k" * 900: {"k" * 900: {"w": 1}}}), "E_LIMIT"),
    "cut": (GOOD[:-1], "E_TRUNCATED"),
    "trailing": (GOOD + b"\0", "E_TRAILING"),
    "no_msgpack": (b"\xc1", "E_FORMAT"),
    "key_of_two": (b"\x82\xa1a\x01\xa1a\x02", "E_DUPLICATE"),
    "name_of_two": (
        msgpack.packb({"a.b": np.eye(2), "a": {"b": np.eye(2)}}, default=encode),
        "E_DUPLICATE",
    ),
    "key_of_no_text": (b"\x81\xa1\xff\x01", "E_HEADER"),
    "odd_key": (b"\x81\xc0\x01", "E_HEADER"),
    "numbers_only": (msgpack.packb({"a": 1, "b": [2.5, None, True, -7, -(2**40)]}), "E_NO_TENSORS"),
    "optimizer_only": (msgpack.packb({"opt_state": np.eye(2)}, default=encode), "E_NO_TENSORS"),
    "two_parts": (extension((2, 2), "float32"), "E_HEADER"),
    "short_bytes": (extension((2, 2), "float32", b"\0" * 15), "E_HEADER"),
    "negative_shape": (extension((-2, 2), "float32", b"\0" * 16), "E_HEADER"),
    "tebibytes": (extension((2**20, 2**20), "float32", b"\0" * 16), "E_HEADER"),
    "huge_shape": (extension((2**63, 2**63), "float32", b""), "E_HEADER"),
    "huge_and_empty": (extension((0, 2**63), "float32", b""), "E_HEADER"),
    "rank_65": (extension((1,) * 65, "float32", b"\0" * 4), "E_HEADER"),
    "text_shape": (extension("22", "float32", b"\0" * 16), "E_HEADER"),
    "text_in_shape": (extension(("2", 2), "float32", b"\0" * 16), "E_HEADER"),
    "text_for_bytes": (extension((4, 1), "int8", "abcd"), "E_HEADER"),
    "chunk_lost": (
        msgpack.packb(
            {"w": chunked(np.eye(4), 4) | {"chunks": {"0": np.ones(4), "2": np.ones(12)}}},
            default=encode,
        ),
        "E_HEADER",
    ),
    "chunks_too_short": (
        msgpack.packb({"w": chunked(np.eye(4), 4) | {"shape": {"0": 5, "1": 4}}}, default=encode),
        "E_HEADER",
    ),
    "chunks_of_two_types": (
        msgpack.packb(
            {
                "w": chunked(np.eye(2), 2)
                | {"chunks": {"0": np.ones(2), "1": np.ones(2, np.float32)}}
            },
            default=encode,
        ),
        "E_HEADER",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_files_are_refused(name, tmp_path):
    content, code = BAD[name]
    (tmp_path / "m.msgpack").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError) as caught:
        FlaxFile(tmp_path / "m.msgpack")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == code
    assert peak < 5_000_000


def test_files_of_too_many_entries_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(msgpack_headers, "MAX_ENTRIES", 1000)
    (tmp_path / "m").write_bytes(msgpack.packb([0] * 1000))
    with pytest.raises(CheckpointError) as caught:
        FlaxFile(tmp_path / "m")
    assert caught.value.code == "E_LIMIT"


def restored(raw):
    """Read a file as Flax does, by the msgpack package."""

    def decoded(code, data):
        if code not in (1, 3):
            return None
        shape, dtype, content = msgpack.unpackb(data, raw=False, strict_map_key=False)
        return np.frombuffer(content, dtype).reshape(shape)

    tree = msgpack.unpackb(
        raw, ext_hook=decoded, raw=False, strict_map_key=False, unicode_errors="replace"
    )
    return dict(flat(tree, ()))


def flat(tree, keys):
    """Give the leaves of a tree with their keys joined."""
    if isinstance(tree, dict | list):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in pairs:
            name = key.decode() if isinstance(key, bytes) else str(key)
            yield from flat(value, (*keys, name))
    else:
        yield ".".join(keys) or "tensor", tree


VALID = msgpack.packb(
    {"a": np.arange(6.0).reshape(2, 3), "b": np.arange(4, dtype=np.int16)}, default=encode
)


@settings(max_examples=150, deadline=None)
@given(
    place=st.integers(0, len(VALID) - 1),
    removed=st.integers(0, 2),
    added=st.binary(max_size=2),
)
def test_a_changed_file_gives_what_msgpack_gives_or_is_refused(
    place, removed, added, tmp_path_factory
):
    raw = VALID[:place] + added + VALID[place + removed :]
    path = tmp_path_factory.mktemp("changed") / "m"
    path.write_bytes(raw)
    try:
        source = FlaxFile(path)
        read = {tensor.name: source.read(tensor.name) for tensor in source.tensors}
    except CheckpointError:
        return
    tree = restored(raw)
    for name, values in read.items():
        assert np.array_equal(values, tree[name], equal_nan=values.dtype.kind in "fc")
