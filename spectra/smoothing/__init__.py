"""smooth(): a copy of a checkpoint whose weights are cut to their effective correlation space.

SETOL's truncation (arXiv 2507.17912, section 6.2) as a file: each matrix is replaced by its singular
value decomposition cut to the tail that `setol.tail_size` names, and every other tensor is copied byte
by byte. See docs/decisions/0030-smoothed-copies.md.
"""

import glob
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import spectra
from spectra import conventions, engine, setol
from spectra.analysis import NOT_AVERAGED, Progress, analyze
from spectra.errors import unknown_name
from spectra.inventory import as_tuple, take_stock
from spectra.records import Matrix, Skipped, Tensor
from spectra.smoothing import files
from spectra.smoothing.cutting import Intent, cut, intend
from spectra.smoothing.records import Smoothed, SmoothedLayer
from spectra.sources import Checkpoint, open_source
from spectra.sources.base import Array
from spectra.sources.safetensors_files import SafetensorsFile
from spectra.store import Store
from spectra.writing import whole

__all__ = ["Smoothed", "SmoothedLayer", "smooth"]

VECTORS = 8
"""A decomposition with vectors costs about so many without: only for the progress that is shown."""


def smooth(
    source: Any,  # noqa: ANN401 - whatever open_source takes
    out: str | Path,
    *,
    to: setol.To = "erg",
    layers: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    convention: str = "htsr",
    conv: conventions.Conv = "slices",
    store: Store | None = None,
    progress: Progress | None = None,
) -> Smoothed:
    """Write a copy of a checkpoint with each matrix cut to its effective correlation space.

    Parameters
    ----------
    source : path, torch.nn.Module or Mapping
        safetensors (a file, a folder, shards), a torch or NumPy file, a module, a dict of arrays.
    out : path
        A file in ``.safetensors``, or a folder that is made. It must not be there yet.
    to : {"erg", "power_law", "midpoint"}
        Which tail is kept, see `setol.tail_size`.
    layers, exclude : str or sequence of str
        Glob patterns as for `analyze`. Embeddings and output heads are left unless `layers` names
        them.
    convention, conv, store
        As for `analyze`: the rules by which the tail is found.
    progress : callable, optional
        Called as ``progress(done, total, name)`` after each layer.

    Returns
    -------
    Smoothed
        Layers without the tail that is asked for are left to the byte, with the reason.

    Raises
    ------
    CheckpointError
        If the source cannot be read, is quantised, computed from other tensors, far away or of a format
        that is more than named tensors; if `out` is taken or cannot be written.
    SelectionError
        If a name or pattern fits nothing, or `out` does not fit the source.
    AnalysisInterrupted, KeyboardInterrupt
        On Ctrl-C; nothing is then left under the name of `out`.

    Notes
    -----
    W is replaced by Σ σ u vᵀ over λ = σ² of the tail, in float64, rounded once to the type it is stored
    in. The slices of a convolution share one threshold, that of their pooled spectrum. Tied tensors
    are cut alike. arXiv 2507.17912, section 6.2.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> weights = np.random.default_rng(0).standard_t(3, (100, 60))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     copy = smooth({"fc.weight": weights}, f"{folder}/erg.safetensors")
    >>> copy["fc"].cut, copy["fc"].rank_before, copy["fc"].rank_after
    (True, 60, 47)
    """
    if to not in get_args(setol.To):
        raise unknown_name(to, "tail", get_args(setol.To))
    rules = conventions.named(convention, conv=conv)
    layers, exclude = as_tuple(layers), as_tuple(exclude)
    opened, place = open_source(source), Path(out)
    files.check_source(opened)
    files.check_place(place, opened, source)
    stock = take_stock(opened, rules, layers, exclude)
    left = () if layers else tuple(m for m in stock.matrices if m.kind in NOT_AVERAGED)
    report = analyze(
        opened,
        convention=convention,
        conv=conv,
        layers=layers,
        exclude=(*exclude, *(glob.escape(matrix.name) for matrix in left)),
        replicates=0,
        store=store,
        progress=_beginning(progress),
    )
    matrices = {matrix.name: matrix for matrix in stock.matrices}
    intents = [intend(matrices[row.name], row, to) for row in report.layers]
    rules_told = {"to": to, "convention": convention, "conv": conv}
    plan = files.weight_files(opened, {**rules_told, "spectra_version": spectra.__version__})
    cutter = _Cutter(opened, intents, progress)
    written = _write(place, plan, cutter, opened, files.home_of(opened, source))
    outcomes = tuple(cutter.outcomes)
    return Smoothed(
        source=opened.info.address,
        out=str(place),
        files=written,
        notes=_notes(opened, plan, outcomes),
        options={**rules_told, "layers": layers, "exclude": exclude},
        layers=outcomes,
        skipped=(*stock.skipped, *map(_as_skipped, left)),
    )


