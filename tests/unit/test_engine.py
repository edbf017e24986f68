import math

import numpy as np
import pytest

from spectra.conventions import FLOAT32_EPS, FLOAT64_EPS
from spectra.engine import (
    CERTIFICATE,
    Failure,
    decompose,
    operations,
    plan,
    resolve_device,
    working_bytes,
)
from spectra.errors import CheckpointError, DeviceError
from spectra.records import Matrix, Spectrum, Status
from tests.reference.matrices import with_eigenvalues


def matrix(name, stack):
    k, rows, columns = stack.shape
    return Matrix(
        name=name,
        tensor=name,
        kind="linear" if k == 1 else "conv2d",
        shape=stack.shape,
        dtype=str(stack.dtype),
        nbytes=stack.nbytes,
        N=max(rows, columns),
        M=min(rows, columns),
        n_matrices=k,
    )


def solve(arrays, **options):
    """Decompose arrays (or stacks of them) and return the outcomes by name."""
    stacks = {n: a if a.ndim == 3 else a[np.newaxis] for n, a in arrays.items()}
    matrices = [matrix(name, stack) for name, stack in stacks.items()]
    batch = options.pop("batch_bytes", 2**20)
    outcomes = decompose(plan(matrices, batch_bytes=batch), lambda m: stacks[m.tensor], **options)
    return {matrices[position].name: outcome for position, outcome in outcomes}


