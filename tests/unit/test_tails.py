import math

import numpy as np
import pytest

from spectra.conventions import HTSR, WEIGHTWATCHER, apply
from spectra.errors import SelectionError
from spectra.records import Spectrum, Status
from spectra.tails import ESTIMATORS, fit_power_law, fit_tail
from tests.reference import tails as reference
from tests.reference.matrices import pareto


def spectrum(eigenvalues):
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64))
    m = values.size
    raw = Spectrum(values, m, m, 1, float(values.sum()), 0.0, "gram")
    return apply(raw, "linear", HTSR)


# xmin is selected, so the spread is about 1.5 standard errors (theory: pure Pareto, n = 1000); with
# the few tails of one or two hundred that the search picks now and then, four of them bound it.
@pytest.mark.parametrize("alpha", [1.6, 2.0, 2.5, 3.0, 4.0, 6.0])
def test_pareto_samples_recover_their_exponent(alpha, rng):
    fit = fit_power_law(pareto(alpha, 4000, rng))
    assert abs(fit.alpha - alpha) < 4 * 1.5 * fit.alpha_stderr
    assert fit.n_tail >= 100


def test_the_mean_over_many_pareto_samples_is_the_exponent(rng):
    found = [fit_power_law(pareto(2.0, 1000, rng)).alpha for _ in range(100)]
    # published for this estimator at n = 1000: mean 1.99, sd 0.03; the mean of 100 has sd 0.003
    assert abs(np.mean(found) - 2.0) < 0.02
    assert 0.015 < np.std(found) < 0.08


@pytest.mark.parametrize("size", [10, 11, 50, 333, 1500])
@pytest.mark.parametrize("kind", ["pareto", "lognormal", "chi2", "mixture", "duplicates"])
def test_fast_search_equals_the_plain_loops(size, kind, rng):
    x = {
        "pareto": lambda: rng.pareto(1.5, size) + 1,
        "lognormal": lambda: rng.lognormal(0, 2, size),
        "chi2": lambda: rng.chisquare(3, size),
        "mixture": lambda: np.concatenate(
            [rng.lognormal(0, 0.5, size - size // 4), 2 * (rng.pareto(2, size // 4) + 1)]
        ),
        "duplicates": lambda: np.round(rng.pareto(2, size) + 1, 1),
    }[kind]()
    x = np.sort(x)
    fit, plain = fit_power_law(x), reference.fit_power_law(x)
    if plain is None:
        assert fit.status is Status.FIT_FAILED
        return
    # equal but for the order of sums: 1e-12 of rounding in a few thousand additions
    assert fit.ks == pytest.approx(plain[2], abs=1e-12)
    assert (fit.alpha, fit.xmin) == pytest.approx(plain[:2], rel=1e-9)
    assert fit.n_tail == plain[3] == np.count_nonzero(x >= fit.xmin)


def test_standard_error_is_that_of_the_paper(rng):
    fit = fit_power_law(pareto(3.0, 500, rng))
    assert fit.alpha_stderr == pytest.approx((fit.alpha - 1) / math.sqrt(fit.n_tail), rel=1e-14)


def test_a_spectrum_wider_than_float64_divides_is_fitted_whole():
    x = np.logspace(-300, 300, 200)
    assert fit_power_law(x).status is Status.OK
    assert fit_power_law(x, min_tail=200).n_tail == 200


def test_tails_have_at_least_the_asked_for_length(rng):
    x = np.sort(rng.lognormal(0, 1, 200))
    assert fit_power_law(x, min_tail=2).n_tail >= 2
    assert fit_power_law(x, min_tail=60).n_tail >= 60


def test_too_few_values_and_equal_values_are_statuses_not_errors():
    assert fit_power_law(np.array([1.0])).status is Status.TOO_FEW_EIGENVALUES
    assert fit_power_law(np.arange(1.0, 6.0)).status is Status.TOO_FEW_EIGENVALUES
    assert fit_power_law(np.ones(30)).status is Status.FIT_FAILED
    assert math.isnan(fit_power_law(np.ones(30)).alpha)


@pytest.mark.parametrize(
    "bad", [[2.0, 1.0], [0.0, 1.0], [1.0, np.nan], [1.0, np.inf], [[1.0, 2.0]]]
)
def test_malformed_input_is_refused(bad):
    with pytest.raises(ValueError, match="one-dimensional, ascending, positive and finite"):
        fit_power_law(np.array(bad))


@pytest.mark.parametrize(
    ("eigenvalues", "status"),
    [
        (np.zeros(64), Status.ZERO),
        (np.ones(64), Status.DEGENERATE),
        (np.r_[np.zeros(63), 1.0], Status.DEGENERATE),
        (np.arange(1.0, 11.0), Status.TOO_FEW_EIGENVALUES),
        (np.r_[np.zeros(60), np.arange(1.0, 11.0)], Status.TOO_FEW_EIGENVALUES),
        (np.arange(1.0, 41.0), Status.OK),
    ],
)
def test_a_spectrum_that_cannot_bear_a_fit_says_why(eigenvalues, status):
    assert fit_tail(spectrum(eigenvalues)).status is status


def test_singular_values_equal_up_to_float32_rounding_are_degenerate(rng):
    q, _ = np.linalg.qr(rng.standard_normal((64, 64)))
    singular = np.linalg.svd(q.astype(np.float32).astype(np.float64), compute_uv=False)
    assert 0 < np.ptp(singular) < 1e-5
    assert fit_tail(spectrum(singular**2)).status is Status.DEGENERATE


def test_small_samples_follow_the_peers_rule_in_its_convention(rng):
    x = pareto(2.5, 15, rng)
    fit = fit_power_law(x, min_tail=2, small_sample_below=WEIGHTWATCHER.small_sample_below)
    assert fit.n_tail >= 8
    tail = x[-fit.n_tail :]
    assert fit.alpha == pytest.approx(1 + (fit.n_tail - 1) / np.log(tail / tail[0]).sum())


def test_an_unknown_estimator_is_refused_with_the_known_ones():
    with pytest.raises(SelectionError, match="csn"):
        fit_tail(spectrum(np.arange(1.0, 41.0)), estimator="cns")
    assert "csn" in ESTIMATORS
