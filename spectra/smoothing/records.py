"""What came of smoothing a checkpoint: frozen, and plain data but for look-up by name."""

from collections.abc import Mapping
from dataclasses import dataclass

from spectra.errors import unknown_name
from spectra.records import Kind, Skipped, Status


@dataclass(frozen=True, slots=True)
class SmoothedLayer:
    """One layer of the copy: cut, or left to the byte for the ``reason``.

    ``rank_before`` and ``rank_after`` count the singular components above the rounding of float32,
    over all slices, and ``norm_kept`` is the share of ‖W‖²_F in those that stayed: 0 and NaN where the
    layer has no spectrum. ``status`` is that of its analysis.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    aliases: tuple[str, ...]
    N: int
    M: int
    n_matrices: int
    cut: bool
    status: Status
    reason: str
    rank_before: int
    rank_after: int
    norm_kept: float


@dataclass(frozen=True, slots=True, repr=False)
class Smoothed:
    """The result of ``smooth``: where the copy is, what was cut in it, and what was left as it was.

    ``files`` are those written, as paths below ``out``; one alone if that is a file itself.
    """

    source: str
    out: str
    files: tuple[str, ...]
    notes: tuple[str, ...]
    options: Mapping[str, object]
    layers: tuple[SmoothedLayer, ...]
    skipped: tuple[Skipped, ...]

    @property
    def n_cut(self) -> int:
        """How many layers were cut."""
        return sum(layer.cut for layer in self.layers)

    def __getitem__(self, layer: str) -> SmoothedLayer:
        for found in self.layers:
            if layer in (found.name, found.name.removesuffix(".weight"), *found.aliases):
                return found
        raise unknown_name(layer, "layer", [found.name for found in self.layers])

    def __repr__(self) -> str:
        return f"<Smoothed copy of {self.source}: {self.n_cut} of {len(self.layers)} layers cut>"