@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize("shape", [(40, 40), (90, 30), (30, 90), (1, 50), (2, 2)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_eigenvalues_are_the_squared_singular_values(device, shape, dtype, rng):
    weights = rng.standard_normal(shape).astype(dtype)
    options = {"device": "cpu"} if device == "cpu" else {"device": "cpu:0"}  # torch's own CPU
    found = solve({"w": weights}, **options)["w"]
    expected = np.sort(np.linalg.svd(weights.astype(np.float64), compute_uv=False) ** 2)
    # forming WᵀW costs eps λ_max of absolute accuracy, times a small power of the size
    assert np.allclose(found.eigenvalues, expected, rtol=0, atol=1e-14 * max(shape) * expected[-1])
    assert found.residual < 1e-13
    assert (max(shape), min(shape)) == (found.N, found.M)


def test_chosen_eigenvalues_come_back(rng):
    chosen = np.sort(rng.pareto(1.5, 60) + 1e-3)
    found = solve({"w": with_eigenvalues(chosen, 100, rng)})["w"]
    assert np.allclose(found.eigenvalues, chosen, rtol=1e-10, atol=1e-13 * chosen[-1])
    assert found.squared_norm == pytest.approx(chosen.sum(), rel=1e-12)


def test_slices_are_pooled(rng):
    stack = rng.standard_normal((9, 20, 8))
    found = solve({"w": stack})["w"]
    each = [np.linalg.svd(part, compute_uv=False) ** 2 for part in stack]
    assert np.allclose(found.eigenvalues, np.sort(np.concatenate(each)), rtol=1e-9)
    assert found.n_matrices == 9


@pytest.mark.parametrize("power", [-130, -60, -20, 0, 20, 60, 120])
def test_scale_neither_overflows_nor_vanishes(power, rng):
    weights = rng.standard_normal((30, 20)).astype(np.float32)
    # a power of two is exact unless entries fall below float32's smallest
    scaled = (weights.astype(np.float64) * 2.0**power).astype(np.float32)
    found, plain = solve({"w": scaled})["w"], solve({"w": weights})["w"]
    assert found.eigenvalues * 2.0 ** (-2 * power) == pytest.approx(plain.eigenvalues, rel=1e-5)


def test_squares_beyond_float64_are_a_status(rng):
    found = solve({"w": rng.standard_normal((30, 20)) * 1e200})["w"]
    assert found.status is Status.OUT_OF_RANGE
    found = solve({"w": rng.standard_normal((30, 20)) * 1e-200})["w"]
    assert found.status is Status.OUT_OF_RANGE


@pytest.mark.parametrize(("bad", "words"), [(np.nan, "1 NaN and 0 inf"), (-np.inf, "0 NaN and 1")])
def test_a_bad_matrix_takes_no_other_with_it(bad, words, rng):
    arrays = {name: rng.standard_normal((24, 24)) for name in "abc"}
    alone = solve({"c": arrays["c"]})["c"]
    arrays["b"][3, 5] = bad
    found = solve(arrays)
    assert found["b"].status is Status.NON_FINITE
    assert words in found["b"].reason
    assert np.array_equal(found["c"].eigenvalues, alone.eigenvalues)


def test_a_matrix_that_cannot_be_read_is_a_status(rng):
    stack = rng.standard_normal((1, 24, 24))

    def read(m):
        if m.name == "gone":
            raise CheckpointError("E_TRUNCATED", "file", "ends early")
        return stack

    batches = plan([matrix("gone", stack), matrix("here", stack)])
    outcomes = dict(decompose(batches, read))
    assert outcomes[0] == Failure(Status.UNREADABLE, "file: ends early")
    assert isinstance(outcomes[1], Spectrum)


def test_what_does_not_fit_in_memory_takes_no_other_with_it(rng, monkeypatch):
    true = np.linalg.eigvalsh

    def short_of_memory(gram):
        if gram.shape[-1] > 20:
            raise MemoryError
        return true(gram)

    monkeypatch.setattr(np.linalg, "eigvalsh", short_of_memory)
    found = solve({"large": rng.standard_normal((40, 40)), "small": rng.standard_normal((9, 9))})
    assert found["large"].status is Status.OVER_BUDGET
    assert isinstance(found["small"], Spectrum)


def test_dead_columns_need_no_second_solve(rng):
    weights = rng.standard_normal((300, 200))
    weights[:, :3] = 0
    assert solve({"w": weights}, resolution=FLOAT32_EPS)["w"].solver == "gram"
    assert solve({"w": weights}, resolution=FLOAT64_EPS)["w"].solver == "svd"


def test_zeros_have_a_spectrum_of_zeros():
    found = solve({"w": np.zeros((20, 10))})["w"]
    assert np.array_equal(found.eigenvalues, np.zeros(10))
    assert found.squared_norm == 0


def test_results_do_not_depend_on_batching_or_order(rng):
    arrays = {f"w{i}": rng.standard_normal((16, 8 + 4 * (i % 2))) for i in range(7)}
    whole = solve(arrays)
    single = solve(arrays, batch_bytes=1)
    reverse = solve(dict(reversed(arrays.items())))
    for name, expected in whole.items():
        assert np.array_equal(single[name].eigenvalues, expected.eigenvalues)
        assert np.array_equal(reverse[name].eigenvalues, expected.eigenvalues)


def test_a_fine_resolution_sees_what_the_gram_matrix_cannot(rng):
    chosen = np.sort(10.0 ** np.linspace(-24, 0, 13))
    weights = with_eigenvalues(chosen, 40, rng)
    coarse = solve({"w": weights}, resolution=1e-7)["w"]
    fine = solve({"w": weights}, resolution=1e-15)["w"]
    assert (coarse.solver, fine.solver) == ("gram", "svd")
    # σ is right to about eps σ_max, so λ = 1e-24 (σ = 1e-12) to a thousandth
    assert fine.eigenvalues[0] == pytest.approx(1e-24, rel=1e-2)


def test_a_failed_certificate_is_solved_again(rng, monkeypatch):
    true = np.linalg.eigvalsh
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda gram: true(gram) * 1.001)
    weights = rng.standard_normal((30, 20))
    found = solve({"w": weights})["w"]
    assert found.solver == "svd"
    assert found.residual < CERTIFICATE


def test_what_does_not_converge_is_a_status(rng, monkeypatch):
    def fail(*_, **__):
        raise np.linalg.LinAlgError("no convergence")

    monkeypatch.setattr(np.linalg, "eigvalsh", fail)
    monkeypatch.setattr(np.linalg, "svd", fail)
    assert solve({"w": rng.standard_normal((9, 9))})["w"].status is Status.NOT_CONVERGED


def test_the_plan_holds_each_matrix_once_and_keeps_to_the_budget():
    shapes = [(8, 8), (16, 8), (8, 8), (64, 64), (8, 8), (16, 8)]
    matrices = [matrix(f"w{i}", np.zeros((1, *shape))) for i, shape in enumerate(shapes)]
    batches = plan(matrices, batch_bytes=1024)
    assert sorted(p for batch in batches for p in batch.positions) == list(range(6))
    for batch in batches:
        assert len({(m.N, m.M) for m in batch.matrices}) == 1
        size = sum(8 * m.N * m.M for m in batch.matrices)
        assert size <= 1024 or len(batch.matrices) == 1
    assert [batch.positions for batch in batches] == [(0, 2), (1,), (3,), (4,), (5,)]


def test_costs_grow_as_they_should():
    small, wide = (matrix("w", np.zeros((1, 64, m))) for m in (16, 32))
    assert operations(wide) / operations(small) > 4
    assert working_bytes(wide) > 8 * 64 * 32


def test_devices_that_are_not_there_are_refused():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda")
    with pytest.raises(DeviceError, match="auto, cpu, cuda"):
        resolve_device("gpu")
    with pytest.raises(DeviceError, match="not there"):
        resolve_device("cuda:99")


def test_a_wide_matrix_and_its_transpose_give_the_same(rng):
    weights = rng.standard_normal((30, 70))
    found = solve({"a": weights, "b": weights.T.copy()})
    assert np.allclose(found["a"].eigenvalues, found["b"].eigenvalues, rtol=1e-12)
    assert math.isclose(found["a"].squared_norm, found["b"].squared_norm, rel_tol=1e-14)
