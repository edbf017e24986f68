"""Shapes that files declare: whether they can be, and which axes of a kernel are which.

Keras and Flax keep a convolution as (*window, in, out), torch as (out, in, *window); the rest of the
package knows torch's order only.
"""

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from spectra.sources.base import Array

MAX_AXES = 64  # NumPy's own limit
MAX_ELEMENTS = 2**59  # times sixteen bytes, the widest type, still a signed 64-bit number

Role = Literal["plain", "kernel", "depthwise"]


def elements(shape: Sequence[int]) -> int:
    """Return how many elements a declared shape has.

    Raises
    ------
    ValueError
        If no array can have that shape.
    """
    if len(shape) > MAX_AXES or any(size < 0 for size in shape):
        raise ValueError("no array has such a shape")
    extent = 1
    for size in shape:
        extent *= size or 1
        if extent > MAX_ELEMENTS:
            raise ValueError("no array is as large")
    return 0 if 0 in shape else extent


def rows_between(
    shape: tuple[int, ...], nbytes: int, begin: int, end: int
) -> tuple[int, int, tuple[int, ...]]:
    """Return where in an array's bytes some of its rows lie: offset, length, and their shape.

    As for a slice, rows beyond the last are none.
    """
    begin, end, _ = slice(begin, end).indices(shape[0])
    row = nbytes // max(shape[0], 1)
    count = max(end - begin, 0)
    return begin * row, count * row, (count, *shape[1:])


def role_of(path: Sequence[str], n_axes: int) -> Role:
    """Tell what the axes of a Keras or Flax variable are, from what it and its layer are called.

    ``kernel`` and ``pointwise_kernel`` with a window (three to five axes) are (*window, in, out).
    ``depthwise_kernel``, or ``kernel`` in a layer whose name says depthwise, is
    (*window, in, multiplier). All else is as it is; so are kernels of two axes, (in, out), whose
    singular values do not depend on the order.

    Examples
    --------
    >>> role_of(["conv2d_1", "kernel"], 4), role_of(["dense", "kernel"], 2)
    ('kernel', 'plain')
    """
    layer, name = path[-2] if len(path) > 1 else "", path[-1]
    if not 3 <= n_axes <= 5:
        return "plain"
    if name == "depthwise_kernel" or (name == "kernel" and re.search("depthwise", layer, re.I)):
        return "depthwise"
    return "kernel" if name in ("kernel", "pointwise_kernel") else "plain"


def torch_shape(shape: tuple[int, ...], role: Role) -> tuple[int, ...]:
    """Return the shape a variable has in torch's order.

    Examples
    --------
    >>> torch_shape((3, 3, 16, 2), "depthwise")
    (32, 1, 3, 3)
    """
    if role == "plain":
        return shape
    *window, inputs, outputs = shape
    if role == "depthwise":
        return (inputs * outputs, 1, *window)
    return (outputs, inputs, *window)


def torch_order(values: Array, role: Role) -> Array:
    """Return a variable in torch's order, as a view where one can be."""
    if role == "plain":
        return values
    if role == "kernel":
        return np.moveaxis(values, (-1, -2), (0, 1))
    # Torch counts the outputs of a depthwise convolution input by input.
    shape = torch_shape(values.shape, role)
    return np.moveaxis(values, (-2, -1), (0, 1)).reshape(shape)
