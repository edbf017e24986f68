import json
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file as save_torch

import spectra
from spectra.errors import CheckpointError, WeightError
from spectra.sources import demo_model, open_source
from spectra.sources.base import natural_key
from spectra.sources.pytorch import torch_files

STORED = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@pytest.fixture(params=["eager", "lazy"])
def archives(request, monkeypatch):
    """Run with zip archives loaded whole, and listed without their data."""
    if request.param == "lazy":
        monkeypatch.setattr(torch_files, "LAZY_FROM", 0)
    return request.param


def names(source):
    return [tensor.name for tensor in source.tensors]


@pytest.mark.parametrize("dtype", STORED)
def test_safetensors_of_every_float_type_are_read_exactly(dtype, tmp_path, rng):
    values = torch.from_numpy(rng.standard_normal((7, 5))).to(STORED[dtype])
    save_torch({"a": values, "b": torch.zeros(3, dtype=STORED[dtype])}, tmp_path / "m.safetensors")
    source = open_source(tmp_path / "m.safetensors")
    assert [(t.name, t.shape, t.dtype) for t in source.tensors] == [
        ("a", (7, 5), dtype),
        ("b", (3,), dtype),
    ]
    assert np.array_equal(source.read("a").astype(np.float64), values.to(torch.float64).numpy())


def test_safetensors_are_listed_in_natural_order(tmp_path):
    order = ["layers.0.w", "layers.2.w", "layers.10.w"]
    save_numpy({name: np.ones((2, 2)) for name in reversed(order)}, tmp_path / "m.safetensors")
    assert names(open_source(tmp_path / "m.safetensors")) == order


def test_describing_reads_no_weights(tmp_path):
    """A header that claims 100 GB is listed at once: the file is sparse, its data never touched."""
    shape = [50_000, 500_000]
    size = 4 * shape[0] * shape[1]
    header = json.dumps({"big": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}})
    header += " " * (-len(header) % 8)
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + size)
    source = open_source(path)
    assert source.info.nbytes == 10**11


