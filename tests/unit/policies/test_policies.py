import dataclasses
import math

import numpy as np
import pytest

from spectra import analyze
from spectra.errors import CheckpointError, SelectionError
from spectra.policies import layers_to_train, lora_ranks, pruning_ratios
from spectra.policies.freezing import signal_above_edge, signal_to_noise
from spectra.saved import read_report
from tests.conftest import packaged_weights
from tests.reference import policies as reference

SHAPES = {"attn.q": (64, 64), "attn.v": (64, 64), "mlp.up": (128, 64)}
SEED = 41_421_356_237_309


def weights_of(blocks=4, shapes=SHAPES, seed=SEED):
    """Blocks of layers whose tails get lighter with depth, between an embedding and a head."""
    rng = np.random.default_rng(seed)
    made = {"embed_tokens.weight": rng.standard_normal((200, 64))}
    for block in range(blocks):
        for name, shape in shapes.items():
            made[f"layers.{block}.{name}.weight"] = rng.standard_t(2.2 + block, shape)
    return made | {
        "pooler.weight": rng.standard_normal((64, 64)),
        "lm_head.weight": made["embed_tokens.weight"] + 1,
    }


def analysed(weights, **options):
    return analyze(weights, replicates=0, **options)


@pytest.fixture(scope="module")
def report():
    return analysed(weights_of(), estimator="xmin_peak")


def inner(weights):
    return {name: w for name, w in weights.items() if name.startswith("layers.")}


def changed(report, name, **changes):
    """The report with one layer otherwise, as if the source had been so."""
    layers = [
        dataclasses.replace(row, **changes) if row.name == name else row for row in report.layers
    ]
    return dataclasses.replace(report, layers=tuple(layers))


def with_alphas(report, alphas):
    layers = [
        dataclasses.replace(
            row, metrics={**row.metrics, "alpha": alphas.get(row.name, row["alpha"])}
        )
        for row in report.layers
    ]
    return dataclasses.replace(report, layers=tuple(layers))


# Pruning


@pytest.mark.parametrize(("target", "spread"), [(0.7, 0.3), (0.5, 0.0), (0.2, 0.9)])
def test_pruning_ratios_are_those_of_the_paper(report, target, spread):
    policy = pruning_ratios(report, target, spread)
    rows = [row for row in report.layers if row.name.startswith("layers.")]
    sizes = [row.N * row.M for row in rows]
    expected = reference.alphapruning([row["alpha"] for row in rows], sizes, 3, target, spread)
    assert list(policy.by_name) == [row.name for row in rows]
    assert list(policy.by_name.values()) == pytest.approx(expected, rel=1e-12)


def test_the_mean_over_all_parameters_is_the_target_and_lighter_tails_are_pruned_more(report):
    policy = pruning_ratios(report, 0.6)
    pruned = sum(share.value * share.n_parameters for share in policy.shares)
    assert pruned / sum(share.n_parameters for share in policy.shares) == pytest.approx(0.6)
    order = sorted(policy.shares, key=lambda share: share.score)
    assert [share.value for share in order] == sorted(share.value for share in policy.shares)


def test_alphas_of_another_estimator_are_taken_only_when_named():
    report = analysed(weights_of())
    with pytest.raises(SelectionError, match="alphas are by csn, where xmin_peak is asked for"):
        pruning_ratios(report)
    assert pruning_ratios(report, estimator="csn").options["estimator"] == "csn"
    assert pruning_ratios(analysed(weights_of(), estimator="xmin_peak_compat"))


def test_a_block_without_any_alpha_is_pruned_as_the_middle(report):
    lost = dict.fromkeys(SHAPES, math.nan)
    broken = report
    for name in lost:
        broken = changed(broken, f"layers.1.{name}.weight", status="non_finite")
    policy = pruning_ratios(broken, 0.5)
    ratios = policy.by_name
    ends = [ratios[f"layers.{block}.attn.q.weight"] for block in (0, 3)]
    assert ratios["layers.1.attn.q.weight"] == pytest.approx(sum(ends) / 2)
    assert math.isnan(next(s.score for s in policy.shares if s.group == "layers.1"))


def test_where_no_two_blocks_differ_all_are_pruned_alike(report):
    names = [row.name for row in report.layers]
    for found in (
        pruning_ratios(with_alphas(report, dict.fromkeys(names, 3.0)), 0.4),
        pruning_ratios(analysed(weights_of(1), estimator="xmin_peak"), 0.4),
    ):
        assert set(found.by_name.values()) == {0.4}


def test_without_blocks_each_layer_is_one(rng):
    weights = {f"{n}.weight": rng.standard_t(2 + i, (80, 60)) for i, n in enumerate("abc")}
    policy = pruning_ratios(analysed(weights, estimator="xmin_peak"), 0.5)
    assert len(set(policy.by_name.values())) == 3


