"""The engine and what was computed before: what is solved again, and what is told apart."""

import errno
import tempfile

import numpy as np
import pytest

from spectra import engine
from spectra.conventions import FLOAT32_EPS, FLOAT64_EPS
from spectra.engine import Failure, Machine, cpu, decompose, make_plan, planning, stored
from spectra.errors import CheckpointError
from spectra.records import Spectrum, Status
from spectra.store import Store, key_of
from tests.reference.engine import matrix_of, reader, solve, stacked

MACHINES = {
    "cpu": Machine(),
    "cores": Machine(cores=3),
    "torch": Machine("cpu:0", device_memory=2**30),  # torch's own CPU
}


class Memory:
    """A store that remembers what it was asked for."""

    key = staticmethod(key_of)

    def __init__(self):
        self.kept = {}
        self.found = []

    def get(self, key):
        if key in self.kept:
            self.found.append(key)
        return self.kept.get(key)

    def put(self, key, spectrum):
        self.kept[key] = spectrum


@pytest.fixture
def solved(monkeypatch):
    """The names of the layers that were solved, on the CPU or through torch."""
    from spectra.engine import cuda

    names = []

    def counted(weights, *args, **options):
        names.append(weights.matrix.name)
        return on_cpu(weights, *args, **options)

    def counted_group(layers, *args):
        names.extend(weights.matrix.name for weights in layers)
        return on_device(layers, *args)

    on_cpu, on_device = cpu.solve, cuda.solve
    monkeypatch.setattr(cpu, "solve", counted)
    monkeypatch.setattr(cuda, "solve", counted_group)
    return names


@pytest.fixture
def streaming(monkeypatch):
    """Stream every matrix that can be, in blocks of a few rows."""
    monkeypatch.setattr(planning, "STREAM_BYTES", 0)
    monkeypatch.setattr(planning, "BLOCK_ENTRIES", 300)


def layers(rng):
    return {
        "tall": rng.standard_normal((90, 30)).astype("f4"),
        "wide": rng.standard_normal((30, 90)).astype("f2"),
        "slices": rng.standard_normal((9, 20, 8)),
        "large": rng.standard_normal((400, 250)).astype("f4"),
        "zeros": np.zeros((40, 20)),
        "small": rng.standard_normal((1, 50)),
    }


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, spectrum in expected.items():
        assert found[name].eigenvalues.tobytes() == spectrum.eigenvalues.tobytes()
        for number in ("squared_norm", "residual", "error", "solver", "N", "M", "n_matrices"):
            assert getattr(found[name], number) == getattr(spectrum, number)


@pytest.mark.parametrize("machine", list(MACHINES))
@pytest.mark.parametrize("precision", engine.PRECISIONS)
def test_what_was_solved_once_is_not_solved_again(machine, precision, rng, tmp_path, solved):
    arrays, options = layers(rng), {"machine": MACHINES[machine], "precision": precision}
    plain = solve(arrays, **options)
    solved.clear()
    first = solve(arrays, store=Store(tmp_path), **options)
    assert sorted(solved) == sorted(arrays)
    solved.clear()
    again = solve(arrays, store=Store(tmp_path), **options)
    assert solved == []
    same(first, plain)
    same(again, plain)
    assert not any(spectrum.stored for spectrum in first.values())
    assert all(spectrum.stored for spectrum in again.values())


@pytest.mark.parametrize("machine", list(MACHINES))
def test_only_what_is_not_known_is_solved(machine, rng, solved):
    store, options = Memory(), {"machine": MACHINES[machine]}
    arrays = {f"w{i}": rng.standard_normal((24, 16)) for i in range(6)}
    expected = solve(arrays, **options)
    solve({name: arrays[name] for name in ("w1", "w4")}, store=store, **options)
    solved.clear()
    arrays["bad"] = np.full((24, 16), np.nan)
    found = solve(arrays, store=store, **options)
    assert sorted(solved) == ["bad", "w0", "w2", "w3", "w5"]
    assert found.pop("bad").status is Status.NON_FINITE
    same(found, expected)
    assert len(store.kept) == 6  # failures are not kept


