"""The plan of a run, from shapes alone: which matrices together, by which route, at what cost.

Pure: a machine is a record here, so that plans for any machine are tested on any other. The constants
were measured on two cores with AVX-512 (docs/benchmarks.md); elsewhere they still order the work.
"""

import dataclasses
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spectra.records import Matrix

Precision = Literal["double", "fast", "svd"]
Route = Literal["batched", "one_stage", "two_stage", "svd", "torch"]

BATCHED_BELOW = 192
"""Slices smaller than this are solved as one stack: the calls would cost as much as the work."""
CACHE_BYTES = 30 * 2**20
"""Triangles that together exceed this are reduced in two stages: one stage reads them from memory at
every column, and its time is the memory's. Measured: the routes meet at 26 to 34 MB."""
STREAM_BYTES = 8 * 2**20
"""From here on, in float64, a matrix stored tall or square is never held: its Gram matrix is summed
over blocks of rows read from where they lie."""
BLOCK_FRACTION = 8
BLOCK_ENTRIES = 2**19
"""The Gram matrix is summed over blocks of M/8 rows or half a million entries: full speed."""
PER_CORE = 1.75
"""Memory in flight, in largest matrices (float64) a core: of its weights, its Gram matrix, blocks."""
LEAST_IN_FLIGHT = 32 * 2**20
MEMORY_SHARE = 0.9
MOST_WIDE = 16
CUDA_SOLVERS = 2


@dataclass(frozen=True, slots=True)
class Machine:
    """What work can run on: a device, the cores beside it, and the bytes that are free there."""

    device: str = "cpu"
    cores: int = 1
    memory: int = 2**62
    device_memory: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """Matrices of one shape that are solved together, and what that is predicted to take.

    ``positions`` say where they stand in the checkpoint; ``nbytes`` is the peak of the working set,
    ``seconds`` the time on one core. A ``streamed`` matrix is read in blocks of rows.
    """

    matrices: tuple[Matrix, ...]
    positions: tuple[int, ...]
    route: Route
    seconds: float
    nbytes: int
    streamed: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """Jobs that run `solvers` at a time, each with `threads` threads."""

    jobs: tuple[Job, ...]
    solvers: int
    threads: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All jobs, largest first; ``in_flight`` bounds the bytes of those begun and not finished."""

    stages: tuple[Stage, ...]
    precision: Precision
    machine: Machine
    in_flight: int

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs of all stages."""
        return tuple(job for stage in self.stages for job in stage.jobs)

    @property
    def seconds(self) -> float:
        """Predicted time of the decompositions, on the machine the constants were measured on."""
        return sum(_stage_seconds(stage) for stage in self.stages)

    @property
    def nbytes(self) -> int:
        """Predicted peak memory beyond the program itself."""
        sizes = [
            heapq.nlargest(stage.solvers + 1, (job.nbytes for job in stage.jobs))
            for stage in self.stages
        ]
        largest = max((job.nbytes for job in self.jobs), default=0)
        return max(largest, min(self.in_flight, max(map(sum, sizes), default=0)))


def operations(matrix: Matrix) -> float:
    """Predict the floating-point operations of one layer: half a Gram product and a solve.

    Examples
    --------
    >>> round(operations(Matrix("w", "w", "linear", (300, 100), "float32", 0, 300, 100)) / 1e6, 1)
    4.3
    """
    return matrix.n_matrices * (matrix.N * matrix.M**2 + 4 / 3 * matrix.M**3)


def seconds(matrix: Matrix, precision: Precision = "double") -> float:
    """Predict the time of one layer on one core."""
    gram = matrix.N * matrix.M**2 / 48e9
    solve = 5.2e-11 * matrix.M**3 + 2e-8 * matrix.M**2
    factor = {"double": 1.0, "fast": 0.6, "svd": 4.0}[precision]
    return matrix.n_matrices * factor * (gram + solve)


