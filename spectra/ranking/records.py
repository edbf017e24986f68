"""What a ranking says: frozen records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from spectra.records import ModelReport, Value

if TYPE_CHECKING:
    import pandas as pd


class Mark(StrEnum):
    """Why a model's place in a ranking is to be doubted."""

    BROKEN = "broken"
    OVER_TRAINED = "over_trained"
    MOSTLY_RANDOM_LIKE = "mostly_random_like"
    FEW_LAYERS = "few_layers"
    MIXED_FORMATS = "mixed_formats"
    LAYERS_FAILED = "layers_failed"
    INCOMPLETE = "incomplete"


MARK_TEXT: Mapping[Mark, str] = {
    Mark.BROKEN: "layers hold NaN or infinite weights; placed after the others",
    Mark.OVER_TRAINED: "layers lie below alpha 2, where lower is not better; placed after the others",
    Mark.MOSTLY_RANDOM_LIKE: "most layers are like random weights; placed after the others",
    Mark.FEW_LAYERS: "fewer than 8 layers to compare: intervals are wide",
    Mark.MIXED_FORMATS: "dequantised from other formats than its rivals, which moves its exponents",
    Mark.LAYERS_FAILED: "a tenth or more of its layers have no numbers",
    Mark.INCOMPLETE: "files of it are missing, or its analysis was interrupted",
}

SET_ASIDE = frozenset({Mark.BROKEN, Mark.OVER_TRAINED, Mark.MOSTLY_RANDOM_LIKE})
"""Marks of models that are placed after all others and never called best, whatever the metric says."""


@dataclass(frozen=True, slots=True)
class RankedModel:
    """One model in a ranking.

    Attributes
    ----------
    source : str
        Where it came from.
    name : str
        What it is called in the table: the shortest name that tells it from the others.
    group : str
        Models of one group have the same layer shapes and are compared layer by layer.
    rank, rank_low, rank_high : int
        Place, 1 is best, and a 95 % interval.
    value, value_low, value_high : float
        The metric, typical over the layers (`statistics.typical`), and a 95 % interval; NaN where one
        layer gives no interval.
    mean : float
        The plain mean over the same layers.
    n_layers : int
        How many layers that is.
    summary : mapping
        The summary of the model's report.
    warnings : tuple of Mark
    """

    source: str
    name: str
    group: str
    rank: int
    rank_low: int
    rank_high: int
    value: float
    value_low: float
    value_high: float
    mean: float
    n_layers: int
    summary: Mapping[str, Value] = field(repr=False)
    warnings: tuple[Mark, ...] = ()

    @property
    def is_set_aside(self) -> bool:
        """Whether a mark places it after the others."""
        return bool(SET_ASIDE & set(self.warnings))


@dataclass(frozen=True, slots=True)
class Pair:
    """How probable it is that model `a` is better than `b`; `paired` if compared layer by layer.

    NaN where one layer cannot tell, and where one of the two alone is set aside by a mark: it comes
    after the other whatever the metric says.
    """

    a: str
    b: str
    p_a_better: float
    paired: bool


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A model that is not ranked, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well the order by one metric agrees with known scores, in one group of models or all.

    Positive: what the metric calls better has the better score. Intervals say how far the numbers move
    with the layers; `p_value` (two-sided, exact for few models without ties) how often chance does as
    well with as few models.
    """

    metric: str
    group: str
    n_models: int
    tau: float
    tau_low: float
    tau_high: float
    p_value: float
    spearman: float
    spearman_low: float
    spearman_high: float
    r_squared: float
    r_squared_low: float
    r_squared_high: float


@dataclass(frozen=True, slots=True)
class Scores:
    """Known scores of the ranked models, and how the metrics agree with them.

    `assumed`: nothing told which scores are better, and higher ones were taken to be.
    ``values`` and ``groups`` are by model name; `paradox` says in a sentence where models pooled
    and models within groups disagree (Simpson's paradox), or nothing.
    """

    label: str
    higher_is_better: bool
    values: Mapping[str, float]
    groups: Mapping[str, str]
    agreements: tuple[Agreement, ...]
    paradox: str = ""
    assumed: bool = False


@dataclass(frozen=True, slots=True)
class Ranking:
    """The result of ``rank``: models best first, how sure each comparison is, and why this metric.

    ``reports`` are the analyses it was made from, in the order of `models`.
    """

    metric: str
    why: str
    models: tuple[RankedModel, ...]
    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...]
    options: Mapping[str, object]
    scores: Scores | None = None
    reports: tuple[ModelReport, ...] = field(default=(), repr=False, compare=False)

    @property
    def best(self) -> RankedModel | None:
        """The first model, unless it is set aside: broken, over-trained, or like random weights."""
        first = self.models[0]
        return None if first.is_set_aside else first

    def p_better(self, a: str, b: str) -> float:
        """Return how probable it is that model `a` is better than model `b`, by their names."""
        for pair in self.pairs:
            if (pair.a, pair.b) == (a, b):
                return pair.p_a_better
            if (pair.a, pair.b) == (b, a):
                return 1.0 - pair.p_a_better
        raise KeyError((a, b))

    def to_pandas(self) -> "pd.DataFrame":
        """Return the models as a pandas frame, best first: `spectra.reports.frames`."""
        from spectra import reports

        return reports.frames.to_pandas(reports.frames.ranking_table(self))

    def _repr_html_(self) -> str:
        from spectra import reports

        return reports.ranking_html_table(self)
