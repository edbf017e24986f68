"""Ranking models without test data: which metric, which order, and how sure.

Theory and evidence: Nature Communications 12 (2021), arXiv 2106.00734, docs/validation.md.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectra import saved
from spectra.analysis import Progress, analyze, part_of
from spectra.errors import CheckpointError, SelectionError, SpectraError, WeightError
from spectra.ranking.order import WITH_ORDER, check_metric, rank_reports
from spectra.ranking.records import (
    MARK_TEXT,
    Agreement,
    LeftOut,
    Mark,
    Pair,
    RankedModel,
    Ranking,
    Scores,
)
from spectra.ranking.scores import read_scores
from spectra.records import ModelReport

__all__ = [
    "MARK_TEXT",
    "WITH_ORDER",
    "Agreement",
    "LeftOut",
    "Mark",
    "Pair",
    "RankedModel",
    "Ranking",
    "Scores",
    "rank",
    "rank_reports",
    "report_of",
]


def rank(
    sources: Sequence[Any],
    *,
    by: str = "auto",
    scores: str | Path | Mapping[str, float] | None = None,
    higher_is_better: bool | None = None,
    seed: int = 0,
    allow_partial: bool = False,
    progress: Progress | None = None,
    **options: Any,  # noqa: ANN401 - those of analyze
) -> Ranking:
    """Rank models by their weights alone.

    Parameters
    ----------
    sources : sequence
        Checkpoints as `analyze` takes them, saved reports (``.json``), or records of reports.
    by : str, default: "auto"
        The metric. ``auto`` takes ``alpha`` if all models have the same layer shapes, else
        ``alpha_hat``: over depths and widths alpha misleads (Simpson's paradox, arXiv 2106.00734).
    scores : path or mapping, optional
        Known quality by model, a CSV of model, score and perhaps group, to hold the order against.
    higher_is_better : bool, optional
        Of the scores; told by the heading of their column when left out.
    seed : int, default: 0
        Seed of the analyses and of the resampling of layers.
    allow_partial : bool, default: False
        Rank incomplete models too, and mark them.
    progress : callable, optional
        Called as ``progress(done, total, name)`` after each layer, in models.
    **options
        As for `analyze`; not for saved reports, which keep their own.

    Returns
    -------
    Ranking
        A model that cannot be read or has no numbers is in ``left_out`` and takes no other with it.

    Raises
    ------
    SelectionError
        If fewer than two models can be ranked, or they were analysed by different rules.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> def model(tail):
    ...     return {f"{i}.weight": rng.standard_t(tail, (80, 60)) for i in range(9)}
    >>> ranking = rank([analyze(model(30)), analyze(model(2.5))])
    >>> ranking.metric, ranking.models[0].value < ranking.models[1].value
    ('alpha', True)
    """
    if by != "auto":
        check_metric(by, str(options.get("estimator", "csn")))
    known = None
    if isinstance(scores, str | Path):
        known = read_scores(scores)
    elif scores is not None:
        known = "score", {name: (float(value), "") for name, value in scores.items()}
    options |= {"seed": seed, "allow_partial": allow_partial}
    reports: dict[int, ModelReport] = {}
    left_out: list[LeftOut] = []
    failed: list[SpectraError] = []
    for position, source in enumerate(sources):
        part = part_of(progress, position, len(sources))
        try:
            reports[position] = report_of(source, options, part)
        except (CheckpointError, WeightError, SelectionError) as error:
            if isinstance(error, SelectionError) and error.code != "E_NO_MATCH":
                raise  # an option names nothing: no model is to blame
            failed.append(error)
            left_out.append(LeftOut(str(source), str(error).removeprefix(f"{source}: ")))
    if len(reports) < 2 and failed:
        raise CheckpointError(
            "E_TOO_FEW", "rank", f"needs two models, {len(reports)} could be read ({failed[0]})"
        )
    return rank_reports(
        list(reports.values()),
        given=[
            str(sources[i]) if isinstance(sources[i], str | Path) else report.source.address
            for i, report in reports.items()
        ],
        by=by,
        known=known,
        higher_is_better=higher_is_better,
        allow_partial=allow_partial,
        seed=seed,
        left_out=left_out,
    )


def report_of(
    source: Any,  # noqa: ANN401 - whatever users have
    options: Mapping[str, Any],
    progress: Progress | None,
) -> ModelReport:
    """Return the report of whatever users have: one is taken as it is, a saved one is read."""
    if isinstance(source, ModelReport):
        return source
    if isinstance(source, str | Path) and saved.is_report(Path(source)):
        return saved.read_report(source)
    return analyze(source, progress=progress, **options)
