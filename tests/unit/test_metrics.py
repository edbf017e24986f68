"""Every metric against an oracle written out from its formula, over one walk of METRICS."""

import doctest
import math
import re
from pathlib import Path

import numpy as np
import pytest

import spectra.metrics
from spectra.conventions import HTSR, apply
from spectra.metrics import METRICS, evaluate
from spectra.records import Spectrum, Status, TailFit
from spectra.tails import fit_tail
from tests.reference import rmt as noise
from tests.reference import setol as exact
from tests.reference import tails as plain
from tests.reference.matrices import marchenko_pastur_quantiles

FLOAT32_EPS = 2.0**-23


def oracle(weights):
    """Compute every metric from singular values, by NumPy's SVD and the plain loops."""
    lam = np.sort(np.linalg.svd(weights, compute_uv=False) ** 2)
    n, total = len(lam), lam.sum()
    alpha, xmin, ks, n_tail = plain.fit_power_law(lam)
    n_erg, erg_xmin = exact.erg_cut(lam)
    share = lam / total
    rank = int(np.sum(np.sqrt(lam) > FLOAT32_EPS * np.linalg.norm(weights)))
    n_rows = max(weights.shape)
    lambda_plus, n_spikes = noise.bulk(lam, n_rows, n)
    law = marchenko_pastur_quantiles(n, n / n_rows)
    erg = lam[lam >= erg_xmin] * n / total
    x = erg / n_erg
    kappas = exact.free_cumulants([np.mean(x**k) for k in range(1, 6)])
    return {
        "erg_z": sum(math.log(value * n / total) for value in lam if value >= xmin)
        / (3.3 * math.sqrt(n_tail) / (alpha - 1)),
        "quality_cumulants": math.log10(
            math.sqrt(sum(kappas[k - 1] / k * np.sum(x**k) for k in range(1, 6)))
        ),
        "quality_spikes": math.log10(lam[lam >= erg_xmin].sum() / total),
        "quality_cauchy": math.log10(math.sqrt(np.sum(erg - erg.min()))),
        "quality_inverse_mp": math.log10(
            math.sqrt((alpha - 0.98) / 2.04 * np.sum(np.log(erg / erg.min())))
        ),
        "quality_levy": math.log10(np.mean(erg ** (alpha - 1))),
        "lambda_plus": lambda_plus,
        "n_spikes": n_spikes,
        "soft_rank": lambda_plus / lam[-1],
        "mp_distance": np.mean(np.abs(lam / lam.mean() - law / law.mean())),
        "alpha": alpha,
        "alpha_low": 1 + (alpha - 1) * math.exp(-1.959964 * 1.5 / math.sqrt(n_tail)),
        "alpha_high": 1 + (alpha - 1) * math.exp(1.959964 * 1.5 / math.sqrt(n_tail)),
        "alpha_stderr": (alpha - 1) / math.sqrt(n_tail),
        "xmin": xmin,
        "xmax": lam[-1],
        "ks": ks,
        "n_tail": n_tail,
        "cutoff_rate": 0.0,
        "alpha_hat": alpha * math.log10(np.linalg.norm(weights, 2) ** 2),
        "lambda_max": np.linalg.norm(weights, 2) ** 2,
        "log_spectral_norm": 2 * math.log10(np.linalg.norm(weights, 2)),
        "log_norm": 2 * math.log10(np.linalg.norm(weights)),
        "log_alpha_norm": math.log10(sum(float(value) ** alpha for value in lam)),
        "stable_rank": (np.linalg.norm(weights) / np.linalg.norm(weights, 2)) ** 2,
        "matrix_rank": rank,
        "rank_loss": n - rank,
        "entropy": -np.sum(share * np.log(share)) / math.log(rank),
        "n_erg": n_erg,
        "erg_xmin": erg_xmin,
        "erg_gap": n_erg - n_tail,
        "delta_lambda_min": (xmin - erg_xmin) * n / total,
        "erg_log_det": sum(math.log(value * n / total) for value in lam if value >= xmin),
    }


def measured(weights):
    lam = np.sort(np.linalg.svd(weights, compute_uv=False) ** 2)
    side = sorted(weights.shape)
    raw = Spectrum(lam, side[1], side[0], 1, float(np.sum(weights**2)), 0.0, "svd")
    spectrum = apply(raw, "linear", HTSR)
    return spectrum, fit_tail(spectrum)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_agrees_with_its_oracle(name, rng):
    weights = 0.1 * rng.standard_t(3, (120, 80))
    spectrum, fit = measured(weights)
    expected = oracle(weights)
    assert set(expected) == set(METRICS), "a metric without an oracle, or the reverse"
    # Two routes to the same singular values differ by rounding, 1e-13 relative at most here; the
    # Marchenko-Pastur law is integrated on two grids, which agree to 1e-4.
    gridded = ("lambda_plus", "soft_rank", "mp_distance")
    rel = 1e-3 if name in gridded else 1e-6 if name in ("alpha_low", "alpha_high") else 1e-10
    assert evaluate(spectrum, fit)[name] == pytest.approx(expected[name], rel=rel)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_a_row_in_the_glossary(name):
    glossary = (Path(spectra.__file__).parents[1] / "docs" / "glossary.md").read_text("utf-8")
    row = re.search(rf"^\| `{name}` \|(.*)$", glossary, re.MULTILINE)
    assert row, f"no row for {name}"
    formula, unit, source = (cell.strip() for cell in row[1].strip(" |").split("|"))
    assert formula
    assert unit
    assert source


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_its_formula_and_source(name):
    assert METRICS[name].summary
    assert METRICS[name].reference


def test_every_metric_function_has_a_doctest():
    functions = {m.compute.__name__ for m in METRICS.values() if m.compute.__name__ != "<lambda>"}
    tests = doctest.DocTestFinder().find(spectra.metrics)
    shown = {t.name.rpartition(".")[2] for t in tests if t.examples}
    assert functions <= shown


def test_metrics_of_the_tail_are_nan_without_a_fit_and_the_others_are_not():
    values = np.arange(1.0, 11.0)
    spectrum = Spectrum(values, 10, 10, 1, values.sum(), 0.0, "gram")
    row = evaluate(spectrum, TailFit(status=Status.TOO_FEW_EIGENVALUES))
    for name, metric in METRICS.items():
        assert math.isnan(row[name]) == metric.of_tail, name


def test_a_steep_tail_does_not_overflow_the_alpha_norm():
    values = np.array([1e-3, 1.0, 1e30])
    spectrum = Spectrum(values, 3, 3, 1, values.sum(), 0.0, "gram")
    row = evaluate(spectrum, TailFit(alpha=50.0, xmin=1.0, n_tail=2, status=Status.OK))
    assert row["log_alpha_norm"] == pytest.approx(1500.0)


def test_entropy_is_one_for_equal_and_nought_for_single_eigenvalues():
    for values, expected in (([3.0] * 9, 1.0), ([0.0] * 8 + [3.0], 0.0)):
        spectrum = Spectrum(np.array(values), 9, 9, 1, sum(values), 0.0, "gram")
        assert evaluate(spectrum, TailFit())["entropy"] == pytest.approx(expected, abs=1e-15)
