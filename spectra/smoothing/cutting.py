"""One layer cut to its tail: how much of it is kept, and the numbers put back where they lay."""

import math
from dataclasses import dataclass, replace

import numpy as np

from spectra import setol
from spectra.records import STATUS_TEXT, LayerReport, Matrix, Status
from spectra.smoothing.records import SmoothedLayer
from spectra.sources import Checkpoint, layouts
from spectra.sources.base import Array, decode, encode

ALL_KEPT = "its tail holds all of its rank"


@dataclass(frozen=True, slots=True)
class Intent:
    """A matrix, how many of its singular components are to stay, and what will be said of it then."""

    matrix: Matrix
    size: int
    layer: SmoothedLayer


def intend(matrix: Matrix, row: LayerReport, to: setol.To) -> Intent:
    """Say what is to become of a layer that was analysed; one that is to be left has a reason.

    The ERG condition needs no power law, so a layer without one can be cut to it.
    """
    enough = (Status.OK, Status.FIT_FAILED) if to == "erg" else (Status.OK,)
    reason = "" if row.status in enough else row.reason or STATUS_TEXT[row.status]
    found = row["matrix_rank"]
    size = rank = 0 if math.isnan(found) else int(found)
    kept = 1.0 if rank else math.nan
    if not reason and row.spectrum is not None and row.fit is not None:
        size = setol.tail_size(row.spectrum, row.fit, to)
        if size >= rank:
            size, reason = rank, ALL_KEPT
        else:
            values = row.spectrum.eigenvalues
            kept = float(np.sum(values[values.size - size :]) / np.sum(values))
    layer = SmoothedLayer(
        name=matrix.name,
        kind=matrix.kind,
        shape=matrix.shape,
        dtype=matrix.dtype,
        aliases=matrix.aliases,
        N=matrix.N,
        M=matrix.M,
        n_matrices=matrix.n_matrices,
        cut=not reason,
        status=row.status,
        reason=reason,
        rank_before=rank,
        rank_after=size,
        norm_kept=kept,
    )
    return Intent(matrix, size, layer)


def cut(intent: Intent, opened: Checkpoint, stored: Array) -> SmoothedLayer:
    """Cut a matrix and write it into `stored`, its tensor in the type it is stored in.

    What cannot be decomposed, or rounded without becoming infinite, is left and says so.
    """
    matrix, layer = intent.matrix, intent.layer
    try:
        slices = setol.keep_largest(layouts.read(matrix, opened), intent.size)
    except np.linalg.LinAlgError:
        return _left(layer, Status.NOT_CONVERGED, STATUS_TEXT[Status.NOT_CONVERGED])
    except MemoryError:
        return _left(layer, Status.OVER_BUDGET, STATUS_TEXT[Status.OVER_BUDGET])
    peak = encode(np.max(np.abs(slices), keepdims=True), matrix.dtype)
    if not np.all(np.isfinite(decode(peak.tobytes(), matrix.dtype, peak.shape))):
        reason = f"its truncated weights leave the range of {matrix.dtype}"
        return _left(layer, Status.OUT_OF_RANGE, reason)
    layouts.put(matrix, stored, encode(slices, matrix.dtype))
    return layer


def _left(layer: SmoothedLayer, status: Status, reason: str) -> SmoothedLayer:
    return replace(
        layer,
        cut=False,
        status=status,
        reason=reason,
        rank_after=layer.rank_before,
        norm_kept=1.0,
    )
