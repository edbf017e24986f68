import re
import zipfile

import pytest
import torch
from torch.package import PackageExporter

from spectra.sources.refusals import REFUSALS, refuse_archive, refuse_folder, refuse_names

FOLDERS = {
    "DeepSpeed": [
        ["zero_to_fp32.py", "latest", "global_step5/mp_rank_00_model_states.pt"],
        [
            "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
            "zero_pp_rank_0_mp_rank_00_model_states.pt",
        ],
    ],
    "SavedModel": [
        ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"],
    ],
    "TensorFlow checkpoint": [["checkpoint", "m.ckpt-9.index", "m.ckpt-9.data-00000-of-00001"]],
    "Orbax": [
        ["_CHECKPOINT_METADATA", "default/manifest.ocdbt"],
        ["_METADATA", "_sharding", "params.w/.zarray"],
        ["manifest.ocdbt", "ocdbt.process_0/d/0"],
        ["orbax.checkpoint", "pytree/manifest.ocdbt"],
        ["default/manifest.ocdbt", "default/_METADATA"],
        ["100/_CHECKPOINT_METADATA", "200/_CHECKPOINT_METADATA"],
    ],
}
CASES = [(what, names) for what, cases in FOLDERS.items() for names in cases]


def folder_of(tmp_path, names):
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(("what", "names"), CASES)
def test_folders_of_other_formats_are_named_with_the_way_out(what, names, tmp_path):
    error = refuse_folder(folder_of(tmp_path, names))
    assert error is not None
    assert error.code == "E_FORMAT"
    assert what in str(error)
    assert error.advice


@pytest.mark.parametrize(("what", "names"), CASES)
def test_folders_that_hold_ordinary_weights_too_are_not_refused(what, names, tmp_path):
    folder_of(tmp_path, names)
    (tmp_path / "model.safetensors").symlink_to(tmp_path / names[0])
    assert refuse_folder(tmp_path) is None


@pytest.mark.parametrize(
    "names",
    [[], ["pytorch_model.bin"], ["model.pt", "100/manifest.ocdbt"], ["a.index"], ["readme/x"]],
)
def test_other_folders_are_not_refused(names, tmp_path):
    assert refuse_folder(folder_of(tmp_path, names)) is None
    assert refuse_folder(tmp_path / "absent") is None


def test_deepspeed_is_told_the_exact_command(tmp_path):
    error = refuse_folder(folder_of(tmp_path, ["zero_to_fp32.py"]))
    assert "python zero_to_fp32.py . OUT --safe_serialization" in str(error)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")  # torch's own writer
def test_real_packages_of_torch_are_refused(tmp_path):
    path = tmp_path / "m.pt"
    with PackageExporter(str(path)) as exporter:
        exporter.extern("torch.**")
        exporter.save_pickle("model", "model.pkl", torch.nn.Linear(2, 2))
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    error = refuse_archive(path, names)
    assert error is not None
    assert "torch.package" in str(error)


def test_files_are_known_by_their_names_and_ordinary_ones_are_not_refused(tmp_path):
    shard = tmp_path / "zero_pp_rank_3_mp_rank_01_model_states.pt"
    assert "DeepSpeed" in str(refuse_archive(shard, ["archive/data.pkl"]))
    assert "SavedModel" in str(refuse_archive(tmp_path / "saved_model.pb", []))
    assert "TensorFlow" in str(refuse_archive(tmp_path / "m.data-00000-of-00001", []))
    assert refuse_archive(tmp_path / "m.pt", ["m/data.pkl", "m/.data/serialization_id"]) is None
    assert refuse_archive(tmp_path / "mp_rank_00_model_states.pt", ["archive/data.pkl"]) is None


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("FSDP", ["_fsdp_wrapped_module.layers.0._flat_param", "w"]),
        ("FSDP", ["flat_param_0"]),
        ("DeepSpeed", ["optimizer_state_dict.single_partition_of_fp32_groups.0"]),
        ("optimizer", ["state.0.exp_avg", "state.0.exp_avg_sq", "state.0.step"]),
        ("optimizer", ["state.0.momentum_buffer"]),
    ],
)
def test_tensors_that_are_no_layers_are_named(what, names, tmp_path):
    assert what in str(refuse_names(tmp_path / "m.pt", names))


@pytest.mark.parametrize("names", [[], ["w"], ["layers.0.weight", "exp_avg"], ["flat_parameter"]])
def test_ordinary_names_are_not_refused(names, tmp_path):
    assert refuse_names(tmp_path / "m.pt", names) is None


def test_every_row_says_what_it_is_how_it_is_recognised_and_what_to_do(tmp_path):
    assert len({row.what for row in REFUSALS}) == len(REFUSALS)
    for row in REFUSALS:
        assert row.recognised
        assert len(row.advice) < 400, "longer advice is cut in the error"
        assert any((row.folder, row.file, row.members, row.tensor, row.every))
        for pattern in (row.file, row.tensor, row.every, *row.members):
            re.compile(pattern)
        assert row.advice in str(row.error(tmp_path))