def test_neither_name_nor_device_nor_streaming_nor_threads_are_part_of_the_key(
    rng, solved, monkeypatch
):
    store, weights = Memory(), rng.standard_normal((60, 40))
    solve({"one": weights}, store=store)
    solved.clear()
    for machine in MACHINES.values():
        solve({"two": weights, "copy": weights.copy()}, store=store, machine=machine)
    strided = np.asfortranarray(weights)
    solve({"strided": strided}, store=store)
    monkeypatch.setattr(planning, "STREAM_BYTES", 0)
    monkeypatch.setattr(planning, "BLOCK_ENTRIES", 300)
    assert make_plan([matrix_of("three", weights)]).jobs[0].streamed
    solve({"three": weights, "strided": strided}, store=store)
    engine.solve(matrix_of("four", weights), weights[np.newaxis], store=store)
    assert solved == []
    assert len(store.kept) == 1


def test_everything_that_decides_the_numbers_is_part_of_the_key(rng):
    store = Memory()
    weights = rng.standard_normal((36, 24)).astype("f4")
    others = {
        "one bit": np.concatenate([weights[:-1], np.nextafter(weights[-1:], 9)]),
        "transposed": weights.T.copy(),
        "square of the same bytes": weights.reshape(24, 36),
        "slices": weights.reshape(2, 18, 24),
        "other slices": weights.reshape(3, 12, 24),
        "wider type": weights.astype("f8"),
        "other byte order": weights.astype(">f4"),
        "negative zero": np.concatenate([weights[:-1], -0 * weights[-1:]]),
        "zero": np.concatenate([weights[:-1], 0 * np.abs(weights[-1:])]),
    }
    solve({"w": weights}, store=store)
    for number, (name, other) in enumerate(others.items(), start=2):
        solve({name: other}, store=store)
        assert (len(store.kept), store.found) == (number, []), name
    for precision in ("fast", "svd"):
        before = len(store.kept)
        solve({"w": weights}, store=store, precision=precision)
        assert (len(store.kept), store.found) == (before + 1, [])


def test_the_same_bytes_of_another_type_are_others(rng):
    store, weights = Memory(), rng.standard_normal((36, 48)).astype("f2")
    solve({"w": weights, "v": weights.view("f4")}, store=store)
    assert len(store.kept) == 2


def test_a_square_matrix_and_its_transpose_are_two(rng):
    store, weights = Memory(), rng.standard_normal((20, 20))
    solve({"a": weights, "b": weights.T.copy()}, store=store)
    assert len(store.kept) == 2


def test_a_change_of_the_algorithm_makes_all_that_was_stored_unknown(rng, solved, monkeypatch):
    store, arrays = Memory(), {"w": rng.standard_normal((20, 10))}
    solve(arrays, store=store)
    monkeypatch.setattr(stored, "ALGORITHM", stored.ALGORITHM + 1)
    solve(arrays, store=store)
    assert solved == ["w", "w"]


def dead_columns(rng):
    weights = rng.standard_normal((300, 200))
    weights[:, :3] = 0
    return weights


@pytest.mark.parametrize("first", [FLOAT32_EPS, FLOAT64_EPS])
def test_the_resolution_counts_where_the_numbers_depend_on_it_and_only_there(first, rng, solved):
    store = Memory()
    arrays = {"full": rng.standard_normal((300, 200)), "dead": dead_columns(rng)}
    plain = {r: solve(arrays, resolution=r) for r in (FLOAT32_EPS, FLOAT64_EPS)}
    assert plain[FLOAT32_EPS]["dead"].solver != plain[FLOAT64_EPS]["dead"].solver
    second = FLOAT64_EPS if first == FLOAT32_EPS else FLOAT32_EPS
    solved.clear()
    same(solve(arrays, resolution=first, store=store), plain[first])
    assert sorted(solved) == ["dead", "full"]
    solved.clear()
    same(solve(arrays, resolution=second, store=store), plain[second])
    assert solved == ["dead"]
    solved.clear()
    for resolution in (first, second):
        same(solve(arrays, resolution=resolution, store=store), plain[resolution])
    assert solved == []


def test_a_failed_certificate_is_solved_by_svd_at_every_resolution(rng, solved, monkeypatch):
    true = np.linalg.eigvalsh
    monkeypatch.setattr(np.linalg, "eigvalsh", lambda *a, **k: 1.001 * true(*a, **k))
    store, arrays = Memory(), {"w": rng.standard_normal((30, 20))}
    assert solve(arrays, store=store, resolution=FLOAT64_EPS)["w"].solver == "svd"
    assert solve(arrays, store=store, resolution=FLOAT32_EPS)["w"].solver == "svd"
    assert solved == ["w"]


