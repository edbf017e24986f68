import contextlib
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectra.errors import CheckpointError
from spectra.sources.pytorch.torch_programs import TorchProgram
from tests.unit.sources.test_torch_programs import (
    Net,
    export,
    pack,
    read_all,
    records,
    refused,
    same,
    saved,
    script,
)

# torch deprecates its own format; files of it stay.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    return script(Net(), tmp_path_factory.mktemp("scripted") / "net.pt")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export(tmp_path_factory.mktemp("exported") / "net.pt2")


class Evil:
    def __reduce__(self):
        return os.system, ("touch canary",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("record", ["data.pkl", "constants.pkl"])
def test_programs_that_run_code_when_unpickled_do_not(
    record, protocol, scripted, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    entries = records(scripted)
    entries[f"net/{record}"] = pickle.dumps([Evil()], protocol=protocol)
    error = refused(pack(tmp_path / "m.pt", entries))
    assert error.code == "E_UNSAFE"
    assert f"{os.system.__module__}.system" in str(error)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("layout", ["state_dict", "weight"])
def test_exported_programs_that_run_code_when_unpickled_do_not(
    layout, exported, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    entries = records(exported[0])
    if layout == "state_dict":
        entries = {"serialized_state_dict.pt": saved({"w": torch.ones(2, 2), "e": Evil()})}
    else:
        table = next(name for name in entries if name.endswith("_weights_config.json"))
        config = json.loads(entries[table])
        for entry in config["config"].values():
            entry["use_pickle"] = True
            entries[f"{table.rpartition('/')[0]}/{entry['path_name']}"] = saved(Evil())
        entries[table] = json.dumps(config).encode()
    assert refused(pack(tmp_path / "m.pt2", entries)).code == "E_UNSAFE"
    assert not (tmp_path / "canary").exists()


def test_the_programs_own_code_is_not_looked_at(scripted, tmp_path):
    entries = records(scripted)
    for name in entries:
        if "/code/" in name:
            entries[name] = b"import os; os.system('touch canary')"
    same(TorchProgram(pack(tmp_path / "m.pt", entries)), torch.jit.load(str(scripted)).state_dict())


def tensor_pickle(shape, stride, offset=0, count=16, kind=b"FloatStorage", key=b"0"):
    """Write the pickle of one tensor as TorchScript does, with numbers of one's own."""

    def number(value):
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value

    storage = b"(" + text(b"storage") + b"ctorch\n" + kind + b"\n" + text(key) + text(b"cpu")
    storage += number(count) + b"tQ"
    sizes, steps = (b"(" + b"".join(map(number, v)) + b"t" for v in (shape, stride))
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + sizes + steps
    rebuilt += b"\x88ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02c__torch__\nM\n)\x81}" + text(b"w") + rebuilt + b"sb."


def crafted(path, raw, data=b"\0" * 64, **more):
    entries = {"m/data.pkl": raw, "m/constants.pkl": b"\x80\x02).", "m/data/0": data}
    return pack(path, entries | more)


def test_the_crafted_pickle_is_that_of_a_tensor(tmp_path):
    """A check of the check: with numbers that fit, the file is read."""
    data = np.arange(16, dtype="<f4")
    path = crafted(tmp_path / "m.pt", tensor_pickle((2, 3), (5, 2), 1), data.tobytes())
    assert np.array_equal(TorchProgram(path).read("w"), [[1, 3, 5], [6, 8, 10]])


TENSORS = {
    "beyond_the_record": (tensor_pickle((4, 5), (5, 1)), "E_ARCHIVE"),
    "offset_beyond": (tensor_pickle((4, 4), (4, 1), 1), "E_ARCHIVE"),
    "stride_beyond": (tensor_pickle((2, 2), (15, 1)), "E_ARCHIVE"),
    "negative_offset": (tensor_pickle((2, 2), (2, 1), -4), "E_ARCHIVE"),
    "negative_stride": (tensor_pickle((2, 2), (-2, 1), 4), "E_ARCHIVE"),
    "negative_size": (tensor_pickle((-2, -2), (2, 1)), "E_ARCHIVE"),
    "size_of_2_to_70": (tensor_pickle((2**70, 1), (1, 1)), "E_ARCHIVE"),
    "sizes_that_overflow": (tensor_pickle((2**40, 2**40), (0, 0)), "E_ARCHIVE"),
    "empty_but_huge": (tensor_pickle((0, 2**62), (1, 1)), "E_ARCHIVE"),
    "stride_of_another_rank": (tensor_pickle((2, 2), (1,)), "E_ARCHIVE"),
    "record_shorter_than_said": (tensor_pickle((2, 2), (2, 1), count=17), "E_ARCHIVE"),
    "record_longer_than_said": (tensor_pickle((2, 2), (2, 1), count=4), "E_ARCHIVE"),
    "unknown_type": (tensor_pickle((2, 2), (2, 1), kind=b"OddStorage"), "E_UNSAFE"),
    "no_record": (tensor_pickle((2, 2), (2, 1), key=b"9"), "E_ARCHIVE"),
    "record_outside": (tensor_pickle((2, 2), (2, 1), key=b"../../x"), "E_ARCHIVE"),
    "expanded": (tensor_pickle((2**20, 2**20), (0, 0)), "E_FORMAT"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_reach_out_of_their_records_are_refused(name, tmp_path):
    raw, code = TENSORS[name]
    assert refused(crafted(tmp_path / "m.pt", raw), read_all).code == code


def test_an_expanded_tensor_is_listed_without_bytes(tmp_path):
    path = crafted(tmp_path / "m.pt", tensor_pickle((2**20, 2**20), (0, 0)))
    (tensor,) = TorchProgram(path).tensors
    assert (tensor.dtype, tensor.nbytes) == ("float32, expanded", 0)


@pytest.mark.parametrize(
    "level",
    [
        b"]h\x00ah\x00aq\x00" * 45,  # each list holds the one below twice
        b"]h\x00aq\x00" * 200,
    ],
    ids=["doubled", "deep"],
)
def test_trees_without_end_are_refused_in_time(level, tmp_path):
    path = crafted(tmp_path / "m.pt", b"\x80\x02]q\x00" + level + b".")
    assert refused(path).code == "E_LIMIT"


def without(end):
    return lambda entries: {n: raw for n, raw in entries.items() if not n.endswith(end)}


def changed(end, raw):
    return lambda entries: {n: raw if n.endswith(end) else r for n, r in entries.items()}


ARCHIVES = {
    "no_pickle": (without("/data.pkl"), "E_FORMAT"),
    "no_record": (without("/data/0"), "E_ARCHIVE"),
    "short_record": (changed("/data/0", b"\0" * 8), "E_ARCHIVE"),
    "big_endian": (changed("/byteorder", b"big"), "E_FORMAT"),
    "odd_byteorder": (changed("/byteorder", b"\xff\xfe"), "E_ARCHIVE"),
    "empty_pickle": (changed("/data.pkl", b""), "E_TRUNCATED"),
    "no_pickle_at_all": (changed("/data.pkl", b"\0\0"), "E_ARCHIVE"),
    "nothing_inside": (changed("/data.pkl", b"N."), "E_NO_TENSORS"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_damaged_programs_are_refused(name, scripted, tmp_path):
    change, code = ARCHIVES[name]
    assert refused(pack(tmp_path / "m.pt", change(records(scripted)))).code == code


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # by zipfile, which writes it
def test_two_records_of_one_name_are_refused(scripted, tmp_path):
    path = pack(tmp_path / "m.pt", records(scripted))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/data.pkl", records(scripted)["net/data.pkl"])
    assert refused(path).code == "E_ARCHIVE"


def test_encrypted_records_are_refused(tmp_path):
    path = crafted(tmp_path / "m.pt", tensor_pickle((2, 2), (2, 1)))
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\x01\x02")  # the record of the numbers is the last of the directory
    raw[entry + 8] |= 1
    path.write_bytes(raw)
    assert refused(path).code == "E_ARCHIVE"


@pytest.mark.parametrize("field", [20, 24, 42])  # both sizes, and where the record begins
def test_directories_that_lie_about_a_record_are_refused(field, tmp_path):
    path = crafted(tmp_path / "m.pt", tensor_pickle((2, 2), (2, 1)))
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    raw[entry + field : entry + field + 4] = struct.pack("<I", 100_000)
    path.write_bytes(raw)
    assert refused(path, read_all).code == "E_ARCHIVE"


def test_a_bomb_of_zeros_is_refused(tmp_path):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/constants.pkl", b"\x80\x02).")
        archive.writestr("m/data.pkl", b"\0" * 80 * 2**20)
    assert refused(path).code == "E_LIMIT"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_cut_programs_are_refused(share, scripted, exported, tmp_path):
    for path in (scripted, exported[0]):
        raw = path.read_bytes()
        (tmp_path / "m.pt").write_bytes(raw[: int(len(raw) * share)])
        assert refused(tmp_path / "m.pt").code == ("E_TRUNCATED" if share else "E_ARCHIVE")


def entry(**changes):
    meta = {
        "dtype": 7,
        "sizes": [{"as_int": 2}, {"as_int": 2}],
        "strides": [{"as_int": 2}, {"as_int": 1}],
        "storage_offset": {"as_int": 0},
    }
    return {"path_name": "weight_0", "use_pickle": False, "tensor_meta": meta | changes}


TABLES = {
    "fits": (json.dumps({"config": {"w": entry()}}), ""),
    "no_json": ("{" * 9, "E_HEADER"),
    "nested_json": ("[" * 100_000, "E_HEADER"),
    "a_list": ("[]", "E_HEADER"),
    "no_config": ("{}", "E_HEADER"),
    "config_of_none": ('{"config": null}', "E_HEADER"),
    "empty": ('{"config": {}}', "E_NO_TENSORS"),
    "entry_of_none": ('{"config": {"w": null}}', "E_HEADER"),
    "entry_without_meta": ('{"config": {"w": {"path_name": "weight_0"}}}', "E_HEADER"),
    "half_a_surrogate": ('{"config": {"\\ud800": null}}', "E_HEADER"),
    "no_path": (json.dumps({"config": {"w": entry() | {"path_name": 3}}}), "E_HEADER"),
    "absent": (json.dumps({"config": {"w": entry() | {"path_name": "weight_9"}}}), "E_ARCHIVE"),
    "outside": (json.dumps({"config": {"w": entry() | {"path_name": "../../x"}}}), "E_ARCHIVE"),
    "type_999": (json.dumps({"config": {"w": entry(dtype=999)}}), "E_HEADER"),
    "type_of_list": (json.dumps({"config": {"w": entry(dtype=[7])}}), "E_HEADER"),
    "symbols": (json.dumps({"config": {"w": entry(sizes=[{"as_expr": "s0"}])}}), "E_HEADER"),
    "sizes_of_text": (json.dumps({"config": {"w": entry(sizes="22")}}), "E_HEADER"),
    "too_large": (
        json.dumps({"config": {"w": entry(sizes=[{"as_int": 2**40}, {"as_int": 2}])}}),
        "E_ARCHIVE",
    ),
    "negative": (
        json.dumps({"config": {"w": entry(sizes=[{"as_int": -2}, {"as_int": -2}])}}),
        "E_ARCHIVE",
    ),
    "fractions": (
        json.dumps({"config": {"w": entry(storage_offset={"as_int": 0.5})}}),
        "E_ARCHIVE",
    ),
    "pickle_that_is_none": (
        json.dumps({"config": {"w": entry() | {"use_pickle": True}}}),
        "E_ARCHIVE",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_weights_that_lie_are_refused(name, tmp_path):
    text, code = TABLES[name]
    entries = {
        "m/archive_format": b"pt2",
        "m/data/weights/model_weights_config.json": text.encode(),
        "m/data/weights/weight_0": np.arange(4, dtype="<f4").tobytes(),
    }
    path = pack(tmp_path / "m.pt2", entries)
    if code:
        assert refused(path).code == code
    else:
        assert np.array_equal(TorchProgram(path).read("w"), [[0, 1], [2, 3]])


def test_an_exported_archive_of_unknown_layout_is_named_with_the_way_out(tmp_path):
    error = refused(pack(tmp_path / "m.pt2", {"m/archive_format": b"pt2", "m/odd": b"x"}))
    assert error.code == "E_FORMAT"
    assert "state_dict" in error.advice


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_programs_are_read_as_before_or_refused(data, scripted, tmp_path_factory):
    entries = records(scripted)
    raw = bytearray(entries["net/data.pkl"])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    path = pack(tmp_path_factory.mktemp("m") / "m.pt", entries | {"net/data.pkl": bytes(raw)})
    with contextlib.suppress(CheckpointError):
        source = TorchProgram(path)
        for tensor in source.tensors:
            if "," not in tensor.dtype:
                assert source.read(tensor.name).shape == tensor.shape


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_archives_are_read_or_refused(data, scripted, tmp_path_factory):
    raw = bytearray(scripted.read_bytes())
    begin = raw.index(b"PK\x01\x02")
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(begin, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("m") / "m.pt"
    path.write_bytes(raw)
    with contextlib.suppress(CheckpointError):
        read_all(path)
