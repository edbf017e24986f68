"""Bad input: one line, exit code 3, no traceback, nothing executed."""

import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save_file

from spectra.cli import main

CANARY = "canary"


def tensors(**entries):
    """Write a safetensors file from a raw header."""
    return json.dumps(entries)


def framed(header, data=b""):
    raw = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(begin=0, end=16, shape=(2, 2), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


SAFETENSORS = {
    "empty": (b"", "E_EMPTY"),
    "seven_bytes": (b"\x10\0\0\0\0\0\0", "E_TRUNCATED"),
    "no_header": (framed(""), "E_HEADER"),
    "header_of_2_to_63": (struct.pack("<Q", 2**63) + b"{}", "E_HEADER_SIZE"),
    "header_past_the_end": (struct.pack("<Q", 5000) + b"{}", "E_TRUNCATED"),
    "brace": (framed("{"), "E_HEADER"),
    "nested": (framed("{" + "[" * 100_000), "E_HEADER"),
    "no_utf8": (framed(b'{"\xff\xfe": 1}'), "E_HEADER"),
    "cut": (framed(tensors(w=entry()), b"\0" * 9), "E_TRUNCATED"),
    "trailing": (framed(tensors(w=entry()), b"\0" * 20), "E_TRAILING"),
    "overlap": (framed(tensors(v=entry(0, 16), w=entry(8, 24)), b"\0" * 24), "E_HEADER"),
    "hole": (framed(tensors(v=entry(0, 16), w=entry(20, 36)), b"\0" * 36), "E_HEADER"),
    "negative_offset": (framed(tensors(w=entry(-16, 0)), b"\0" * 16), "E_HEADER"),
    "wrong_size": (framed(tensors(w=entry(0, 12)), b"\0" * 12), "E_HEADER"),
    "huge_shape": (framed(tensors(w=entry(shape=(2**40, 2**40))), b"\0" * 16), "E_HEADER"),
    "unknown_type": (framed(tensors(w=entry(dtype="F33")), b"\0" * 16), "E_HEADER"),
    "twice": (
        framed('{"w":' + json.dumps(entry()) + ',"w":' + json.dumps(entry()) + "}", b"\0" * 16),
        "E_DUPLICATE",
    ),
    "no_tensors": (framed('{"__metadata__": {"a": "b"}}'), "E_NO_TENSORS"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "E_LFS_POINTER"),
}


def refused(path, code, command="analyze"):
    result = CliRunner().invoke(main, [command, str(path)])
    assert result.exit_code == 3, result.output
    assert result.stderr.startswith(f"error[{code}]"), result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("name", SAFETENSORS)
@pytest.mark.parametrize("command", ["analyze", "describe"])
def test_malformed_safetensors_are_refused(name, command, tmp_path):
    content, code = SAFETENSORS[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(path, code, command)


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {CANARY}",)


def evil_zip(path):
    torch.save({"w": torch.ones(2, 2), "evil": Evil()}, path)


def evil_legacy(path):
    torch.save({"w": torch.ones(2, 2), "e": Evil()}, path, _use_new_zipfile_serialization=False)


def evil_pickle(path, protocol=2):
    path.write_bytes(pickle.dumps(Evil(), protocol=protocol))


@pytest.mark.parametrize("ending", ["bin", "pt", "pth", "th", "ckpt"])
@pytest.mark.parametrize(
    "make", [evil_zip, evil_legacy, evil_pickle, lambda p: evil_pickle(p, protocol=0)]
)
def test_pickles_that_run_code_do_not(make, ending, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"model.{ending}"
    make(path)
    assert not (tmp_path / CANARY).exists()
    refused(path, "E_UNSAFE")
    assert not (tmp_path / CANARY).exists()


def test_the_canary_would_appear_if_a_pickle_ran(tmp_path, monkeypatch):
    """A check of the check: unpickled without restriction, the file does what it says."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Evil()))
    assert (tmp_path / CANARY).exists()


def test_a_whole_module_is_refused_with_the_way_out(tmp_path):
    torch.save(torch.nn.Linear(3, 3), tmp_path / "m.pt")
    result = CliRunner().invoke(main, ["analyze", str(tmp_path / "m.pt")])
    assert result.exit_code == 3
    assert "torch.nn.modules.linear.Linear" in result.stderr
    assert "save model.state_dict()" in result.stderr


TORCH = {
    "web_page": (b"<!DOCTYPE html><html>404</html>", "E_NOT_A_CHECKPOINT"),
    "json": (b'{"error": "not found"}', "E_NOT_A_CHECKPOINT"),
    "empty": (b"", "E_EMPTY"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "E_LFS_POINTER"),
    "gguf": (b"GGUF" + b"\0" * 64, "E_FORMAT"),
    "png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "E_ARCHIVE"),
    "zeros": (b"\0" * 64, "E_ARCHIVE"),
    "half_zip": (b"PK\x03\x04" + b"\0" * 64, "E_TRUNCATED"),
}


@pytest.mark.parametrize("name", TORCH)
def test_what_only_calls_itself_a_torch_file_is_named(name, tmp_path):
    content, code = TORCH[name]
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    refused(tmp_path / "pytorch_model.bin", code)
    refused(tmp_path, code)  # and the same when the folder is given


@pytest.mark.parametrize("share", [0.3, 0.6, 0.98])
@pytest.mark.parametrize("zipped", [True, False])
def test_cut_torch_files_are_refused(share, zipped, tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"w": torch.ones(64, 64)}, path, _use_new_zipfile_serialization=zipped)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    result = CliRunner().invoke(main, ["analyze", str(path)])
    assert result.exit_code == 3
    assert result.stderr.startswith("error[E_")
    assert result.stderr.count("\n") == 1


def test_torchscript_is_read_and_not_run(tmp_path):
    with pytest.warns(DeprecationWarning, match="jit"):  # by torch itself; files of it stay
        torch.jit.script(torch.nn.Linear(30, 40)).save(str(tmp_path / "m.pt"))
    result = CliRunner().invoke(main, ["describe", str(tmp_path / "m.pt")])
    assert result.exit_code == 0
    assert "TorchScript" in result.output


def test_files_without_tensors_are_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", "E_NO_TENSORS")


def index(folder, weight_map):
    save_file({"w": np.ones((2, 2))}, folder / "a.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("weight_map", "code"),
    [
        ({"w": "../outside.safetensors"}, "E_PATH"),
        ({"w": "sub/../../outside.safetensors"}, "E_PATH"),
        ({"w": "/etc/passwd"}, "E_PATH"),
        ({"w": "..\\outside.safetensors"}, "E_PATH"),
        ({"w": "C:outside.safetensors"}, "E_PATH"),
        ({"w": "link.safetensors"}, "E_PATH"),
        ({"w": "absent.safetensors"}, "E_MISSING_SHARD"),
        ({"other": "a.safetensors"}, "E_INDEX"),
        ({"w": 3}, "E_INDEX"),
        ({"w": "model.safetensors.index.json"}, "E_INDEX"),
        ({"w": "a\0b"}, "E_PATH"),
        ({"w": "round.safetensors"}, "E_PATH"),
        ([], "E_INDEX"),
        (None, "E_INDEX"),
        ({}, "E_INDEX"),
    ],
)
def test_indexes_that_lie_or_leave_their_folder_are_refused(weight_map, code, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": np.ones((2, 2))}, tmp_path / "outside.safetensors")
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (folder / "round.safetensors").symlink_to(folder / "round.safetensors")
    index(folder, weight_map)
    refused(folder, code)


def test_an_index_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("{" * 9)
    refused(tmp_path, "E_INDEX")


def test_the_same_tensor_in_two_shards_is_refused(tmp_path):
    for part in (1, 2):
        save_file({"w": np.ones((2, 2))}, tmp_path / f"m-0000{part}-of-00002.safetensors")
    refused(tmp_path, "E_DUPLICATE")


def test_a_folder_without_weights_and_odd_files_are_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing here")
    refused(tmp_path, "E_NO_WEIGHTS")
    refused(tmp_path / "readme.txt", "E_NOT_A_CHECKPOINT")
    os.mkfifo(tmp_path / "pipe.pt")
    refused(tmp_path / "pipe.pt", "E_NOT_A_FILE")
    refused(tmp_path / "absent.pt", "E_NOT_FOUND")


def test_file_names_cannot_drive_the_terminal(tmp_path):
    result = CliRunner().invoke(main, ["analyze", str(tmp_path / "a\x1b[31m\nb.pt")])
    assert result.exit_code == 3
    assert "\x1b" not in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_links_out_of_a_folder_are_not_followed(name, tmp_path):
    (tmp_path / "model").mkdir()
    save_file({"w": np.ones((30, 30))}, tmp_path / "outside.safetensors")
    target = tmp_path / "outside.safetensors" if name == "model.safetensors" else Path("/dev/zero")
    (tmp_path / "model" / name).symlink_to(target)
    refused(tmp_path / "model", "E_PATH")
