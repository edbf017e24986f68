import numpy as np
import pytest
from scipy.integrate import quad

import spectra
from spectra import rmt
from spectra.records import Spectrum
from tests.reference import rmt as reference
from tests.reference.matrices import marchenko_pastur_quantiles


def noise(rng, n_rows, n_columns, n_matrices=1):
    """The spectrum of Gaussian noise, by the bidiagonal model (Dumitriu & Edelman 2002)."""
    from scipy.linalg import eigvalsh_tridiagonal

    values = []
    for _ in range(n_matrices):
        d2 = rng.chisquare(n_rows - np.arange(n_columns))
        e2 = rng.chisquare(np.arange(n_columns - 1, 0, -1))
        diagonal = d2 + np.r_[0.0, e2]
        values.append(eigvalsh_tridiagonal(diagonal, np.sqrt(d2[:-1] * e2), lapack_driver="sterf"))
    lam = np.sort(np.concatenate(values))
    return Spectrum(lam, n_rows, n_columns, n_matrices, float(lam.sum()), 0.0, "gram")


@pytest.mark.parametrize("position", range(len(rmt.TRACY_WIDOM_LEVELS)))
def test_the_table_is_the_tracy_widom_law(position):
    level = rmt.TRACY_WIDOM_LEVELS[position]
    assert rmt.TRACY_WIDOM_QUANTILES[position] == pytest.approx(reference.quantile(level), abs=2e-4)
    assert rmt.TRACY_WIDOM_SLOPES[position] == pytest.approx(reference.bend(level), abs=2e-3)


def test_published_quantiles_are_met_and_the_range_is_kept():
    assert rmt.tracy_widom_quantile(0.05) == pytest.approx(0.9793, abs=1e-3)
    assert rmt.tracy_widom_quantile(0.01) == pytest.approx(2.0234, abs=1e-3)
    for level in (0.9, 1e-9):
        with pytest.raises(ValueError, match="between 1e-6"):
            rmt.tracy_widom_quantile(level)


# Level 0.05 and 1,000 matrices: 50 expected, sd 7; the promise is a factor of 1.5, three sd and more.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_rows", "n_columns", "n_matrices"),
    [(50, 50, 1), (100, 100, 1), (300, 100, 1), (784, 300, 1), (400, 400, 1), (64, 64, 9)],
)
def test_noise_shows_spikes_as_seldom_as_the_level_says(n_rows, n_columns, n_matrices, rng):
    found = sum(
        rmt.bulk(noise(rng, n_rows, n_columns, n_matrices), level=0.05).n_spikes > 0
        for _ in range(1000)
    )
    assert 50 / 1.5 <= found <= 50 * 1.5


SHAPES = [
    *[(n, n, 1) for n in (20, 32, 50, 64, 100, 128, 200, 256, 400)],
    *[(784, 300, 1), (300, 100, 1), (512, 128, 1), (1000, 50, 1), (3000, 30, 1), (600, 400, 1)],
    *[(16, 16, 9), (32, 16, 9), (64, 64, 9), (64, 3, 9), (128, 64, 3)],
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("entries", ["normal", "uniform"])
def test_no_random_matrix_is_called_well_trained(shape, entries, rng):
    """Of 20 shapes, ten matrices each: every one random-like, but for spikes at the level."""
    n_rows, n_columns, k = shape
    size = (n_rows, n_columns) if k == 1 else (n_rows, n_columns, k, 1)
    missed = 0
    verdicts = set()
    for _ in range(10):
        weights = rng.standard_normal(size) if entries == "normal" else rng.uniform(-1, 1, size)
        layer = spectra.analyze({"w": weights}).layers[0]
        missed += "random_like" not in layer.warnings
        verdicts.add(str(layer.verdict))
    assert not verdicts & {"well_trained", "over_trained", "under_trained"}
    # 10 at level 0.01: two or more have a chance of 0.004, and 40 such tests are made
    assert missed <= 2


def test_a_planted_spike_is_found_and_no_more(rng):
    weights = rng.standard_normal((300, 200))
    u, v = rng.standard_normal(300), rng.standard_normal(200)
    weights += 60 * np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v))
    layer = spectra.analyze({"w": weights}).layers[0]
    assert layer.n_spikes == 1
    assert layer.lambda_plus == pytest.approx((300**0.5 + 200**0.5) ** 2, rel=0.05)
    assert "random_like" not in layer.warnings


@pytest.mark.parametrize(("n_rows", "n_columns"), [(100, 100), (200, 100), (1000, 100), (101, 100)])
def test_quantiles_are_those_of_the_law(n_rows, n_columns):
    found = rmt.marchenko_pastur_quantiles(n_rows, n_columns)
    law = marchenko_pastur_quantiles(n_columns, n_columns / n_rows)
    assert found == pytest.approx(law / law.mean(), rel=2e-3, abs=2e-4)


def test_the_distance_of_a_large_random_matrix_is_small(rng):
    assert rmt.mp_distance(noise(rng, 800, 400)) < 0.01
    assert rmt.mp_distance(noise(rng, 400, 400)) < 0.02


def test_a_spectrum_without_spikes_is_not_random_for_that_alone(rng):
    """Nearly orthogonal: no eigenvalue beyond noise, and yet nothing like its law."""
    q, _ = np.linalg.qr(rng.standard_normal((100, 100)))
    layer = spectra.analyze({"w": q + 0.01 * rng.standard_normal((100, 100))}).layers[0]
    assert layer.n_spikes == 0
    assert layer.mp_distance > 0.5
    assert "random_like" not in layer.warnings


@pytest.mark.parametrize(("N", "M", "variance"), [(300, 100, 2.0), (64, 64, 0.5), (1000, 10, 1.0)])
def test_the_density_of_noise_integrates_to_one_with_the_mean_of_its_variance(N, M, variance):
    low, high = variance * (N**0.5 - M**0.5) ** 2, rmt.edge(N, M, variance)

    def density(x, power):
        return x**power * float(rmt.marchenko_pastur_density(np.array([x]), N, M, variance)[0])

    assert quad(density, low, high, args=(0,), limit=200)[0] == pytest.approx(1, abs=1e-5)
    assert quad(density, low, high, args=(1,))[0] == pytest.approx(N * variance, rel=1e-6)


def test_the_density_of_noise_is_that_of_its_quantiles():
    values = rmt.marchenko_pastur_quantiles(300, 100) * 300
    middle = float(values[60])
    below = quad(lambda x: rmt.marchenko_pastur_density(np.array([x]), 300, 100)[0],
                 (300**0.5 - 10) ** 2, middle)[0]  # fmt: skip
    assert below == pytest.approx(0.605, abs=2e-3)
