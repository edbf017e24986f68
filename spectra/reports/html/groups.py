"""What a page shows as one: a layer, or in large models the experts of one stack."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spectra.naming import Role, role_of
from spectra.records import Finding, LayerReport, ModelReport, Status
from spectra.verdicts import DOUBTS

MANY_LAYERS = 300
_EXPERT = re.compile(r"(?i)(experts?[._/])\d+(?=[._/])")
_IN_STACK = re.compile(r"\[\d+(?=[,\]])")


@dataclass(frozen=True, slots=True)
class Entry:
    """Layers shown as one, each with its place in the report; mostly a single one."""

    name: str
    members: tuple[tuple[int, LayerReport], ...]

    @property
    def position(self) -> int:
        """Place of the first member in the report."""
        return self.members[0][0]

    @property
    def href(self) -> str:
        """Link to the row of the table."""
        return f"#layer-{self.position + 1}"

    @property
    def layer(self) -> LayerReport:
        """The first member, which stands for what all have in common: kind, shape, role."""
        return self.members[0][1]

    @property
    def fitted(self) -> tuple[LayerReport, ...]:
        """The members that have numbers."""
        return tuple(layer for _, layer in self.members if layer.status is Status.OK)

    @property
    def role(self) -> Role:
        """What the members do in the network."""
        return role_of(self.layer.name, self.layer.kind)

    @property
    def is_judged(self) -> bool:
        """Whether at least half of the fitted members have numbers that can be believed."""
        doubtful = sum(bool(DOUBTS & set(layer.warnings)) for layer in self.fitted)
        return 2 * doubtful <= len(self.fitted) and bool(self.fitted)

    def value(self, metric: str) -> float:
        """Return the layer's number, or the median over the fitted members."""
        if len(self.members) == 1:
            return float(self.layer.metrics.get(metric, math.nan))
        values = [layer.metrics.get(metric, math.nan) for layer in self.fitted]
        values = [value for value in values if math.isfinite(value)]
        return float(np.median(values)) if values else math.nan

    def interval(self) -> tuple[float, float]:
        """Return the interval of alpha, or the tenth and ninetieth percentile over the members."""
        if len(self.members) == 1:
            return self.value("alpha_low"), self.value("alpha_high")
        values = [layer.metrics.get("alpha", math.nan) for layer in self.fitted]
        if not values or not all(map(math.isfinite, values)):
            return math.nan, math.nan
        low, high = np.quantile(values, [0.1, 0.9])
        return float(low), float(high)


def stack_of(layer: LayerReport) -> str:
    """Return the name of the stack of experts a layer belongs to, or nothing.

    The index of the expert becomes ``*``; other numbers stay.
    """
    name, n = _EXPERT.subn(r"\1*", layer.name)
    if not n and "expert" in layer.layout:
        name, n = _IN_STACK.subn("[*", layer.name)
    return name if n else ""


def entries_of(report: ModelReport, *, most: int = MANY_LAYERS) -> tuple[Entry, ...]:
    """Return what is shown as one: every layer, or with more than `most` of them experts together.

    Entries are in checkpoint order, each where its first member is.
    """
    together = len(report.layers) > most
    members: dict[tuple[str, int], list[tuple[int, LayerReport]]] = {}
    for position, layer in enumerate(report.layers):
        stack = stack_of(layer) if together else ""
        members.setdefault((stack, -1) if stack else ("", position), []).append((position, layer))
    return tuple(
        Entry(stack if len(found) > 1 else found[0][1].name, tuple(found))
        for (stack, _), found in members.items()
    )


def has_band(entries: Sequence[Entry]) -> bool:
    """Tell whether the band from 2 to 6 means anything for these exponents: not for all estimators."""
    return not any(Finding.NO_BAND in layer.warnings for e in entries for _, layer in e.members)
