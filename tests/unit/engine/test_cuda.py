"""The device route on torch's own CPU: what it does when memory or a solve fails there."""

import numpy as np
import pytest
import torch

from spectra.engine import Machine, cuda, planning
from tests.reference.engine import matrix_of, singular_squares, solve

DEVICE = Machine("cpu:0", device_memory=2**30)


@pytest.fixture
def arrays(rng):
    return {f"w{i}": rng.standard_normal((24, 20)) for i in range(8)}


def assert_right(found, arrays):
    for name, weights in arrays.items():
        assert found[name].eigenvalues == pytest.approx(singular_squares(weights), rel=1e-8), name


def test_equal_shapes_are_solved_in_one_call(arrays, monkeypatch):
    calls = []
    true = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda a: calls.append(len(a)) or true(a))
    assert_right(solve(arrays, machine=DEVICE), arrays)
    assert calls == [8]


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_batch_too_large_for_the_device_is_halved_and_at_last_solved_here(
    most, arrays, monkeypatch
):
    true = torch.linalg.eigvalsh

    def short_of_memory(stack):
        if len(stack) > most:
            raise torch.OutOfMemoryError
        return true(stack)

    monkeypatch.setattr(torch.linalg, "eigvalsh", short_of_memory)
    assert_right(solve(arrays, machine=DEVICE), arrays)


@pytest.mark.parametrize("blocks_fit", [True, False])
def test_a_matrix_too_large_for_the_device_goes_there_in_blocks_or_not_at_all(
    blocks_fit, arrays, monkeypatch
):
    true, tried = cuda._summed, []

    def short_of_memory(*arguments, whole):
        tried.append(whole)
        if whole or not blocks_fit:
            raise torch.OutOfMemoryError
        return true(*arguments, whole=whole)

    monkeypatch.setattr(cuda, "_summed", short_of_memory)
    monkeypatch.setattr(planning, "BLOCK_ENTRIES", 100)
    assert_right(solve(arrays, machine=DEVICE), arrays)
    assert tried == [True, False] * len(arrays)


def test_a_matrix_that_does_not_converge_does_not_kill_its_batch(arrays, monkeypatch):
    true = torch.linalg.eigvalsh
    bad = torch.from_numpy(arrays["w3"].T @ arrays["w3"])

    def stubborn(stack):
        if any(torch.allclose(matrix, bad) for matrix in stack):
            raise torch.linalg.LinAlgError("no convergence")
        return true(stack)

    monkeypatch.setattr(torch.linalg, "eigvalsh", stubborn)
    found = solve(arrays, machine=DEVICE)
    assert_right(found, arrays)
    assert {spectrum.solver for spectrum in found.values()} == {"gram"}  # the CPU solved it


def test_wrong_numbers_of_a_device_are_seen_and_solved_again(arrays, monkeypatch):
    true = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda stack: true(stack) * 1.001)
    found = solve(arrays, machine=DEVICE)
    assert_right(found, arrays)
    assert {spectrum.solver for spectrum in found.values()} == {"svd"}


def test_a_matrix_larger_than_the_device_is_streamed(rng):
    weights = rng.standard_normal((5000, 40))
    small = Machine("cpu:0", device_memory=10**6)
    plan = planning.make_plan([matrix_of("w", weights)], machine=small)
    assert plan.jobs[0].streamed
    assert_right(solve({"w": weights}, machine=small), {"w": weights})


def test_host_types_without_a_torch_twin_are_converted(rng):
    weights = rng.standard_normal((24, 20)).astype(">f8")
    assert_right(solve({"w": weights}, machine=DEVICE), {"w": np.asarray(weights, np.float64)})


def test_what_is_read_in_another_shape_gets_no_further_on_a_device_either(rng):
    from spectra.engine import decompose

    plan = planning.make_plan([matrix_of("w", np.zeros((30, 20)))], machine=DEVICE)
    wrong = rng.standard_normal((1, 30, 10))
    ((_, found),) = decompose(plan, lambda *_: wrong)
    assert found.status == "unreadable"
