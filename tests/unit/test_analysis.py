import math

import numpy as np
import pytest

import spectra
from spectra import METRICS, Metric, Status
from spectra.errors import AnalysisInterrupted, SelectionError
from spectra.inventory import NOT_SELECTED
from spectra.verdicts import find


def test_layers_come_in_checkpoint_order_and_nothing_disappears(weights):
    report = spectra.analyze(weights)
    seen = [layer.name for layer in report.layers] + [item.name for item in report.skipped]
    assert sorted(seen) == sorted(weights)
    assert [x.name for x in report.layers] == [n for n in weights if "norm" not in n]


def test_the_summary_is_the_mean_over_layers_that_are_neither_embedding_nor_head(weights):
    report = spectra.analyze(weights)
    kinds = {layer.name: layer.kind for layer in report.layers}
    assert kinds["embed_tokens.weight"] == "embedding"
    assert kinds["lm_head.weight"] == "head"
    averaged = [layer for layer in report.layers if layer.kind not in ("embedding", "head")]
    for name in ("alpha", "alpha_hat", "log_norm", "stable_rank"):
        assert report.summary[name] == pytest.approx(np.mean([x[name] for x in averaged]))
    assert report.summary["n_left_out"] == 2
    verdicts = ("well_trained", "over_trained", "under_trained", "random_like", "not_judged")
    assert sum(report.summary[f"n_{verdict}"] for verdict in verdicts) == 4
    assert report.summary["n_averaged"] == len(averaged) == 4
    peer = spectra.analyze(weights, convention="weightwatcher-0.7.7")
    assert peer.summary["n_averaged"] == 6


def test_bad_layers_get_a_status_and_the_rest_is_analysed(weights, rng):
    good = spectra.analyze(weights)
    bad = {
        "nan": np.full((30, 30), np.nan),
        "zero": np.zeros((30, 30)),
        "constant": np.full((30, 30), 0.3),
        "rank_one": np.outer(rng.standard_normal(30), rng.standard_normal(40)),
        "orthogonal": np.linalg.qr(rng.standard_normal((50, 50)))[0],
        "small": rng.standard_normal((30, 19)),
        "row": rng.standard_normal((1, 300)),
        "complex": np.zeros((30, 30), np.complex64),
    }
    report = spectra.analyze(bad | weights)
    assert {layer.name: str(layer.status) for layer in report.layers[: len(bad)]} == {
        "nan": "non_finite",
        "zero": "zero",
        "constant": "degenerate",
        "rank_one": "degenerate",
        "orthogonal": "degenerate",
        "small": "too_few_eigenvalues",
        "row": "too_few_eigenvalues",
        "complex": "unsupported_dtype",
    }
    for layer in report.layers[: len(bad)]:
        assert math.isnan(layer.alpha)
        assert layer.reason
        assert layer.warnings == ()
        assert not layer.averaged
    for layer in good.layers:
        assert report[layer.name].metrics == layer.metrics
    assert report.summary["alpha"] == good.summary["alpha"]
    assert report.summary["n_failed"] == len(bad)


def test_numbers_are_nan_only_beside_a_status(weights, rng):
    report = spectra.analyze(weights | {"small": rng.standard_normal((30, 12))})
    for layer in report.layers:
        missing = {name for name, value in layer.metrics.items() if math.isnan(value)}
        assert not missing or layer.status is not Status.OK
    # what needs no fit is still given for a layer that is merely small
    assert {n for n, m in METRICS.items() if m.of_tail} == {
        n for n, v in report["small"].metrics.items() if math.isnan(v)
    }


@pytest.mark.parametrize(
    ("weights_of", "finding"),
    [
        (lambda r: r.standard_normal((400, 200)), "under_trained"),
        (lambda r: r.standard_t(1.2, (400, 200)), "over_trained"),
        (lambda r: r.standard_normal((100, 30)), "short_spectrum"),
        (lambda r: r.standard_normal((200, 100)), "poor_fit"),
        (lambda r: r.standard_normal((90, 40)) @ r.standard_normal((40, 80)), "rank_collapse"),
    ],
)
def test_findings_are_raised_where_they_should(weights_of, finding, rng):
    report = spectra.analyze({"w": weights_of(rng)})
    assert finding in report["w"].warnings


@pytest.mark.parametrize(
    ("finding", "metric", "least"),
    [
        ("over_trained", "alpha", (2.0, 1.999)),
        ("under_trained", "alpha", (6.0, 6.001)),
        ("short_tail", "n_tail", (20, 19)),
        ("poor_fit", "ks", (0.1, 0.1001)),
        ("rank_collapse", "rank_loss", (9, 10)),
    ],
)
def test_findings_begin_where_the_glossary_says(finding, metric, least, rng):
    spectrum = spectra.analyze({"w": rng.standard_normal((120, 100))}).layers[0].spectrum
    usual = {"alpha": 3.0, "n_tail": 50, "ks": 0.05, "rank_loss": 0}
    without, with_it = (find(usual | {metric: value}, spectrum) for value in least)
    assert finding not in without
    assert finding in with_it


def test_tied_layers_are_chosen_by_either_name(rng):
    array = rng.standard_normal((40, 30))
    report = spectra.analyze({"embed": array, "out": array, "x": array + 1}, layers="out")
    assert [x.name for x in report.layers] == ["embed"]


def test_layers_are_chosen_by_glob(weights):
    report = spectra.analyze(weights, layers=["layers.*"], exclude=["*.10.*"])
    assert [x.name for x in report.layers] == ["layers.0.fc.weight", "layers.2.fc.weight"]
    left_out = [s.name for s in report.skipped if s.reason == NOT_SELECTED]
    assert "conv.weight" in left_out
    assert "layers.10.fc.weight" in left_out
    with pytest.raises(SelectionError, match="matches none"):
        spectra.analyze(weights, layers=["encoder.*"])
    one = spectra.analyze(weights, layers="layers.0.fc")  # one pattern, as the table prints it
    assert [x.name for x in one.layers] == ["layers.0.fc.weight"]
    assert one["layers.0.fc"] is one["layers.0.fc.weight"]


@pytest.mark.parametrize("option", ["convention", "estimator"])
def test_unknown_choices_are_refused(weights, option):
    with pytest.raises(SelectionError, match="known: "):
        spectra.analyze(weights, **{option: "nonsense"})


def test_a_metric_of_ones_own_is_a_bigger_table(weights):
    mine = Metric(lambda spectrum, fit: spectrum.eigenvalues[0], "λ_min", "here", in_summary=True)
    report = spectra.analyze(weights, metrics={**METRICS, "lambda_min": mine})
    assert report.layers[0].lambda_min > 0
    assert "lambda_min" in report.summary


def test_progress_reaches_its_total(weights):
    seen = []
    spectra.analyze(weights, progress=lambda done, total, name: seen.append((done, total, name)))
    assert len(seen) == 6
    assert seen[-1][0] == pytest.approx(seen[-1][1])
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_an_interruption_keeps_what_was_done(weights):
    def stop(done, total, name):
        raise KeyboardInterrupt

    with pytest.raises(AnalysisInterrupted) as caught:
        spectra.analyze(weights, progress=stop)
    report = caught.value.report
    assert not report.complete
    reached = [x.name for x in report.layers if x.status is not Status.NOT_REACHED]
    assert len(reached) == 1
    assert len(report.layers) == 6


def test_describe_agrees_with_analyze(weights):
    stock, report = spectra.describe(weights), spectra.analyze(weights)
    assert [m.name for m in stock.matrices] == [x.name for x in report.layers]
    assert stock.skipped == report.skipped
    assert stock.operations > 0
