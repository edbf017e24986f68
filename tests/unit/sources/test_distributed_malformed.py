import contextlib
import os
import pickle
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from spectra.errors import CheckpointError
from spectra.sources.pytorch import distributed_metadata
from spectra.sources.pytorch.distributed_checkpoints import DistributedCheckpoint
from tests.unit.sources.test_distributed_checkpoints import (
    SPLITS,
    Pieces,
    chunk_bytes,
    grid,
    names,
    random,
    save,
)

# Without a process group, torch says on every save that it has none.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is (disabled|unavailable)")


class Evil:
    def __reduce__(self):
        return os.system, ("touch canary",)


def evil_top(folder):
    (folder / ".metadata").write_bytes(pickle.dumps(Evil()))


def evil_protocol_0(folder):
    (folder / ".metadata").write_bytes(pickle.dumps(Evil(), protocol=0))


def evil_inside(folder):
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.planner_data = {"x": Evil()}
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


@pytest.mark.parametrize("make", [evil_top, evil_protocol_0, evil_inside])
def test_metadata_that_runs_code_does_not(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path / "c", {"w": torch.ones(2, 2)})
    make(folder)
    with pytest.raises(CheckpointError) as error:
        DistributedCheckpoint(folder)
    assert error.value.code == "E_UNSAFE"
    assert f"{os.system.__module__}.system" in str(error.value)
    assert not (tmp_path / "canary").exists()


def test_a_piece_that_runs_code_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = chunk_bytes([torch.ones(50, 50), Evil()])
    folder = (
        Pieces(tmp_path / "c").add("w", random((2, 2)), [((0, 0), (2, 2))], chunks=[raw]).write()
    )
    with pytest.raises(CheckpointError) as error:
        DistributedCheckpoint(folder).read("w")
    assert error.value.code == "E_UNSAFE"
    assert not (tmp_path / "canary").exists()


def repacked(tensor, change):
    """Write a piece's archive anew, its records changed on the way."""
    buffer = BytesIO()
    with zipfile.ZipFile(BytesIO(chunk_bytes(tensor))) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            for name, data, how in change(info.filename, old.read(info)):
                new.writestr(name, data, how)
    return buffer.getvalue()


def short_record(name, data):
    yield name, data[:-4] if name.endswith("data/0") else data, zipfile.ZIP_STORED


def deflated(name, data):
    yield name, data, zipfile.ZIP_DEFLATED


def big_endian(name, data):
    yield name, b"big" if name.endswith("byteorder") else data, zipfile.ZIP_STORED


def no_record(name, data):
    if not name.endswith("data/0"):
        yield name, data, zipfile.ZIP_STORED


def no_pickle(name, data):
    if not name.endswith("data.pkl"):
        yield name, data, zipfile.ZIP_STORED


W = random((40, 40))
PIECES = {
    "short_record": (lambda: repacked(W, short_record), "E_ARCHIVE"),
    "no_record": (lambda: repacked(W, no_record) + b"\0" * 8000, "E_ARCHIVE"),
    "no_pickle": (lambda: repacked(W, no_pickle), "E_ARCHIVE"),
    "big_endian": (lambda: repacked(W, big_endian), "E_FORMAT"),
    "half": (lambda: chunk_bytes(W)[:3000] + b"\0" * 8000, "E_TRUNCATED"),
    "no_zip": (lambda: b"\0" * 8000, "E_ARCHIVE"),
    "legacy": (lambda: chunk_bytes(W, _use_new_zipfile_serialization=False), "E_ARCHIVE"),
    "another_shape": (lambda: chunk_bytes(W.reshape(20, 80)), "E_SHAPE"),
    "another_type": (lambda: chunk_bytes(W.double()), "E_SHAPE"),
    "no_tensor": (lambda: chunk_bytes({"w": W}), "E_SHAPE"),
    "expanded": (lambda: chunk_bytes(torch.ones(1, 1).expand(40, 40)) + b"\0" * 8000, "E_FORMAT"),
}


@pytest.mark.parametrize("name", PIECES)
def test_bad_pieces_are_refused_when_they_are_read(name, tmp_path):
    make, code = PIECES[name]
    pieces = Pieces(tmp_path / "c").add("w", W, [((0, 0), (40, 40))], chunks=[make()])
    source = DistributedCheckpoint(pieces.write())
    for read in (source.read, lambda n: source.read_rows(n, 1, 2)):
        with pytest.raises(CheckpointError) as error:
            read("w")
        assert error.value.code == code


