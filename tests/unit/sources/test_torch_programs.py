import importlib.util
import io
import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from spectra.errors import CheckpointError
from spectra.sources.pytorch import stored_tensors, torch_archives
from spectra.sources.pytorch.torch_programs import TorchProgram, is_program

# torch deprecates its own format; files of it stay.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5))
        self.tied = torch.nn.Linear(6, 5)
        self.tied.weight = self.body[0].weight
        self.low = torch.nn.Linear(4, 3).to(torch.bfloat16)
        self.register_buffer("view", torch.arange(40.0).reshape(5, 8)[1:4, 2:6])
        self.register_buffer("turned", torch.arange(12.0).reshape(3, 4).T)
        self.register_buffer("empty", torch.zeros(0, 3))

    def forward(self, x):
        return self.body(x) + self.tied(x) + 3 * torch.ones(5)


class Listed(torch.nn.Module):
    """Holds tensors in plain attributes, which no state dict has."""

    def __init__(self):
        super().__init__()
        self.few = [torch.ones(2, 2), torch.zeros(3)]
        self.named = {"a": torch.full((2, 3), 7.0)}
        self.numbers = [1, 2, 3]

    def forward(self, x):
        return x + self.few[0] + self.named["a"].sum() + self.numbers[0]


def script(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module.eval()).save(str(path))
    return path


