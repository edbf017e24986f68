import numpy as np
import pytest

import spectra
from spectra.records import Finding, Phase, Status, Verdict
from spectra.reports import words
from spectra.sources import demo_model
from spectra.verdicts import judge, phase_of


def test_every_verdict_and_phase_has_words():
    assert set(words.MEANING) == set(words.MISLEADS) == set(Verdict)
    assert set(words.PHASE_TEXT) == set(Phase)


@pytest.mark.parametrize(
    ("warnings", "verdict"),
    [
        ([], "well_trained"),
        ([Finding.OVER_TRAINED], "over_trained"),
        ([Finding.UNDER_TRAINED], "under_trained"),
        ([Finding.UNDER_TRAINED, Finding.SHORT_TAIL], "not_judged"),
        ([Finding.POOR_FIT], "not_judged"),
        ([Finding.NOT_POWER_LAW], "not_judged"),
        ([Finding.RANDOM_LIKE, Finding.POOR_FIT], "random_like"),
        ([Finding.CORRELATION_TRAP], "well_trained"),
    ],
)
def test_a_number_in_doubt_is_not_judged(warnings, verdict):
    assert judge(Status.OK, warnings) == verdict
    assert judge(Status.ZERO, warnings) is Verdict.NO_NUMBERS


@pytest.mark.parametrize(
    ("warnings", "n_spikes", "phase"),
    [
        ([], 9, "heavy_tailed"),
        ([Finding.OVER_TRAINED], 9, "very_heavy_tailed"),
        ([Finding.UNDER_TRAINED], 9, "weakly_heavy_tailed"),
        ([Finding.POOR_FIT], 9, "bulk_and_spikes"),
        ([Finding.POOR_FIT], 0, "unknown"),
        ([Finding.RANDOM_LIKE], 0, "random_like"),
        ([Finding.RANK_COLLAPSE, Finding.OVER_TRAINED], 9, "rank_collapse"),
    ],
)
def test_phases_follow_spikes_tail_and_rank(warnings, n_spikes, phase):
    assert phase_of(Status.OK, warnings, {"n_spikes": n_spikes}) == phase
    assert phase_of(Status.ZERO, warnings, {}) is Phase.UNKNOWN


def test_the_shipped_model_is_well_trained_and_near_ideal_where_theory_says():
    """At learning rate 0.16 fc2 is at alpha = 2 but for noise, fc1 not yet (SETOL figure 17)."""
    report = spectra.analyze(demo_model())
    assert [layer.verdict for layer in report.layers] == [
        "well_trained",
        "well_trained",
        "no_numbers",
    ]
    assert report["fc1"].delta_lambda_min > report["fc2"].delta_lambda_min > 0
    assert "alpha = 2 is within the interval" in spectra.explain(report["fc2"])
    assert "alpha = 2 is outside the interval" in spectra.explain(report["fc1"])


def test_words_say_numbers_doubts_and_limits(rng):
    report = spectra.analyze(
        {"noise": rng.standard_normal((784, 300)), "nan": np.full((30, 30), np.nan)}
    )
    text = spectra.explain(report["noise"])
    assert f"alpha {report['noise'].alpha:.2f}" in text
    assert "random weights" in text
    assert "Conditions" not in text
    assert "nan has no exponent: 900 NaN" in spectra.explain(report["nan"])


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [2.5, 4.0])
def test_the_standard_deviation_of_the_erg_residual_is_the_real_one(alpha, rng):
    """Over 150 samples of a power law with a body: what the bootstrap says against what they do."""
    from spectra.conventions import HTSR, apply
    from spectra.metrics import METRICS
    from spectra.records import Spectrum
    from spectra.tails import fit_tail

    residuals, claimed = [], []
    for _ in range(150):
        n_tail = rng.binomial(300, 0.4)
        above = (1 - rng.random(n_tail)) ** (-1 / (alpha - 1))
        below = 1 - np.log1p(rng.random(300 - n_tail) * np.expm1(alpha)) / alpha
        x = np.sort(np.r_[np.maximum(below, 1e-6), above])
        spectrum = apply(Spectrum(x, 300, 300, 1, float(x.sum()), 0.0, "gram"), "linear", HTSR)
        fit = fit_tail(spectrum, replicates=20, rng=rng)
        residuals.append(METRICS["erg_log_det"].compute(spectrum, fit))
        claimed.append(fit.erg_log_det_sd)
    # Below alpha = 3 the scale n/Σλ itself has heavy tails: compare the widths of the middle.
    width = np.subtract(*np.quantile(residuals, [0.84, 0.16])) / 2
    assert 0.6 < np.median(claimed) / width < 1.5
