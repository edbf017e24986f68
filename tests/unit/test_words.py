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


def test_the_erg_residual_of_a_power_law_has_standard_deviation_one(rng):
    """erg_z over samples of a pure power law scaled to the condition's own xmin."""
    from spectra.records import Spectrum
    from spectra.setol import erg_log_det, unit_scale

    alpha, n = 3.0, 400
    residuals = []
    for _ in range(400):
        tail = np.sort(np.exp(-1 / (alpha - 1)) * (1 - rng.random(n)) ** (-1 / (alpha - 1)))
        spectrum = Spectrum(tail, n, n, 1, float(tail.sum()), 0.0, "gram")
        # in the population's units, not this sample's own
        residual = erg_log_det(spectrum, tail[0]) - n * np.log(unit_scale(spectrum))
        residuals.append(residual * (alpha - 1) / np.sqrt(n))
    assert abs(np.mean(residuals)) < 4 / np.sqrt(400)
    assert np.std(residuals) == pytest.approx(1, abs=0.15)
