import itertools
import pickle
import sys
import types
from io import BytesIO

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed._shard.sharded_tensor import metadata as old_metadata
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from spectra.sources.pytorch.distributed_checkpoints import DistributedCheckpoint, is_distributed

TYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
]
# Without a process group, torch says on every save that it has none.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is (disabled|unavailable)")


def random(shape, seed=61044873):
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(values)


def save(folder, state):
    dcp.save(state, checkpoint_id=str(folder), no_dist=True)
    return folder


def wide(tensor):
    return tensor.to(torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype).numpy()


def chunk_bytes(tensor, **options):
    buffer = BytesIO()
    torch.save(tensor, buffer, **options)
    return buffer.getvalue()


class Pieces:
    """A checkpoint written piece by piece, as several devices write it, or as none would."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.table, self.places, self.files = {}, {}, {}

    def add(self, name, tensor, blocks, *, shape=None, dtype=None, chunks=None):
        metadata = []
        for number, (begin, sizes) in enumerate(blocks):
            cut = tensor[tuple(slice(b, b + s) for b, s in zip(begin, sizes, strict=True))]
            raw = chunk_bytes(cut.clone()) if chunks is None else chunks[number]
            file = f"__{number % 3}_0.distcp"
            whole = self.files.setdefault(file, bytearray())
            place = _StorageInfo(file, len(whole), len(raw))
            self.places[MetadataIndex(name, torch.Size(begin))] = place
            whole += raw
            metadata.append(ChunkStorageMetadata(torch.Size(begin), torch.Size(sizes)))
        properties = TensorProperties(dtype=dtype or tensor.dtype)
        size = torch.Size(tensor.shape if shape is None else shape)
        self.table[name] = TensorStorageMetadata(properties, size, metadata)
        return self

    def write(self, **more):
        for name, raw in self.files.items():
            (self.folder / name).write_bytes(raw)
        metadata = Metadata(self.table, more.pop("planner_data", None), self.places, **more)
        (self.folder / ".metadata").write_bytes(pickle.dumps(metadata))
        return self.folder


def grid(shape, cuts):
    """Cut a shape into blocks at some places of each axis."""
    edges = [[0, *at, n] for at, n in zip(cuts, shape, strict=True)]
    blocks = [((), ())]
    for axis in edges:
        spans = list(itertools.pairwise(axis))
        blocks = [((*b, i), (*s, j - i)) for b, s in blocks for i, j in spans]
    return blocks


def names(source):
    return [tensor.name for tensor in source.tensors]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_tensors_of_every_type_are_those_that_were_saved(dtype, tmp_path):
    values = (4 * random((6, 5))).to(dtype)
    source = DistributedCheckpoint(save(tmp_path / "c", {"w": values, "b": values[0].clone()}))
    assert [(t.name, t.shape, t.dtype) for t in source.tensors] == [
        ("w", (6, 5), str(dtype).removeprefix("torch.")),
        ("b", (5,), str(dtype).removeprefix("torch.")),
    ]
    assert source.tensors[0].nbytes == values.nbytes
    read = source.read("w")
    assert read.dtype == wide(values).dtype
    assert np.array_equal(read, wide(values))
    assert np.array_equal(source.read_rows("w", 2, 5), wide(values)[2:5])


def test_scalars_empty_tensors_views_and_transposes_are_read(tmp_path):
    base = random((6, 8))
    state = {"s": torch.tensor(3.5), "e": torch.zeros(0, 3), "v": base[1:4, 2:6], "t": base.T}
    source = DistributedCheckpoint(save(tmp_path / "c", state))
    for name, tensor in state.items():
        assert np.array_equal(source.read(name), tensor.numpy())
    assert np.array_equal(source.read_rows("t", 3, 7), base.T[3:7].numpy())


def test_the_model_is_found_and_what_is_beside_it_is_named(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters())
    model(random((5, 4))).sum().backward()
    optimizer.step()
    state = {"app": {"model": model.state_dict(), "optim": optimizer.state_dict()}, "step": 3}
    source = DistributedCheckpoint(save(tmp_path / "c", state))
    assert names(source) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert np.array_equal(source.read(name), tensor.numpy())
    assert "state dict found under 'app.model'" in source.info.notes
    reasons = {skipped.name: skipped.reason for skipped in source.ignored}
    assert reasons["step"] == "not a tensor"
    assert reasons["app.optim.*"].startswith("optimizer state (")


def test_names_with_dots_of_their_own_keep_them(tmp_path):
    """A language model's state dict at the top: `model.` is a module's name there, and no root."""
    state = {"model.layers.0.weight": random((3, 2)), "model.norm.weight": random(3)}
    source = DistributedCheckpoint(save(tmp_path / "c", state))
    assert names(source) == list(state)


def test_a_second_copy_of_the_weights_is_beside_the_model(tmp_path):
    state = {"ema": {"w": random((3, 2))}, "model": {"w": random((3, 2))}, "epoch": torch.ones(1)}
    source = DistributedCheckpoint(save(tmp_path / "c", state))
    assert names(source) == ["w"]
    assert np.array_equal(source.read("w"), state["model"]["w"].numpy())
    assert sorted(skipped.name for skipped in source.ignored) == ["ema.w", "epoch"]


def test_optimizer_keys_without_nesting_are_recognised(tmp_path):
    pieces = Pieces(tmp_path / "c")
    w = random((4, 2))
    whole = [((0, 0), (4, 2))]
    for name in ("w", "optimizer.state.exp_avg.w", "w.exp_avg_sq", "optimizer.state.step.w"):
        pieces.add(name, w, whole)
    source = DistributedCheckpoint(pieces.write())
    assert names(source) == ["w"]
    assert {s.name: s.count for s in source.ignored} == {"optimizer.*": 2, "*.exp_avg_sq.*": 1}


SPLITS = {
    "rows": grid((12, 6), [(5, 9), ()]),
    "uneven_rows_and_an_empty_one": [*grid((12, 6), [(7,), ()]), ((12, 0), (0, 6))],
    "columns": grid((12, 6), [(), (2,)]),
    "tiles": grid((12, 6), [(3, 4), (1, 5)]),
    "pinwheel": [
        ((0, 0), (8, 2)),
        ((8, 0), (4, 4)),
        ((4, 4), (8, 2)),
        ((0, 2), (4, 4)),
        ((4, 2), (4, 2)),
    ],
}


@pytest.mark.parametrize("name", SPLITS)
def test_tensors_in_pieces_are_put_together(name, tmp_path):
    w = random((12, 6))
    source = DistributedCheckpoint(Pieces(tmp_path / "c").add("w", w, SPLITS[name]).write())
    assert np.array_equal(source.read("w"), w.numpy())
    for begin, end in ((0, 0), (0, 12), (3, 4), (4, 10), (11, 12)):
        assert np.array_equal(source.read_rows("w", begin, end), w.numpy()[begin:end])


def test_rows_touch_only_the_pieces_that_hold_them(tmp_path):
    w = random((9, 4))
    folder = Pieces(tmp_path / "c").add("w", w, grid((9, 4), [(3, 6), ()])).write()
    source = DistributedCheckpoint(folder)
    (folder / "__1_0.distcp").unlink()
    assert np.array_equal(source.read_rows("w", 6, 9), w.numpy()[6:])
    assert np.array_equal(source.read_rows("w", 0, 3), w.numpy()[:3])


def test_metadata_of_older_torch_is_read(tmp_path):
    """Up to torch 2.1 the properties of a tensor were those of a sharded tensor."""
    w = random((4, 3))
    pieces = Pieces(tmp_path / "c").add("w", w, [((0, 0), (4, 3))])
    pieces.table["w"].properties = old_metadata.TensorProperties(dtype=torch.float32)
    source = DistributedCheckpoint(pieces.write())
    assert np.array_equal(source.read("w"), w.numpy())


def test_megatrons_own_metadata_is_read(tmp_path, monkeypatch):
    """Megatron pickles a class of its own, which need not be there to be read."""
    module = types.ModuleType("megatron.core.dist_checkpointing.strategies.torch")
    module.MCoreMetadata = type("MCoreMetadata", (Metadata,), {"__module__": module.__name__})
    w = random((4, 3))
    pieces = Pieces(tmp_path / "c").add("w", w, [((0, 0), (4, 3))])
    folder = pieces.write()
    with monkeypatch.context() as there:
        parts = module.__name__.split(".")
        for n in range(1, len(parts)):
            name = ".".join(parts[:n])
            there.setitem(sys.modules, name, types.ModuleType(name))
        there.setitem(sys.modules, module.__name__, module)
        own = module.MCoreMetadata(pieces.table, None, pieces.places)
        own.mcore_data = {"w": {"nd_reformulated_orig_global_shape": (4, 3)}}
        (folder / ".metadata").write_bytes(pickle.dumps(own))
    assert np.array_equal(DistributedCheckpoint(folder).read("w"), w.numpy())


def test_what_is_a_distributed_checkpoint_is_told_by_its_metadata(tmp_path):
    assert not is_distributed(tmp_path)
    assert is_distributed(save(tmp_path / "c", {"w": torch.ones(2, 2)}))
