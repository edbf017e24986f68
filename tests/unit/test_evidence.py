import math
import re

import numpy as np
import pytest

import spectra
from spectra import conventions, evidence, tails
from spectra.records import Spectrum
from spectra.rmt import find_traps, noise_spectrum
from tests.conftest import ROOT
from tests.reference.matrices import pareto


def gathered(weights, seed=0):
    return spectra.analyze({"w": weights}, evidence=True, seed=seed).layers[0]


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(5150314).standard_normal((784, 300))


def test_noise_has_no_trap_and_every_column_is_there(noise):
    layer = gathered(noise)
    assert set(evidence.COLUMNS) <= set(layer.metrics)
    assert layer.n_traps == 0
    assert layer.trap_p > 0.01
    assert abs(layer.alpha_z) < 3
    assert layer.rand_distance < 0.02


# The fixtures of SETOL section 3.3.1: what survives shuffling, and where it comes from.
def test_a_mean_shift_is_one_trap_and_known_as_such(noise):
    layer = gathered(noise + 0.2)
    assert layer.n_traps == 1
    assert "correlation_trap" in layer.warnings
    assert layer.trap_mean_share > 0.9
    assert layer.trap_entries_share < 0.1


def test_one_huge_entry_is_one_trap_and_known_as_such(noise):
    weights = noise.copy()
    weights[10, 20] = 80
    layer = gathered(weights)
    assert layer.n_traps == 1
    assert layer.trap_entries_share > 0.9
    assert layer.trap_mean_share < 0.1


def test_a_signal_of_rank_one_is_a_spike_but_no_trap(noise):
    rng = np.random.default_rng(1)
    u, v = rng.standard_normal(784), rng.standard_normal(300)
    layer = gathered(noise + 100 * np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v)))
    assert layer.n_spikes == 1
    assert layer.n_traps == 0
    assert "correlation_trap" not in layer.warnings


def as_spectrum(values):
    x = np.sort(values)
    raw = Spectrum(x, x.size, x.size, 1, float(x.sum()), 0.0, "gram")
    return conventions.apply(raw, "linear", conventions.HTSR)


def p_value(x, rng, samples=60):
    spectrum = as_spectrum(x)
    fit = tails.fit_tail(spectrum)
    return evidence.goodness_of_fit(
        spectrum.eigenvalues, fit, conventions.HTSR, rng, samples=samples
    )


def test_power_laws_pass_and_others_fail_the_goodness_of_fit(rng):
    passed = sum(p_value(pareto(2.5, 300, rng), rng) >= 0.1 for _ in range(20))
    assert passed >= 15  # 18 expected at level 0.1; five misses of 20 have a chance of 0.04
    failed = sum(p_value(rng.uniform(1, 2, 400), rng) < 0.1 for _ in range(10))
    assert failed >= 8


@pytest.mark.parametrize("alpha", [2.5, 4.0, 6.0])
def test_the_powerlaw_package_is_not_let_cap_alpha_at_three(alpha, rng):
    spectrum = as_spectrum(pareto(alpha, 2000, rng))
    fit = tails.fit_tail(spectrum)
    found = evidence.other_families(spectrum.eigenvalues, fit)
    assert found["alpha_truncated"] == pytest.approx(alpha, rel=0.15)
    assert found["lr_exponential"] > 2  # a power law is no exponential
    assert found["lr_lognormal"] > -2
    assert -3 < found["lr_truncated"] <= 0


def test_an_exponential_tail_is_told(rng):
    spectrum = as_spectrum(1 + rng.exponential(1, 2000))
    fit = tails.fit_power_law(spectrum.eigenvalues, min_tail=1500)
    found = evidence.other_families(spectrum.eigenvalues, fit)
    assert found["lr_exponential"] < -2
    assert evidence.best_family(found) in ("exponential", "truncated_power_law", "lognormal")


def test_the_null_is_that_of_real_matrices(rng):
    """The bidiagonal model against matrices formed and decomposed: means of 25, within 4 errors."""
    null = evidence.null_of_shape(120, 80, 1, conventions.HTSR, "csn")
    alphas = [
        spectra.analyze({"w": rng.standard_normal((120, 80))}, replicates=0).layers[0].alpha
        for _ in range(40)
    ]
    error = math.hypot(null.alpha_sd / 5, np.std(alphas) / math.sqrt(40))
    assert abs(np.mean(alphas) - null.alpha) < 4 * error


def test_noise_spectra_have_the_moments_of_wishart_matrices(rng):
    draws = np.array([noise_spectrum(60, 40, 1, rng) for _ in range(200)])
    # E Σλ = NM; E Σλ² = NM(N + M + 1); relative errors of 200 draws: 0.2 % and 0.5 %
    assert draws.sum(1).mean() == pytest.approx(60 * 40, rel=0.01)
    assert (draws**2).sum(1).mean() == pytest.approx(60 * 40 * 101, rel=0.02)


def test_traps_in_noise_are_as_rare_as_the_level(rng):
    found = 0
    for _ in range(400):
        x = noise_spectrum(200, 100, 1, rng)
        spectrum = Spectrum(x, 200, 100, 1, float(x.sum()), 0.0, "noise")
        trap = find_traps(spectrum, level=0.05)
        found += trap.n_traps > 0
        assert (trap.n_traps > 0) == (trap.p_value < 0.05)
    assert 20 / 1.8 < found < 20 * 1.8  # 20 expected, sd 4.4


