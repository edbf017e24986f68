"""Values-only symmetric eigensolvers of the BLAS that NumPy has loaded, in place and without the GIL.

NumPy copies a matrix before it solves it, and has no two-stage reduction; SciPy holds the GIL. Where
the library cannot be found or lacks a routine, NumPy does the work.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import threadpoolctl

Real = npt.NDArray[np.float64] | npt.NDArray[np.float32]
Solver = Callable[[Real], Real]

LETTERS = {
    np.dtype(np.float64): ("d", ctypes.c_double),
    np.dtype(np.float32): ("s", ctypes.c_float),
}
AFFIXES = (("scipy_", "_64_"), ("scipy_", "_"), ("", "_64_"), ("", "64_"), ("", "_"))


class Library(NamedTuple):
    """A loaded BLAS with LAPACK, how it spells its routines, and its integer type."""

    handle: ctypes.CDLL
    prefix: str
    suffix: str
    integer: type[ctypes.c_int32] | type[ctypes.c_int64]

    def routine(self, name: str) -> Any:  # noqa: ANN401 - a foreign function
        """Return a Fortran routine by its name."""
        return getattr(self.handle, f"{self.prefix}{name}{self.suffix}")


def add_gram(part: Real, gram: Real, *, tall: bool) -> None:
    """Add AᵀA (or AAᵀ, for the short side) to one triangle of `gram`, at half the cost of a product.

    Parameters
    ----------
    part : ndarray of shape (k, M) if `tall`, else (M, k)
        C-contiguous, of the dtype of `gram`.
    gram : ndarray of shape (M, M)
        C-contiguous; its upper triangle is added to, the other one is left alone.
    """
    M = gram.shape[0]
    found = library()
    if found is None:
        gram += np.triu(part.T @ part if tall else part @ part.T)
        return
    letter, real = LETTERS[gram.dtype]
    count, one = found.integer, ctypes.byref(real(1.0))
    k = part.shape[0] if tall else part.shape[1]
    # Fortran sees the transpose: what is its lower triangle, is the upper one here.
    found.routine(f"{letter}syrk")(
        b"L",
        b"N" if tall else b"T",
        ctypes.byref(count(M)),
        ctypes.byref(count(k)),
        one,
        ctypes.c_void_p(part.ctypes.data),
        ctypes.byref(count(part.shape[1])),
        one,
        ctypes.c_void_p(gram.ctypes.data),
        ctypes.byref(count(M)),
        ctypes.c_size_t(1),
        ctypes.c_size_t(1),
    )


def eigenvalues(gram: Real, *, two_stage: bool = False) -> Real:
    """Return the eigenvalues of a symmetric matrix, ascending; its upper triangle is destroyed.

    Parameters
    ----------
    gram : ndarray of shape (M, M)
        C-contiguous float64 or float32; only the upper triangle is read.
    two_stage : bool
        Reduce to a band first: faster where the matrix does not fit in the cache.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the iteration does not converge.
    """
    found = library()
    if found is None:
        solved: Real = np.linalg.eigvalsh(gram, UPLO="U")
        return solved
    letter, _ = LETTERS[gram.dtype]
    solve = found.routine(f"{letter}syevd_2stage" if two_stage else f"{letter}syevd")
    M, count = gram.shape[0], found.integer
    values = np.empty(M, gram.dtype)
    info = count()

    def call(work: Real, n_work: int, integers: npt.NDArray[np.int64], n_integers: int) -> None:
        solve(
            b"N",
            b"L",
            ctypes.byref(count(M)),
            ctypes.c_void_p(gram.ctypes.data),
            ctypes.byref(count(M)),
            ctypes.c_void_p(values.ctypes.data),
            ctypes.c_void_p(work.ctypes.data),
            ctypes.byref(count(n_work)),
            ctypes.c_void_p(integers.ctypes.data),
            ctypes.byref(count(n_integers)),
            ctypes.byref(info),
            ctypes.c_size_t(1),
            ctypes.c_size_t(1),
        )

    # Fortran's integers may be four bytes wide; eight always suffice.
    size, n_integers = np.empty(1, gram.dtype), np.zeros(1, np.int64)
    call(size, -1, n_integers, -1)
    # A float32 cannot say every size: the next one up is never too small.
    n_work = int(np.nextafter(size[0], np.inf)) + 1
    call(np.empty(n_work, gram.dtype), n_work, np.empty(8, np.int64), 8)
    if info.value:
        raise np.linalg.LinAlgError(f"{letter}syevd: info {info.value}")
    return values


@functools.cache
def library() -> Library | None:
    """Find a loaded library that has all the routines, or None."""
    names = [f"{letter}{name}" for letter, _ in LETTERS.values() for name in ("syrk", "syevd")]
    for module in threadpoolctl.threadpool_info():
        if module["user_api"] != "blas":
            continue
        try:
            handle = ctypes.CDLL(module["filepath"])
        except OSError:
            continue
        for prefix, suffix in AFFIXES:
            found = Library(handle, prefix, suffix, _integer(handle, suffix))
            wanted = [*names, "dsyevd_2stage", "ssyevd_2stage"]
            if all(hasattr(handle, f"{prefix}{name}{suffix}") for name in wanted):
                return found
    return None


def _integer(handle: ctypes.CDLL, suffix: str) -> type[ctypes.c_int32] | type[ctypes.c_int64]:
    if "64" in suffix:
        return ctypes.c_int64
    try:
        config = handle.openblas_get_config
    except AttributeError:
        return ctypes.c_int32
    config.restype = ctypes.c_char_p
    return ctypes.c_int64 if b"USE64BITINT" in config() else ctypes.c_int32


@functools.cache
def controller() -> threadpoolctl.ThreadpoolController:
    """Return the one controller of the BLAS threads of this process."""
    return threadpoolctl.ThreadpoolController()


@functools.cache
def n_threads() -> int:
    """Return how many threads the BLAS takes by itself (OPENBLAS_NUM_THREADS and its kin).

    Looked at once, before any run has limited them.
    """
    modules = threadpoolctl.threadpool_info()
    counts = [module["num_threads"] for module in modules if module["user_api"] == "blas"]
    return max(counts, default=1)
