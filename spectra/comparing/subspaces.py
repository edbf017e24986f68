"""Leading singular subspaces of two matrices: how far one is in the other."""

import hashlib
import math

import numpy as np
import numpy.typing as npt

from spectra.comparing.records import Overlap
from spectra.engine import Store
from spectra.records import LayerReport, Spectrum, Status

Float64 = npt.NDArray[np.float64]

ALGORITHM = 1
"""Raised with every change that moves an overlap: what was kept is then not found."""
MOST_DIRECTIONS = 10
MAX_SIDE = 4096
MAX_ENTRIES = 2**26
"""Larger matrices are passed over: both are held in float64, and vectors cost M³."""

TOO_LARGE = f"over {MAX_SIDE} columns or {MAX_ENTRIES // 10**6} million entries"


def is_too_large(layer: LayerReport) -> bool:
    """Tell whether a layer's singular vectors cost more than is spent on them."""
    return layer.M > MAX_SIDE or layer.N * layer.M * layer.n_matrices > MAX_ENTRIES


def directions_of(base: LayerReport) -> int:
    """Return how many leading directions of a slice are compared.

    As many as the tail of the base holds, 10 at most, and no more than half of what there is: of
    all directions any two matrices share all.
    """
    n_tail = base.metrics.get("n_tail", 0) if base.status is Status.OK else MOST_DIRECTIONS
    return min(MOST_DIRECTIONS, math.ceil(n_tail / base.n_matrices), base.M // 2)


def overlap(
    base: npt.NDArray[np.floating], other: npt.NDArray[np.floating], k: int
) -> Overlap | None:
    """Compare the leading `k` singular directions of two stacks, slice by slice.

    Parameters
    ----------
    base, other : ndarray of shape (n_matrices, rows, columns)
    k : int
        How many directions; fewer where a slice has a smaller rank.

    Returns
    -------
    Overlap or None
        Mean over the slices; None if either is zero or not finite, or there are no directions.

    Examples
    --------
    >>> w = np.diag([3.0, 2.0, 1.0, 0.5])[np.newaxis]
    >>> same = overlap(w, 2 * w, 2)
    >>> round(same.left, 6), round(same.right, 6), same.right_random
    (1.0, 1.0, 0.5)
    """
    _, rows, columns = base.shape
    lefts, rights, counts = [], [], []
    for one, two in zip(base, other, strict=True):
        found = [_leading(side, k) for side in (one, two)]
        if any(side is None for side in found):
            continue
        (u, v), (u2, v2) = (side for side in found if side is not None)
        count = min(v.shape[1], v2.shape[1])
        lefts.append(_cosines(u[:, :count], u2[:, :count]))
        rights.append(_cosines(v[:, :count], v2[:, :count]))
        counts.append(count)
    if not counts:
        return None
    directions = float(np.mean(counts))
    return Overlap(
        k=max(counts),
        left=float(np.mean(lefts)),
        right=float(np.mean(rights)),
        left_random=directions / rows,
        right_random=directions / columns,
    )


def kept_overlap(
    base: npt.NDArray[np.floating],
    other: npt.NDArray[np.floating],
    k: int,
    store: Store | None,
) -> Overlap | None:
    """Do as `overlap`, without solving what was solved before: looked up by the numbers of both stacks.

    A store keeps spectra; each number of an overlap is kept as one of a single value.
    """
    if store is None:
        return overlap(base, other, k)
    digests = {"base": _digest(base), "other": _digest(other)}
    keys = {
        name: store.key(overlap=ALGORITHM, name=name, k=k, **digests)
        for name in ("k", "left", "right", "left_random", "right_random")
    }
    found = {name: store.get(key) for name, key in keys.items()}
    values = {name: float(x.eigenvalues[0]) for name, x in found.items() if x is not None}
    if len(values) == len(keys):
        return Overlap(k=int(values.pop("k")), **values)
    shared = overlap(base, other, k)
    if shared is not None:
        for name, key in keys.items():
            value = np.array([float(getattr(shared, name))])
            store.put(key, Spectrum(value, 1, 1, 1, float(value[0]), 0.0, "overlap"))
    return shared


def _digest(stack: npt.NDArray[np.floating]) -> str:
    digest = hashlib.sha256(f"{stack.dtype.str} {stack.shape}".encode())
    digest.update(np.ascontiguousarray(stack).data)
    return digest.hexdigest()


def _cosines(one: Float64, two: Float64) -> float:
    return float(np.square(one.T @ two).sum() / one.shape[1])


def _leading(weights: npt.NDArray[np.floating], k: int) -> tuple[Float64, Float64] | None:
    """Return the leading left and right singular vectors in columns, the largest first.

    Those of the short side are eigenvectors of its Gram matrix; W times them spans those of the long
    side. Directions that rounding could have made are left out.
    """
    from scipy.linalg import eigh

    peak = float(np.abs(weights).max(initial=0.0))
    if not k or not peak or not math.isfinite(peak):
        return None
    wide = weights.shape[0] < weights.shape[1]
    tall = np.divide(weights.T if wide else weights, peak, dtype=np.float64)  # no square overflows
    M = tall.shape[1]
    values, short = eigh(tall.T @ tall, subset_by_index=(M - min(k, M), M - 1))
    kept = values > M * np.finfo(np.float64).eps * values[-1]
    short = short[:, kept][:, ::-1]
    long = np.linalg.qr(tall @ short)[0]
    return (short, long) if wide else (long, short)
