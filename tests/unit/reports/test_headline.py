import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

import spectra
from spectra.records import Verdict
from spectra.reports.headline import FEWEST, headlines, wilson


@pytest.fixture
def many(rng):
    """A report of forty layers with known numbers."""
    report = spectra.analyze({"w": rng.standard_t(3, (60, 40))})
    (layer,) = report.layers
    alphas = rng.gamma(4, 1, 40) + 1
    layers = tuple(
        dataclasses.replace(
            layer,
            name=f"w{i}",
            averaged=True,
            verdict=Verdict.WELL_TRAINED if 2 <= alpha <= 6 else Verdict.OVER_TRAINED,
            metrics={**layer.metrics, "alpha": alpha, "erg_gap": i},
        )
        for i, alpha in enumerate(alphas)
    )
    return dataclasses.replace(report, layers=layers)


def named(report):
    return {found.name: found for found in headlines(report)}


def test_values_are_plain_statistics_of_the_averaged_layers(many):
    alphas = [layer.alpha for layer in many.layers]
    found = named(many)
    assert found["alpha"].value == pytest.approx(np.mean(alphas))
    assert found["alpha_median"].value == np.median(alphas)
    assert found["erg_gap"].value == 19.5
    assert found["share_in_band"].value == np.mean([2 <= alpha <= 6 for alpha in alphas])


@pytest.mark.parametrize(("name", "statistic"), [("alpha", np.mean), ("alpha_median", np.median)])
def test_intervals_are_those_of_another_bootstrap(many, name, statistic):
    values = np.array([layer.alpha for layer in many.layers])
    expected = bootstrap((values,), statistic, n_resamples=9999, method="percentile",
                         rng=np.random.default_rng(1)).confidence_interval  # fmt: skip
    found = named(many)[name]
    width = expected.high - expected.low
    # Ends of 2,000 resamples scatter by some 3 % of the width; a median jumps between values.
    assert found.low == pytest.approx(expected.low, abs=0.12 * width)
    assert found.high == pytest.approx(expected.high, abs=0.12 * width)
    assert found.spread == "bootstrap"


def test_intervals_are_the_same_on_every_run_and_follow_the_seed(many):
    assert headlines(many) == headlines(many)
    other = dataclasses.replace(many, options={**many.options, "seed": 7})
    assert named(other)["alpha"].low != named(many)["alpha"].low


@pytest.mark.parametrize(("hits", "n"), [(0, 4), (5, 7), (28, 28), (1, 1)])
def test_the_share_has_wilsons_interval(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_few_layers_give_their_range_one_gives_none_and_none_gives_nothing(many):
    few = dataclasses.replace(many, layers=many.layers[: FEWEST - 1])
    alphas = [layer.alpha for layer in few.layers]
    assert (named(few)["alpha"].low, named(few)["alpha"].high) == (min(alphas), max(alphas))
    assert named(few)["alpha"].spread == "range"
    one = named(dataclasses.replace(many, layers=many.layers[:1]))["alpha"]
    assert (one.value, one.n, one.spread) == (alphas[0], 1, "none")
    assert math.isnan(one.low)
    nothing = named(dataclasses.replace(many, layers=()))
    assert all(math.isnan(found.value) and found.n == 0 for found in nothing.values())


def test_layers_that_are_not_averaged_or_judged_do_not_count(many):
    first, second, *rest = many.layers
    layers = (
        dataclasses.replace(first, averaged=False),
        dataclasses.replace(second, verdict=Verdict.NOT_JUDGED),
        *rest,
    )
    found = named(dataclasses.replace(many, layers=layers))
    assert found["alpha"].n == 39
    assert found["share_in_band"].n == 38


def test_a_number_the_layers_lack_is_left_out(many):
    layers = tuple(
        dataclasses.replace(layer, metrics={"alpha": layer.alpha}) for layer in many.layers
    )
    found = named(dataclasses.replace(many, layers=layers))
    assert set(found) == {"alpha", "alpha_median", "share_in_band"}