def test_evidence_repeats_with_its_seed(weights):
    first, again = (gathered(weights["conv.weight"], seed=3) for _ in range(2))
    assert first.metrics == again.metrics


def test_a_layer_without_a_fit_has_no_evidence_and_stops_nothing(rng):
    report = spectra.analyze(
        {"zero": np.zeros((30, 30)), "good": rng.standard_t(3, (60, 40))}, evidence=True
    )
    assert math.isnan(report["zero"].gof_p)
    assert not math.isnan(report["good"].gof_p)


def test_every_column_has_a_row_in_the_glossary():
    glossary = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    for column in evidence.COLUMNS:
        assert re.search(rf"^\| `{column}` \|", glossary, re.MULTILINE), column


# Published for Gaussian weights: n_erg/M 0.84 and delta_lambda_min 1.58 at 784×300, 0.73 and 2.7 to
# 3.1 at Q = 1.
def test_the_null_of_the_erg_condition_is_the_published_one():
    null = evidence.null_of_shape(784, 300, 1, conventions.HTSR, "csn")
    assert null.n_erg / 300 == pytest.approx(0.84, abs=0.01)
    assert null.delta_lambda_min == pytest.approx(1.58, abs=3 * null.delta_lambda_min_sd)
    square = evidence.null_of_shape(300, 300, 1, conventions.HTSR, "csn")
    assert square.n_erg / 300 == pytest.approx(0.73, abs=0.01)


@pytest.mark.parametrize("columns", [256, 512, 1024])
def test_farms_gives_noise_of_every_aspect_ratio_the_same_alpha(columns, rng):
    """On Gaussian 512 × {512, 1024, 2048} it is 2.11 to 2.13 where plain hill_mid goes to 3.4."""
    weights = rng.standard_normal((256, columns))
    layer = gathered(weights)
    assert layer.alpha_farms == pytest.approx(2.12, abs=0.05)
    plain = spectra.analyze({"w": weights}, estimator="hill_mid").layers[0].alpha
    assert (plain > 2.5) == (columns > 256)
    assert 0 < layer.alpha_farms_sd < 0.5


def test_blocks_cover_the_matrix():
    for length, side in ((128, 128), (300, 128), (129, 128), (20, 7)):
        starts = evidence._grid(length, side)
        covered = set().union(*(range(s, s + side) for s in starts))
        assert covered == set(range(length))


def test_near_minimal_tails_bracket_the_best_and_shrink_to_it(rng):
    x = np.sort(np.concatenate([rng.uniform(0, 1, 300), pareto(2.5, 300, rng)]))
    fit = tails.fit_power_law(x)
    low, high = tails.near_minimal(x, fit, conventions.HTSR)
    assert low <= fit.alpha <= high
    near = []  # by the plain loop over all tails
    for start in range(x.size - 9):
        tail = x[start:]
        alpha = 1 + tail.size / np.log(tail / tail[0]).sum()
        steps = np.arange(tail.size) / tail.size
        ks = np.max(np.abs(1 - (tail / tail[0]) ** (1 - alpha) - steps))
        if ks <= 1.1 * fit.ks:
            near.append(alpha)
    # 512 positions see nearly all of a distance: the ends are those of the full distances, or a
    # little beyond
    assert low == pytest.approx(min(near), rel=0.03)
    assert high == pytest.approx(max(near), rel=0.03)
    rounding = 1e-12
    assert low - rounding <= min(near) <= max(near) <= high + rounding


def test_heavy_tailed_entries_in_any_order_are_known_as_such(rng):
    layer = gathered(rng.standard_t(2, (400, 300)))
    assert "like_shuffled" in layer.warnings
    assert layer.verdict == "random_like"
    trained = spectra.analyze(spectra.sources.demo_model(), evidence=True)
    assert "like_shuffled" not in trained["fc1"].warnings
    assert trained["fc1"].rand_distance > 10 * trained["fc1"].shuffled_distance


@pytest.mark.parametrize("estimator", ["hill_mid", "hill_k", "csn_truncated"])
def test_evidence_that_needs_a_search_for_xmin_is_left_out_without_one(estimator, rng):
    report = spectra.analyze({"w": rng.standard_t(3, (60, 50))}, estimator=estimator, evidence=True)
    assert math.isnan(report["w"].gof_p)
    assert not math.isnan(report["w"].alpha_null)


def test_tiny_weights_are_compared_with_other_families_too(rng):
    weights = rng.standard_t(3, (60, 50))
    small, plain = gathered(weights * 1e-140), gathered(weights)
    assert small.lr_exponential == pytest.approx(plain.lr_exponential, rel=1e-3)


def test_weights_that_cannot_be_read_a_second_time_cost_only_their_evidence(rng, monkeypatch):
    from spectra.sources.memory import MemorySource

    reads = []
    once = MemorySource.read

    def read(self, name):
        reads.append(name)
        if len(reads) > 1:
            raise OSError("gone")
        return once(self, name)

    monkeypatch.setattr(MemorySource, "read", read)
    layer = gathered(rng.standard_t(3, (60, 50)))
    assert layer.status == "ok"
    assert math.isnan(layer.n_traps)
    assert not math.isnan(layer.gof_p)
