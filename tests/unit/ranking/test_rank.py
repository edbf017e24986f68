import dataclasses
import json
import math

import numpy as np
import pytest

import spectra
from spectra.errors import CheckpointError, DeviceError, SelectionError
from spectra.ranking import Mark, rank_reports
from spectra.ranking.order import distinct_names
from spectra.records import Finding, Status, Verdict
from tests.conftest import packaged_weights


def network(rng, tail=3.0, n=10, wide=80, names="layers.{}.weight"):
    return {names.format(i): rng.standard_t(tail, (wide, 60)) for i in range(n)}


@pytest.fixture
def trio(rng):
    """Three networks of one architecture, from heavy tails to nearly none."""
    reports = [spectra.analyze(network(rng, tail), replicates=0) for tail in (2.2, 2.7, 3.2)]
    return [named(report, name) for report, name in zip(reports, "abc", strict=True)]


def named(report, address):
    return dataclasses.replace(report, source=dataclasses.replace(report.source, address=address))


def test_equal_shapes_are_ranked_by_alpha_layer_by_layer(trio):
    ranking = spectra.rank(trio)
    assert ranking.metric == "alpha"
    assert "same layer shapes" in ranking.why
    assert [model.name for model in ranking.models] == ["a", "b", "c"]
    assert [model.rank for model in ranking.models] == [1, 2, 3]
    assert all(pair.paired for pair in ranking.pairs)
    assert ranking.p_better("a", "c") > 0.99
    assert ranking.p_better("c", "a") == pytest.approx(1 - ranking.p_better("a", "c"))
    for model, report in zip(ranking.models, trio, strict=True):
        alphas = np.sort([layer.alpha for layer in report.layers])
        assert model.value == pytest.approx(alphas[2:8].mean())
        assert model.mean == pytest.approx(report.summary["alpha"])
        assert model.value_low < model.value < model.value_high
        assert model.rank_low <= model.rank <= model.rank_high


def test_the_order_of_the_arguments_does_not_matter(trio):
    one, two = spectra.rank(trio), spectra.rank(trio[::-1])
    assert one.models == two.models
    assert one.pairs == two.pairs


def test_other_depths_are_ranked_by_alpha_hat(trio, rng):
    deeper = named(spectra.analyze(network(rng, n=14), replicates=0), "deep")
    ranking = spectra.rank([trio[0], deeper])
    assert ranking.metric == "alpha_hat"
    assert "2 different sets" in ranking.why
    assert not any(pair.paired for pair in ranking.pairs)
    assert spectra.rank([trio[0], deeper], by="alpha").metric == "alpha"
    mixed = spectra.rank([*trio, deeper])
    assert mixed.metric == "alpha_hat"
    assert "by themselves" in mixed.why
    paired = {(pair.a, pair.b) for pair in mixed.pairs if pair.paired}
    assert len(paired) == 3
    assert not any("deep" in pair for pair in paired)


def test_the_same_model_twice_is_a_tie(trio):
    ranking = spectra.rank([trio[0], trio[0]])
    assert [model.rank for model in ranking.models] == [1, 1]
    assert [model.name for model in ranking.models] == ["a", "a (2)"]
    assert ranking.pairs[0].p_a_better == 0.5


def test_over_trained_models_are_marked_and_not_crowned(trio):
    layers = [
        dataclasses.replace(
            layer,
            verdict=Verdict.OVER_TRAINED,
            warnings=(Finding.OVER_TRAINED,),
            metrics={**layer.metrics, "alpha": 1.5},
        )
        for layer in trio[0].layers
    ]
    sunk = dataclasses.replace(trio[0], layers=(*layers[:2], *trio[0].layers[2:]))
    ranking = spectra.rank([sunk, *trio[1:]])
    assert [model.name for model in ranking.models] == ["b", "c", "a"]
    assert [model.rank for model in ranking.models] == [1, 2, 3]
    assert ranking.models[2].warnings == (Mark.OVER_TRAINED,)
    assert (ranking.models[2].rank_low, ranking.models[2].rank_high) == (3, 3)
    assert ranking.models[2].value < ranking.models[0].value
    assert math.isnan(ranking.p_better("b", "a"))  # the mark decides, not the metric
    assert ranking.p_better("b", "c") > 0.5
    assert ranking.best is ranking.models[0]
    one = dataclasses.replace(trio[0], layers=(layers[0], *trio[0].layers[1:]))
    assert spectra.rank([one, *trio[1:]]).models[0].name == "a"  # one of ten may
    both = [named(sunk, name) for name in ("x", "y")]
    assert spectra.rank(both).best is None