def test_a_block_that_would_lose_all_is_refused(report):
    with pytest.raises(SelectionError, match=r"layers\.\d would lose all its weights"):
        pruning_ratios(report, 0.9)


@pytest.mark.parametrize(
    "choice", [{"target": 0}, {"target": 1.0}, {"target": math.nan}, {"spread": 1}]
)
def test_shares_out_of_range_are_refused(report, choice):
    with pytest.raises(SelectionError, match="is not"):
        pruning_ratios(report, **choice)


def test_a_report_without_alphas_makes_no_policy():
    report = analysed({"layers.0.w.weight": np.zeros((40, 40))}, estimator="xmin_peak")
    with pytest.raises(CheckpointError, match="no layer but embeddings and heads has an alpha"):
        pruning_ratios(report)
    with pytest.raises(CheckpointError, match="a spectrum"):
        layers_to_train(analysed({"layers.0.w.weight": np.full((40, 40), np.nan)}))


# Fine-tuning


def test_signal_to_noise_is_that_of_the_published_program(rng):
    kernels = {
        "a.weight": rng.standard_t(3, (90, 60)),
        "b.weight": rng.standard_normal((60, 200)) * 1e-3,
        "c.weight": np.linalg.qr(rng.standard_normal((64, 64)))[0] + rng.standard_t(2, (64, 64)),
    }
    for row in analysed(kernels).layers:
        expected = reference.spectrum_snr(kernels[row.name])
        assert signal_to_noise(row.spectrum) == pytest.approx(expected, rel=1e-9)


def test_the_score_of_a_convolution_is_in_the_unit_of_its_weights(rng):
    kernel = rng.standard_t(3, (40, 40, 1, 1))
    slices, flat = (analysed({"conv.weight": k}).layers[0] for k in (kernel, kernel[:, :, 0, 0]))
    for score in (signal_to_noise, signal_above_edge):
        assert score(slices.spectrum) == pytest.approx(score(flat.spectrum))


def test_signal_above_the_edge_is_the_planted_one_and_nothing_of_noise(rng):
    noise = rng.standard_normal((200, 100))
    u, v = (np.linalg.qr(rng.standard_normal((n, 2)))[0] for n in (200, 100))
    rows = analysed({"noise.weight": noise, "planted.weight": noise + u @ np.diag([60, 90]) @ v.T})
    assert signal_above_edge(rows["noise"].spectrum) == 0
    values = np.sqrt(rows["planted"].spectrum.eigenvalues)
    expected = values[-2:].sum() / values[:-2].sum() / values[-1]
    assert signal_above_edge(rows["planted"].spectrum) == pytest.approx(expected)


def test_what_has_no_noise_has_infinite_score():
    row = analysed({"w.weight": np.diag(np.linspace(1, 1.2, 40))}).layers[0]
    assert signal_to_noise(row.spectrum) == math.inf


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75, 1.0])
def test_of_each_type_the_best_share_is_trained(fraction):
    weights = weights_of()
    scores = {
        kind: {
            name: reference.spectrum_snr(w)
            for name, w in inner(weights).items()
            if name.endswith(f"{kind}.weight")
        }
        for kind in SHAPES
    }
    scores["pooler"] = {"pooler.weight": reference.spectrum_snr(weights["pooler.weight"])}
    policy = layers_to_train(analysed(weights), fraction, ends=False)
    trained = {name for name, value in policy.by_name.items() if value}
    assert trained == set(reference.spectrum_top(scores, fraction))


def test_embeddings_and_heads_are_trained_too_unless_told_otherwise():
    report = analysed(weights_of())
    ends = {"embed_tokens.weight", "lm_head.weight"}
    assert {name for name in ends if layers_to_train(report).by_name[name]} == ends
    assert not ends & set(layers_to_train(report, ends=False).by_name)


def test_a_layer_without_numbers_is_not_trained():
    weights = weights_of()
    weights["layers.2.attn.q.weight"][0, 0] = np.inf
    policy = layers_to_train(analysed(weights), 1.0)
    untrained = {name for name, value in policy.by_name.items() if not value}
    assert untrained == {"layers.2.attn.q.weight"}


def test_a_fused_projection_is_trained_as_one_tensor(rng):
    weights = {
        f"h.{i}.attn.c_attn.weight": rng.standard_t(2.5 + i, (64, 192)) for i in range(4)
    } | {f"h.{i}.attn.c_proj.weight": rng.standard_t(3, (64, 64)) for i in range(4)}
    policy = layers_to_train(analysed(weights), 0.5)
    assert set(policy.by_name) == set(weights)
    thirds = np.split(weights["h.0.attn.c_attn.weight"], 3, axis=1)
    score = next(share.score for share in policy.shares if share.name == "h.0.attn.c_attn.weight")
    assert score == pytest.approx(np.mean([reference.spectrum_snr(part) for part in thirds]))


