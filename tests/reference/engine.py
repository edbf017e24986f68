"""The engine on arrays in memory, and the plain decomposition it is held against."""

import numpy as np

from spectra.engine import Machine, decompose, make_plan
from spectra.records import Matrix


def stacked(array):
    return array if array.ndim == 3 else array[np.newaxis]


def matrix_of(name, array):
    """The record of an array, or of a stack of them."""
    k, rows, columns = stacked(array).shape
    return Matrix(
        name=name,
        tensor=name,
        kind="linear" if k == 1 else "conv2d",
        shape=array.shape if array.ndim == 2 else (rows, columns, k),
        dtype=str(array.dtype),
        nbytes=array.nbytes,
        N=max(rows, columns),
        M=min(rows, columns),
        n_matrices=k,
        first_row=0 if k == 1 and rows >= columns else None,
    )


def reader(arrays):
    """Read arrays by name, whole or by rows, as the engine asks for them."""

    def read(matrix, rows=None):
        array = arrays[matrix.tensor]
        return stacked(array) if rows is None else array[slice(*rows)][np.newaxis]

    return read


def solve(arrays, *, machine=None, precision="double", **options):
    """Decompose arrays (or stacks of them) and return the outcomes by name."""
    names = list(arrays)
    matrices = [matrix_of(name, arrays[name]) for name in names]
    plan = make_plan(matrices, machine=machine or Machine(), precision=precision)
    outcomes = decompose(plan, reader(arrays), **options)
    return {names[position]: outcome for position, outcome in outcomes}


def singular_squares(array):
    """The eigenvalues by their definition: squared singular values of every slice, ascending."""
    slices = stacked(array).astype(np.float64)
    return np.sort(np.concatenate([np.linalg.svd(w, compute_uv=False) ** 2 for w in slices]))
