"""What an analysis would take and what it would skip, from headers alone."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from spectra import conventions, engine, spectra_files
from spectra.conventions import Convention
from spectra.errors import SelectionError
from spectra.records import LayerReport, Matrix, Skipped, SourceInfo, Status
from spectra.sources import Checkpoint, layouts, open_source
from spectra.spectra_files import Kept

NOT_SELECTED = "left out by the choice of layers"


@dataclass(frozen=True, slots=True)
class Inventory:
    """What an analysis would do: the matrices it would take, and what it skips and why.

    ``kept`` holds the spectra of exactly these matrices where they come from a file of spectra.
    """

    source: SourceInfo
    matrices: tuple[Matrix, ...]
    skipped: tuple[Skipped, ...]
    kept: Kept | None = None

    @property
    def coverage(self) -> dict[str, int]:
        """How many tensors of the source would be analysed, and how many skipped."""
        return coverage_of(self.matrices, (), self.skipped)

    @property
    def operations(self) -> float:
        """Predicted floating-point operations of all decompositions."""
        return sum((engine.operations(matrix) for matrix in self.unsolved), 0.0)

    @property
    def unsolved(self) -> tuple[Matrix, ...]:
        """The matrices whose spectra are to be computed."""
        return self.matrices if self.kept is None else ()

    def plan(self, *, device: str = "cpu", precision: engine.Precision = "double") -> engine.Plan:
        """How the decompositions would run on this machine: routes, seconds and bytes predicted."""
        machine = engine.this_machine(device)
        return engine.make_plan(self.unsolved, machine=machine, precision=precision)


def describe(
    source: Any,  # noqa: ANN401 - whatever open_source takes
    *,
    convention: str = "htsr",
    layers: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    conv: conventions.Conv = "slices",
    base: Any = None,  # noqa: ANN401
    allow_partial: bool = False,
) -> Inventory:
    """Say what an analysis would take and what it would skip, from headers alone.

    Parameters
    ----------
    source, convention, layers, exclude, conv, base, allow_partial
        As for `analyze`.

    Returns
    -------
    Inventory
    """
    rules = conventions.named(convention, conv=conv)
    opened = open_source(source, base=base, allow_partial=allow_partial)
    return take_stock(opened, rules, as_tuple(layers), as_tuple(exclude))


def take_stock(
    source: Checkpoint, rules: Convention, layers: Sequence[str], exclude: Sequence[str]
) -> Inventory:
    """List the matrices of an opened source that patterns choose, and all that is left out.

    Raises
    ------
    SelectionError
        If a pattern matches no layer, or a file of spectra was cut by other rules.
    """
    kept = spectra_files.read(source) if spectra_files.is_kept(source.source) else None
    matrices: Sequence[Matrix]
    skipped: Sequence[Skipped]
    if kept is None:
        matrices, skipped = layouts.matrices_of(source.tensors, rules, config=source.config)
    else:
        spectra_files.check_cut(kept, rules)
        matrices, skipped = kept.matrices, kept.skipped
    for pattern in (*layers, *exclude):
        if not any(_matches(matrix, [pattern]) for matrix in matrices):
            raise SelectionError(
                "E_NO_MATCH",
                pattern,
                f"matches none of the {len(matrices)} layers",
                f"names look like {', '.join(matrix.name for matrix in matrices[:2])}",
            )
    chosen = [
        matrix
        for matrix in matrices
        if (not layers or _matches(matrix, layers)) and not _matches(matrix, exclude)
    ]
    names = {matrix.name for matrix in chosen}
    counted = {matrix.tensor for matrix in chosen}
    left_out = []
    for matrix in matrices:
        if matrix.name not in names:
            # of a tensor in parts, the first part left out stands for it, unless others are taken
            count = 0 if matrix.tensor in counted else 1
            left_out.append(Skipped(matrix.name, matrix.shape, NOT_SELECTED, count))
            counted.add(matrix.tensor)
    skipped = (*skipped, *source.ignored, *left_out)
    if kept is None:
        return Inventory(source.info, tuple(chosen), skipped)
    outcomes = dict(zip(matrices, kept.outcomes, strict=True))
    kept = replace(
        kept, matrices=tuple(chosen), outcomes=tuple(outcomes[matrix] for matrix in chosen)
    )
    return Inventory(kept.source, kept.matrices, skipped, kept)


def coverage_of(
    matrices: Sequence[Matrix], rows: Sequence[LayerReport], skipped: Sequence[Skipped]
) -> dict[str, int]:
    """Count the tensors of a source: those analysed, those none of whose matrices could be, the rest.

    Parameters
    ----------
    matrices : sequence of Matrix
        Those taken.
    rows : sequence of LayerReport
        What became of them; before an analysis all count as analysed.
    skipped : sequence of Skipped
    """
    taken = {matrix.tensor for matrix in matrices}
    good = {row.tensor for row in rows if row.status is Status.OK} if rows else taken
    left = sum(item.count for item in skipped)
    counts = {"analysed": len(good), "failed": len(taken - good), "skipped": left}
    return {"tensors": sum(counts.values()), **counts}


def _matches(matrix: Matrix, patterns: Sequence[str]) -> bool:
    names = (matrix.name, *matrix.aliases)
    wholes = [layouts.whole_name(name) for name in names]  # 'c_attn' means its q, k and v
    forms = (*names, *wholes, *(whole.removesuffix(".weight") for whole in wholes))
    return any(
        form == pattern or fnmatch.fnmatchcase(form, pattern)  # names may hold brackets
        for form in forms
        for pattern in patterns
    )


def as_tuple(patterns: str | Sequence[str]) -> tuple[str, ...]:
    """Take one pattern or several."""
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)