def test_a_choice_of_nothing_is_refused():
    report = analysed(weights_of())
    with pytest.raises(SelectionError, match=r"0\.1 of at most 4 layers of a type is none"):
        layers_to_train(report, 0.1)
    with pytest.raises(SelectionError, match="did you mean snr"):
        layers_to_train(report, by="snr_edg")


def test_a_report_read_from_json_has_ratios_and_ranks_but_no_spectra(report, tmp_path):
    report.write(tmp_path / "report.json")
    again = read_report(tmp_path / "report.json")
    assert pruning_ratios(again) == pruning_ratios(report)
    assert lora_ranks(again) == lora_ranks(report)
    with pytest.raises(CheckpointError, match="JSON, which holds no spectra"):
        layers_to_train(again)
    report.write(tmp_path / "report.spectra")
    assert (
        layers_to_train(analysed(tmp_path / "report.spectra")).by_name
        == layers_to_train(report).by_name
    )


# Adapters


@pytest.mark.parametrize("by", ["n_spikes", "n_tail", "stable_rank"])
@pytest.mark.parametrize("choice", [{}, {"lowest": 3, "highest": 9}, {"budget": 9000}])
def test_ranks_are_handed_out_one_by_one_to_the_most_tail_per_rank(report, by, choice):
    policy = lora_ranks(report, 7, by=by, **choice)
    rows = [row for row in report.layers if row.kind == "linear"]
    costs = [row.N + row.M for row in rows]
    budget = choice.get("budget", 7 * sum(costs))
    most = choice.get("highest", 4 * (budget // sum(costs)))
    highest = [min(most, row.M) for row in rows]
    expected = reference.dhondt(
        [row[by] for row in rows], costs, budget, choice.get("lowest", 1), highest
    )
    assert policy.by_name == dict(zip((row.name for row in rows), expected, strict=True))
    spent = sum(share.n_parameters for share in policy.shares)
    assert spent <= budget
    assert spent > budget - max(costs) or set(expected) <= {most, *highest}


def test_without_any_tail_all_ranks_are_the_mean(rng):
    noise = {f"h.{i}.w.weight": rng.standard_normal((100 + 20 * i, 80)) for i in range(5)}
    report = analysed(noise)
    assert {row["n_spikes"] for row in report.layers} == {0}
    assert set(lora_ranks(report, 8).by_name.values()) == {8}


def test_ranks_are_in_proportion_to_tails():
    report = analysed(weights_of(shapes={"w": (64, 64)}))
    names = [row.name for row in report.layers if row.name.startswith("layers")]
    layers = [
        dataclasses.replace(
            row, metrics={**row.metrics, "n_spikes": 5 * (names.index(row.name) + 1)}
        )
        for row in report.layers
        if row.name in names
    ]
    ranks = lora_ranks(dataclasses.replace(report, layers=tuple(layers)), 10).by_name
    assert list(ranks.values()) == [4, 8, 12, 16]


def test_no_rank_exceeds_the_smaller_side(rng):
    report = analysed(
        {"a.weight": rng.standard_t(2, (300, 24)), "b.weight": rng.standard_t(2, (90, 90))}
    )
    assert lora_ranks(report, 20, highest=90).by_name["a.weight"] <= 24


def test_ranks_that_cannot_be_are_refused(report):
    with pytest.raises(SelectionError, match="parameters more than there are"):
        lora_ranks(report, budget=100)
    with pytest.raises(SelectionError, match="3 is not from 1 to the highest rank, 2"):
        lora_ranks(report, lowest=3, highest=2)
    with pytest.raises(SelectionError, match="did you mean n_tail"):
        lora_ranks(report, by="n_tails")
    with pytest.raises(CheckpointError, match="two-dimensional"):
        lora_ranks(analysed({"embed_tokens.weight": np.ones((90, 40))}))


# Real weights


def test_policies_of_real_weights_hold_what_they_promise():
    report = analysed(packaged_weights("all-minilm-l6-v2"), estimator="xmin_peak")
    pruned = pruning_ratios(report, 0.5)
    assert len(pruned.shares) == 36  # six blocks of six; the pooler is outside
    assert sum(s.value * s.n_parameters for s in pruned.shares) == pytest.approx(
        0.5 * sum(s.n_parameters for s in pruned.shares)
    )
    ranks = lora_ranks(report, 16)
    cost = sum(sum(report[name].shape) for name in ranks.by_name)
    most = max(sum(report[name].shape) for name in ranks.by_name)
    assert 16 * cost - most < sum(s.n_parameters for s in ranks.shares) <= 16 * cost
    trained = [s for s in layers_to_train(report, ends=False).shares if s.value]
    assert sorted(s.group for s in trained) == sorted({s.group for s in trained})  # one of six each
    assert len(trained) == 6