def test_compressed_pieces_are_shorter_than_their_tensor_and_refused(tmp_path):
    raw = repacked(torch.zeros(40, 40), deflated)
    pieces = Pieces(tmp_path / "c").add("w", W, [((0, 0), (40, 40))], chunks=[raw])
    with pytest.raises(CheckpointError) as error:
        DistributedCheckpoint(pieces.write())
    assert error.value.code == "E_SHAPE"


def cover(tensor, blocks, shape=None):
    return lambda pieces: pieces.add("w", tensor, blocks, shape=shape)


SHAPES = {
    "hole": cover(W, grid((40, 40), [(10, 20), ()])[:2]),
    "no_pieces": cover(W, []),
    "overlap": cover(W, [((0, 0), (25, 40)), ((20, 0), (20, 40))]),
    "overlap_and_hole": cover(W, [((0, 0), (20, 40)), ((10, 0), (20, 40))]),
    "overlapping_tiles": cover(
        W, [((0, 0), (20, 20)), ((0, 20), (20, 20)), ((20, 0), (20, 20)), ((10, 10), (20, 20))]
    ),
    "beyond": cover(W, [((0, 0), (40, 41))]),
    "starts_beyond": cover(W, [((40, 0), (40, 40))]),
    "other_rank": cover(W, [((0, 0), (40, 40))], shape=(1600,)),
    "larger_than_its_bytes": cover(W, [((0, 0), (4000, 4000))], shape=(4000, 4000)),
    "huge": cover(W, [((0, 0), (2**60, 2**61))], shape=(2**60, 2**61)),
    "huge_and_empty": cover(W, [], shape=(0, 2**62)),
    "two_scalars": cover(torch.ones(()), [((), ())] * 2, shape=()),
}


@pytest.mark.parametrize("name", SHAPES)
def test_pieces_that_do_not_make_up_their_tensor_are_refused(name, tmp_path):
    pieces = Pieces(tmp_path / "c")
    SHAPES[name](pieces)
    with pytest.raises(CheckpointError) as error:
        DistributedCheckpoint(pieces.write())
    assert error.value.code == "E_SHAPE"


def test_many_pieces_that_share_a_place_are_a_bomb(tmp_path):
    pieces = Pieces(tmp_path / "c").add("w", W, [((0, 0), (40, 40))])
    (info,) = pieces.places.values()
    blocks = grid((40 * 500, 40), [range(40, 40 * 500, 40), ()])
    chunks = [ChunkStorageMetadata(torch.Size(b), torch.Size(s)) for b, s in blocks]
    pieces.places = {MetadataIndex("w", torch.Size(b)): info for b, _ in blocks}
    pieces.table["w"] = TensorStorageMetadata(TensorProperties(), torch.Size((20_000, 40)), chunks)
    with pytest.raises(CheckpointError) as error:
        DistributedCheckpoint(pieces.write())
    assert error.value.code == "E_LIMIT"


PLACES = {
    "parent": ("../out.distcp", "E_PATH"),
    "through_a_folder": ("sub/../../out.distcp", "E_PATH"),
    "absolute": ("/etc/passwd", "E_PATH"),
    "windows": ("..\\out.distcp", "E_PATH"),
    "drive": ("C:out.distcp", "E_PATH"),
    "link": ("link.distcp", "E_PATH"),
    "nul": ("a\0b", "E_PATH"),
    "absent": ("absent.distcp", "E_MISSING_SHARD"),
    "folder": ("", "E_MISSING_SHARD"),
    "fifo": ("pipe", "E_MISSING_SHARD"),
    "number": (3, "E_HEADER"),
    "nothing": (None, "E_HEADER"),
}


@pytest.mark.parametrize("name", PLACES)
def test_places_outside_the_folder_or_nowhere_are_refused(name, tmp_path):
    file, code = PLACES[name]
    pieces = Pieces(tmp_path / "c").add("w", W, [((0, 0), (40, 40))])
    (tmp_path / "out.distcp").write_bytes(chunk_bytes(W))
    (tmp_path / "c" / "link.distcp").symlink_to(tmp_path / "out.distcp")
    os.mkfifo(tmp_path / "c" / "pipe")
    for info in pieces.places.values():
        info.relative_path = file
    with pytest.raises(CheckpointError) as error:
        DistributedCheckpoint(pieces.write())
    assert error.value.code == code


@pytest.mark.parametrize(
    ("offset", "length", "code"),
    [
        (0, 2**40, "E_TRUNCATED"),
        (2**62, 10_000, "E_TRUNCATED"),
        (-8, 10_000, "E_HEADER"),
        (0, -1, "E_HEADER"),
        (0, 6000, "E_SHAPE"),
        (0, 2.5, "E_HEADER"),
        (True, 10_000, "E_HEADER"),
        (2**70, 10_000, "E_HEADER"),
    ],
)
def test_stretches_that_are_no_part_of_their_file_are_refused(offset, length, code, tmp_path):
    pieces = Pieces(tmp_path / "c").add("w", W, [((0, 0), (40, 40))])
    for info in pieces.places.values():
        info.offset, info.length = offset, length
    with pytest.raises(CheckpointError) as error:
        DistributedCheckpoint(pieces.write())
    assert error.value.code == code


