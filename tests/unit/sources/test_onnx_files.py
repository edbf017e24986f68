"""ONNX models: weights wherever the graph keeps them, and nothing outside its own folder."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from spectra.conventions import HTSR
from spectra.errors import CheckpointError
from spectra.sources import onnx_files, onnx_graphs
from spectra.sources.layouts import matrices_of
from spectra.sources.onnx_files import OnnxFile
from tests.conftest import ROOT

W = np.arange(12, dtype=np.float32).reshape(4, 3)


def tensor(name, values):
    return numpy_helper.from_array(np.asarray(values), name)


def constant(output, values, name=""):
    return helper.make_node("Constant", [], [output], value=tensor(name, values))


def graph(nodes=(), initializers=(), name="g", **more):
    return helper.make_graph(list(nodes), name, [], [], list(initializers), **more)


def write(path, made, **more):
    model = helper.make_model(made, **more)
    path.write_bytes(model.SerializeToString())
    return path


def branch(name, then, other):
    return helper.make_node("If", ["c"], ["o"], name=name, then_branch=then, else_branch=other)


def names(source):
    return [tensor.name for tensor in source.tensors]


INLINE = {
    "float32": (TensorProto.FLOAT, np.float32),
    "float64": (TensorProto.DOUBLE, np.float64),
    "float16": (TensorProto.FLOAT16, np.float16),
    "int8": (TensorProto.INT8, np.int8),
    "uint16": (TensorProto.UINT16, np.uint16),
    "int32": (TensorProto.INT32, np.int32),
    "int64": (TensorProto.INT64, np.int64),
    "uint32": (TensorProto.UINT32, np.uint32),
    "uint64": (TensorProto.UINT64, np.uint64),
    "bool": (TensorProto.BOOL, np.bool_),
    "complex64": (TensorProto.COMPLEX64, np.complex64),
    "complex128": (TensorProto.COMPLEX128, np.complex128),
}


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", INLINE)
@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (2, 3, 4)])
def test_initialisers_of_every_type_come_back(dtype, raw, shape, tmp_path, rng):
    kind, numpy_type = INLINE[dtype]
    values = np.abs(9 * rng.standard_normal(shape)).astype(numpy_type)
    content = values.tobytes() if raw else values.reshape(-1)
    made = helper.make_tensor("w", kind, shape, content, raw=raw)
    source = OnnxFile(write(tmp_path / "m.onnx", graph(initializers=[made])))
    assert [(t.name, t.shape, t.dtype, t.nbytes) for t in source.tensors] == [
        ("w", shape, dtype, values.nbytes)
    ]
    read = source.read("w")
    assert read.dtype == numpy_type
    assert np.array_equal(read, values)
    if shape:
        assert np.array_equal(source.read_rows("w", 1, 3), values[1:3])


@pytest.mark.parametrize("raw", [True, False])
def test_bfloat16_is_read_exactly_and_float8_as_codes(raw, tmp_path, rng):
    values = rng.standard_normal(6).astype(np.float32)
    half = torch.from_numpy(values).to(torch.bfloat16)
    bits = half.view(torch.int16).numpy().astype("<u2")
    made = TensorProto(name="w", dims=[2, 3], data_type=TensorProto.BFLOAT16)
    codes = TensorProto(name="q", dims=[3], data_type=TensorProto.FLOAT8E4M3FN)
    if raw:
        made.raw_data, codes.raw_data = bits.tobytes(), bytes([1, 2, 255])
    else:
        made.int32_data.extend(bits.tolist())
        codes.int32_data.extend([1, 2, 255])
    source = OnnxFile(write(tmp_path / "m.onnx", graph(initializers=[made, codes])))
    assert [t.dtype for t in source.tensors] == ["bfloat16", "float8_e4m3fn"]
    assert np.array_equal(source.read("w"), half.float().numpy().reshape(2, 3))
    assert source.read("q").tolist() == [1, 2, 255]


def test_narrow_sparse_and_text_tensors_are_listed_and_not_read(tmp_path):
    narrow = helper.make_tensor("n", TensorProto.INT4, (2, 3), [1, 2, 3, -4, 5, 6])
    text = helper.make_tensor("t", TensorProto.STRING, (1,), [b"word"])
    sparse = helper.make_sparse_tensor(
        tensor("s", np.ones(2, np.float32)), tensor("", np.array([1, 5])), [4, 3]
    )
    path = write(
        tmp_path / "m.onnx", graph(initializers=[narrow, text], sparse_initializer=[sparse])
    )
    source = OnnxFile(path)
    assert [(t.name, t.shape, t.dtype) for t in source.tensors] == [
        ("n", (2, 3), "int4"),
        ("s", (4, 3), "float32, sparse"),
    ]
    assert [(s.name, s.reason) for s in source.ignored] == [("t", "text")]
    for name in "ns":
        with pytest.raises(CheckpointError, match="not read"):
            source.read(name)


def test_constants_of_branches_are_named_by_where_they_stand_only_if_need_be(tmp_path):
    then = graph([constant("a_out", W, "fc.weight"), constant("b_out", W[0], "only")])
    inner = branch("", graph([constant("x", W * 3, "fc.weight")]), graph())
    other = graph([constant("c_out", W * 2, "fc.weight"), constant("d_out", W[:2]), inner])
    path = write(tmp_path / "m.onnx", graph([branch("if", then, other)], [tensor("top", W)]))
    source = OnnxFile(path)
    assert set(names(source)) == {
        "top",
        "if.then_branch.fc.weight",
        "only",
        "if.else_branch.fc.weight",
        "d_out",
        "if.else_branch.If_2.then_branch.fc.weight",
    }
    assert np.array_equal(source.read("if.else_branch.fc.weight"), W * 2)
    assert np.array_equal(source.read("if.else_branch.If_2.then_branch.fc.weight"), W * 3)
    storages = [t.storage for t in source.tensors if t.name.endswith("fc.weight")]
    assert len(set(storages)) == 3


def test_constants_called_alike_take_the_names_of_their_outputs(tmp_path):
    nodes = [constant("a", W, "value"), constant("b", W * 2, "value")]
    alike = [branch("same", graph([constant("o", W, "v")]), graph()) for _ in range(2)]
    source = OnnxFile(write(tmp_path / "m.onnx", graph([*nodes, *alike])))
    assert names(source) == ["a", "b", "If_2.then_branch_0.o", "If_3.then_branch_0.o"]


def test_equal_matrices_of_one_name_are_tied_and_others_are_not(tmp_path):
    def made(values, name):
        return graph([constant("o", values, name), constant("p", W.copy(), f"{name}2")])

    nodes = [branch("if", made(W, "w"), made(W.copy(), "w")), branch("or", made(W, "v"), graph())]
    source = OnnxFile(write(tmp_path / "m.onnx", graph(nodes)))
    storage = {t.name: t.storage for t in source.tensors}
    assert storage["if.then_branch.w"] == storage["if.else_branch.w"] is not None
    assert storage["v"] is None
    assert storage["if.then_branch.w2"] != storage["if.then_branch.w"]


def test_functions_loops_and_attributes_hold_weights_as_well(tmp_path):
    function = helper.make_function(
        "own", "Block", [], ["y"], [constant("y", W, "inner")], [helper.make_opsetid("", 18)]
    )
    body = graph([helper.make_node("Custom", [], ["z"], table=tensor("", W * 2))], [tensor("i", W)])
    loop = helper.make_node("Loop", ["m", "c"], ["o"], name="loop", body=body)
    path = write(tmp_path / "m.onnx", graph([loop]), functions=[function])
    source = OnnxFile(path)
    assert sorted(names(source)) == ["i", "inner", "z.table"]
    assert np.array_equal(source.read("z.table"), W * 2)


def test_graphs_that_train_the_model_are_left_out(tmp_path):
    model = helper.make_model(graph(initializers=[tensor("w", W)]))
    model.training_info.add().algorithm.CopyFrom(graph(initializers=[tensor("m", W)]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    source = OnnxFile(tmp_path / "m.onnx")
    assert names(source) == ["w"]
    assert [(s.name, s.count) for s in source.ignored] == [("training_info.*", 1)]


def outside(name, values, location="m.data", **entries):
    made = TensorProto(name=name, dims=values.shape, data_type=TensorProto.FLOAT)
    made.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": location} | entries).items():
        made.external_data.add(key=key, value=str(value))
    return made


def test_data_beside_the_model_is_read_as_onnx_wrote_it(tmp_path, rng):
    weights = {name: rng.standard_normal((40, 30)).astype(np.float32) for name in "ab"}
    model = helper.make_model(graph(initializers=[tensor(n, w) for n, w in weights.items()]))
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    source = OnnxFile(path)
    for name, values in weights.items():
        assert np.array_equal(source.read(name), values)
        assert np.array_equal(source.read_rows(name, 7, 9), values[7:9])
    assert source.info.notes == ("data in 1 files beside it, first m.data",)
    assert len({t.storage for t in source.tensors}) == 2


def test_tensors_in_the_same_place_outside_are_tied(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/m.data").write_bytes(b"\0" * 16 + W.tobytes())
    place = {"location": "sub/m.data", "offset": 16}
    made = graph(initializers=[outside("a", W, **place), outside("b", W, **place, length=48)])
    source = OnnxFile(write(tmp_path / "m.onnx", made))
    assert source.tensors[0].storage == source.tensors[1].storage
    assert np.array_equal(source.read("b"), W)
    (tmp_path / "sub/m.data").unlink()
    (tmp_path / "sub/m.data").symlink_to(tmp_path / "m.onnx")
    with pytest.raises(CheckpointError) as caught:
        source.read("a")
    assert caught.value.code == "E_UNREADABLE"


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ({"location": "../outside.data"}, "E_PATH"),
        ({"location": "sub/../../outside.data"}, "E_PATH"),
        ({"location": "/etc/passwd"}, "E_PATH"),
        ({"location": "C:\\outside.data"}, "E_PATH"),
        ({"location": ""}, "E_PATH"),
        ({"location": "a\0b"}, "E_PATH"),
        ({"location": "x" * 5000}, "E_PATH"),
        ({"location": "link.data"}, "E_PATH"),
        ({"location": "inner_link.data"}, "E_PATH"),
        ({"location": "linked/m.data"}, "E_PATH"),
        ({"location": "round.data"}, "E_PATH"),
        ({"location": "sub"}, "E_PATH"),
        ({"location": "pipe"}, "E_PATH"),
        ({"location": "absent.data"}, "E_MISSING_SHARD"),
        ({"offset": 1}, "E_TRUNCATED"),
        ({"offset": 10**17}, "E_TRUNCATED"),
        ({"offset": -4}, "E_HEADER"),
        ({"offset": 10**30}, "E_HEADER"),
        ({"offset": "four"}, "E_HEADER"),
        ({"length": 47}, "E_HEADER"),
        ({"length": 10**17}, "E_HEADER"),
        ({"length": -48}, "E_HEADER"),
    ],
)
def test_data_that_leaves_the_folder_or_is_not_there_is_refused(entries, code, tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for path in (tmp_path / "outside.data", folder / "m.data", folder / "sub/m.data"):
        path.write_bytes(W.tobytes())
    (folder / "link.data").symlink_to(tmp_path / "outside.data")
    (folder / "inner_link.data").symlink_to(folder / "m.data")
    (folder / "linked").symlink_to(folder / "sub")
    (folder / "round.data").symlink_to(folder / "round.data")
    os.mkfifo(folder / "pipe")
    path = write(folder / "m.onnx", graph(initializers=[outside("w", W, **entries)]))
    with pytest.raises(CheckpointError) as caught:
        OnnxFile(path)
    assert caught.value.code == code


def raw(**fields):
    return graph(initializers=[TensorProto(**({"name": "w", "data_type": 1} | fields))])


def nested(depth):
    made = graph([constant("o", W, "w")])
    for _ in range(depth):
        made = graph([branch("if", made, graph())])
    return made


def long_prefix():
    alike = graph([constant("o", W, "w")])
    return graph([branch("n" * 5000, alike, alike)])


def bytes_of(made):
    return helper.make_model(made).SerializeToString()


def fields(number, *contents):
    """Encode length-delimited protobuf fields of one number."""
    made = bytearray()
    for content in contents:
        made.append(number << 3 | 2)
        size = len(content)
        while size > 127:
            made.append(size & 127 | 128)
            size >>= 7
        made.append(size)
        made += content
    return bytes(made)


def circle(depth):
    """Encode a graph within the attribute of a node of a graph, and so on."""
    made = b""
    for _ in range(depth):
        made = fields(1, fields(5, fields(6, made)))
    return fields(7, made)


GOOD = bytes_of(graph([constant("c", W, "c")], [tensor("w", W), tensor("shape", [1, -1])]))
BAD = {
    "empty": (b"", "E_EMPTY"),
    "cut": (GOOD[:-20], "E_ARCHIVE"),
    "png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "E_ARCHIVE"),
    "text": (b'{"graph": {}}', "E_ARCHIVE"),
    "no_graph": (onnx.ModelProto(ir_version=8).SerializeToString(), "E_FORMAT"),
    "no_tensors": (bytes_of(graph()), "E_NO_TENSORS"),
    "short": (bytes_of(raw(dims=[4, 3], raw_data=W.tobytes()[:-1])), "E_TRUNCATED"),
    "long": (bytes_of(raw(dims=[4, 3], raw_data=W.tobytes() + b"\0")), "E_HEADER"),
    "short_list": (bytes_of(raw(dims=[4], float_data=[1, 2, 3])), "E_TRUNCATED"),
    "no_data": (bytes_of(raw(dims=[2**20, 2**20])), "E_TRUNCATED"),
    "negative": (bytes_of(raw(dims=[-4, 3], raw_data=W.tobytes())), "E_HEADER"),
    "huge": (bytes_of(raw(dims=[2**62, 2**62])), "E_HEADER"),
    "huge_and_empty": (bytes_of(raw(dims=[0, 2**62, 2**62])), "E_HEADER"),
    "rank_65": (bytes_of(raw(dims=[1] * 65, raw_data=b"\0" * 4)), "E_HEADER"),
    "empty_nodes": (fields(7, fields(1, b"") * 600_000), "E_LIMIT"),
    "empty_tensors": (fields(7, fields(5, b"") * 300_000), "E_LIMIT"),
    "empty_texts": (fields(7, fields(1, fields(1, b"") * 2_100_000)), "E_LIMIT"),
    "deep": (circle(40), "E_LIMIT"),
    "odd_field": (GOOD + b"\x0b\x0c", "E_ARCHIVE"),
    "length_beyond_the_end": (b"\x3a\xff\xff\xff\xff\x7f", "E_ARCHIVE"),
    "endless_number": (b"\x08" + b"\xff" * 64, "E_ARCHIVE"),
    "twice": (bytes_of(graph(initializers=[tensor("w", W), tensor("w", W)])), "E_DUPLICATE"),
    "long_prefix": (bytes_of(long_prefix()), "E_LIMIT"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_models_are_refused(name, tmp_path):
    content, code = BAD[name]
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        OnnxFile(tmp_path / "m.onnx")
    assert caught.value.code == code


def test_depth_and_counts_have_limits(tmp_path, monkeypatch):
    # protobuf itself refuses what is nested deeper than it reads.
    path = write(tmp_path / "m.onnx", nested(15))
    assert names(OnnxFile(path)) == ["w"]
    for limit in ("MAX_DEPTH", "MAX_NODES"):
        with monkeypatch.context() as patch:
            patch.setattr(onnx_graphs, limit, 14)
            with pytest.raises(CheckpointError) as caught:
                OnnxFile(path)
            assert caught.value.code == "E_LIMIT"
    monkeypatch.setattr(onnx_graphs, "MAX_TENSORS", 1)
    path = write(tmp_path / "m.onnx", graph([constant("a", W), constant("b", W)]))
    with pytest.raises(CheckpointError) as caught:
        OnnxFile(path)
    assert caught.value.code == "E_LIMIT"


def test_models_beyond_protobuf_are_refused_unread(tmp_path):
    with (tmp_path / "m.onnx").open("wb") as file:
        file.truncate(onnx_files.MAX_FILE)
    with pytest.raises(CheckpointError) as caught:
        OnnxFile(tmp_path / "m.onnx")
    assert caught.value.code == "E_LIMIT"


def test_only_protobuf_is_read_whatever_the_ending(tmp_path):
    path = write(tmp_path / "m.json", graph(initializers=[tensor("w", W)]))
    assert names(OnnxFile(path)) == ["w"]


def test_without_onnx_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "m.onnx", graph(initializers=[tensor("w", W)]))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CheckpointError, match=r"spectra-diagnostics\[onnx\]") as caught:
        OnnxFile(path)
    assert caught.value.code == "E_MISSING_PACKAGE"


MIXED = bytes_of(
    graph(
        [constant("c", W, "c"), branch("if", graph([constant("d", W, "c")]), graph())],
        [tensor("w", W), tensor("shape", [1, -1]), outside("o", W, offset=0, length=48)],
    )
)


@settings(max_examples=150, deadline=None)
@given(
    place=st.integers(0, len(MIXED) - 1),
    removed=st.integers(0, 3),
    added=st.binary(max_size=3),
)
def test_changed_bytes_give_arrays_of_the_shape_listed_or_are_refused(
    place, removed, added, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("changed")
    (folder / "m.data").write_bytes(W.tobytes())
    path = folder / "m.onnx"
    path.write_bytes(MIXED[:place] + added + MIXED[place + removed :])
    try:
        source = OnnxFile(path)
    except CheckpointError:
        return
    for listed in source.tensors:
        try:
            values = source.read(listed.name)
        except CheckpointError:
            continue
        if not listed.dtype.startswith("float8"):
            assert values.shape == listed.shape


def test_a_detector_saved_in_two_formats_gives_equal_weights():
    folder = Path(os.environ.get("SPECTRA_TEST_MODELS", ROOT.parent / "shared" / "models"))
    path = folder / "ultraface" / "version-RFB-320.onnx"
    if not path.exists():
        pytest.skip("needs the folder of models; set SPECTRA_TEST_MODELS to it")
    state = torch.load(path.with_suffix(".pth"), map_location="cpu", weights_only=True)
    source = OnnxFile(path)
    kernels = [t.name for t in source.tensors if len(t.shape) == 4]
    assert len(kernels) == 52
    assert set(kernels) == {name for name, value in state.items() if value.ndim == 4}
    for name in kernels:
        assert np.array_equal(source.read(name), state[name].numpy())


@pytest.fixture
def silero() -> Path:
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package silero-vad, which holds its own weights")
    return Path(spec.submodule_search_locations[0]) / "data"


def test_weights_in_branches_are_found_and_a_fixed_basis_is_no_layer(silero):
    source = OnnxFile(silero / "silero_vad.onnx")
    with pytest.warns(DeprecationWarning, match="jit"):  # by torch itself
        state = torch.jit.load(silero / "silero_vad.jit").state_dict()
    for inside, other in {
        "If_0.then_branch.": "_model.",
        "If_0.else_branch.": "_model_8k.",
    }.items():
        ours = [t.name for t in source.tensors if t.name.startswith(inside) and len(t.shape) > 1]
        assert len(ours) == 8
        for name in ours:
            twin = state[other + name.removeprefix(inside)]
            assert np.array_equal(source.read(name), twin.numpy())
    matrices, skipped = matrices_of(source.tensors, HTSR)
    assert not [matrix.name for matrix in matrices if "forward_basis" in matrix.name]
    assert len([s.name for s in skipped if "forward_basis" in s.name]) == 2
