import math

import numpy as np
import pytest

from spectra.records import Spectrum
from spectra.setol import erg_cut, erg_log_det
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
