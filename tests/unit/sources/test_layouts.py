import numpy as np
import pytest

from spectra.conventions import HTSR, WEIGHTWATCHER
from spectra.records import Tensor
from spectra.sources.layouts import clean_names, matrices_of, stack


def tensor(name, *shape, dtype="float32", **known):
    return Tensor(name, shape, dtype, 4 * int(np.prod(shape)), **known)


def reason_for(name, *shape, **known):
    matrices, skipped = matrices_of([tensor(name, *shape, **known)], HTSR)
    assert not matrices
    return skipped[0].reason


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((30, 20), ("linear", 30, 20, 1)),
        ((20, 30), ("linear", 30, 20, 1)),
        ((8, 4, 3), ("conv1d", 8, 4, 3)),
        ((8, 4, 3, 3), ("conv2d", 8, 4, 9)),
        ((4, 8, 2, 3, 3), ("conv3d", 8, 4, 18)),
    ],
)
def test_shapes_become_matrices(shape, expected):
    (found,), _ = matrices_of([tensor("w", *shape)], HTSR)
    assert (found.kind, found.N, found.M, found.n_matrices) == expected


def test_slices_are_the_kernel_positions(rng):
    kernel = rng.standard_normal((6, 4, 3, 2))
    (found,), _ = matrices_of([tensor("w", *kernel.shape)], HTSR)
    cut = stack(found, kernel)
    expected = [kernel[:, :, i, j] for i in range(3) for j in range(2)]
    assert np.array_equal(cut, np.stack(expected))


def test_groups_are_cut_into_blocks(rng):
    kernel = rng.standard_normal((6, 2, 3, 3))  # 6 outputs, 3 groups of 2 inputs
    (found,), _ = matrices_of([tensor("w", *kernel.shape, groups=3)], HTSR)
    assert (found.N, found.M, found.n_matrices) == (2, 2, 27)
    cut = stack(found, kernel)
    assert np.array_equal(cut[9 + 4], kernel[2:4, :, 1, 1])


@pytest.mark.parametrize(
    ("name", "shape", "known", "words"),
    [
        ("bias", (8,), {}, "one-dimensional"),
        ("scale", (), {}, "scalar"),
        ("table", (8, 8), {"dtype": "int64"}, "integer"),
        ("mask", (8, 8), {"dtype": "bool"}, "integer or boolean"),
        ("none", (0, 5), {}, "empty"),
        ("deep", (2,) * 6, {}, "more than five"),
        ("depthwise", (32, 1, 3, 3), {}, "depthwise"),
        ("depthwise", (32, 1, 3, 3), {"groups": 32}, "depthwise"),
        ("bilinear", (30, 40, 50), {}, "no convolution"),
        ("bilinear", (50, 40, 30), {"owner": "Bilinear"}, "no convolution"),
        ("optimizer.state.0.exp_avg", (8, 8), {}, "optimizer"),
        ("fc.weight_v", (8, 8), {}, "weight_norm"),
        ("fc.weight_g", (8, 1), {}, "weight_norm"),
        ("fc.weight_orig", (8, 8), {}, "spectral_norm"),
        ("fc.parametrizations.weight.original1", (8, 8), {}, "weight_norm"),
        ("parametrizations.weight.original", (8, 8), {}, "spectral_norm"),
    ],
)
def test_what_is_no_matrix_is_skipped_with_its_reason(name, shape, known, words):
    assert words in reason_for(name, *shape, **known)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("embeddings.word_embeddings.weight", "embedding"),
        ("transformer.wte.weight", "embedding"),
        ("embedding", "embedding"),
        ("lm_head.weight", "head"),
        ("embed_out.weight", "head"),
        ("encoder.embed_projection_in.weight", "linear"),
        ("classifier.0.weight", "linear"),
        ("decoder.layers.0.fc.weight", "linear"),
        ("remember.weight", "linear"),
    ],
)
def test_embeddings_and_heads_are_told_by_name(name, kind):
    tensors = [tensor(name, 20, 30), tensor("last.weight", 30, 20)]
    assert matrices_of(tensors, HTSR)[0][0].kind == kind


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("fc.weight", (10, 64), "head"),
        ("classifier.6.weight", (10, 64), "head"),
        ("fc.weight", (64, 10), "linear"),
        ("features.fc.weight", (10, 64), "linear"),
        ("attn.score.weight", (10, 64), "linear"),
        ("mlp.shared.weight", (10, 64), "linear"),
        ("score.weight", (10, 64), "head"),
        ("shared.weight", (64, 10), "embedding"),
        ("w", (10, 64), "linear"),
    ],
)
def test_ordinary_words_name_a_head_only_outermost_narrow_and_read_by_none(name, shape, kind):
    tensors = [tensor("body.weight", 64, 64), tensor(name, *shape)]
    for order in (tensors, tensors[::-1]):  # formats list the same tensors in different orders
        found = {m.name: m.kind for m in matrices_of(order, HTSR)[0]}
        assert found == {"body.weight": "linear", name: kind}
    reader = tensor("then.weight", 64, shape[0])
    read = matrices_of([tensor(name, *shape), reader], HTSR)[0][0].kind
    assert read == ("linear" if kind == "head" else kind)


def test_the_head_of_a_gguf_file_is_told_by_its_embedding():
    tensors = [tensor("token_embd.weight", 90, 30), tensor("output.weight", 90, 30)]
    assert [m.kind for m in matrices_of(tensors, HTSR)[0]] == ["embedding", "head"]


def test_tied_tensors_are_one_matrix_with_both_names():
    tied = [tensor(name, 50, 20, storage=("file", 64)) for name in ("embed.weight", "out.weight")]
    (found,), (skipped,) = matrices_of(tied, HTSR)
    assert found.aliases == ("out.weight",)
    assert skipped.name == "out.weight"
    assert "embed.weight" in skipped.reason


def test_wrappers_are_kept_out_of_names():
    assert clean_names(["module.a.weight", "module.b.weight"]) == ["a.weight", "b.weight"]
    assert clean_names(["module.a", "b"]) == ["module.a", "b"]
    assert clean_names(["_orig_mod.a.weight"]) == ["a.weight"]
    assert clean_names(["l._checkpoint_wrapped_module.w"]) == ["l.w"]
    averaged = [tensor("n_averaged"), tensor("module.a.weight", 40, 30)]  # torch's AveragedModel
    assert matrices_of(averaged, HTSR)[0][0].name == "a.weight"
    # never at the price of two layers of one name
    assert clean_names(["_orig_mod.a", "a"]) == ["_orig_mod.a", "a"]


def test_the_peers_layouts_are_its_own():
    tensors = [
        tensor("conv.weight", 32, 1, 3, 3),
        tensor("conv1d.weight", 32, 16, 3),
        tensor("in_proj_weight", 30, 20),
        tensor("tiny.weight", 30, 7),
        tensor("vocabulary.weight", 60_000, 32),
        tensor("fc.weight", 30, 20),
    ]
    matrices, skipped = matrices_of(tensors, WEIGHTWATCHER)
    assert [m.name for m in matrices] == ["conv.weight", "fc.weight"]
    assert all("weightwatcher" in s.reason for s in skipped)
