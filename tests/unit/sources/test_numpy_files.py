"""NumPy files: what numpy.save wrote comes back, and no header is believed unseen."""

import io
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spectra.errors import CheckpointError
from spectra.sources.numpy_files import NumpyFile

TYPES = ["f2", "<f4", ">f4", ">f8", "i1", "<i8", ">u2", "?", "c8"]


def header(text, version=(1, 0)):
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text.encode("latin-1")


def descr(descr="<f4", shape="(2, 3)", fortran="False"):
    return f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


def saved(array, *, allow_pickle=False):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (5,), (0, 4), (4, 3), (2, 3, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
def test_arrays_of_every_order_and_type_come_back(dtype, shape, order, kind, tmp_path, rng):
    array = np.asarray(100 * rng.standard_normal(shape), order=order).astype(dtype, order="K")
    path = tmp_path / "weights"
    with path.open("wb") as file:
        if kind == "npy":
            np.save(file, array)
        else:
            (np.savez if kind == "npz" else np.savez_compressed)(file, other=np.ones(3), w=array)
    source = NumpyFile(path)
    name = "tensor" if kind == "npy" else "w"
    listed = {tensor.name: tensor for tensor in source.tensors}[name]
    assert (listed.shape, listed.dtype, listed.nbytes) == (shape, array.dtype.name, array.nbytes)
    read = source.read(name)
    assert read.dtype == array.dtype.newbyteorder("=")
    assert read.dtype.isnative
    assert np.array_equal(read, array)
    if shape:
        assert np.array_equal(source.read_rows(name, 1, 3), array[1:3])
        assert np.array_equal(source.read_rows(name, 0, 0), array[:0])


def test_members_keep_their_order_and_only_arrays_are_listed(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **{"b/kernel": np.ones((2, 2)), "a": np.ones(2), "names": np.array(["x"])})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../readme.txt", "no array")
    source = NumpyFile(path)
    assert [tensor.name for tensor in source.tensors] == ["b/kernel", "a"]
    assert {s.name: s.reason for s in source.ignored} == {
        "names": "text",
        "../readme.txt": "no array",
    }
    assert (source.info.format, source.info.n_tensors, source.info.nbytes) == ("npz", 2, 48)


def test_structured_arrays_are_listed_and_not_read(tmp_path):
    np.savez(tmp_path / "w.npz", w=np.zeros((2, 2), "f4,i4"), v=np.zeros(3, "V2"))
    source = NumpyFile(tmp_path / "w.npz")
    assert [tensor.dtype for tensor in source.tensors] == ["structured", "void16"]
    for tensor in source.tensors:
        with pytest.raises(CheckpointError, match="not read"):
            source.read(tensor.name)


def test_rows_of_a_stored_member_touch_their_bytes_alone(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, w=np.arange(2_000_000.0).reshape(1000, 2000))
    source = NumpyFile(path)
    tracemalloc.start()
    rows = source.read_rows("w", 500, 502)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows[0, 0] == 1_000_000
    assert peak < 100_000


BAD = {
    "empty": (b"", "E_ARCHIVE"),
    "magic_alone": (b"\x93NUMPY", "E_HEADER"),
    "version_9": (header(descr(), (9, 0)), "E_HEADER"),
    "header_past_the_end": (header(descr())[:40], "E_TRUNCATED"),
    "long_header": (header(descr() + " " * 70_000, (2, 0)), "E_LIMIT"),
    "3.6_tebibytes": (header(descr(shape="(1000000, 1000000)")) + b"\0" * 24, "E_TRUNCATED"),
    "cut": (header(descr()) + b"\0" * 23, "E_TRUNCATED"),
    "trailing": (header(descr()) + b"\0" * 25, "E_TRAILING"),
    "objects": (saved(np.array([{}, []], object), allow_pickle=True), "E_UNSAFE"),
    "objects_inside": (
        header("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}"),
        "E_UNSAFE",
    ),
    "negative": (header(descr(shape="(-2, 3)")), "E_HEADER"),
    "float_shape": (header(descr(shape="(2.0, 3)")), "E_HEADER"),
    "huge_shape": (header(descr(shape="(2**70, 1)".replace("2**70", str(2**70)))), "E_HEADER"),
    "huge_and_empty": (header(descr(shape=f"(0, {2**70})")), "E_HEADER"),
    "rank_65": (header(descr(shape=str((1,) * 65))) + b"\0" * 4, "E_HEADER"),
    "bad_type": (header(descr("<q9")), "E_HEADER"),
    "call": (header("__import__('os').system('touch canary')"), "E_HEADER"),
    "nested": (header("(" * 9000), "E_HEADER"),
    "more_keys": (header("{'descr':'<f4','fortran_order':False,'shape':(1,),'x':1}"), "E_HEADER"),
    "no_utf8": (header(descr() + "\xff", (3, 0)), "E_HEADER"),
    "text": (saved(np.array(["a"])), "E_NO_TENSORS"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_arrays_are_refused(name, tmp_path):
    content, code = BAD[name]
    (tmp_path / "w.npy").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        NumpyFile(tmp_path / "w.npy")
    assert caught.value.code == code
    if content[:6] == b"\x93NUMPY":
        with zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("w.npy", content)
        with pytest.raises(CheckpointError) as caught:
            NumpyFile(tmp_path / "w.npz")
        assert caught.value.code == code


def archive(path, *members, method=zipfile.ZIP_STORED):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names given twice
        with zipfile.ZipFile(path, "w", method) as file:
            for name, content in members:
                file.writestr(name, content)


def change(path, *edits):
    """Overwrite bytes behind each occurrence of a signature: (signature, offset, bytes)."""
    raw = bytearray(path.read_bytes())
    for signature, offset, new in edits:
        place = raw.find(signature)
        while place >= 0:
            raw[place + offset : place + offset + len(new)] = new
            place = raw.find(signature, place + 1)
    path.write_bytes(bytes(raw))


ARRAY = saved(np.arange(600.0))
CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"


def bomb(path):
    archive(path, ("w.npy", saved(np.zeros(15_000_000))), method=zipfile.ZIP_DEFLATED)


def twice(path):
    archive(path, ("w.npy", ARRAY), ("w.npy", ARRAY))


def encrypted(path):
    archive(path, ("w.npy", ARRAY))
    change(path, (CENTRAL, 8, b"\1"), (LOCAL, 6, b"\1"))


def odd_method(path):
    archive(path, ("w.npy", ARRAY), method=zipfile.ZIP_LZMA)


def half(path):
    archive(path, ("w.npy", ARRAY))
    path.write_bytes(path.read_bytes()[:2000])


def claims_more(path):
    archive(path, ("w.npy", ARRAY))
    size = struct.pack("<I", len(ARRAY) + 10_000)
    change(path, (CENTRAL, 20, size), (CENTRAL, 24, size), (LOCAL, 18, size), (LOCAL, 22, size))


def two_sizes(path):
    archive(path, ("w.npy", ARRAY))
    change(path, (CENTRAL, 24, struct.pack("<I", 60_000)))


def damaged_deflate(path):
    archive(path, ("w.npy", ARRAY), method=zipfile.ZIP_DEFLATED)
    raw = path.read_bytes()
    path.write_bytes(raw[:36] + b"\xff" * 40 + raw[76:])


def header_before_the_file(path):
    archive(path, ("w.npy", ARRAY))
    raw = path.read_bytes()
    end = raw.rfind(b"PK\x05\x06")  # its last field but one is where the directory begins
    later = int.from_bytes(raw[end + 16 : end + 20], "little") + 9000
    path.write_bytes(raw[: end + 16] + struct.pack("<I", later) + raw[end + 20 :])


def no_name(path):
    archive(path, ("w.npy", ARRAY))
    change(path, (CENTRAL, 46, b"\0"))


def no_arrays(path):
    archive(path, ("readme.txt", "nothing"))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (bomb, "E_LIMIT"),
        (twice, "E_DUPLICATE"),
        (encrypted, "E_ARCHIVE"),
        (odd_method, "E_ARCHIVE"),
        (half, "E_ARCHIVE"),
        (claims_more, "E_ARCHIVE"),
        (two_sizes, "E_ARCHIVE"),
        (damaged_deflate, "E_ARCHIVE"),
        (header_before_the_file, "E_ARCHIVE"),
        (no_name, "E_NO_TENSORS"),
        (no_arrays, "E_NO_TENSORS"),
    ],
)
def test_hostile_archives_are_refused(make, code, tmp_path):
    make(tmp_path / "w.npz")
    tracemalloc.start()
    with pytest.raises(CheckpointError) as caught:
        NumpyFile(tmp_path / "w.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == code
    assert peak < 10_000_000


VALID = saved(np.arange(24, dtype="<f4").reshape(4, 6))


@settings(max_examples=150, deadline=None)
@example(place=7, removed=1, added=b"\x01")  # a minor version that no NumPy writes
@given(
    place=st.integers(0, 129),
    removed=st.integers(0, 3),
    added=st.one_of(
        st.binary(max_size=3), st.sampled_from([b"8", b"O", b">", b"True", b"9999", b"("])
    ),
)
def test_a_changed_header_gives_what_numpy_gives_or_is_refused(
    place, removed, added, tmp_path_factory
):
    raw = VALID[:place] + added + VALID[place + removed :]
    path = tmp_path_factory.mktemp("changed") / "w.npy"
    path.write_bytes(raw)
    try:
        read = NumpyFile(path).read("tensor")
    except CheckpointError:
        return
    expected = np.load(path, allow_pickle=False)
    assert read.shape == expected.shape
    assert read.dtype == expected.dtype.newbyteorder("=")
    assert np.array_equal(read, expected, equal_nan=read.dtype.kind in "fc")
