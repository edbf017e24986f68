"""Comparing two models layer by layer: what changed, by how much, and what kind of change it is.

The rules and their thresholds: docs/decisions/0021-comparing.md.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from spectra import conventions, saved, spectra_files
from spectra.analysis import Progress, analyze, part_of
from spectra.comparable import COMPARABLE, check_same_rules
from spectra.comparing import kinds
from spectra.comparing.deltas import delta_of, delta_source
from spectra.comparing.matching import Pair, match
from spectra.comparing.records import (
    CHANGE_TEXT,
    Change,
    Comparison,
    Delta,
    Group,
    LayerChange,
    OtherShape,
    Overlap,
    Unmatched,
)
from spectra.comparing.rows import groups_of, layer_change, summarise
from spectra.comparing.subspaces import TOO_LARGE, directions_of, is_too_large, kept_overlap
from spectra.errors import CheckpointError
from spectra.inventory import describe
from spectra.records import LayerReport, Matrix, ModelReport
from spectra.sources import Checkpoint, layouts, open_source

__all__ = [
    "CHANGE_TEXT",
    "Change",
    "Comparison",
    "Delta",
    "Group",
    "LayerChange",
    "OtherShape",
    "Overlap",
    "Unmatched",
    "compare",
]

OF_LAYERS = ("convention", "layers", "exclude", "conv")
STEPS = 4  # of progress: base, other, their difference, subspaces


def compare(
    base: Any,  # noqa: ANN401 - whatever open_source takes
    other: Any,  # noqa: ANN401
    *,
    subspaces: bool = True,
    allow_partial: bool = False,
    progress: Progress | None = None,
    **options: Any,  # noqa: ANN401 - those of analyze
) -> Comparison:
    """Compare two models layer by layer.

    Parameters
    ----------
    base, other : path, torch.nn.Module, Mapping or ModelReport
        Checkpoints as `analyze` takes them, saved reports (``.json``), or records of reports. Of
        reports only numbers are compared; everything about ΔW needs the weights of both.
    subspaces : bool, default: True
        Also compare leading singular subspaces; costs about as much as everything else.
    allow_partial : bool, default: False
        Take folders from which shards are missing.
    progress : callable, optional
        Called as ``progress(done, total, name)`` after each layer, in four equal steps.
    **options
        As for `analyze`; not for saved reports, which keep their own. ``layers`` and ``exclude``
        are held against the names of both models.

    Returns
    -------
    Comparison

    Raises
    ------
    SpectraError
        If a model cannot be read, or the two were analysed by different rules.

    Examples
    --------
    >>> import numpy as np
    >>> weights = {"fc.weight": np.random.default_rng(0).standard_t(3, (80, 60))}
    >>> compare(weights, {"fc.weight": 1.5 * weights["fc.weight"]}).change.value
    'rescaled'
    """
    sides = [_opened(side, allow_partial=allow_partial) for side in (base, other)]
    reports = [
        side
        if isinstance(side, ModelReport)
        else analyze(side, progress=part_of(progress, step, STEPS), **options)
        for step, side in enumerate(sides)
    ]
    check_same_rules(reports, COMPARABLE)
    matching = match(reports[0].layers, reports[1].layers)
    notes = [*matching.notes]
    found: dict[str, Delta] = {}
    overlaps: dict[str, Overlap] = {}
    before, after = sides
    if _has_weights(before) and _has_weights(after):
        part = part_of(progress, 2, STEPS)
        found = _deltas(before, after, matching.pairs, options, part)
        if subspaces:
            part = part_of(progress, 3, STEPS)
            overlaps, large = _overlaps(before, after, matching.pairs, found, options, part)
            if large:
                notes.append(f"subspaces not compared of {large} layers {TOO_LARGE}")
    else:
        notes.append("numbers alone are compared: saved reports and spectra hold no weights")
    layers = tuple(
        layer_change(pair, found.get(pair[0].name), overlaps.get(pair[0].name))
        for pair in matching.pairs
    )
    change, verdict = kinds.judge(layers)
    for item in (*matching.only_in_base, *matching.only_in_other):
        verdict += f" {item.name} has no partner: {item.reason}." if item.reason else ""
    return Comparison(
        base=reports[0].source.address,
        other=reports[1].source.address,
        change=change,
        verdict=verdict,
        summary=summarise(layers, reports),
        layers=layers,
        groups=groups_of(layers),
        only_in_base=matching.only_in_base,
        only_in_other=matching.only_in_other,
        other_shape=matching.other_shape,
        notes=tuple(notes),
        options={**reports[0].options, "subspaces": subspaces},
        reports=tuple(reports),
    )


def _opened(
    side: Any,  # noqa: ANN401 - whatever users have
    *,
    allow_partial: bool,
) -> ModelReport | Checkpoint:
    if isinstance(side, ModelReport):
        return side
    if isinstance(side, str | Path) and saved.is_report(Path(side)):
        return saved.read_report(side)
    return open_source(side, allow_partial=allow_partial)


def _has_weights(side: ModelReport | Checkpoint) -> TypeGuard[Checkpoint]:
    return isinstance(side, Checkpoint) and not spectra_files.is_kept(side.source)


def _deltas(
    base: Checkpoint,
    other: Checkpoint,
    pairs: Sequence[Pair],
    options: Mapping[str, Any],
    progress: Progress | None,
) -> dict[str, Delta]:
    """Analyze ΔW of the matched layers as a model of its own."""
    if not pairs:
        return {}
    source = delta_source(base, other, pairs)
    report = analyze(source, progress=progress, **options)
    rules = conventions.named(
        str(report.options["convention"]),
        conv="flatten" if report.options["conv"] == "flatten" else "slices",
    )
    rows = {_place(row): row for row in report.layers}
    stock = describe(source, **{key: options[key] for key in OF_LAYERS if key in options})
    matrices = {_place(matrix): matrix for matrix in stock.matrices}
    found: dict[str, Delta] = {}
    for pair in pairs:
        place = _place(pair[0])
        delta = place in rows and delta_of(rows[place], pair, matrices[place], source, rules)
        if delta:
            found[pair[0].name] = delta
    return found


def _place(layer: LayerReport | Matrix) -> tuple[str, str]:
    """Return which tensor a layer is of, and which part of it."""
    return layer.tensor, layer.name.removeprefix(layouts.whole_name(layer.name))


def _overlaps(
    base: Checkpoint,
    other: Checkpoint,
    pairs: Sequence[Pair],
    deltas: Mapping[str, Delta],
    options: Mapping[str, Any],
    progress: Progress | None,
) -> tuple[dict[str, Overlap], int]:
    """Compare subspaces layer by layer; also count the layers that are too large."""
    chosen = {key: options[key] for key in OF_LAYERS if key in options}
    mine, theirs = (
        {matrix.name: matrix for matrix in describe(side, **chosen).matrices}
        for side in (base, other)
    )
    found: dict[str, Overlap] = {}
    n_too_large = 0
    for done, (before, after) in enumerate(pairs, start=1):
        if before.name not in deltas or deltas[before.name].squared_norm == 0:
            continue
        if is_too_large(before):
            n_too_large += 1
            continue
        try:
            one = layouts.read(mine[before.name], base)
            two = layouts.read(theirs[after.name], other)
        except (CheckpointError, OSError):
            continue  # read once and no more: the layer's other numbers stand
        shared = kept_overlap(one, two, directions_of(before), options.get("store"))
        if shared is not None:
            found[before.name] = shared
        if progress:
            progress(done, len(pairs), before.name)
    return found, n_too_large
