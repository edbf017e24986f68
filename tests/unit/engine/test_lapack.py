"""The foreign calls against NumPy, and NumPy alone where no library is found."""

import numpy as np
import pytest

from spectra.engine import lapack

EPS = {np.float64: 2.3e-16, np.float32: 1.2e-7}


@pytest.fixture(params=["found", "absent"])
def blas(request, monkeypatch):
    if request.param == "absent":
        monkeypatch.setattr(lapack, "library", lambda: None)
    return request.param


def test_the_library_that_numpy_ships_is_found():
    # Elsewhere NumPy may be built on a BLAS without these routines; its wheels have them.
    assert lapack.library() is not None


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (300, 200), (200, 300)])
def test_products_are_added_to_the_upper_triangle(blas, dtype, shape, rng):
    tall = shape[0] > shape[1]
    first, second = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    gram = np.zeros((min(shape),) * 2, dtype)
    for part in (first, second):
        lapack.add_gram(part, gram, tall=tall)
    expected = sum(w.T @ w if tall else w @ w.T for w in (first, second))
    # sums of max(shape) products: a few eps each
    tolerance = 4 * EPS[dtype] * max(shape) * float(np.abs(expected).max())
    assert np.triu(gram) == pytest.approx(np.triu(expected), abs=tolerance)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("two_stage", [False, True])
@pytest.mark.parametrize("side", [1, 2, 7, 64, 301])
def test_eigenvalues_need_only_the_upper_triangle(blas, dtype, two_stage, side, rng):
    weights = rng.standard_normal((side + 3, side))
    gram = weights.T @ weights
    expected = np.linalg.eigvalsh(gram)
    upper = np.triu(gram).astype(dtype)
    found = lapack.eigenvalues(np.ascontiguousarray(upper), two_stage=two_stage)
    assert found.dtype == dtype
    # backward stable: eps times the norm, times a small power of the size
    assert found == pytest.approx(expected, abs=5 * EPS[dtype] * side**0.5 * expected[-1])


@pytest.mark.parametrize("two_stage", [False, True])
def test_what_is_not_finite_does_not_pass_for_a_spectrum(two_stage):
    gram = np.full((40, 40), np.nan)
    try:
        found = lapack.eigenvalues(gram, two_stage=two_stage)
    except np.linalg.LinAlgError:
        return
    assert not np.isfinite(found).all()