def export(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(Net().eval(), (torch.ones(2, 6),))
        torch.export.save(program, path)
    return path, program.state_dict


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    return script(Net(), tmp_path_factory.mktemp("scripted") / "net.pt")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export(tmp_path_factory.mktemp("exported") / "net.pt2")


def array(tensor):
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def names(source):
    return [tensor.name for tensor in source.tensors]


def read_all(path):
    source = TorchProgram(path)
    return {name: source.read(name) for name in names(source)}


def refused(path, open_program=TorchProgram):
    with pytest.raises(CheckpointError) as error:
        open_program(path)
    return error.value


def records(path):
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def pack(path, entries, how=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, raw in entries.items():
            archive.writestr(name, raw)
    return path


def same(source, state):
    assert sorted(names(source)) == sorted(state)
    for name, tensor in state.items():
        read = source.read(name)
        assert read.dtype == array(tensor).dtype
        assert read.shape == tuple(tensor.shape)
        assert np.array_equal(read, array(tensor))
        if tensor.ndim and len(tensor) > 1:
            assert np.array_equal(source.read_rows(name, 1, len(tensor)), array(tensor)[1:])


def test_a_scripted_module_is_read_as_its_state_dict(scripted):
    source = TorchProgram(scripted)
    same(source, torch.jit.load(str(scripted)).state_dict())
    assert source.info.format == "TorchScript"
    by_name = {tensor.name: tensor for tensor in source.tensors}
    assert by_name["low.weight"].dtype == "bfloat16"
    assert by_name["body.1.num_batches_tracked"].dtype == "int64"


def test_tied_tensors_share_their_storage_and_others_do_not(scripted):
    by_name = {tensor.name: tensor for tensor in TorchProgram(scripted).tensors}
    assert by_name["tied.weight"].storage == by_name["body.0.weight"].storage
    assert by_name["tied.bias"].storage != by_name["body.0.bias"].storage
    assert len({t.storage for t in by_name.values()} - {None}) == len(by_name) - 2


def test_a_real_program_is_read_bit_by_bit():
    spec = importlib.util.find_spec("silero_vad")
    assert spec is not None, "install the test weights"
    path = Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.jit"
    source = TorchProgram(path)
    state = torch.jit.load(str(path)).state_dict()
    # Two empty tensors are plain attributes of the program, which no state dict has.
    assert set(names(source)) - set(state) == {"_context", "_state"}
    for name, tensor in state.items():
        assert np.array_equal(source.read(name), tensor.numpy())
    assert [s.name for s in source.ignored] == ["constants.*"]


def test_a_traced_module_with_constants_lists_them_beside(tmp_path):
    constant = torch.ones(4, 4)
    module = torch.nn.Linear(4, 4)
    traced = torch.jit.trace(lambda x: x @ constant, torch.ones(2, 4))
    traced.save(str(tmp_path / "f.pt"))
    assert refused(tmp_path / "f.pt").code == "E_NO_TENSORS"
    torch.jit.trace(module, torch.ones(2, 4)).save(str(tmp_path / "m.pt"))
    same(TorchProgram(tmp_path / "m.pt"), module.state_dict())


def test_tensors_in_lists_and_dicts_are_listed_by_their_path(tmp_path):
    source = TorchProgram(script(Listed(), tmp_path / "m.pt"))
    assert names(source) == ["few.0", "few.1", "named.a"]
    assert np.array_equal(source.read("named.a"), np.full((2, 3), 7, np.float32))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")  # deprecated as well
def test_quantised_programs_are_listed_and_not_read(tmp_path):
    quantised = torch.quantize_per_tensor(torch.ones(3, 4), 0.1, 0, torch.qint8)
    module = torch.nn.Linear(4, 3)
    module.register_buffer("q", quantised)
    source = TorchProgram(script(module, tmp_path / "m.pt"))
    by_name = {tensor.name: tensor for tensor in source.tensors}
    assert by_name["q"].dtype == "qint8, quantized"
    assert by_name["q"].nbytes == 0
    with pytest.raises(CheckpointError):
        source.read("q")


def test_an_exported_program_is_read_as_its_state_dict(exported):
    path, state = exported
    source = TorchProgram(path)
    same(source, state)
    assert source.info.format == "torch.export"
    by_name = {tensor.name: tensor for tensor in source.tensors}
    assert by_name["tied.weight"].storage == by_name["body.0.weight"].storage


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_exported_programs_of_older_torch_are_read(tmp_path):
    state = {"a.weight": torch.randn(3, 4), "b": torch.arange(3)}
    entries = {
        "serialized_exported_program.json": b"{}",
        "serialized_state_dict.pt": saved(state),
        "serialized_constants.pt": saved({}),
        "version": b"8.0",
    }
    same(TorchProgram(pack(tmp_path / "m.pt2", entries)), state)


def test_weights_that_are_pickled_one_by_one_are_read(exported, tmp_path):
    path, state = exported
    entries = records(path)
    table = next(name for name in entries if name.endswith("_weights_config.json"))
    config = json.loads(entries[table])
    entry = config["config"]["body.0.bias"]
    entry["use_pickle"] = True
    entries[f"{table.rpartition('/')[0]}/{entry['path_name']}"] = saved(state["body.0.bias"])
    entries[table] = json.dumps(config).encode()
    same(TorchProgram(pack(tmp_path / "m.pt2", entries)), state)


def test_two_models_in_one_archive_are_told_apart(exported, tmp_path):
    path, state = exported
    entries = records(path)
    table = next(name for name in entries if name.endswith("_weights_config.json"))
    entries[table.replace("model_weights", "other_weights")] = entries[table]
    source = TorchProgram(pack(tmp_path / "m.pt2", entries))
    assert sorted(names(source)) == sorted(f"{m}.{n}" for m in ("model", "other") for n in state)


def test_programs_packed_anew_with_compression_are_read(scripted, exported, tmp_path):
    again = pack(tmp_path / "m.pt", records(scripted), zipfile.ZIP_DEFLATED)
    same(TorchProgram(again), torch.jit.load(str(scripted)).state_dict())
    path, state = exported
    same(TorchProgram(pack(tmp_path / "m.pt2", records(path), zipfile.ZIP_DEFLATED)), state)


def test_compressed_records_are_unpacked_under_a_limit(scripted, tmp_path, monkeypatch):
    again = pack(tmp_path / "m.pt", records(scripted), zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(torch_archives, "MAX_DEFLATED", 64)
    monkeypatch.setattr(torch_archives, "MAX_RATIO", 10**9)
    assert refused(again).code == "E_LIMIT"


def test_programs_are_told_from_saved_tensors_by_their_records(scripted, exported, tmp_path):
    torch.save({"w": torch.ones(2, 2)}, tmp_path / "w.pt")
    assert is_program(list(records(scripted)))
    assert is_program(list(records(exported[0])))
    assert is_program(["serialized_state_dict.pt", "version"])
    assert not is_program(list(records(tmp_path / "w.pt")))


def test_every_type_that_is_named_has_a_size():
    for name in stored_tensors.ITEM_SIZES:
        assert hasattr(torch, name) or name in ("float8_e8m0fnu", "float4_e2m1fn_x2")
        if hasattr(torch, name):
            assert getattr(torch, name).itemsize == stored_tensors.ITEM_SIZES[name]