def block_rows(M: int) -> int:
    """Return how many rows of a matrix are added to its Gram matrix at a time."""
    return max(M // BLOCK_FRACTION, BLOCK_ENTRIES // M)


def can_stream(matrix: Matrix) -> bool:
    """Tell whether the rows of a matrix, as it is stored, add up to its Gram matrix."""
    return matrix.n_matrices == 1 and matrix.first_row is not None


def working_bytes(
    matrix: Matrix, precision: Precision = "double", *, streamed: bool | None = None
) -> int:
    """Predict the peak memory of one layer: weights or blocks of them, and its Gram matrices."""
    streamed = _streams_on_cpu(matrix) if streamed is None else streamed
    itemsize = 4 if precision == "fast" else 8
    rows = min(matrix.N, block_rows(matrix.M))
    # bfloat16 is unknown to NumPy, and held as float32 beside its bytes.
    stored = (3 if matrix.dtype == "bfloat16" else 1) * matrix.nbytes
    if streamed:
        stored = stored * rows // matrix.N
    if precision == "svd" and not streamed:
        return stored + 2 * 8 * matrix.N * matrix.M
    return stored + itemsize * matrix.M * (rows + matrix.n_matrices * matrix.M)


def _streams_on_cpu(matrix: Matrix) -> bool:
    return can_stream(matrix) and 8 * matrix.N * matrix.M >= STREAM_BYTES


def device_bytes(matrix: Matrix, precision: Precision, *, streamed: bool = False) -> int:
    """Predict the peak memory of one layer on a CUDA device: weights, Gram, a copy, workspace."""
    itemsize = 4 if precision == "fast" else 8
    rows = 2 * block_rows(matrix.M) if streamed else matrix.N
    return itemsize * matrix.n_matrices * (rows * matrix.M + 3 * matrix.M**2)


def make_plan(
    matrices: Sequence[Matrix], *, machine: Machine | None = None, precision: Precision = "double"
) -> Plan:
    """Plan the decomposition of `matrices` on `machine`.

    On the CPU, matrices run one a core with one thread each, which beats all threads on one matrix
    at every size; only those that do not fit side by side in memory, or that would leave cores idle
    at the end, run alone with all threads. On CUDA, equal shapes run together.

    Parameters
    ----------
    matrices : sequence of Matrix
    machine : Machine, optional
        One core without a limit of memory when left out.
    precision : str
        ``double`` (Gram matrices in float64), ``fast`` (in float32) or ``svd`` (no Gram matrices).

    Returns
    -------
    Plan
        Every matrix in exactly one job.

    Examples
    --------
    >>> w = Matrix("w", "w", "linear", (8, 8), "float32", 256, 8, 8)
    >>> [job.positions for job in make_plan([w, w, w]).jobs]
    [(0,), (1,), (2,)]
    >>> cuda = Machine("cuda", device_memory=2**30)
    >>> [job.positions for job in make_plan([w, w, w], machine=cuda).jobs]
    [(0, 1, 2)]
    """
    machine = machine or Machine()
    on_cpu = machine.device == "cpu"
    jobs = [
        _job(matrices, group, machine, precision) for group in _groups(matrices, machine, precision)
    ]
    jobs.sort(key=lambda job: -job.seconds)
    largest = max((8 * m.n_matrices * m.N * m.M for m in matrices), default=0)
    allowed = max(int(PER_CORE * max(machine.cores, 2) * largest), LEAST_IN_FLIGHT)
    in_flight = min(allowed, int(MEMORY_SHARE * machine.memory))
    stages = (
        _cpu_stages(jobs, machine.cores, in_flight, precision)
        if on_cpu
        else (Stage(tuple(jobs), CUDA_SOLVERS, machine.cores),)
    )
    return Plan(tuple(stage for stage in stages if stage.jobs), precision, machine, in_flight)


def _groups(
    matrices: Sequence[Matrix], machine: Machine, precision: Precision
) -> list[tuple[int, ...]]:
    """Group matrices that are solved as one stack: equal shapes on a device, none on the CPU."""
    if machine.device == "cpu":
        return [(position,) for position in range(len(matrices))]
    open_groups: dict[tuple[int, int], list[int]] = {}
    filled: dict[tuple[int, int], tuple[int, int]] = {}
    groups: list[list[int]] = []
    most = _device_share(machine)
    most_here = int(MEMORY_SHARE * machine.memory) // (CUDA_SOLVERS + 1)
    for position, matrix in enumerate(matrices):
        shape, nbytes = (matrix.N, matrix.M), device_bytes(matrix, precision)
        on_host = working_bytes(matrix, precision)
        full = shape in open_groups and (
            filled[shape][0] + nbytes > most or filled[shape][1] + on_host > most_here
        )
        if shape not in open_groups or full:
            open_groups[shape], filled[shape] = [], (0, 0)
            groups.append(open_groups[shape])
        open_groups[shape].append(position)
        filled[shape] = (filled[shape][0] + nbytes, filled[shape][1] + on_host)
    return [tuple(group) for group in groups]


def _device_share(machine: Machine) -> int:
    return int(MEMORY_SHARE * machine.device_memory) // CUDA_SOLVERS


def _job(
    matrices: Sequence[Matrix], group: tuple[int, ...], machine: Machine, precision: Precision
) -> Job:
    members = tuple(matrices[i] for i in group)
    first, on_cpu = members[0], machine.device == "cpu"
    route: Route = "batched" if first.M < BATCHED_BELOW else "one_stage"
    if precision == "svd":
        route = "svd"
    elif not on_cpu:
        route = "torch"
    streamed = _streams_on_cpu(first)
    if not on_cpu:
        too_large = device_bytes(first, precision) > _device_share(machine)
        streamed = len(members) == 1 and can_stream(first) and too_large
    return Job(
        matrices=members,
        positions=group,
        route=route,
        seconds=sum(seconds(matrix, precision) for matrix in members),
        nbytes=sum(working_bytes(m, precision, streamed=streamed) for m in members),
        streamed=streamed,
    )


def _cpu_stages(
    jobs: Sequence[Job], cores: int, in_flight: int, precision: Precision
) -> tuple[Stage, Stage]:
    """Split the jobs, largest first, into those that run alone and those that run side by side."""
    wide = [job for job in jobs if 2 * job.nbytes > in_flight]
    rest = [job for job in jobs if 2 * job.nbytes <= in_flight]
    best: tuple[float, int] = (float("inf"), 0)
    for k in range(min(len(rest), MOST_WIDE) + 1):
        alone = sum(job.seconds / _speed_up(job, cores) for job in rest[:k])
        total = alone + _stage_seconds(_side_by_side(rest[k:], cores, in_flight))
        best = min(best, (total, k))
    k = best[1] if cores > 1 else 0
    stages = (
        Stage(tuple(wide + rest[:k]), 1, cores),
        _side_by_side(rest[k:], cores, in_flight),
    )
    itemsize = 4 if precision == "fast" else 8
    first, second = (
        dataclasses.replace(
            stage, jobs=tuple(_in_stages(job, stage.solvers, itemsize) for job in stage.jobs)
        )
        for stage in stages
    )
    return first, second


def _side_by_side(jobs: Sequence[Job], cores: int, in_flight: int) -> Stage:
    largest = max((job.nbytes for job in jobs), default=1)
    solvers = max(1, min(cores, len(jobs), in_flight // max(largest, 1)))
    return Stage(tuple(jobs), solvers, max(1, cores // solvers))


def _in_stages(job: Job, solvers: int, itemsize: int) -> Job:
    triangles = solvers * itemsize * job.matrices[0].M ** 2 / 2
    if job.route == "one_stage" and triangles > CACHE_BYTES:
        return dataclasses.replace(job, route="two_stage")
    return job


def _speed_up(job: Job, threads: int) -> float:
    """How much faster all threads solve one matrix than one does: not at all below M = 512."""
    exponent = min(0.8, max(0.0, 0.4 * (job.matrices[0].M.bit_length() - 10)))
    return float(threads**exponent)


def _stage_seconds(stage: Stage) -> float:
    """Return when the last of the jobs, largest first to the first free solver, would end."""
    free = [0.0] * stage.solvers
    for job in stage.jobs:
        heapq.heapreplace(free, free[0] + job.seconds / _speed_up(job, stage.threads))
    return max(free, default=0.0)