def test_noise_failures_and_few_layers_are_marked(trio, rng):
    noise = named(
        spectra.analyze({k: rng.standard_normal((80, 60)) for k in "abcdefghij"}, replicates=0), "n"
    )
    assert Mark.MOSTLY_RANDOM_LIKE in spectra.rank([trio[0], noise]).models[-1].warnings
    broken = network(rng)
    broken["layers.3.weight"][:] = np.nan
    broken["layers.4.weight"][:] = 0.0
    ranking = spectra.rank([trio[0], named(spectra.analyze(broken, replicates=0), "broken")])
    marked = {model.name: model for model in ranking.models}
    assert marked["broken"].warnings == (Mark.BROKEN, Mark.LAYERS_FAILED)
    assert ranking.best.name == "a"
    assert marked["a"].n_layers == marked["broken"].n_layers == 8  # those that both have
    small = network(rng, n=3)
    ranking = spectra.rank([spectra.analyze(small), spectra.analyze(network(rng, n=3))])
    assert all(Mark.FEW_LAYERS in model.warnings for model in ranking.models)
    single = [named(spectra.analyze(network(rng, n=1)), name) for name in "xy"]
    ranking = spectra.rank(single)
    assert all(math.isnan(model.value_low) for model in ranking.models)
    assert math.isnan(ranking.pairs[0].p_a_better)
    assert [(m.rank_low, m.rank_high) for m in ranking.models] == [(1, 2), (1, 2)]


def test_dequantised_models_are_marked_among_others(trio):
    quantised = dataclasses.replace(
        trio[0],
        layers=tuple(dataclasses.replace(x, dequantised_from="GGUF Q4_1") for x in trio[0].layers),
    )
    ranking = spectra.rank([named(quantised, "q"), *trio])
    assert {m.name for m in ranking.models if Mark.MIXED_FORMATS in m.warnings} == {"q"}


@pytest.mark.parametrize(
    "option",
    [
        {"convention": "weightwatcher-0.7.7"},
        {"estimator": "hill_mid"},
        {"conv": "flatten"},
        {"layers": "layers.1*"},
    ],
)
def test_numbers_made_by_different_rules_are_refused(option, trio, rng):
    other = spectra.analyze(network(rng, n=20), **option)
    with pytest.raises(SelectionError, match=f"its {next(iter(option))} is"):
        spectra.rank([trio[0], other])


def test_incomplete_reports_are_left_out_or_marked(trio):
    partial = dataclasses.replace(trio[0], complete=False)
    ranking = spectra.rank([partial, *trio[1:]])
    assert [item.source for item in ranking.left_out] == ["a"]
    assert "interrupted" in ranking.left_out[0].reason
    ranking = spectra.rank([partial, *trio[1:]], allow_partial=True)
    assert ranking.models[0].warnings == (Mark.INCOMPLETE,)


