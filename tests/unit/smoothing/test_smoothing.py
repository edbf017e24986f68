"""smooth(): what is cut, what is not, and that the rest of the file is what it was."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

import spectra
from spectra import setol
from spectra.conventions import HTSR
from spectra.errors import CheckpointError, SelectionError
from spectra.records import Status, TailFit
from spectra.smoothing.cutting import ALL_KEPT, intend
from spectra.sources import open_source
from spectra.sources.layouts import matrices_of
from tests.servers import RangeServer
from tests.unit.sources.test_encode import nearest_bfloat16

TOS = ("erg", "power_law", "midpoint")


def heavy(rng, *shape):
    return (0.05 * rng.standard_t(3, shape)).astype(np.float32)


@pytest.fixture
def source(tmp_path, weights):
    path = tmp_path / "model.safetensors"
    save_file(weights, path, {"format": "pt", "author": "nobody"})
    return path


def kept_at(threshold, slices):
    """Each matrix with its components of at least such an eigenvalue, one by one."""
    result = np.zeros_like(slices, dtype=np.float64)
    for out, matrix in zip(result, slices.astype(np.float64), strict=True):
        for u, s, v in zip(*_triples(matrix), strict=True):
            if s**2 >= threshold * (1 - 1e-9):
                out += s * np.outer(u, v)
    return result


def _triples(matrix):
    u, s, vt = np.linalg.svd(matrix)
    return u.T[: len(s)], s, vt[: len(s)]


@pytest.mark.parametrize("to", TOS)
def test_matrices_are_truncated_and_rounded_once_and_all_else_is_equal(
    source, weights, tmp_path, to
):
    out = tmp_path / "out.safetensors"
    copy = spectra.smooth(source, out, to=to)
    found = load_file(out)
    assert list(found) == list(load_file(source))
    cut = {layer.name for layer in copy.layers if layer.cut}
    assert cut == {"conv.weight", *(f"layers.{i}.fc.weight" for i in (0, 2, 10))}
    for name, before in weights.items():
        if name not in cut:
            assert found[name].tobytes() == before.tobytes()
        elif before.ndim == 2:
            expected = setol.truncate(before, to).astype(np.float32)
            assert np.array_equal(found[name], expected)


@pytest.mark.parametrize("to", TOS)
def test_what_is_reported_is_what_an_analysis_of_the_copy_finds(source, tmp_path, to):
    before = spectra.analyze(source, replicates=0)
    copy = spectra.smooth(source, tmp_path / "out.safetensors", to=to)
    after = spectra.analyze(tmp_path / "out.safetensors", replicates=0)
    for layer in copy.layers:
        row = before[layer.name]
        assert layer.rank_before == row.matrix_rank
        assert layer.rank_after == setol.tail_size(row.spectrum, row.fit, to)
        assert after[layer.name].matrix_rank == layer.rank_after
        share = 10 ** (after[layer.name].log_norm - row.log_norm)
        assert layer.norm_kept == pytest.approx(share, rel=1e-6)


def test_slices_of_a_kernel_share_the_threshold_of_their_pooled_spectrum(rng, tmp_path):
    kernel = heavy(rng, 24, 20, 3, 3) * np.linspace(0.02, 1, 9, dtype=np.float32).reshape(3, 3)
    report = spectra.analyze({"conv.weight": kernel}, replicates=0)
    threshold = report.layers[0].erg_xmin / 0.5  # the convention's scale is on the eigenvalues
    copy = spectra.smooth({"conv.weight": kernel}, tmp_path / "out.safetensors")
    slices = kernel.reshape(24, 20, 9).transpose(2, 0, 1)
    expected = kept_at(threshold, slices).transpose(1, 2, 0).reshape(kernel.shape)
    found = load_file(tmp_path / "out.safetensors")["conv.weight"]
    assert found == pytest.approx(expected, abs=1e-7)
    assert copy.layers[0].rank_after == report.layers[0].n_erg
    assert not found[..., 0, 0].any()  # of the faintest slice nothing is in the tail
    ranks = [np.linalg.matrix_rank(found[..., i, j]) for i in range(3) for j in range(3)]
    assert sum(ranks) == copy.layers[0].rank_after


def test_a_flattened_kernel_is_cut_as_one_matrix(rng, tmp_path):
    kernel = heavy(rng, 40, 20, 3, 3)
    spectra.smooth({"conv.weight": kernel}, tmp_path / "out.safetensors", conv="flatten")
    expected = setol.truncate(kernel.reshape(40, 180)).astype(np.float32).reshape(kernel.shape)
    assert np.array_equal(load_file(tmp_path / "out.safetensors")["conv.weight"], expected)


def test_parts_of_fused_tensors_and_experts_are_cut_each_for_itself(rng, tmp_path):
    weights = {
        "h.0.attn.c_attn.weight": heavy(rng, 40, 120),
        "h.0.experts.down_proj": heavy(rng, 3, 48, 32),
        "h.0.lstm.weight_ih_l0": heavy(rng, 128, 24),
        "h.0.lstm.weight_hh_l0": heavy(rng, 128, 32),
    }
    copy = spectra.smooth(weights, tmp_path / "out.safetensors")
    assert copy.n_cut == 3 + 3 + 4 + 4
    found = load_file(tmp_path / "out.safetensors")
    parts = {
        "h.0.attn.c_attn.weight": lambda w: np.split(w, 3, axis=1),
        "h.0.experts.down_proj": list,
        "h.0.lstm.weight_ih_l0": lambda w: np.split(w, 4),
        "h.0.lstm.weight_hh_l0": lambda w: np.split(w, 4),
    }
    for name, split in parts.items():
        for before, after in zip(split(weights[name]), split(found[name]), strict=True):
            assert np.array_equal(after, setol.truncate(before).astype(np.float32))


def test_a_part_that_is_left_keeps_its_bytes_beside_parts_that_are_cut(rng, tmp_path):
    fused = heavy(rng, 40, 120)
    fused[:, 40:80] = 0
    copy = spectra.smooth({"h.0.attn.c_attn.weight": fused}, tmp_path / "out.safetensors")
    assert [(x.cut, str(x.status)) for x in copy.layers] == [
        (True, "ok"),
        (False, "zero"),
        (True, "ok"),
    ]
    found = load_file(tmp_path / "out.safetensors")["h.0.attn.c_attn.weight"]
    assert not found[:, 40:80].any()
    assert not np.array_equal(found[:, :40], fused[:, :40])
    spectra.smooth(
        {"c_attn.weight": fused}, tmp_path / "q.safetensors", layers=["c_attn.weight[q]"]
    )
    found = load_file(tmp_path / "q.safetensors")["c_attn.weight"]
    assert np.array_equal(found[:, 40:], fused[:, 40:])
    assert not np.array_equal(found[:, :40], fused[:, :40])


def test_tied_tensors_stay_equal(rng, tmp_path):
    shared = torch.from_numpy(heavy(rng, 60, 50))
    state = {"a.weight": shared, "b.weight": shared, "c.weight": shared.clone()}
    torch.save(state, tmp_path / "tied.pt")
    for source in (state, tmp_path / "tied.pt"):
        out = tmp_path / f"{type(source).__name__}.safetensors"
        copy = spectra.smooth(source, out)
        first = copy.layers[0]
        assert (first.name, first.aliases) == ("a.weight", ("b.weight",))
        found = load_file(out)
        assert np.array_equal(found["a.weight"], setol.truncate(shared.numpy()).astype("f4"))
        assert all(np.array_equal(found[name], found["a.weight"]) for name in state)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_the_stored_type_stays_and_is_rounded_to_once(rng, tmp_path, dtype):
    kind = getattr(torch, dtype)
    before = {
        "fc.weight": torch.from_numpy(heavy(rng, 80, 60)).to(kind),
        "fc.bias": torch.tensor([1.5, float("nan"), float("-inf"), 1e-7]).to(kind),
    }
    save_torch(before, tmp_path / "in.safetensors")
    torch.save(before, tmp_path / "in.pt")
    exact = setol.truncate(before["fc.weight"].double().numpy())
    rounded = {
        "float16": lambda x: x.astype(np.float16),
        "bfloat16": nearest_bfloat16,
        "float64": lambda x: x,
    }[dtype](exact)
    for ending in ("safetensors", "pt"):
        out = tmp_path / f"{ending}.out.safetensors"
        copy = spectra.smooth(tmp_path / f"in.{ending}", out)
        found = load_torch(out)
        assert found["fc.weight"].dtype == kind
        assert np.array_equal(found["fc.weight"].double().numpy(), rounded)
        assert torch.equal(found["fc.bias"].nan_to_num(7), before["fc.bias"].nan_to_num(7))
        if ending == "safetensors":  # torch itself gives other bits to a NaN of half precision
            raw, old = (x["fc.bias"].view(torch.uint8) for x in (found, before))
            assert torch.equal(raw, old)
        assert any("noise" in note for note in copy.notes) is (dtype != "float64")


def test_what_half_precision_puts_back_is_no_more_than_its_rounding(rng, tmp_path):
    weights = {"fc.weight": torch.from_numpy(heavy(rng, 80, 60)).bfloat16()}
    save_torch(weights, tmp_path / "in.safetensors")
    layer = spectra.smooth(tmp_path / "in.safetensors", tmp_path / "out.safetensors").layers[0]
    after = spectra.analyze(tmp_path / "out.safetensors", replicates=0).layers[0]
    assert after.matrix_rank == 60
    rest = after.spectrum.eigenvalues[: 60 - layer.rank_after]
    assert rest.sum() < (2.0**-8) ** 2 * after.spectrum.squared_norm


def test_a_second_cut_to_the_erg_tail_or_the_power_law_changes_nothing(rng, tmp_path):
    """The tail of a truncated matrix is all of its rank.

    Without the rest Σλ is smaller, so every λ̃ is larger, and the sums of ln λ̃ cross zero no earlier
    than before: at the last eigenvalue that is left or, most often, at the first zero after it. And KS
    distances of tails do not know of what is below them, so that the least is where it was.
    """
    weights = {f"{i}.fc.weight": heavy(rng, 150 + 10 * i, 120) for i in range(4)}
    later = []
    for to in ("erg", "power_law"):
        first, second = (tmp_path / f"{to}-{n}.safetensors" for n in (1, 2))
        once = spectra.smooth(weights, first, to=to)
        twice = spectra.smooth(first, second, to=to)
        assert once.n_cut == 4
        assert {layer.reason for layer in twice.layers if layer.status == "ok"} == {ALL_KEPT}
        assert twice.n_cut == 0
        assert all(
            np.array_equal(x, y)
            for x, y in zip(load_file(first).values(), load_file(second).values(), strict=True)
        )
        if to == "erg":
            report = spectra.analyze(first, replicates=0)
            later = [report[x.name].n_erg - x.rank_after for x in once.layers]
    assert max(later) == 1  # the count itself is not kept: a zero is counted in
    assert min(later) >= 0


def test_a_second_cut_half_way_goes_on_cutting(rng, tmp_path):
    weights = {"fc.weight": heavy(rng, 150, 120)}
    once = spectra.smooth(weights, tmp_path / "1.safetensors", to="midpoint").layers[0]
    twice = spectra.smooth(
        tmp_path / "1.safetensors", tmp_path / "2.safetensors", to="midpoint"
    ).layers[0]
    assert twice.rank_before == once.rank_after
    assert twice.rank_after < once.rank_after


def test_layers_without_a_tail_are_left_to_the_byte_with_the_reason(rng, tmp_path):
    weights = {
        "few.weight": heavy(rng, 30, 12),
        "nan.weight": heavy(rng, 40, 30),
        "zero.weight": np.zeros((40, 30), np.float32),
        "rank_one.weight": np.outer(heavy(rng, 40), heavy(rng, 30)),
        "equal.weight": np.eye(40, dtype=np.float32),
        "int.weight": np.arange(1200).reshape(40, 30),
        "fine.weight": heavy(rng, 60, 50),
        "empty.weight": np.zeros((0, 30), np.float32),
        "scalar": np.array(3.0, np.float32),
    }
    weights["nan.weight"][3, 4] = np.nan
    save_file(weights, tmp_path / "in.safetensors")
    for to in TOS:
        out = tmp_path / f"{to}.safetensors"
        copy = spectra.smooth(tmp_path / "in.safetensors", out, to=to)
        told = {x.name: (str(x.status), bool(x.reason)) for x in copy.layers if not x.cut}
        assert told == {
            "few.weight": ("too_few_eigenvalues", True),
            "nan.weight": ("non_finite", True),
            "zero.weight": ("zero", True),
            "rank_one.weight": ("degenerate", True),
            "equal.weight": ("degenerate", True),
        }
        assert {item.name for item in copy.skipped} == {"int.weight", "empty.weight", "scalar"}
        found = load_file(out)
        for name, before in weights.items():
            assert (found[name].tobytes() == before.tobytes()) is (name != "fine.weight")


def test_a_matrix_whose_truncation_overflows_its_type_is_left(tmp_path):
    """Cutting a matrix can make entries larger; here they no longer fit float16."""
    rng = np.random.default_rng(3)
    values = rng.choice([-65000.0, 65000.0], (60, 50)).astype(np.float16)
    save_file({"fc.weight": values}, tmp_path / "in.safetensors")
    copy = spectra.smooth(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    (layer,) = copy.layers
    assert (layer.cut, str(layer.status)) == (False, "out_of_range")
    assert "float16" in layer.reason
    assert layer.rank_after == layer.rank_before == 50
    assert np.array_equal(load_file(tmp_path / "out.safetensors")["fc.weight"], values)


def test_embeddings_and_heads_are_left_unless_they_are_named(source, weights, tmp_path):
    copy = spectra.smooth(source, tmp_path / "a.safetensors")
    reasons = {item.name: item.reason for item in copy.skipped}
    assert reasons["embed_tokens.weight"].startswith("embedding")
    assert reasons["lm_head.weight"].startswith("output head")
    copy = spectra.smooth(source, tmp_path / "b.safetensors", layers="embed*")
    assert [layer.name for layer in copy.layers] == ["embed_tokens.weight"]
    found = load_file(tmp_path / "b.safetensors")
    assert not np.array_equal(found["embed_tokens.weight"], weights["embed_tokens.weight"])
    assert all(
        np.array_equal(found[name], value)
        for name, value in weights.items()
        if name != "embed_tokens.weight"
    )
    copy = spectra.smooth(source, tmp_path / "c.safetensors", exclude="layers.*")
    assert [layer.name for layer in copy.layers] == ["conv.weight"]


def test_an_embedding_that_is_called_like_a_pattern_excludes_nothing_else(rng, tmp_path):
    weights = {
        "*_embedding.weight": heavy(rng, 80, 40),
        "patch_embedding.weight": heavy(rng, 40, 30, 2, 2),  # a kernel
    }
    copy = spectra.smooth(weights, tmp_path / "out.safetensors")
    assert [layer.name for layer in copy.layers] == ["patch_embedding.weight"]
    assert [item.name for item in copy.skipped] == ["*_embedding.weight"]


def test_metadata_stays_and_says_what_was_done(source, tmp_path):
    spectra.smooth(source, tmp_path / "out.safetensors", to="midpoint")
    with safe_open(tmp_path / "out.safetensors", "np") as file:
        metadata = file.metadata()
    done = json.loads(metadata.pop("spectra_smooth"))
    assert metadata == {"format": "pt", "author": "nobody"}
    assert done == {
        "to": "midpoint",
        "convention": "htsr",
        "conv": "slices",
        "spectra_version": spectra.__version__,
    }


def test_types_without_a_name_in_numpy_are_copied_as_they_are(rng, tmp_path):
    before = {
        "fc.weight": torch.from_numpy(heavy(rng, 40, 30)),
        "ids": torch.arange(7),
        "mask": torch.tensor([True, False, True]),
        "z.real_imag": torch.ones(3, dtype=torch.complex64),
    }
    for path, save in ((tmp_path / "a.safetensors", save_torch), (tmp_path / "a.pt", torch.save)):
        save(before, path)
        out = path.with_name(f"{path.suffix[1:]}-out.safetensors")
        spectra.smooth(path, out)
        found = load_torch(out)
        assert found.keys() == before.keys()
        for name in ("ids", "mask", "z.real_imag"):
            assert found[name].dtype == before[name].dtype
            assert torch.equal(found[name], before[name])


@pytest.fixture
def sharded(tmp_path, weights):
    """A folder as the hub has it: two shards, an index, what belongs to the model, and what does not."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    names = sorted(weights)
    shards = {"model-00001-of-00002": names[:3], "model-00002-of-00002": names[3:]}
    for shard, held in shards.items():
        save_file({n: weights[n] for n in held}, folder / f"{shard}.safetensors", {"format": "pt"})
    weight_map = {n: f"{shard}.safetensors" for shard, held in shards.items() for n in held}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1, "by": "me"}, "weight_map": weight_map})
    )
    for name in ("config.json", "tokenizer.json", "tokenizer.model", "merges.txt", "LICENSE"):
        (folder / name).write_text("{}")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    for name in ("optimizer.pt", "trainer_state.json", "notes.txt", ".hidden"):
        (folder / name).write_text("{}")
    return folder


