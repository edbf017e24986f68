import math

import numpy as np
import pytest
from scipy.integrate import quad

import spectra
from spectra.records import Spectrum
from spectra.setol import erg_cut, erg_log_det, free_cumulants, projector, truncate
from tests.reference import setol as reference
from tests.reference.matrices import marchenko_pastur_quantiles


def quantiles_of_pareto(alpha, size):
    return np.sort((1 - (np.arange(size) + 0.5) / size) ** (-1 / (alpha - 1)))


# Σ ln λ̃ over a pure tail is k (ln x0 + 1/(alpha - 1)): zero at x0 = exp(-1/(alpha - 1)). A sample of
# mid-point quantiles misses the last half step of the tail, an error of order ln(n)/n.
@pytest.mark.parametrize("alpha", [2.2, 2.5, 3.0, 4.0])
def test_a_power_law_tail_meets_the_condition_where_theory_says(alpha):
    size = 20_000
    start = math.exp(-1 / (alpha - 1))
    tail = quantiles_of_pareto(alpha, size) * start
    # Bring the mean of all eigenvalues to one with small ones below the tail.
    n_small = math.ceil((tail.sum() - size) / 0.9)
    values = np.r_[np.full(n_small, (n_small + size - tail.sum()) / n_small), tail]
    spectrum = Spectrum(values, values.size, values.size, 1, float(values.sum()), 0.0, "gram")
    assert values.mean() == pytest.approx(1, rel=1e-12)
    assert abs(erg_log_det(spectrum, tail[0])) < math.log(size)  # of 20,000 terms of order one
    cut = erg_cut(values)
    assert cut.n_erg == pytest.approx(size, rel=1e-3)
    assert cut.erg_xmin == pytest.approx(start, rel=2e-3)


# Of the Marchenko-Pastur law with square matrices 0.731 of the eigenvalues are kept, at every size
# (0.181 is the cut itself); a product of the eigenvalues gives 0.721 at 4096 and 0.656 at 8192.
@pytest.mark.parametrize("size", [1000, 4096, 8192])
def test_the_cut_of_marchenko_pastur_does_not_depend_on_size(size):
    values = marchenko_pastur_quantiles(size)
    cut = erg_cut(values)
    assert cut.n_erg / size == pytest.approx(0.731, abs=1.5 / size + 5e-4)
    assert cut.erg_xmin == pytest.approx(0.181, abs=2e-3)


@pytest.mark.parametrize("size", [2, 3, 17, 200])
def test_sum_of_logarithms_equals_the_exact_product(size, rng):
    values = np.sort(rng.pareto(1.5, size) + 0.01)
    assert tuple(erg_cut(values)) == reference.erg_cut(values)


def test_zeros_count_in_the_number_and_end_the_tail():
    assert erg_cut(np.array([0.0, 0.0, 2.0, 2.0])).n_erg == 3
    assert erg_cut(np.array([0.0, 0.0, 2.0, 2.0])).erg_xmin == 0.0


def test_equal_eigenvalues_are_all_kept():
    for value in (1.0, 0.1, 1 / 3, 1e-30):
        for size in (2, 3, 7, 50):
            assert erg_cut(np.full(size, value)) == (size, value)


@pytest.mark.parametrize("values", [[], [0.0, 0.0]])
def test_a_spectrum_of_nothing_is_refused(values):
    with pytest.raises(ValueError, match="positive"):
        erg_cut(np.array(values))


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0])
def test_free_cumulants_of_marchenko_pastur_are_powers_of_its_ratio(ratio):
    """κ_k = c^(k-1); the moments are Narayana polynomials in c."""
    moments = [
        sum(math.comb(k, i) * math.comb(k, i + 1) * ratio**i for i in range(k)) / k
        for k in range(1, 6)
    ]
    assert free_cumulants(moments) == pytest.approx([ratio**k for k in range(5)], rel=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_free_cumulants_are_those_of_the_recursion(size, rng):
    moments = [np.mean(rng.pareto(8, 50) ** k) for k in range(1, size + 1)]
    assert free_cumulants(moments) == pytest.approx(reference.free_cumulants(moments), rel=1e-9)


# arXiv 2507.17912, appendix A7: a power law between a and b has these first two free cumulants.
@pytest.mark.parametrize("alpha", [2, 3, 4])
def test_free_cumulants_of_a_truncated_power_law_are_published(alpha):
    a, b = 0.4, 25.0
    moments = [
        quad(lambda x, k=k: x ** (k - alpha), a, b)[0] / quad(lambda x: x**-alpha, a, b)[0]
        for k in (1, 2)
    ]
    published = {
        2: lambda c: (c * math.log(b / a), c * (b - a)),
        3: lambda c: (2 * b * a / (a + b), c * math.log(b / a)),
        4: lambda c: (3 * b * a * (b**2 - a**2) / (2 * (b**3 - a**3)), c * (1 / a - 1 / b)),
    }
    c = {
        2: a * b / (b - a),
        3: 2 * a**2 * b**2 / (b**2 - a**2),
        4: 3 * a**3 * b**3 / (b**3 - a**3),
    }[alpha]
    mean, second = published[alpha](c)
    assert free_cumulants(moments) == pytest.approx([mean, second - mean**2], rel=1e-9)


def test_a_truncated_matrix_keeps_its_tail_and_nothing_else(rng):
    weights = rng.standard_t(2.5, (60, 40))
    layer = spectra.analyze({"w": weights}).layers[0]
    sizes = {
        "erg": layer.n_erg,
        "power_law": layer.n_tail,
        "midpoint": (layer.n_erg + layer.n_tail) // 2,
    }
    full = np.linalg.svd(weights, compute_uv=False)
    for to, size in sizes.items():
        cut = truncate(weights, to)
        kept = np.linalg.svd(cut, compute_uv=False)
        assert kept[:size] == pytest.approx(full[:size], rel=1e-10)
        assert np.all(kept[size:] < 1e-10 * full[0])
        # the nearest matrix of that rank: what is lost is exactly the rest of the spectrum
        lost = np.linalg.norm(weights - cut)
        assert lost == pytest.approx(math.sqrt(np.sum(full[size:] ** 2)), rel=1e-9)
        assert weights @ projector(weights, to) == pytest.approx(cut, abs=1e-9)


@pytest.mark.parametrize("bad", [np.zeros((3, 3)), np.full((2, 2), np.nan), np.ones(4)])
def test_what_is_no_matrix_cannot_be_truncated(bad):
    with pytest.raises(ValueError, match="finite matrix"):
        truncate(bad)


def test_a_matrix_without_a_power_law_cannot_be_cut_to_it(rng):
    with pytest.raises(ValueError, match="too_few_eigenvalues"):
        truncate(rng.standard_normal((10, 10)), "power_law")
    assert truncate(rng.standard_normal((10, 10)), "erg").shape == (10, 10)


def test_a_projector_is_one(rng):
    p = projector(rng.standard_t(3, (50, 30)))
    assert p @ p == pytest.approx(p, abs=1e-12)
    assert p == pytest.approx(p.T, abs=1e-14)
