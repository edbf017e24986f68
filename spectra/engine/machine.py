"""What this machine has: devices, cores, free memory."""

import ctypes
import functools
import os
import sys
from pathlib import Path

from spectra.engine import lapack
from spectra.engine.planning import Machine
from spectra.errors import DeviceError

UNKNOWN = 2**62
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
RETURNED_BYTES = 6 * 2**20


def this_machine(device: str = "cpu") -> Machine:
    """Look at this machine; the cores are those that this process may use and the BLAS would."""
    free = 0
    if device != "cpu" and not device.startswith("cpu"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
    elif device != "cpu":
        free = _free_memory()  # torch's own CPU, in the tests
    cores = min(_cores(), lapack.n_threads())
    return Machine(device=device, cores=cores, memory=_free_memory(), device_memory=free)


@functools.cache
def return_memory() -> None:
    """Have large arrays given back to the system when they are freed, where the C library is glibc.

    By itself glibc comes to keep freed blocks of up to 32 MB, in every thread: two matrices more.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, RETURNED_BYTES)
        mallopt(M_TRIM_THRESHOLD, 2 * RETURNED_BYTES)  # else set back to 128 kB by the first
    except (AttributeError, OSError, TypeError):
        return


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_memory() -> int:
    """Return the bytes that can be had without swapping, or a huge number where nobody can tell."""
    return min(_available(), _left_in_group())


def _available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    return UNKNOWN


def _left_in_group() -> int:
    """Return what a container's limit (cgroup v2) leaves."""
    group = Path("/sys/fs/cgroup")
    try:
        most = int((group / "memory.max").read_text("ascii"))
        used = int((group / "memory.current").read_text("ascii"))
        lines = (group / "memory.stat").read_text("ascii").splitlines()
        # Pages of files that were read count as used, and are given up on demand.
        cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        return max(0, most - used + cached)
    except (OSError, ValueError):  # no such limit, or "max"
        return UNKNOWN


def resolve_device(name: str) -> str:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:i`` into a device that is there.

    Raises
    ------
    DeviceError
        If the device is unknown, or not on this machine.

    Examples
    --------
    >>> resolve_device("cpu")
    'cpu'
    """
    if name == "cpu":
        return name
    if name != "auto" and name.partition(":")[0] != "cuda":
        raise DeviceError("E_DEVICE", name, "is no device", "use auto, cpu, cuda or cuda:0")
    count = _cuda_devices()
    if name == "auto":
        return "cuda" if count else "cpu"
    index = name.partition(":")[2] or "0"
    if not index.isdecimal() or int(index) >= count:
        raise DeviceError(
            "E_DEVICE", name, f"is not there ({count} CUDA devices found)", "use --device cpu"
        )
    return name


def _cuda_devices() -> int:
    """Count CUDA devices; torch, slow to import, is asked only where a driver is installed."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