def drop(attribute):
    def change(metadata):
        setattr(metadata, attribute, None)

    return change


def change_entry(value):
    def change(metadata):
        metadata.state_dict_metadata["w"] = value

    return change


def transformed(metadata):
    for info in metadata.storage_data.values():
        info.transform_descriptors = ["stream.zstd"]


def no_place(metadata):
    metadata.storage_data = {}


def key_that_is_no_name(metadata):
    metadata.state_dict_metadata[3] = metadata.state_dict_metadata.pop("w")


def plain_place(metadata):
    metadata.storage_data = {"w": "__0_0.distcp"}


METADATA = {
    "no_tensors": (drop("state_dict_metadata"), "E_HEADER"),
    "no_places": (drop("storage_data"), "E_HEADER"),
    "entry_of_none": (change_entry(None), "E_HEADER"),
    "entry_of_text": (change_entry("w"), "E_HEADER"),
    "entry_of_size": (change_entry(torch.Size((3,))), "E_HEADER"),
    "only_bytes": (change_entry(BytesStorageMetadata()), "E_NO_TENSORS"),
    "transformed": (transformed, "E_FORMAT"),
    "no_place": (no_place, "E_HEADER"),
    "key_that_is_no_name": (key_that_is_no_name, "E_HEADER"),
    "plain_place": (plain_place, "E_HEADER"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_that_lacks_something_is_refused(name, tmp_path):
    change, code = METADATA[name]
    folder = Pieces(tmp_path / "c").add("w", W, [((0, 0), (40, 40))]).write()
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError) as error:
        DistributedCheckpoint(folder)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "E_EMPTY"),
        (b"\x80\x04N.", "E_HEADER"),
        (b"\x80\x04}.", "E_HEADER"),
        (b"{}", "E_ARCHIVE"),
        (b"]" * 100_000 + b".", "E_LIMIT"),
        (b"\x80\x04", "E_TRUNCATED"),
    ],
)
def test_files_that_are_no_metadata_are_refused(raw, code, tmp_path):
    (tmp_path / ".metadata").write_bytes(raw)
    with pytest.raises(CheckpointError) as error:
        DistributedCheckpoint(tmp_path)
    assert error.value.code == code


def test_metadata_outside_the_folder_and_too_large_ones_are_refused(tmp_path, monkeypatch):
    folder = save(tmp_path / "c", {"w": W})
    monkeypatch.setattr(distributed_metadata, "MAX_PICKLE", 100)
    with pytest.raises(CheckpointError) as error:
        DistributedCheckpoint(folder)
    assert error.value.code == "E_LIMIT"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ".metadata").symlink_to(folder / ".metadata")
    with pytest.raises(CheckpointError) as error:
        DistributedCheckpoint(tmp_path / "d")
    assert error.value.code == "E_PATH"


def test_planner_data_that_lies_about_names_is_not_believed(tmp_path):
    pieces = Pieces(tmp_path / "c").add("model.w", W, [((0, 0), (40, 40))])
    nested = ()
    for _ in range(60):
        nested = (nested, nested)
    for lie in ({"model.w": ("model", "x")}, {"model.w": nested}, {"model.w": ()}, [1]):
        assert names(DistributedCheckpoint(pieces.write(planner_data=lie))) == ["model.w"]
    told = {"model.w": ("model", "w")}
    assert names(DistributedCheckpoint(pieces.write(planner_data=told))) == ["w"]


def test_the_sweep_finds_what_a_table_of_elements_finds():
    rng = np.random.default_rng(5540291837)
    for _ in range(300):
        begins = rng.integers(0, 5, (4, 2))
        blocks = [(tuple(map(int, b)), tuple(map(int, rng.integers(1, 4, 2)))) for b in begins]
        table = np.zeros((10, 10), int)
        for (i, j), (n, m) in blocks:
            table[i : i + n, j : j + m] += 1
        assert distributed_metadata._overlap(blocks) == bool((table > 1).any())


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_metadata_is_read_as_before_or_refused(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("c") / "c"
    w = random((12, 6))
    Pieces(folder).add("w", w, SPLITS["tiles"]).write()
    path = folder / ".metadata"
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    path.write_bytes(raw)
    with contextlib.suppress(CheckpointError):
        source = DistributedCheckpoint(folder)
        assert all(np.array_equal(source.read(name), w.numpy()) for name in names(source))
