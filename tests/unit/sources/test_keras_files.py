"""Keras files: each weight once, kernels in torch's order, and HDF5 led nowhere else."""

import os
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest

from spectra.errors import CheckpointError
from spectra.sources.keras_files import KerasFile
from spectra.sources.shapes import role_of, torch_order, torch_shape
from tests.conftest import ROOT


def write(path, variables, **options):
    with h5py.File(path, "w") as file:
        for name, value in variables.items():
            file.create_dataset(name, data=value, **options)
    return path


def archived(path, h5, method=zipfile.ZIP_STORED, name="model.weights.h5"):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr(name, h5.read_bytes())
    return path


@pytest.fixture
def legacy(rng) -> dict[str, np.ndarray]:
    """Variables as Keras 2 writes them, under the root of a whole model."""
    shapes = {
        "conv2d/conv2d/kernel:0": (3, 3, 4, 6),
        "conv2d/conv2d/bias:0": (6,),
        "conv2d_1/conv2d_1/kernel:0": (3, 2, 6, 5),
        "conv1d/conv1d/kernel:0": (5, 4, 7),
        "conv3d/conv3d/kernel:0": (2, 3, 4, 5, 6),
        "dw/dw/depthwise_kernel:0": (3, 3, 8, 2),
        "separable/separable/pointwise_kernel:0": (1, 1, 8, 9),
        "lstm/lstm_cell/recurrent_kernel:0": (8, 32),
        "dense/dense/kernel:0": (12, 10),
        "embedding/embedding/embeddings:0": (20, 6),
    }
    return {
        f"model_weights/{name}": rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def test_kernels_come_in_torch_order_and_optimizer_state_is_left_out(legacy, tmp_path):
    state = {
        f"optimizer_weights/Adam/{name}/{moment}:0": np.ones(3)
        for name in ("conv2d/kernel", "dense/kernel")
        for moment in "mv"
    }
    path = write(tmp_path / "m.h5", legacy | state)
    source = KerasFile(path)
    shapes = {tensor.name: tensor.shape for tensor in source.tensors}
    assert shapes == {
        "conv2d.kernel": (6, 4, 3, 3),
        "conv2d.bias": (6,),
        "conv2d_1.kernel": (5, 6, 3, 2),
        "conv1d.kernel": (7, 4, 5),
        "conv3d.kernel": (6, 5, 2, 3, 4),
        "dw.depthwise_kernel": (16, 1, 3, 3),
        "separable.pointwise_kernel": (9, 8, 1, 1),
        "lstm.lstm_cell.recurrent_kernel": (8, 32),
        "dense.kernel": (12, 10),
        "embedding.embeddings": (20, 6),
    }
    assert [(s.name, s.reason, s.count) for s in source.ignored] == [
        ("optimizer_weights.*", "optimizer state (4 tensors)", 4)
    ]
    stored = legacy["model_weights/conv2d_1/conv2d_1/kernel:0"]
    read = source.read("conv2d_1.kernel")
    assert read[4, 3, 2, 1] == stored[2, 1, 3, 4]
    assert np.array_equal(read, stored.transpose(3, 2, 0, 1))
    deep = source.read("dw.depthwise_kernel")
    assert deep[2 * 5 + 1, 0, 2, 1] == legacy["model_weights/dw/dw/depthwise_kernel:0"][2, 1, 5, 1]
    for name, shape in shapes.items():
        assert source.read(name).shape == shape
        assert np.array_equal(source.read_rows(name, 2, 5), source.read(name)[2:5])
    assert source.info.nbytes == sum(value.nbytes for value in legacy.values())


def test_depthwise_kernels_are_known_by_the_layer_where_keras_3_calls_them_kernel():
    assert role_of(["depthwise_conv2d_3", "kernel"], 4) == "depthwise"
    assert role_of(["conv2d", "kernel"], 4) == "kernel"
    assert role_of(["dense", "kernel"], 2) == "plain"
    assert role_of(["kernel"], 6) == "plain"
    for role in ("plain", "kernel", "depthwise"):
        values = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
        assert torch_order(values, role).shape == torch_shape(values.shape, role)


@pytest.mark.parametrize("kind", ["h5", "stored", "deflated"])
def test_numbered_variables_of_keras_3_are_told_by_their_layer(kind, tmp_path, rng):
    shapes = {
        "layers/conv2d/vars/0": (3, 3, 4, 6),
        "layers/conv2d/vars/1": (6,),
        "layers/conv1d/vars/0": (5, 4, 7),
        "layers/depthwise_conv2d/vars/0": (3, 3, 8, 2),
        "layers/separable_conv2d/vars/0": (3, 3, 4, 1),
        "layers/separable_conv2d/vars/1": (1, 1, 4, 9),
        "layers/multi_head_attention/query_dense/vars/0": (16, 2, 8),
        "layers/dense/vars/0": (12, 10),
        "optimizer/vars/0": (),
        "optimizer/vars/1": (3, 3, 4, 6),
    }
    variables = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    path = write(tmp_path / "m.weights.h5", variables)
    if kind != "h5":
        method = zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED
        path = archived(tmp_path / "m.keras", path, method)
    source = KerasFile(path)
    assert {tensor.name: tensor.shape for tensor in source.tensors} == {
        "layers.conv1d.0": (7, 4, 5),
        "layers.conv2d.0": (6, 4, 3, 3),
        "layers.conv2d.1": (6,),
        "layers.dense.0": (12, 10),
        "layers.depthwise_conv2d.0": (16, 1, 3, 3),
        "layers.multi_head_attention.query_dense.0": (16, 2, 8),
        "layers.separable_conv2d.0": (4, 1, 3, 3),
        "layers.separable_conv2d.1": (9, 4, 1, 1),
    }
    assert [skipped.count for skipped in source.ignored] == [2]
    expected = variables["layers/conv2d/vars/0"].transpose(3, 2, 0, 1)
    assert np.array_equal(source.read("layers.conv2d.0"), expected)
    assert np.array_equal(
        source.read_rows("layers.dense.0", 3, 9), variables["layers/dense/vars/0"][3:9]
    )


@pytest.mark.parametrize(
    "options", [{}, {"compression": "gzip", "shuffle": True}, {"chunks": True}]
)
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", "<i8", "u1", "?"])
def test_types_and_usual_compression_are_read(options, dtype, tmp_path, rng):
    values = (9 * rng.standard_normal((30, 20))).astype(dtype)
    source = KerasFile(write(tmp_path / "m.h5", {"a/w": values}, **options))
    assert source.tensors[0].dtype == values.dtype.name
    assert source.read("a.w").dtype.isnative
    assert np.array_equal(source.read("a.w"), values)


def test_bfloat16_under_keras_own_mark_is_read_exactly(tmp_path, rng):
    values = rng.standard_normal((6, 4)).astype(ml_dtypes.bfloat16)
    path = write(tmp_path / "m.h5", {"a/vars/0": values, "b/vars/0": values})
    with h5py.File(path, "a") as file:
        file["a/vars/0"].attrs["dtype"] = "bfloat16"
    source = KerasFile(path)
    assert [tensor.dtype for tensor in source.tensors] == ["bfloat16", "structured"]
    assert np.array_equal(source.read("a.0"), values.astype(np.float32))
    assert np.array_equal(source.read_rows("a.0", 1, 3), values[1:3].astype(np.float32))
    with pytest.raises(CheckpointError, match="not read"):
        source.read("b.0")


def test_layers_keep_the_order_that_the_file_states(tmp_path):
    names = ["zero", "b", "a"]
    path = write(tmp_path / "m.h5", {f"model_weights/{n}/{n}/w:0": np.ones(2) for n in names})
    with h5py.File(path, "a") as file:
        file["model_weights"].attrs["layer_names"] = np.array(names, "S")
    assert [tensor.name for tensor in KerasFile(path).tensors] == ["zero.w", "b.w", "a.w"]


def test_names_that_would_become_alike_stay_as_in_the_file(tmp_path):
    path = write(tmp_path / "m.h5", {"a/a/w:0": np.ones(2), "a/w:0": np.zeros(2)})
    source = KerasFile(path)
    assert [tensor.name for tensor in source.tensors] == ["a/a/w:0", "a/w:0"]
    assert source.read("a/a/w:0").all()


def test_hard_links_in_a_circle_are_walked_once_and_tie_what_they_share(tmp_path):
    path = write(tmp_path / "m.h5", {"a/w": np.ones((3, 2))})
    with h5py.File(path, "a") as file:
        file["a/self"] = file["a"]
        file["a/top"] = file["/"]
        file["tied"] = file["a/w"]
        file["text"] = "no numbers"
    source = KerasFile(path)
    assert [tensor.name for tensor in source.tensors] == ["a.w", "tied"]
    assert source.tensors[0].storage == source.tensors[1].storage
    assert source.info.n_tensors == 1
    assert [skipped.name for skipped in source.ignored] == ["text"]


def test_a_file_replaced_after_the_listing_is_noticed(tmp_path):
    path = write(tmp_path / "m.h5", {"w": np.ones((3, 2))})
    source = KerasFile(path)
    write(path, {"w": np.ones((2, 3))})
    with pytest.raises(CheckpointError) as caught:
        source.read("w")
    assert caught.value.code == "E_TRUNCATED"


def external_link(file, outside):
    file["w"] = h5py.ExternalLink(str(outside), "/secret")


def soft_link(file, outside):
    file["a"] = np.ones(2)
    file["w"] = h5py.SoftLink("/a")


def soft_circle(file, outside):
    file["w"] = h5py.SoftLink("/w")


def raw_file(file, outside):
    file.create_dataset("w", (4,), "f8", external=[(str(outside), 0, 32)])


def virtual(file, outside):
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource(str(outside), "secret", (4,))
    file.create_virtual_dataset("w", layout)


def sparse(file, outside):
    file.create_dataset("w", (200_000, 200_000), "f4")


def sparse_chunks(file, outside):
    file.create_dataset("w", (200_000, 200_000), "f4", chunks=(100, 100))
    file["w"][0, 0] = 1


def bomb(file, outside):
    file.create_dataset("w", data=np.zeros((3000, 3000)), compression="gzip")


def huge_chunk(file, outside):
    file.create_dataset(
        "w", (2, 2), "f8", maxshape=(None, None), chunks=(8000, 8000), compression="gzip"
    )


def deep(file, outside):
    file["/".join(["g"] * 100)] = np.ones(2)


def nothing(file, outside):
    file.create_group("a")


def optimizer_alone(file, outside):
    file["optimizer/vars/0"] = np.ones(2)


@pytest.mark.parametrize("kind", ["h5", "keras"])
@pytest.mark.parametrize(
    ("make", "code"),
    [
        (external_link, "E_PATH"),
        (soft_link, "E_PATH"),
        (soft_circle, "E_PATH"),
        (raw_file, "E_PATH"),
        (virtual, "E_PATH"),
        (sparse, "E_LIMIT"),
        (sparse_chunks, "E_LIMIT"),
        (bomb, "E_LIMIT"),
        (huge_chunk, "E_LIMIT"),
        (deep, "E_LIMIT"),
        (nothing, "E_NO_TENSORS"),
        (optimizer_alone, "E_NO_TENSORS"),
    ],
)
def test_files_that_lead_elsewhere_or_claim_too_much_are_refused(make, code, kind, tmp_path):
    outside = write(tmp_path / "outside.h5", {"secret": np.ones(4)})
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        make(file, outside)
    if kind == "keras":
        path = archived(tmp_path / "m.keras", path)
    tracemalloc.start()
    with pytest.raises(CheckpointError) as caught:
        KerasFile(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == code
    assert peak < 5_000_000


def test_unknown_compression_is_listed_and_no_plug_in_is_looked_for(tmp_path):
    path = write(tmp_path / "m.h5", {"w": np.ones((30, 20))}, compression="gzip")
    raw = path.read_bytes()
    # The message that names the filter: deflate is number 1, with one value for the client.
    plain = struct.pack("<HHHH", 1, 8, 1, 1) + b"deflate\0"
    assert raw.count(plain) == 1
    path.write_bytes(raw.replace(plain, struct.pack("<HHHH", 32015, 8, 1, 1) + b"deflate\0"))
    source = KerasFile(path)
    assert source.tensors[0].dtype == "float64, packed by filter 32015"
    with pytest.raises(CheckpointError, match="not read"):
        source.read("w")


def empty(path):
    path.write_bytes(b"")


def no_hdf5(path):
    path.write_bytes(b"\x89PNG" + b"\0" * 2000)


def half(path):
    write(path, {"w": np.ones((100, 100))})
    path.write_bytes(path.read_bytes()[:20_000])


def damaged(path):
    write(path, {"group/w": np.ones((100, 100))})
    raw = bytearray(path.read_bytes())
    raw[96:700] = b"\xff" * 604
    path.write_bytes(raw)


def slipped_names(path):
    archived(path, write(path.with_suffix(".h5"), {"w": np.ones(3)}), name="../model.weights.h5")


def not_keras(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.npz", b"")


def zip_bomb(path):
    path.with_suffix(".h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(120_000_000))
    archived(path, path.with_suffix(".h5"), zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (empty, "E_EMPTY"),
        (no_hdf5, "E_FORMAT"),
        (half, "E_TRUNCATED"),
        (damaged, "E_ARCHIVE"),
        (slipped_names, "E_FORMAT"),
        (not_keras, "E_FORMAT"),
        (zip_bomb, "E_LIMIT"),
    ],
)
def test_damaged_files_and_odd_archives_are_refused(make, code, tmp_path):
    make(tmp_path / "m.keras")
    before = set(tmp_path.parent.iterdir())
    with pytest.raises(CheckpointError) as caught:
        KerasFile(tmp_path / "m.keras")
    assert caught.value.code == code
    assert set(tmp_path.parent.iterdir()) == before


def test_names_that_would_slip_out_of_the_folder_are_not_unpacked(tmp_path):
    inner = write(tmp_path / "w.h5", {"w": np.ones(3)})
    path = archived(tmp_path / "m.keras", inner)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../slipped", "x")
    source = KerasFile(path)
    assert source.read("w").all()
    assert not (tmp_path.parent.parent / "slipped").exists()


def test_without_h5py_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "m.h5", {"w": np.ones(3)})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(CheckpointError, match=r"spectra-diagnostics\[keras\]") as caught:
        KerasFile(path)
    assert caught.value.code == "E_MISSING_PACKAGE"


def test_a_trained_resnet_gives_each_weight_once():
    folder = Path(os.environ.get("SPECTRA_TEST_MODELS", ROOT.parent / "shared" / "models"))
    path = folder / "keras" / "pretrainedResnet.h5"
    if not path.exists():
        pytest.skip("needs the folder of models; set SPECTRA_TEST_MODELS to it")
    source = KerasFile(path)
    matrices = [tensor for tensor in source.tensors if len(tensor.shape) > 1]
    assert matrices[0].name == "conv2d.kernel"
    assert len(matrices) == 10
    assert {tensor.shape[2:] for tensor in matrices} == {(3, 3), (1, 1), ()}
    assert [(s.name, s.count) for s in source.ignored] == [("optimizer_weights.*", 69)]
    assert len({tensor.storage for tensor in source.tensors}) == len(source.tensors) == 48
    with h5py.File(path) as file:
        stored = file["model_weights/conv2d_1/conv2d_1/kernel:0"][()]
    assert np.array_equal(source.read("conv2d_1.kernel"), stored.transpose(3, 2, 0, 1))
