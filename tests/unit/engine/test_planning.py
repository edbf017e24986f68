import itertools

import numpy as np
import pytest

from spectra.engine import planning
from spectra.engine.planning import Machine, make_plan, operations, seconds, working_bytes
from tests.reference.engine import matrix_of

GB = 2**30


def layers(*shapes, dtype=np.float32):
    return [matrix_of(f"w{i}", np.broadcast_to(dtype(0), s)) for i, s in enumerate(shapes)]


MIXED = [(8, 8), (1024, 512), (9, 64, 32), (4096, 4096), (300, 300), (30000, 512)] * 3


@pytest.mark.parametrize("precision", ["double", "fast", "svd"])
@pytest.mark.parametrize("cores", [1, 2, 16])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_matrix_is_in_one_job_and_what_fits_stays_within_the_memory(precision, cores, device):
    machine = Machine(device, cores, 8 * GB, 8 * GB)
    matrices = layers(*MIXED)
    plan = make_plan(matrices, machine=machine, precision=precision)
    assert sorted(p for job in plan.jobs for p in job.positions) == list(range(len(MIXED)))
    for job in plan.jobs:
        assert [matrices[p] for p in job.positions] == list(job.matrices)
        assert len({(m.N, m.M) for m in job.matrices}) == 1
    assert plan.in_flight <= 8 * GB
    for stage in plan.stages:
        assert stage.solvers * stage.threads <= max(cores, planning.CUDA_SOLVERS * cores)
        assert [j.seconds for j in stage.jobs] == sorted(j.seconds for j in stage.jobs)[::-1]
    assert plan.seconds > 0
    assert plan.nbytes > 0


def test_a_single_matrix_gets_all_cores_and_many_get_one_each():
    machine = Machine(cores=4)
    (alone,) = make_plan(layers((4096, 4096)), machine=machine).stages
    assert (alone.solvers, alone.threads) == (1, 4)
    (many,) = make_plan(layers(*[(1024, 1024)] * 40), machine=machine).stages
    assert (many.solvers, many.threads) == (4, 1)


def test_an_odd_one_out_does_not_leave_cores_idle():
    # three equal matrices on two cores: one with both, then one each
    first, second = make_plan(layers(*[(4096, 4096)] * 3), machine=Machine(cores=2)).stages
    assert (len(first.jobs), first.solvers, first.threads) == (1, 1, 2)
    assert (len(second.jobs), second.solvers, second.threads) == (2, 2, 1)


def test_what_does_not_fit_side_by_side_runs_alone():
    machine = Machine(cores=2, memory=int(1.2 * working_bytes(*layers((4096, 4096))) / 0.9))
    (stage,) = make_plan(layers(*[(4096, 4096)] * 6), machine=machine).stages
    assert (stage.solvers, stage.threads) == (1, 2)


@pytest.mark.parametrize("n", [1, 10, 1000])
def test_memory_does_not_grow_with_the_model(n):
    plan = make_plan(layers(*[(2048, 2048)] * n), machine=Machine(cores=2))
    assert plan.nbytes <= 3.5 * 8 * 2048**2


def test_routes_follow_the_size_and_the_cache():
    routes = {
        side: make_plan(layers((side, side)), machine=Machine(cores=1)).jobs[0].route
        for side in (64, 512, 2048, 4096)
    }
    assert routes == {64: "batched", 512: "one_stage", 2048: "one_stage", 4096: "two_stage"}
    # two of 2560² reduced at once no longer fit in the cache, one alone does
    both = make_plan(layers((2560, 2560), (2560, 2560)), machine=Machine(cores=2))
    assert {job.route for job in both.jobs} == {"two_stage"}
    assert make_plan(layers((2560, 2560))).jobs[0].route == "one_stage"
    assert make_plan(layers((64, 64)), precision="svd").jobs[0].route == "svd"


def test_tall_and_square_matrices_are_streamed_and_wide_ones_held():
    tall, square, wide, small = make_plan(
        layers((30000, 512), (2048, 2048), (1024, 4096), (512, 512))
    ).jobs
    by_shape = {job.matrices[0].shape: job.streamed for job in (tall, square, wide, small)}
    assert by_shape == {
        (30000, 512): True,
        (2048, 2048): True,
        (1024, 4096): False,
        (512, 512): False,
    }


def test_a_vocabulary_costs_its_short_side():
    (vocabulary,) = layers((256_000, 8192))
    gram = 8 * 8192**2
    assert gram < working_bytes(vocabulary) < 1.3 * gram
    assert working_bytes(vocabulary) < 8 * vocabulary.N * vocabulary.M / 20


def test_batches_on_a_device_keep_to_its_memory():
    machine = Machine("cuda", 8, 64 * GB, 1 * GB)
    plan = make_plan(layers(*[(1024, 1024)] * 100), machine=machine)
    assert 1 < len(plan.jobs) < 100
    for job in plan.jobs:
        assert sum(planning.device_bytes(m, "double") for m in job.matrices) <= GB // 2
    (large,) = make_plan(layers((100_000, 4096)), machine=machine).jobs
    assert large.streamed


def test_batches_on_a_device_keep_to_the_memory_beside_it_too():
    machine = Machine("cuda", 8, GB // 8, 64 * GB)
    plan = make_plan(layers(*[(1024, 1024)] * 64), machine=machine)
    assert max(job.nbytes for job in plan.jobs) <= GB // 8


def test_costs_grow_as_they_should():
    small, wide, tall = layers((64, 16), (64, 32), (128, 16))
    assert operations(wide) / operations(small) > 4
    assert 1 < operations(tall) / operations(small) < 2
    for fewer, more in itertools.pairwise(layers(*[(s, s) for s in (64, 512, 4096)])):
        assert seconds(more) > 100 * seconds(fewer)
    assert seconds(wide, "fast") < seconds(wide) < seconds(wide, "svd")


def test_nothing_to_do_is_a_plan_too():
    plan = make_plan([])
    assert (plan.stages, plan.jobs, plan.seconds, plan.nbytes) == ((), (), 0, 0)
