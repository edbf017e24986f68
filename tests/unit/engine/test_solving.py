import math
import threading

import numpy as np
import pytest

from spectra import engine
from spectra.conventions import FLOAT32_EPS, FLOAT64_EPS
from spectra.engine import Failure, Machine, cpu, decompose, lapack, make_plan, planning
from spectra.errors import CheckpointError
from spectra.records import Spectrum, Status
from tests.reference.engine import matrix_of, reader, singular_squares, solve
from tests.reference.matrices import with_eigenvalues

MACHINES = {
    "cpu": Machine(),
    "cores": Machine(cores=3),
    "torch": Machine("cpu:0", device_memory=2**30),  # torch's own CPU
}
EPS = {"double": FLOAT64_EPS, "fast": FLOAT32_EPS, "svd": FLOAT64_EPS}


@pytest.fixture
def streaming(monkeypatch):
    """Stream every matrix that can be, in blocks of a few rows."""
    monkeypatch.setattr(planning, "STREAM_BYTES", 0)
    monkeypatch.setattr(planning, "BLOCK_ENTRIES", 300)


def fail_to_converge(*_, **__):
    raise np.linalg.LinAlgError("no convergence")


@pytest.mark.parametrize("machine", list(MACHINES))
@pytest.mark.parametrize("precision", engine.PRECISIONS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("shape", [(40, 40), (90, 30), (30, 90), (1, 50), (2, 2), (300, 200)])
def test_eigenvalues_are_the_squared_singular_values(machine, precision, dtype, shape, rng):
    weights = rng.standard_normal(shape).astype(dtype)
    found = solve({"w": weights}, machine=MACHINES[machine], precision=precision)["w"]
    expected = singular_squares(weights)
    # The bound that the record itself states; 1e-12 of slack for the reference's own rounding.
    assert np.abs(found.eigenvalues - expected).max() <= max(found.error, 1e-12 * expected[-1])
    assert found.error <= 10 * EPS[precision] * math.sqrt(min(shape)) * expected[-1]
    assert found.residual < 100 * EPS[precision]
    assert (max(shape), min(shape)) == (found.N, found.M)


@pytest.mark.parametrize("precision", engine.PRECISIONS)
def test_blocks_of_rows_add_up_to_the_whole(precision, rng, streaming):
    arrays = {"tall": rng.standard_normal((501, 30)), "square": rng.standard_normal((40, 40))}
    plan = make_plan([matrix_of(n, a) for n, a in arrays.items()], precision=precision)
    assert all(job.streamed for job in plan.jobs)
    asked = []

    def read(matrix, rows=None):
        asked.append(rows)
        return reader(arrays)(matrix, rows)

    found = dict(decompose(plan, read))
    assert None not in asked  # never whole
    for position, weights in enumerate(arrays.values()):
        expected = singular_squares(weights)
        assert found[position].eigenvalues == pytest.approx(expected, abs=found[position].error)


def test_chosen_eigenvalues_come_back(rng):
    chosen = np.sort(rng.pareto(1.5, 60) + 1e-3)
    found = solve({"w": with_eigenvalues(chosen, 100, rng)})["w"]
    assert np.allclose(found.eigenvalues, chosen, rtol=1e-10, atol=1e-13 * chosen[-1])
    assert found.squared_norm == pytest.approx(chosen.sum(), rel=1e-12)


@pytest.mark.parametrize("machine", list(MACHINES))
@pytest.mark.parametrize("shape", [(9, 20, 8), (9, 8, 20), (3, 250, 200)])
def test_slices_are_pooled(machine, shape, rng):
    stack = rng.standard_normal(shape)
    found = solve({"w": stack}, machine=MACHINES[machine])["w"]
    assert np.allclose(found.eigenvalues, singular_squares(stack), rtol=1e-9)
    assert found.n_matrices == shape[0]


@pytest.mark.parametrize("machine", ["cpu", "torch"])
@pytest.mark.parametrize("precision", engine.PRECISIONS)
@pytest.mark.parametrize("power", [-130, -60, -20, 0, 20, 60, 120])
def test_scale_neither_overflows_nor_vanishes(machine, precision, power, rng):
    weights = rng.standard_normal((30, 20)).astype(np.float32)
    # a power of two is exact unless entries fall below float32's smallest
    scaled = (weights.astype(np.float64) * 2.0**power).astype(np.float32)
    options = {"machine": MACHINES[machine], "precision": precision}
    found, plain = solve({"w": scaled}, **options)["w"], solve({"w": weights}, **options)["w"]
    back = found.eigenvalues * 2.0 ** (-2 * power)
    assert back == pytest.approx(plain.eigenvalues, rel=1e-5, abs=plain.error)


@pytest.mark.parametrize("precision", engine.PRECISIONS)
@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_squares_beyond_float64_are_a_status(precision, scale, rng):
    found = solve({"w": rng.standard_normal((30, 20)) * scale}, precision=precision)["w"]
    assert found.status is Status.OUT_OF_RANGE


@pytest.mark.parametrize("scale", [1e100, 1e-100])
def test_huge_and_tiny_weights_are_scaled_by_a_power_of_two(scale, rng):
    weights = rng.standard_normal((30, 20))
    found = solve({"w": weights * scale})["w"]
    assert found.eigenvalues / scale**2 == pytest.approx(singular_squares(weights), rel=1e-9)


@pytest.mark.parametrize("machine", list(MACHINES))
@pytest.mark.parametrize("precision", engine.PRECISIONS)
@pytest.mark.parametrize(("bad", "words"), [(np.nan, "1 NaN and 0 inf"), (-np.inf, "0 NaN and 1")])
def test_a_bad_matrix_takes_no_other_with_it(machine, precision, bad, words, rng):
    arrays = {name: rng.standard_normal((24, 24)) for name in "abc"}
    options = {"machine": MACHINES[machine], "precision": precision}
    alone = solve({"c": arrays["c"]}, **options)["c"]
    arrays["b"][3, 5] = bad
    found = solve(arrays, **options)
    assert found["b"].status is Status.NON_FINITE
    assert words in found["b"].reason
    assert np.array_equal(found["c"].eigenvalues, alone.eigenvalues)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_matrix_that_cannot_be_read_is_a_status(streamed, rng, monkeypatch):
    if streamed:
        monkeypatch.setattr(planning, "STREAM_BYTES", 0)
    arrays = {"gone": rng.standard_normal((24, 24)), "here": rng.standard_normal((24, 24))}

    def read(matrix, rows=None):
        if matrix.name == "gone":
            raise CheckpointError("E_TRUNCATED", "file", "ends early")
        return reader(arrays)(matrix, rows)

    plan = make_plan([matrix_of(name, array) for name, array in arrays.items()])
    outcomes = dict(decompose(plan, read))
    assert outcomes[0] == Failure(Status.UNREADABLE, "file: ends early")
    assert isinstance(outcomes[1], Spectrum)


@pytest.mark.parametrize("machine", ["cpu", "cores"])
def test_what_does_not_fit_in_memory_takes_no_other_with_it(machine, rng, monkeypatch):
    true = np.linalg.eigvalsh

    def short_of_memory(gram, **options):
        if gram.shape[-1] > 20:
            raise MemoryError
        return true(gram, **options)

    monkeypatch.setattr(np.linalg, "eigvalsh", short_of_memory)
    arrays = {"large": rng.standard_normal((40, 40)), "small": rng.standard_normal((9, 9))}
    found = solve(arrays, machine=MACHINES[machine])
    assert found["large"].status is Status.OVER_BUDGET
    assert isinstance(found["small"], Spectrum)


def test_what_is_too_large_for_this_machine_is_not_even_read(rng):
    arrays = {"large": rng.standard_normal((300, 300)), "small": rng.standard_normal((30, 30))}
    seen = []

    def read(matrix, rows=None):
        seen.append(matrix.name)
        return reader(arrays)(matrix, rows)

    plan = make_plan([matrix_of(n, a) for n, a in arrays.items()], machine=Machine(memory=10**6))
    found = dict(decompose(plan, read))
    assert found[0].status is Status.OVER_BUDGET
    assert found[0].reason == "needs about 0.0 GB of memory, 0.0 GB are free"
    assert isinstance(found[1], Spectrum)
    assert seen == ["small"]


def test_dead_columns_need_no_second_solve(rng):
    weights = rng.standard_normal((300, 200))
    weights[:, :3] = 0
    assert solve({"w": weights}, resolution=FLOAT32_EPS)["w"].solver == "gram"
    assert solve({"w": weights}, resolution=FLOAT64_EPS)["w"].solver == "svd"


@pytest.mark.parametrize("machine", list(MACHINES))
@pytest.mark.parametrize("precision", engine.PRECISIONS)
def test_zeros_have_a_spectrum_of_zeros(machine, precision):
    found = solve({"w": np.zeros((20, 10))}, machine=MACHINES[machine], precision=precision)["w"]
    assert np.array_equal(found.eigenvalues, np.zeros(10))
    assert found.squared_norm == found.residual == 0


def test_results_do_not_depend_on_order(rng):
    arrays = {f"w{i}": rng.standard_normal((16, 8 + 4 * (i % 2))) for i in range(7)}
    whole = solve(arrays)
    reverse = solve(dict(reversed(arrays.items())))
    for name, expected in whole.items():
        assert np.array_equal(reverse[name].eigenvalues, expected.eigenvalues)


def test_a_fine_resolution_sees_what_the_gram_matrix_cannot(rng, streaming):
    chosen = np.sort(10.0 ** np.linspace(-24, 0, 13))
    weights = with_eigenvalues(chosen, 40, rng)
    coarse = solve({"w": weights}, resolution=1e-7)["w"]
    fine = solve({"w": weights}, resolution=1e-15)["w"]
    asked = solve({"w": weights}, precision="svd")["w"]
    assert (coarse.solver, fine.solver, asked.solver) == ("gram", "svd", "svd")
    # σ is right to about eps σ_max, so λ = 1e-24 (σ = 1e-12) to a thousandth; blocks or not
    for found in (fine, asked, solve({"w": weights.T.copy()}, precision="svd")["w"]):
        assert found.eigenvalues[0] == pytest.approx(1e-24, rel=1e-2)


@pytest.mark.parametrize("side", [30, 250])  # a stack, and one matrix in place
@pytest.mark.parametrize("wrong", ["values", "pairs", "fail"])
def test_a_failed_certificate_is_solved_again(side, wrong, rng, monkeypatch):
    true_stack, true_one = np.linalg.eigvalsh, lapack.eigenvalues

    def spoil(values):
        if wrong == "fail":
            raise np.linalg.LinAlgError("no convergence")
        if wrong == "values":
            return values * 1.001
        half = (values[..., -1:] - values[..., :1]) / 10  # the sum stays, that of squares does not
        values[..., -1:] -= half
        values[..., :1] += half
        return values

    monkeypatch.setattr(np.linalg, "eigvalsh", lambda *a, **k: spoil(true_stack(*a, **k)))
    monkeypatch.setattr(lapack, "eigenvalues", lambda *a, **k: spoil(true_one(*a, **k)))
    weights = rng.standard_normal((side, side))
    found = solve({"w": weights})["w"]
    assert found.solver == "svd"
    assert found.residual < cpu.CERTIFICATE["double"]
    assert found.eigenvalues == pytest.approx(singular_squares(weights), rel=1e-9)


@pytest.mark.parametrize("machine", list(MACHINES))
def test_what_does_not_converge_is_a_status(machine, rng, monkeypatch):
    import torch

    def fail_on_torch(*_, **__):
        raise torch.linalg.LinAlgError("no convergence")

    monkeypatch.setattr(np.linalg, "eigvalsh", fail_to_converge)
    monkeypatch.setattr(np.linalg, "svd", fail_to_converge)
    monkeypatch.setattr(torch.linalg, "eigvalsh", fail_on_torch)
    found = solve({"w": rng.standard_normal((9, 9))}, machine=MACHINES[machine])["w"]
    assert found.status is Status.NOT_CONVERGED


def test_a_wide_matrix_and_its_transpose_give_the_same(rng):
    weights = rng.standard_normal((30, 70))
    found = solve({"a": weights, "b": weights.T.copy()})
    assert np.allclose(found["a"].eigenvalues, found["b"].eigenvalues, rtol=1e-12)
    assert math.isclose(found["a"].squared_norm, found["b"].squared_norm, rel_tol=1e-14)


def test_a_wide_block_as_long_as_it_is_high_is_not_taken_for_a_tall_one(rng, streaming):
    weights = rng.standard_normal((17, 100)).astype(np.float32)  # cut in blocks of 17 columns
    assert planning.block_rows(17) == 17
    found = solve({"w": weights})["w"]
    assert found.eigenvalues == pytest.approx(singular_squares(weights), rel=1e-9)


def test_nothing_is_begun_once_stop_is_set(rng):
    stop, asked = threading.Event(), []
    arrays = {f"w{i}": rng.standard_normal((16, 8)) for i in range(50)}
    plan = make_plan([matrix_of(n, a) for n, a in arrays.items()])

    def read(matrix, rows=None):
        asked.append(matrix.name)
        if len(asked) == 3:
            stop.set()
        return reader(arrays)(matrix, rows)

    seen = [position for position, _ in decompose(plan, read, stop=stop)]
    assert 3 <= len(asked) <= 4  # one thread more than solvers may be reading already
    assert len(seen) <= len(asked)


def test_what_is_read_in_another_shape_gets_no_further(rng):
    plan = make_plan([matrix_of("w", np.zeros((300, 200)))])
    for wrong in (np.zeros((1, 300, 10)), np.zeros((2, 300, 200)), np.zeros((1, 300, 200), "c16")):
        ((_, found),) = decompose(plan, lambda *_, wrong=wrong: wrong)
        assert found.status is Status.UNREADABLE
        assert "its header says otherwise" in found.reason


@pytest.mark.parametrize("precision", ["double", "fast"])
def test_without_the_routines_numpy_solves_by_the_same_route(precision, rng, monkeypatch):
    monkeypatch.setattr(lapack, "library", lambda: None)
    arrays = {"a": rng.standard_normal((300, 250)), "b": rng.standard_normal((30, 40))}
    for name, found in solve(arrays, precision=precision).items():
        assert found.solver.startswith("gram")
        assert found.eigenvalues == pytest.approx(singular_squares(arrays[name]), abs=found.error)


def test_a_run_that_cannot_start_says_so(rng, monkeypatch):
    def no_more(*_, **__):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("spectra.engine.pool._run_stage", no_more)
    with pytest.raises(RuntimeError, match="new thread"):
        solve({"w": rng.standard_normal((16, 8))})


def test_an_error_of_the_program_reaches_the_caller(rng):
    def read(matrix, rows=None):
        raise KeyError("a mistake in a reader")

    plan = make_plan([matrix_of("w", rng.standard_normal((16, 8)))])
    with pytest.raises(KeyError, match="a mistake"):
        list(decompose(plan, read))


def test_one_matrix_in_memory_needs_no_plan(rng):
    weights = rng.standard_normal((3, 20, 12))
    found = engine.solve(matrix_of("w", weights), weights)
    assert found.eigenvalues == pytest.approx(singular_squares(weights), rel=1e-9)


def gram_of(weights):
    weights = weights.astype(np.float64)
    return engine.Gram(weights.T @ weights, float(np.vdot(weights, weights)))


def test_a_gram_matrix_alone_gives_the_spectrum_of_its_matrix(rng):
    weights = rng.standard_normal((400, 130)).astype(np.float32)
    found = engine.solve_gram(matrix_of("w", weights), gram_of(weights))
    plain = engine.solve(matrix_of("w", weights), weights[np.newaxis])
    np.testing.assert_allclose(found.eigenvalues, plain.eigenvalues, rtol=1e-12)
    assert (found.N, found.M, found.solver) == (400, 130, plain.solver)
    assert found.squared_norm == pytest.approx(plain.squared_norm, rel=1e-14)


def test_a_gram_matrix_that_hides_something_is_not_definite_and_not_solved(rng):
    weights = rng.standard_normal((200, 60))
    assert engine.is_definite(gram_of(weights))
    repeated = weights.copy()
    repeated[:, 7] = repeated[:, 3]
    assert not engine.is_definite(gram_of(repeated))
    outcome = engine.solve_gram(matrix_of("w", repeated), gram_of(repeated))
    assert outcome.status is Status.NOT_CONVERGED
    assert "smallest eigenvalues" in outcome.reason
    for hidden in (0 * weights, weights * np.nan, weights * 1e80, weights * 1e-80):
        assert not engine.is_definite(gram_of(hidden))