def test_one_bad_model_takes_no_other_with_it(trio, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    ranking = spectra.rank([tmp_path / "bad.safetensors", tmp_path / "absent.pt", *trio])
    assert len(ranking.models) == 3
    assert [item.source for item in ranking.left_out] == [
        str(tmp_path / "bad.safetensors"),
        str(tmp_path / "absent.pt"),
    ]
    with pytest.raises(CheckpointError, match=r"needs two models, 1 could be read .*absent\.pt"):
        spectra.rank([tmp_path / "absent.pt", trio[0]])
    with pytest.raises(SelectionError, match="got 0"):
        spectra.rank([])


def test_an_option_that_names_nothing_is_no_fault_of_a_model(trio, tmp_path):
    with pytest.raises(SelectionError, match="estimator"):
        spectra.rank([{"a": np.eye(40)}, {"a": np.eye(40)}], estimator="nonsense")
    with pytest.raises(DeviceError):
        spectra.rank([{"a": np.eye(40)}, {"a": np.eye(40)}], device="cuda:99")


def test_a_model_with_few_layers_left_takes_no_layers_from_the_others(trio, rng):
    broken = network(rng)
    for i in range(8):
        broken[f"layers.{i}.weight"][:] = np.nan
    ranking = spectra.rank([*trio, named(spectra.analyze(broken, replicates=0), "broken")])
    assert [model.n_layers for model in ranking.models] == [10, 10, 10]
    assert ranking.left_out[0].source == "broken"
    assert "only 2 of its layers" in ranking.left_out[0].reason


def test_layers_are_paired_by_name_whatever_their_order(trio, rng):
    weights = network(rng) | {"head.fc.weight": rng.standard_t(3, (70, 50))}
    backwards = dict(reversed(weights.items()))
    reports = [spectra.analyze(x, replicates=0) for x in (weights, backwards)]
    ranking = spectra.rank([named(r, n) for r, n in zip(reports, "xy", strict=True)])
    assert ranking.metric == "alpha"
    assert ranking.pairs[0].paired
    assert ranking.pairs[0].p_a_better == 0.5


def test_equal_shapes_without_counterparts_are_compared_unpaired(rng):
    one = network(rng, names="a{}.weight") | {"z.weight": rng.standard_t(3, (70, 50))}
    two = {"z.weight": rng.standard_t(3, (70, 50))} | network(rng, names="b{}.weight")
    ranking = spectra.rank([spectra.analyze(x, replicates=0) for x in (one, two)])
    assert ranking.metric == "alpha"
    assert not ranking.pairs[0].paired


def test_a_model_of_one_layer_may_be_anywhere_and_so_may_the_others_around_it(trio, rng):
    single = named(spectra.analyze(network(rng, n=1)), "single")
    layer = dataclasses.replace(
        single.layers[0],
        metrics={**single.layers[0].metrics, "alpha": 5.5},
        warnings=(),
        verdict=Verdict.WELL_TRAINED,
    )
    single = dataclasses.replace(single, layers=(layer,))
    beside = spectra.rank([trio[0], single], by="alpha").models[0]
    assert (beside.name, beside.rank_low, beside.rank_high) == ("a", 1, 2)
    ranking = spectra.rank([*trio, single], by="alpha")
    assert ranking.models[-1].name == "single"
    for model in ranking.models:
        assert 1 <= model.rank_low <= model.rank <= model.rank_high <= 4
        if model.name == "single":
            assert (model.rank_low, model.rank_high) == (1, 4)


@pytest.mark.parametrize("by", ["auto", "alpha", "alpha_hat", "log_alpha_norm"])
def test_alphas_of_unknown_order_do_not_rank(by, rng):
    reports = [spectra.analyze(network(rng), estimator="csn_truncated") for _ in "ab"]
    with pytest.raises(SelectionError, match="csn_truncated has no known order"):
        spectra.rank(reports, by=by)
    assert spectra.rank(reports, by="log_norm").metric == "log_norm"


def test_a_model_without_numbers_is_left_out(trio):
    nothing = named(spectra.analyze({"a.weight": np.zeros((40, 40))}), "zero")
    ranking = spectra.rank([*trio, nothing])
    assert ranking.left_out[0].reason == "no layer of it has an alpha"


def test_only_metrics_with_a_better_end_rank(trio):
    with pytest.raises(SelectionError, match="which end is better is not known"):
        spectra.rank(trio, by="stable_rank")
    with pytest.raises(SelectionError, match="alpha_hat"):
        spectra.rank(trio, by="alpha_hut")


def test_checkpoints_and_saved_reports_rank_alike(trio, tmp_path):
    for report in trio:
        report.write(tmp_path / f"{report.source.address}.json")
    again = spectra.rank([tmp_path / f"{name}.json" for name in "abc"])
    assert again.models == spectra.rank(trio).models
    demo = str(packaged_weights("all-minilm-l6-v2"))
    spectra.analyze(demo, replicates=0).write(tmp_path / "lm.json")
    ranking = spectra.rank([demo, tmp_path / "lm.json"], replicates=0)
    assert ranking.pairs[0].p_a_better == 0.5


def test_scores_are_held_against_every_metric(trio):
    ranking = spectra.rank(trio, scores={"a": 0.9, "b": 0.8, "c": 0.1})
    by_metric = {a.metric: a for a in ranking.scores.agreements}
    assert by_metric["alpha"].tau == by_metric["alpha"].spearman == 1.0
    assert by_metric["alpha"].n_models == 3
    assert by_metric["alpha"].p_value == pytest.approx(1 / 3)  # 2 of 6 orders
    assert set(by_metric) >= {"alpha", "alpha_hat", "log_norm"}
    worse = spectra.rank(trio, scores={"a": 0.9, "b": 0.8, "c": 0.1}, higher_is_better=False)
    assert worse.scores.agreements[0].tau == -1.0
    values = [model.value for model in ranking.models]
    r = np.corrcoef(values, [0.9, 0.8, 0.1])[0, 1]
    assert by_metric["alpha"].r_squared == pytest.approx(r**2)


def test_simpsons_paradox_shows(rng):
    """Two families: within each a lower alpha is better, and the family of lower alphas is worse."""
    models, table = [], {}
    for family, (tails, base) in enumerate((((2.2, 2.6, 3.2), 0.0), ((3.8, 5.0, 30), 10.0))):
        for i, tail in enumerate(tails):
            weights = network(rng, tail, n=10 + family)
            name = f"{'ab'[family]}{i}"
            models.append(named(spectra.analyze(weights, replicates=0), name))
            table[name] = base - i
    ranking = spectra.rank(models, by="alpha", scores=table)
    taus = {a.group: a.tau for a in ranking.scores.agreements if a.metric == "alpha"}
    assert taus["all models"] < 0 < taus["within groups"]
    assert "Simpson's paradox" in ranking.scores.paradox


def test_names_that_tell_models_apart():
    assert distinct_names(["org/a", "org/b"]) == ["a", "b"]
    assert distinct_names(["x/model.pt", "y/model.pt"]) == ["x/model", "y/model"]
    assert distinct_names(["v1.5", "v1.6"]) == ["v1.5", "v1.6"]
    assert distinct_names(["", ""]) == ["", " (2)"]


def test_layers_of_one_shape_under_other_names_are_paired_in_order(trio, rng):
    renamed = named(spectra.analyze(network(rng, names="h.{}.kernel"), replicates=0), "renamed")
    assert all(pair.paired for pair in spectra.rank([trio[0], renamed]).pairs)


def test_every_status_of_a_layer_is_either_a_failure_or_not(trio):
    for status in Status:
        layers = (dataclasses.replace(trio[0].layers[0], status=status, averaged=False),)
        report = dataclasses.replace(trio[0], layers=(*layers, *trio[0].layers[1:]))
        ranking = rank_reports([report, trio[1]])
        (marks,) = [model.warnings for model in ranking.models if model.name == "a"]
        fine = status in (Status.OK, Status.TOO_FEW_EIGENVALUES, Status.DEGENERATE)
        assert (Mark.LAYERS_FAILED in marks) is not fine


def test_the_json_is_plain(trio):
    from spectra.reports.rankings import ranking_to_csv, ranking_to_json

    ranking = spectra.rank(trio, scores={"a": 0.9, "b": 0.8, "c": 0.1})
    content = json.loads(ranking_to_json(ranking))
    assert content["metric"] == "alpha"
    assert content["best"] == "a"
    assert [model["rank"] for model in content["models"]] == [1, 2, 3]
    assert content["models"][0]["value"] == ranking.models[0].value
    assert content["models"][0]["summary"]["alpha"] == trio[0].summary["alpha"]
    assert content["pairs"][0] == {
        "a": "a",
        "b": "b",
        "p_a_better": ranking.pairs[0].p_a_better,
        "paired": True,
    }
    assert len(ranking_to_csv(ranking).splitlines()) == 4


def test_a_model_with_one_broken_layer_is_never_best(trio):
    layers = (dataclasses.replace(trio[0].layers[0], status=Status.NON_FINITE, averaged=False),)
    broken = dataclasses.replace(trio[0], layers=(*layers, *trio[0].layers[1:]))
    ranking = spectra.rank([broken, *trio[1:]])
    assert [model.name for model in ranking.models] == ["b", "c", "a"]
    assert Mark.BROKEN in ranking.models[2].warnings


def test_noise_is_never_best_by_a_metric_that_likes_it(trio, rng):
    noise = {f"layers.{i}.weight": 0.01 * rng.standard_normal((80, 60)) for i in range(10)}
    report = named(spectra.analyze(noise, replicates=0), "noise")
    ranking = spectra.rank([*trio, report], by="log_norm")
    assert ranking.models[-1].name == "noise"
    assert ranking.models[-1].value < ranking.models[0].value
    assert "alpha would be chosen" in ranking.why


def test_differences_of_rounding_are_ties(trio, rng):
    weights = network(rng)
    scaled = {name: 1.1 * weight for name, weight in weights.items()}
    reports = [spectra.analyze(x, replicates=0) for x in (weights, scaled)]
    ranking = spectra.rank([named(r, n) for r, n in zip(reports, "xy", strict=True)])
    assert [model.rank for model in ranking.models] == [1, 1]
    assert ranking.pairs[0].p_a_better == 0.5


def test_an_order_of_doubtful_alphas_says_how_few_can_be_judged(trio):
    from spectra.reports.ranking_cells import judged_share

    def judged(*counts):
        summaries = [
            {**report.summary, "n_well_trained": n, "n_over_trained": 0, "n_under_trained": 0}
            for report, n in zip(trio, counts, strict=True)
        ]
        pairs = zip(trio, summaries, strict=True)
        return judged_share(spectra.rank([dataclasses.replace(r, summary=s) for r, s in pairs]))

    assert judged(10, 5, 5) == ""
    assert judged(10, 2, 5).startswith("Only 2 of 10 to 10 of 10 layers have an alpha")
    assert judged(0, 0, 0).startswith("Only 0 of 10 layers")