@pytest.mark.parametrize("root", [None, "state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_are_found_under_the_usual_roots(root, zipped, tmp_path, archives, rng):
    weight = torch.from_numpy(rng.standard_normal((6, 4)))
    state = {"fc.weight": weight, "fc.bias": weight[0]}
    moments = {"state": {0: {"exp_avg": weight * 0}}}
    saved = state if root is None else {root: state, "optimizer": moments, "epoch": 3}
    torch.save(saved, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    source = open_source(tmp_path / "m.pt")
    assert names(source) == ["fc.weight", "fc.bias"]
    assert np.array_equal(source.read("fc.weight"), weight.numpy())
    if root:
        assert [s.reason for s in source.ignored] == ["optimizer state (1 tensors)"]
        assert source.info.notes == (f"state dict found under {root!r}",)


@pytest.mark.parametrize("dtype", STORED)
def test_torch_views_and_types_are_read_exactly(dtype, tmp_path, archives, rng):
    base = torch.from_numpy(rng.standard_normal((9, 8))).to(STORED[dtype])
    state = {"base": base, "view": base[2:5, 1::2], "turned": base.T, "tied": base}
    torch.save(state, tmp_path / "m.pt")
    source = open_source(tmp_path / "m.pt")
    for name, value in state.items():
        assert np.array_equal(source.read(name).astype(np.float64), value.to(torch.float64).numpy())
    storage = {t.name: t.storage for t in source.tensors}
    assert storage["base"] == storage["tied"]
    assert len(set(storage.values())) == 3


def test_torch_still_leaves_offsets_in_lazily_listed_storages(tmp_path, monkeypatch):
    """The attribute is private: its loss in a new torch must show here, not as a wrong number."""
    monkeypatch.setattr(torch_files, "LAZY_FROM", 0)
    torch.save({"w": torch.arange(12.0).reshape(3, 4)}, tmp_path / "m.pt")
    source = open_source(tmp_path / "m.pt")
    assert source.tensors[0].storage is not None
    assert np.array_equal(source.read("w"), np.arange(12.0).reshape(3, 4))


def rewrite(path, change):
    """Copy a zip archive with each record changed: (name, data) -> (data, compression)."""
    with zipfile.ZipFile(path) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records:
            data, method = change(name, data)
            archive.writestr(name, data, method)


@pytest.mark.parametrize("fault", ["short", "compressed"])
def test_archives_with_bad_records_give_right_numbers_or_none(fault, tmp_path, archives):
    path = tmp_path / "m.pt"
    weight = torch.arange(4096.0).reshape(64, 64)
    torch.save({"w": weight, "v": weight * 2}, path)

    def change(name, data):
        if name.endswith("/data/0"):
            if fault == "short":
                return data[:1000], zipfile.ZIP_STORED
            return data, zipfile.ZIP_DEFLATED
        return data, zipfile.ZIP_STORED

    rewrite(path, change)
    if (fault, archives) == ("compressed", "eager"):
        assert np.array_equal(open_source(path).read("w"), weight.numpy())
        return
    with pytest.raises(CheckpointError) as caught:
        open_source(path)
    assert caught.value.code == "E_ARCHIVE"


def test_shards_with_an_index_are_one_source(tmp_path, rng):
    parts = {"model-1.safetensors": ["a", "b"], "model-2.safetensors": ["c"]}
    weights = {name: rng.standard_normal((4, 3)) for name in "abc"}
    for file, held in parts.items():
        save_numpy({name: weights[name] for name in held}, tmp_path / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for where in (tmp_path, tmp_path / "model.safetensors.index.json"):
        source = open_source(where)
        assert names(source) == ["a", "b", "c"]
        assert np.array_equal(source.read("c"), weights["c"])


def test_shards_without_an_index_are_told_by_their_numbers(tmp_path):
    for part in (1, 2):
        save_numpy({f"w{part}": np.ones((2, 2))}, tmp_path / f"m-0000{part}-of-00002.safetensors")
    assert names(open_source(tmp_path)) == ["w1", "w2"]
    (tmp_path / "m-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks 1 of 2 shards") as caught:
        open_source(tmp_path)
    assert caught.value.code == "E_MISSING_SHARD"


def test_sharded_torch_files_are_one_source(tmp_path):
    torch.save({"a": torch.ones(2, 2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.ones(2, 2)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    torch.save({"step": torch.ones(1)}, tmp_path / "optimizer.pt")
    assert names(open_source(tmp_path)) == ["a", "b"]


def test_a_folder_of_several_models_is_refused(tmp_path):
    for name in ("first", "second"):
        save_numpy({"w": np.ones((2, 2))}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="2 checkpoints") as caught:
        open_source(tmp_path)
    assert caught.value.code == "E_AMBIGUOUS"


def test_a_hub_cache_of_links_to_blobs_is_read(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_numpy({"w": np.ones((2, 2))}, blobs / "0123")
    (snapshot / "m.safetensors").symlink_to(blobs / "0123")
    index = {"weight_map": {"w": "m.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert names(open_source(snapshot)) == ["w"]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(50, 24)
        self.conv = torch.nn.Conv2d(8, 12, 3, groups=4)
        self.up = torch.nn.ConvTranspose2d(8, 12, 3)
        self.normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(24, 30))
        self.head = torch.nn.Linear(24, 50, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.ones(30, 30))


def test_a_live_module_is_read_as_it_computes():
    torch.manual_seed(20260713)
    net = Net()
    source = open_source(net)
    by_name = {t.name: t for t in source.tensors}
    assert by_name["embed.weight"].kind == "embedding"
    assert by_name["conv.weight"].groups == 4
    assert by_name["embed.weight"].storage == by_name["head.weight"].storage
    assert np.array_equal(source.read("normed.weight"), net.normed.weight.detach().numpy())
    assert not any("original" in name for name in by_name)
    assert [s.name for s in source.ignored] == ["table"]
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(
    ("bad", "words"),
    [({}, "empty"), ({"a": "text"}, "got str"), ({1: np.ones(2)}, "no string"), (3, "got int")],
)
def test_objects_that_hold_no_weights_are_refused(bad, words):
    with pytest.raises(WeightError, match=words):
        open_source(bad)


def test_views_of_one_array_are_tied():
    array = np.ones((4, 4))
    source = open_source({"a": array, "b": array, "c": array.T})
    keys = [t.storage for t in source.tensors]
    assert keys[0] == keys[1]


def test_the_shipped_model_is_a_megabyte_of_safetensors():
    assert demo_model().stat().st_size < 1.1e6
    assert "fc1.weight" in names(open_source(demo_model()))


def test_a_file_replaced_during_the_run_is_an_error_not_a_number(tmp_path):
    path = tmp_path / "m.safetensors"
    save_numpy({"w": np.ones((64, 64))}, path)
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="ends inside"):
        source.read("w")


def test_tensors_of_different_lazy_shards_are_not_tied(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_files, "LAZY_FROM", 0)
    for part in (1, 2):
        path = tmp_path / f"pytorch_model-0000{part}-of-00002.bin"
        torch.save({f"layers.{part}.weight": torch.full((40, 30), float(part))}, path)
    source = open_source(tmp_path)
    assert len({t.storage for t in source.tensors}) == 2
    assert source.info.n_tensors == 2
    assert source.read("layers.2.weight")[0, 0] == 2


def test_views_that_start_elsewhere_or_read_otherwise_are_not_tied(tmp_path, archives):
    base = torch.arange(64, dtype=torch.float32)
    state = {
        "first": base[:16].view(4, 4),
        "second": base[16:32].view(4, 4),
        "again": base[:16].view(4, 4),
    }
    torch.save(state, tmp_path / "m.pt")
    storage = {t.name: t.storage for t in open_source(tmp_path / "m.pt").tensors}
    assert storage["first"] == storage["again"] != storage["second"]
    half = torch.ones(4, 4, dtype=torch.float16)
    other = {t.storage for t in open_source({"h": half, "b": half.view(torch.bfloat16)}).tensors}
    assert len(other) == 2


def forged(path, tag):
    """Rewrite an archive as if it had been saved on another device: the tag is a pickled string."""

    def change(name, data):
        if name.endswith("data.pkl"):
            cpu, there = (b"X" + len(t).to_bytes(4, "little") + t for t in (b"cpu", tag))
            assert cpu in data
            data = data.replace(cpu, there)
        return data, zipfile.ZIP_STORED

    rewrite(path, change)


@pytest.mark.parametrize("tag", [b"cuda:0", b"cuda:7", b"mps"])
def test_files_saved_on_another_device_are_read_on_this_one(tag, tmp_path, archives):
    weight = torch.arange(12.0).reshape(3, 4)
    torch.save({"w": weight}, tmp_path / "m.pt")
    forged(tmp_path / "m.pt", tag)
    assert np.array_equal(open_source(tmp_path / "m.pt").read("w"), weight.numpy())


def test_files_of_the_other_byte_order_are_read_rightly(tmp_path, archives):
    weight = torch.arange(12.0).reshape(3, 4)
    torch.save({"w": weight}, tmp_path / "m.pt")

    def change(name, data):
        if name.endswith("/byteorder"):
            data = b"big"
        elif name.endswith("/data/0"):
            data = np.frombuffer(data, "<f4").astype(">f4").tobytes()
        return data, zipfile.ZIP_STORED

    rewrite(tmp_path / "m.pt", change)
    assert np.array_equal(open_source(tmp_path / "m.pt").read("w"), weight.numpy())


def test_what_trainers_leave_beside_the_root_does_not_hide_it(tmp_path, archives):
    saved = {
        "state_dict": {"module.fc.weight": torch.ones(4, 3)},
        "best_acc1": torch.tensor(76.1),
        "rng_state": torch.zeros(9, dtype=torch.uint8),
    }
    torch.save(saved, tmp_path / "m.pth.tar.pt")
    source = open_source(tmp_path / "m.pth.tar.pt")
    assert names(source) == ["module.fc.weight"]
    assert [s.name for s in source.ignored] == ["best_acc1.*", "rng_state.*"]


@pytest.mark.parametrize("length", [15392, 23328, 31520])
def test_a_header_length_that_reads_like_text_is_a_length(length, tmp_path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}})
    raw = length.to_bytes(8, "little") + header.ljust(length).encode() + bytes(16)
    (tmp_path / "m.safetensors").write_bytes(raw)
    assert names(open_source(tmp_path / "m.safetensors")) == ["w"]


@pytest.mark.parametrize(
    "odd",
    [
        torch.zeros(1).expand(100_000, 100_000),
        torch.eye(4).to_sparse(),
        torch.ones(4, 4, dtype=torch.complex64),
    ],
    ids=["expanded", "sparse", "complex"],
)
def test_tensors_that_are_no_plain_numbers_get_a_status(odd):
    report = spectra.analyze({"odd": odd, "good": torch.randn(40, 30)})
    assert report["odd"].status == "unsupported_dtype"
    assert report["good"].status == "ok"


def test_expanded_and_sparse_tensors_in_files_cost_no_others(tmp_path, archives):
    state = {
        "big": torch.zeros(1).expand(100_000, 100_000),
        "sparse": torch.eye(4).to_sparse(),
        "none": torch.zeros(3, 0),
        "good": torch.ones(4, 4),
    }
    torch.save(state, tmp_path / "m.pt")
    source = open_source(tmp_path / "m.pt")
    dtypes = {t.name: t.dtype for t in source.tensors}
    assert dtypes["big"] == "float32, expanded or freed"
    assert dtypes["sparse"] == "float32, sparse_coo"
    assert np.array_equal(source.read("good"), np.ones((4, 4)))


@pytest.mark.parametrize("nested", ["circle", "doubling", "collision"])
def test_trees_without_end_or_with_one_name_twice_are_refused(nested, tmp_path):
    tree: dict = {"a": {"b": torch.ones(2, 2)}}
    if nested == "circle":
        tree["a"]["a"] = tree["a"]
    elif nested == "doubling":
        leaf = [0]
        for _ in range(40):
            leaf = [leaf, leaf]
        tree["c"] = leaf
    else:
        tree["a.b"] = torch.ones(2, 2)
    torch.save(tree, tmp_path / "m.pt")
    with pytest.raises(CheckpointError) as caught:
        open_source(tmp_path / "m.pt")
    assert caught.value.code == ("E_DUPLICATE" if nested == "collision" else "E_ARCHIVE")


def test_a_zip_bomb_is_refused(tmp_path):
    torch.save({"w": torch.zeros(4096, 4096)}, tmp_path / "m.pt")
    rewrite(tmp_path / "m.pt", lambda name, data: (data, zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError) as caught:
        open_source(tmp_path / "m.pt")
    assert caught.value.code == "E_LIMIT"


def test_the_usual_index_goes_before_a_variant(tmp_path):
    for stem in ("model.fp16", "model"):
        save_numpy({f"{stem}.w": np.ones((2, 2))}, tmp_path / f"{stem}.safetensors")
        index = {"weight_map": {f"{stem}.w": f"{stem}.safetensors"}}
        (tmp_path / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    assert names(open_source(tmp_path)) == ["model.w"]


def test_digits_sort_as_numbers_however_many():
    order = ["w9", "w10", "w" + "9" * 5000, "w1" + "0" * 5000]
    shuffled = [order[2], order[0], order[3], order[1]]
    assert sorted(shuffled, key=natural_key) == order