class _Cutter:
    """Cuts tensors as they come by, the same numbers under every name that they are tied to."""

    def __init__(
        self, opened: Checkpoint, intents: Sequence[Intent], progress: Progress | None
    ) -> None:
        self.outcomes = [intent.layer for intent in intents]
        self._opened = opened
        self._intents = intents
        self._progress = progress
        self._positions: dict[object, list[int]] = defaultdict(list)
        place = {tensor.name: tensor.storage or tensor.name for tensor in opened.tensors}
        for position, intent in enumerate(intents):
            if intent.layer.cut:
                self._positions[place[intent.matrix.tensor]].append(position)
        self._seconds = [engine.seconds(intent.matrix) for intent in intents]
        self._total = sum(self._seconds) * (1 + VECTORS)
        self._done = self._total - VECTORS * sum(
            seconds for seconds, i in zip(self._seconds, intents, strict=True) if i.layer.cut
        )

    def __call__(self, tensor: Tensor, stored: Array) -> None:
        for position in self._positions.get(tensor.storage or tensor.name, ()):
            intent = self._intents[position]
            self.outcomes[position] = cut(intent, self._opened, stored)
            self._done = min(self._done + VECTORS * self._seconds[position], self._total)
            if self._progress:
                self._progress(self._done, self._total, intent.matrix.name)


def _beginning(progress: Progress | None) -> Progress | None:
    """Turn the progress of the analysis into that of the first part of the work."""
    if progress is None:
        return None
    return lambda done, total, name: progress(done, total * (1 + VECTORS), name)


def _write(
    place: Path,
    plan: Sequence[files.WeightFile],
    cutter: _Cutter,
    opened: Checkpoint,
    home: Path | None,
) -> tuple[str, ...]:
    """Write the copy beside its place, then move it there; return its files."""
    try:
        with whole(place) as temporary:
            if files.is_file(place):
                files.write(temporary, plan[0], cutter)
                return (place.name,)
            temporary.mkdir()
            beside = files.write_beside(temporary, home)
            for file in plan:
                files.write(temporary / file.name, file, cutter)
            index = files.write_index(temporary, plan, opened)
    except OSError as error:
        raise files.cannot_write(place, error) from error
    return (*(file.name for file in plan), *index, *beside)


def _notes(
    opened: Checkpoint, plan: Sequence[files.WeightFile], layers: Sequence[SmoothedLayer]
) -> tuple[str, ...]:
    """Return what the source has to say, and what a user of the copy should know."""
    notes = list(opened.info.notes)
    if not all(isinstance(file.source, SafetensorsFile) for file in plan):
        notes.append(f"{opened.info.format} written as safetensors, under the same names")
    if opened.ignored:
        notes.append(f"{len(opened.ignored)} things beside the weights are not in the copy")
    half = sorted({x.dtype for x in layers if x.cut} & {"bfloat16", "float16"})
    if half:
        notes.append(
            f"rounding to {' and '.join(half)} puts noise back in all directions:"
            " counted anew, the ranks are full"
        )
    return tuple(notes)


def _as_skipped(matrix: Matrix) -> Skipped:
    what = "embedding" if matrix.kind == "embedding" else "output head"
    return Skipped(matrix.name, matrix.shape, f"{what}, left unless named")
