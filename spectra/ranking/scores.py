"""Known scores of models: read from CSV, matched by name, held against the order the weights give."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from spectra.errors import CheckpointError, SelectionError
from spectra.ranking import statistics
from spectra.ranking.records import Agreement
from spectra.records import Vector

POOLED = "all models"
WITHIN = "within groups"
LOWER = frozenset(
    [
        *("err", "error", "errors", "loss", "losses", "perplexity", "ppl", "nll", "wer", "cer"),
        *("rmse", "mse", "mae", "bpc", "bpb", "bits", "fid", "distance", "divergence"),
    ]
)
HIGHER = frozenset(
    [
        *("score", "scores", "accuracy", "acc", "top", "precision", "recall", "agreement"),
        *("f", "bleu", "rouge", "map", "auc", "auroc", "iou", "miou", "recovery", "reward", "pass"),
    ]
)
WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
ENDINGS = re.compile(r"[-_. ]")
MAX_BYTES = 2**24

Known: TypeAlias = Mapping[str, tuple[float, str]]


def read_scores(path: str | Path) -> tuple[str, Known]:
    """Read a CSV of model, score and, if there is a third column, group.

    Returns
    -------
    label : str
        The heading of the second column; ``score`` where the file has no headings.
    known : mapping of name to (score, group)

    Raises
    ------
    CheckpointError
        If it cannot be read, a score is no number, or a model comes twice.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _bad(path, "it is larger than 16 MiB")
        text = path.read_text("utf-8-sig")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError("E_UNREADABLE", str(path), f"cannot be read ({reason})") from None
    except ValueError:
        raise _bad(path, "it is not text in UTF-8") from None
    try:
        rows = [
            (number, [cell.strip() for cell in row])
            for number, row in enumerate(csv.reader(io.StringIO(text), strict=True), start=1)
            if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise _bad(path, str(error)) from None
    label = "score"
    if rows and len(rows[0][1]) > 1 and _number(rows[0][1][1]) is None:
        label = rows.pop(0)[1][1] or label
    known: dict[str, tuple[float, str]] = {}
    for number, row in rows:
        value = _number(row[1]) if len(row) > 1 else None
        if value is None or not math.isfinite(value):
            raise _bad(path, f"line {number} holds no score")
        if row[0] in known:
            raise _bad(path, f"line {number} names {row[0]!r} a second time")
        known[row[0]] = value, row[2] if len(row) > 2 else ""
    if not known:
        raise _bad(path, "it holds no scores")
    return label, known


def is_higher_better(label: str) -> bool | None:
    """Tell by the words of a score's name which end is good; None where none of them says it.

    Examples
    --------
    >>> is_higher_better("top-1 accuracy"), is_higher_better("val_ppl"), is_higher_better("testWER")
    (True, False, False)
    >>> is_higher_better("result") is None
    True
    """
    words = {word.lower() for word in (*WORDS.findall(label), *re.findall("[A-Za-z]+", label))}
    if words & LOWER:
        return False
    return True if words & HIGHER else None


def matched(known: Known, models: Mapping[str, Sequence[str]], where: str) -> dict[str, str]:
    """Say which entry of the scores is meant for each model.

    Parameters
    ----------
    known : mapping
        From `read_scores`.
    models : mapping of name to sequence of str
        Everything a model is called: its name in the table, its file, its file without ending.
    where : str
        Named in the error.

    Returns
    -------
    dict of model name to entry
        An entry fits if it is one of the names, or else a whole beginning of one: ``resnet20`` fits
        ``resnet20-12fca82f.th``.

    Raises
    ------
    SelectionError
        If a model has no score, or two models have the same entry.
    """
    found: dict[str, str] = {}
    for model, names in models.items():
        exact = [entry for entry in known if entry in names]
        begins = [
            entry
            for entry in known
            if any(n.startswith(entry) and ENDINGS.match(n[len(entry) :]) for n in names)
        ]
        fits = exact or sorted(begins, key=len)[-1:]
        if not fits:
            raise SelectionError(
                "E_SCORES",
                where,
                f"has no score for {model}",
                f"its models: {', '.join(list(known)[:6])}",
            )
        found[model] = fits[0]
    for entry in known:
        twice = [model for model, its in found.items() if its == entry]
        if len(twice) > 1:
            raise SelectionError(
                "E_SCORES", where, f"its {entry!r} fits {' and '.join(twice)}", "name them in full"
            )
    return found


def agreement(
    metric: str,
    group: str,
    goodness: Vector,
    drawn: Vector,
    scores: Vector,
) -> Agreement:
    """Hold the order a metric gives against scores.

    Parameters
    ----------
    metric, group : str
    goodness : ndarray of shape (n_models,)
        The metric, turned so that higher is better.
    drawn : ndarray of shape (n, n_models)
        Its replicates, turned the same way.
    scores : ndarray of shape (n_models,)
        Turned so that higher is better.
    """
    here = goodness[None, :]
    squares = statistics.pearson(drawn, scores) ** 2
    return Agreement(
        metric,
        group,
        scores.size,
        float(statistics.kendall(here, scores)[0]),
        *statistics.interval(statistics.kendall(drawn, scores)),
        statistics.chance_of(goodness, scores),
        float(statistics.spearman(here, scores)[0]),
        *statistics.interval(statistics.spearman(drawn, scores)),
        float(statistics.pearson(here, scores)[0] ** 2),
        *statistics.interval(squares),
    )


def within(parts: Sequence[Agreement], metric: str) -> Agreement:
    """Average the agreements of several groups, weighted by their pairs of models."""
    weights = [part.n_models * (part.n_models - 1) for part in parts]
    names = ("tau", "spearman", "r_squared")
    means = {name: np.average([getattr(p, name) for p in parts], weights=weights) for name in names}
    nothing = {f"{name}_{end}": math.nan for name in names for end in ("low", "high")}
    return Agreement(
        metric=metric,
        group=WITHIN,
        n_models=sum(part.n_models for part in parts),
        p_value=math.nan,
        **{name: float(value) for name, value in means.items()},
        **nothing,
    )


def paradox_in(agreements: Sequence[Agreement], metric: str) -> str:
    """Say where models pooled and models within groups disagree, or nothing."""
    pooled = [a.tau for a in agreements if (a.metric, a.group) == (metric, POOLED)]
    inside = [a.tau for a in agreements if (a.metric, a.group) == (metric, WITHIN)]
    if not pooled or not inside or not pooled[0] * inside[0] < 0:
        return ""
    better = "within groups" if inside[0] > 0 else "over all models, and not within groups"
    return (
        f"Simpson's paradox: tau of {metric} is {pooled[0]:+.2f} over all models and"
        f" {inside[0]:+.2f} within groups; use it {better}"
    )


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%"))
    except ValueError:
        return None


def _bad(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        "E_SCORES", str(path), f"is no table of scores: {reason}", "write lines of model,score"
    )