def test_shards_stay_shards_and_configurations_are_copied(sharded, weights, tmp_path):
    one = tmp_path / "one.safetensors"
    spectra.smooth(weights, one)
    out = tmp_path / "out"
    copy = spectra.smooth(sharded, out)
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert (
        files
        == set(copy.files)
        == {
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "config.json",
            "1_Pooling/config.json",
            "tokenizer.json",
            "tokenizer.model",
            "merges.txt",
            "LICENSE",
        }
    )
    index = "model.safetensors.index.json"
    assert (out / index).read_bytes() == (sharded / index).read_bytes()
    found = {}
    for shard in sorted(out.glob("*.safetensors")):
        assert load_file(shard).keys() == load_file(sharded / shard.name).keys()
        found |= load_file(shard)
    expected = load_file(one)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    assert spectra.analyze(out, replicates=0).complete
    with pytest.raises(SelectionError, match="2 of them"):
        spectra.smooth(sharded, one.with_name("two.safetensors"))


def test_shards_of_torch_become_shards_of_safetensors_with_an_index(weights, tmp_path):
    folder, names = tmp_path / "torch", sorted(weights)
    folder.mkdir()
    weight_map = {}
    for number, held in ((1, names[:3]), (2, names[3:])):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({n: torch.from_numpy(weights[n]) for n in held}, folder / file)
        weight_map |= dict.fromkeys(held, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    copy = spectra.smooth(folder, tmp_path / "out")
    assert copy.files == (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    )
    assert any("as safetensors" in note for note in copy.notes)
    report = spectra.analyze(tmp_path / "out", replicates=0)
    assert report.source.n_tensors == len(weights)
    spectra.smooth(weights, tmp_path / "one.safetensors")
    expected = load_file(tmp_path / "one.safetensors")
    for shard in (tmp_path / "out").glob("*.safetensors"):
        assert all(np.array_equal(v, expected[n]) for n, v in load_file(shard).items())


def test_numpy_archives_and_modules_are_written_too(rng, tmp_path):
    weights = {"fc.weight": heavy(rng, 60, 50), "bias": np.arange(3.0)}
    np.savez(tmp_path / "in.npz", **weights)
    module = torch.nn.Linear(50, 60)
    expected = setol.truncate(weights["fc.weight"]).astype(np.float32)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(weights["fc.weight"]))
    spectra.smooth(tmp_path / "in.npz", tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert np.array_equal(found["fc.weight"], expected)
    assert np.array_equal(found["bias"], weights["bias"])
    spectra.smooth(module, tmp_path / "module.safetensors", layers="weight")
    module.load_state_dict(load_torch(tmp_path / "module.safetensors"))
    assert np.array_equal(module.weight.detach().numpy(), expected)


def test_a_place_that_is_taken_or_no_fit_is_refused_and_left_as_it_is(source, sharded, tmp_path):
    taken = source.read_bytes()
    for out in (source, sharded):
        with pytest.raises(CheckpointError, match="is there already"):
            spectra.smooth(source, out)
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is there already"):
        spectra.smooth(source, tmp_path / "link.safetensors")
    with pytest.raises(CheckpointError, match="not there or not writable"):
        spectra.smooth(source, tmp_path / "no" / "out.safetensors")
    with pytest.raises(SelectionError, match="another format"):
        spectra.smooth(source, tmp_path / "out.pt")
    alone = tmp_path / "alone"
    alone.mkdir()
    save_file({"fc.weight": np.eye(30)}, alone / "model.safetensors")
    with pytest.raises(CheckpointError, match="read as one model"):
        spectra.smooth(alone, alone / "erg.safetensors")
    spectra.smooth(
        alone / "model.safetensors", alone / "erg.safetensors"
    )  # of files there may be more
    with pytest.raises(SelectionError, match="no 'best'"):
        spectra.smooth(source, tmp_path / "out.safetensors", to="best")
    assert source.read_bytes() == taken


def test_an_empty_folder_may_be_filled(source, tmp_path):
    (tmp_path / "out").mkdir()
    copy = spectra.smooth(source, tmp_path / "out")
    assert copy.files == ("model.safetensors",)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
def test_what_breaks_off_leaves_nothing(source, tmp_path, monkeypatch, out):
    before = set(tmp_path.iterdir())

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("spectra.setol.keep_largest", broken)
    with pytest.raises(KeyboardInterrupt):
        spectra.smooth(source, tmp_path / out)
    assert set(tmp_path.iterdir()) == before

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spectra.setol.keep_largest", full)
    with pytest.raises(CheckpointError, match="no space left on device"):
        spectra.smooth(source, tmp_path / out)
    assert set(tmp_path.iterdir()) == before


def test_weights_that_are_more_than_named_tensors_are_refused(rng, tmp_path):
    quantised = {
        "fc.weight": torch.randn(64, 64).to(torch.float8_e4m3fn),
        "fc.weight_scale": torch.ones(1),
    }
    save_torch(quantised, tmp_path / "fp8.safetensors")
    parts = {"c.weight_g": np.ones((8, 1), "f4"), "c.weight_v": heavy(rng, 8, 8)}
    save_file(parts, tmp_path / "norm.safetensors")
    spectra.analyze({"fc": heavy(rng, 60, 50)}).write(tmp_path / "kept.spectra")
    for name, words in (
        ("fp8.safetensors", "quantised"),
        ("norm.safetensors", "computed from others"),
        ("kept.spectra", "holds spectra"),
    ):
        with pytest.raises(CheckpointError, match=words):
            spectra.smooth(tmp_path / name, tmp_path / "out.safetensors")
    np.savez(tmp_path / "wide.npz", fc=heavy(rng, 40, 30), z=np.ones(3, np.complex128))
    with pytest.raises(CheckpointError, match="complex128"):
        spectra.smooth(tmp_path / "wide.npz", tmp_path / "out.safetensors")
    for name in ("__metadata__", "\ud800"):
        with pytest.raises(CheckpointError, match="rename"):
            spectra.smooth({name: np.ones(3)}, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_link_that_leads_out_of_the_folder_is_not_followed(sharded, tmp_path):
    (tmp_path / "secret").write_text("{}")
    (sharded / "vocab.json").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="no file of its own folder"):
        spectra.smooth(sharded, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_layers_are_found_by_name_and_progress_ends_whole(source, tmp_path):
    seen = []
    copy = spectra.smooth(
        source, tmp_path / "out.safetensors", progress=lambda *now: seen.append(now)
    )
    assert copy["layers.0.fc"].name == "layers.0.fc.weight"
    with pytest.raises(SelectionError, match=r"no 'layers\.1\.fc'"):
        copy["layers.1.fc"]
    assert [now[0] for now in seen] == sorted(now[0] for now in seen)
    assert seen[-1][0] == pytest.approx(seen[-1][1])
    assert len({now[1] for now in seen}) == 1 or max(np.diff([n[1] for n in seen])) < 1e-9
    assert repr(copy) == f"<Smoothed copy of {source}: 4 of 4 layers cut>"


def test_a_layer_without_a_power_law_is_cut_to_the_erg_tail_alone(rng):
    weights = {"fc.weight": heavy(rng, 60, 50)}
    (matrix,), _ = matrices_of(open_source(weights).tensors, HTSR)
    row = spectra.analyze(weights, replicates=0).layers[0]
    failed = dataclasses.replace(row, status=Status.FIT_FAILED, fit=TailFit(), reason="no tail")
    assert intend(matrix, failed, "erg").layer.cut
    for to in ("power_law", "midpoint"):
        layer = intend(matrix, failed, to).layer
        assert (layer.cut, layer.reason, layer.rank_after) == (False, "no tail", 50)


@pytest.mark.parametrize(
    ("error", "status"),
    [(np.linalg.LinAlgError(), "not_converged"), (MemoryError(), "over_budget")],
)
def test_a_matrix_that_cannot_be_decomposed_is_left_and_takes_no_other_with_it(
    rng, tmp_path, monkeypatch, error, status
):
    weights = {"a.weight": heavy(rng, 60, 50), "b.weight": heavy(rng, 70, 50)}
    plain = setol.keep_largest

    def fails_on_the_first(slices, size):
        if slices.shape[1] == 60:
            raise error
        return plain(slices, size)

    monkeypatch.setattr("spectra.setol.keep_largest", fails_on_the_first)
    copy = spectra.smooth(weights, tmp_path / "out.safetensors")
    assert [(layer.cut, str(layer.status)) for layer in copy.layers] == [
        (False, status),
        (True, "ok"),
    ]
    assert np.array_equal(load_file(tmp_path / "out.safetensors")["a.weight"], weights["a.weight"])


def test_far_weights_are_refused_and_file_urls_are_not_far(source, tmp_path):
    with (
        RangeServer({"/m.safetensors": source.read_bytes()}) as server,
        pytest.raises(CheckpointError, match="far away"),
    ):
        spectra.smooth(f"{server.url}/m.safetensors", tmp_path / "far.safetensors")
    (tmp_path / "sub").mkdir()
    copy = spectra.smooth(source.as_uri(), tmp_path / "sub" / "near.safetensors")
    assert copy.n_cut == 4