@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_read_in_another_shape_is_not_even_looked_up(streamed, rng, monkeypatch):
    if streamed:
        monkeypatch.setattr(planning, "STREAM_BYTES", 0)
    store = Memory()
    plan = make_plan([matrix_of("w", np.zeros((300, 200)))])
    assert plan.jobs[0].streamed is streamed
    for wrong in (np.zeros((1, 300, 10)), np.zeros((2, 300, 200)), np.zeros((1, 300, 200), "i8")):
        ((_, found),) = decompose(plan, lambda *_, wrong=wrong: wrong, store=store)
        assert found.status is Status.UNREADABLE
        assert "its header says otherwise" in found.reason
    assert store.kept == {}


@pytest.mark.parametrize(
    "error", [CheckpointError("E_TRUNCATED", "file", "ends early"), MemoryError()]
)
def test_what_cannot_be_read_for_its_key_takes_no_other_with_it(error, rng, streaming):
    arrays = {"gone": rng.standard_normal((24, 24)), "here": rng.standard_normal((24, 24))}

    def read(matrix, rows=None):
        if matrix.name == "gone":
            raise error
        return reader(arrays)(matrix, rows)

    plan = make_plan([matrix_of(name, array) for name, array in arrays.items()])
    outcomes = dict(decompose(plan, read, store=Memory()))
    expected = Status.OVER_BUDGET if isinstance(error, MemoryError) else Status.UNREADABLE
    assert isinstance(outcomes[0], Failure)
    assert outcomes[0].status is expected
    assert isinstance(outcomes[1], Spectrum)


def counting(arrays):
    asked = []

    def read(matrix, rows=None):
        asked.append((matrix.name, rows))
        return reader(arrays)(matrix, rows)

    return read, asked


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", ">f4"])
@pytest.mark.parametrize("precision", engine.PRECISIONS)
def test_what_is_far_is_read_once_though_it_is_hashed_and_solved(dtype, precision, rng, streaming):
    arrays = {
        "tall": rng.standard_normal((501, 30)).astype(dtype),
        "wide": rng.standard_normal((30, 90)).astype(dtype),
        "huge": (1e30 * rng.standard_normal((60, 40))).astype("f4"),  # scaled: read more than once
    }
    plan = make_plan([matrix_of(n, a) for n, a in arrays.items()], precision=precision)
    read, asked = counting(arrays)
    near = dict(decompose(plan, read))
    without_store = len(asked)
    read, asked = counting(arrays)
    far = dict(decompose(plan, read, store=Memory(), far=True))
    assert len(asked) == len(set(asked)) <= without_store
    for position, spectrum in near.items():
        assert far[position].eigenvalues.tobytes() == spectrum.eigenvalues.tobytes()


@pytest.mark.parametrize("when", ["made", "written"])
def test_a_spool_without_room_costs_a_second_read_and_nothing_else(
    when, rng, streaming, monkeypatch
):
    arrays = {"tall": rng.standard_normal((501, 30))}
    plan = make_plan([matrix_of(n, a) for n, a in arrays.items()])
    expected = dict(decompose(plan, reader(arrays)))[0]

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "no space left on device")

    def full_later(**_):
        return open("/dev/full", "rb+", buffering=0)  # noqa: PTH123

    monkeypatch.setattr(tempfile, "TemporaryFile", full if when == "made" else full_later)
    read, asked = counting(arrays)
    found = dict(decompose(plan, read, store=Memory(), far=True))[0]
    assert found.eigenvalues.tobytes() == expected.eigenvalues.tobytes()
    assert len(asked) == 2 * len(set(asked))


def test_the_stack_that_is_hashed_is_that_of_the_layer(rng):
    """Blocks of rows, slice by slice, are the bytes of the stack in C order."""
    from spectra.engine.weights import Weights

    for array in layers(rng).values():
        stack = stacked(array)
        turned = np.asfortranarray(stack)
        for held in (stack, turned):
            weights = Weights(matrix_of("w", array), lambda *_, held=held: held, held)
            assert b"".join(b.tobytes() for b in weights.stored()) == stack.tobytes()
