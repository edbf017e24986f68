"""From reports to a ranking: groups of one architecture, the metric, the order, how sure it is."""

import dataclasses
import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from spectra import tails
from spectra.comparable import COMPARABLE, check_same_rules
from spectra.errors import SelectionError, unknown_name
from spectra.metrics import METRICS
from spectra.ranking import scores as held_against
from spectra.ranking import statistics
from spectra.ranking.groups import grouped
from spectra.ranking.records import (
    SET_ASIDE,
    Agreement,
    LeftOut,
    Mark,
    Pair,
    RankedModel,
    Ranking,
    Scores,
)
from spectra.records import Finding, ModelReport, Status, Vector, Verdict

WITH_ORDER = tuple(name for name, metric in METRICS.items() if metric.better)
"""Metrics of which it is known which end is that of better models."""

OF_ALPHA = ("alpha", "alpha_hat", "log_alpha_norm")
SAME_RULES = (*COMPARABLE, "layers", "exclude")
FEW_LAYERS = 8
OVER_TRAINED_SHARE = 0.1
FAILED_SHARE = 0.1
FITTED_OR_SMALL = (Status.OK, Status.TOO_FEW_EIGENVALUES, Status.DEGENERATE)
DIGITS = 9  # decimals; what differs beyond them is rounding, and a tie
SMALLEST_GROUP = 3  # models, for an order within it to say something


ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]*$")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A model on its way into the ranking: what it is called, and its values layer by layer."""

    report: ModelReport
    given: str
    name: str
    group: str
    paired: bool
    values: Mapping[str, Vector]


def check_metric(by: str, estimator: str) -> None:
    """Refuse a metric that is unknown, or of which no end is known to be the better one."""
    if by not in METRICS:
        raise unknown_name(by, "metric", WITH_ORDER)
    if by not in WITH_ORDER:
        raise SelectionError(
            "E_METRIC",
            by,
            "is no metric to rank by: which end is better is not known",
            f"use {', '.join(WITH_ORDER)}",
        )
    if by in OF_ALPHA and estimator not in tails.WITH_BAND:
        free = ", ".join(name for name in WITH_ORDER if name not in OF_ALPHA)
        raise SelectionError(
            "E_METRIC",
            by,
            f"of the estimator {estimator} has no known order",
            f"use csn, or rank by {free}",
        )


def rank_reports(
    reports: Sequence[ModelReport],
    *,
    given: Sequence[str] = (),
    by: str = "auto",
    known: tuple[str, held_against.Known] | None = None,
    higher_is_better: bool | None = None,
    allow_partial: bool = False,
    seed: int = 0,
    left_out: Sequence[LeftOut] = (),
) -> Ranking:
    """Rank models by their reports.

    Parameters
    ----------
    reports : sequence of ModelReport
    given : sequence of str, optional
        What the user called each of them; the address of its source when left out.
    by, known, higher_is_better, allow_partial, seed
        As for ``spectra.rank``; `known` is what `read_scores` gives.
    left_out : sequence of LeftOut
        Models that got no report.
    """
    check_same_rules(reports, SAME_RULES)
    given = given or [report.source.address for report in reports]
    usable, unusable = _usable(reports, given, allow_partial=allow_partial)
    left_out = (*left_out, *unusable)
    if len(usable) < 2:
        why = f" ({left_out[0].source}: {left_out[0].reason})" if left_out else ""
        raise SelectionError(
            "E_TOO_FEW", "rank", f"needs two models with numbers, got {len(usable)}{why}"
        )
    entries, sparse = _entries([reports[i] for i in usable], [given[i] for i in usable])
    left_out = (*left_out, *sparse)
    if len(entries) < 2:
        raise SelectionError("E_TOO_FEW", "rank", f"{sparse[0].source}: {sparse[0].reason}")
    groups = {entry.group for entry in entries}
    metric, why = _choice(len(entries), groups)
    if by != "auto":
        told = "" if by == metric else f"; {metric} would be chosen, since {why}"
        metric, why = by, f"asked for{told}"
    check_metric(metric, str(entries[0].report.options["estimator"]))
    names = [metric, *(m for m in WITH_ORDER if m != metric)] if known else [metric]
    drawn = {name: _drawn(entries, name, seed=seed) for name in names}
    models, order = _models(entries, metric, drawn[metric])
    ranking = Ranking(
        metric=metric,
        why=why,
        models=models,
        pairs=_pairs(models, [entries[i] for i in order], drawn[metric][:, order]),
        left_out=left_out,
        options=entries[0].report.options,
        reports=tuple(entries[i].report for i in order),
    )
    if known is None:
        return ranking
    scores = _scores(entries, drawn, known, higher_is_better)
    return dataclasses.replace(ranking, scores=scores)


def _usable(
    reports: Sequence[ModelReport], given: Sequence[str], *, allow_partial: bool
) -> tuple[list[int], list[LeftOut]]:
    """Return the positions of the reports that can be ranked, and why the others cannot."""
    usable: list[int] = []
    unusable: list[LeftOut] = []
    for i, report in enumerate(reports):
        reason = ""
        if not any(layer.averaged for layer in report.layers):
            reason = "no layer of it has an alpha"
        elif not report.complete and not allow_partial:
            missing = "files of it are missing" if report.source.partial else "was interrupted"
            reason = f"incomplete: {missing}"
        if reason:
            unusable.append(LeftOut(given[i], reason))
        else:
            usable.append(i)
    return usable, unusable


def _entries(
    reports: Sequence[ModelReport], given: Sequence[str]
) -> tuple[list[_Entry], list[LeftOut]]:
    """Name the models, put those of one architecture into groups, and take the layers they share."""
    names = distinct_names(given)
    entries: dict[int, _Entry] = {}
    left_out = []
    for group in grouped(reports):
        for i, rows in group.rows.items():
            values = {m: np.array([row[m] for row in rows]) for m in WITH_ORDER}
            entries[i] = _Entry(reports[i], given[i], names[i], group.label, group.paired, values)
        for i in group.sparse:
            n = sum(layer.averaged for layer in reports[i].layers)
            reason = f"only {n} of its layers have an alpha, less than half of its rivals'"
            left_out.append(LeftOut(given[i], reason))
    return [entries[i] for i in sorted(entries)], left_out


def distinct_names(addresses: Sequence[str]) -> list[str]:
    """Return the shortest endings of paths that tell them from each other, and no file's ending.

    Examples
    --------
    >>> distinct_names(["runs/a/model.pt", "runs/b/model.pt", "other.onnx"])
    ['a/model', 'b/model', 'other']
    >>> distinct_names(["a/model.pt", "a/model.onnx", "a/model.pt"])
    ['model.pt', 'model.onnx', 'model.pt (2)']
    """
    wholes = [address.rstrip("/") for address in addresses]
    shortest = [ENDING.sub("", whole) for whole in wholes]
    if len(set(shortest)) == len(set(wholes)):
        wholes = shortest
    parts = [whole.split("/") for whole in wholes]
    lengths = [1] * len(parts)
    while True:
        names = ["/".join(part[-n:]) for part, n in zip(parts, lengths, strict=True)]
        counts = Counter(dict(zip(wholes, names, strict=True)).values())
        longer = [i for i, n in enumerate(lengths) if counts[names[i]] > 1 and n < len(parts[i])]
        if not longer:
            break
        for i in longer:
            lengths[i] += 1
    seen: Counter[str] = Counter()
    for i, name in enumerate(names):  # the same one twice
        seen[name] += 1
        names[i] = f"{name} ({seen[name]})" if seen[name] > 1 else name
    return names


def _choice(n_models: int, groups: set[str]) -> tuple[str, str]:
    """Choose the metric by what varies among the models, and say why."""
    if len(groups) == 1:
        return "alpha", (
            f"all {n_models} models have the same layer shapes: within one architecture a lower"
            " alpha means better trained, down to 2"
        )
    pairs = n_models > len(groups)
    return "alpha_hat", (
        f"the models have {len(groups)} different sets of layer shapes: over depths and widths"
        " alpha_hat follows quality, and alpha alone misleads"
        + ("; rank those of one architecture by themselves, by alpha" if pairs else "")
    )


def _drawn(entries: Sequence[_Entry], metric: str, *, seed: int) -> Vector:
    """Resample layers, the same ones for all models of a group; shape (n, n_models)."""
    drawn = np.empty((statistics.REPLICATES, len(entries)))
    for members in _resampled_together(entries):
        table = np.stack([entries[i].values[metric] for i in members])
        named = ";".join(sorted(entries[i].name for i in members))
        rng = np.random.default_rng([seed, zlib.crc32(named.encode("utf-8", "replace"))])
        drawn[:, members] = statistics.replicates(table, metric, rng, spread=statistics.SEEDS)
    return np.asarray(np.round(drawn, DIGITS))


def _typical(entry: _Entry, metric: str) -> float:
    return round(float(statistics.typical(entry.values[metric])), DIGITS)


def _resampled_together(entries: Sequence[_Entry]) -> list[list[int]]:
    """Return the positions of models whose layers are each other's counterparts."""
    found: dict[str, list[int]] = {}
    for i, entry in enumerate(entries):
        found.setdefault(entry.group if entry.paired else f"{entry.group} {i}", []).append(i)
    return list(found.values())


def _models(
    entries: Sequence[_Entry], metric: str, drawn: Vector
) -> tuple[tuple[RankedModel, ...], list[int]]:
    """Order the models: best first, those set aside after all others."""
    usual = Counter(_format_of(entry.report) for entry in entries).most_common(1)[0][0]
    marks = [_marks(entry, usual) for entry in entries]
    values = [_typical(entry, metric) for entry in entries]
    last = np.array([bool(SET_ASIDE & set(mark)) for mark in marks])
    order = sorted(range(len(entries)), key=lambda i: (last[i], values[i], entries[i].name))
    ranks = _places(np.array([values]), last)[0]
    intervals = _rank_intervals(drawn, ranks, last)
    models = []
    for i in order:
        entry = entries[i]
        low, high = statistics.interval(drawn[:, i])
        rank_low, rank_high = intervals[i]
        models.append(
            RankedModel(
                source=entry.report.source.address,
                name=entry.name,
                group=entry.group,
                rank=int(ranks[i]),
                rank_low=rank_low,
                rank_high=rank_high,
                value=values[i],
                value_low=low,
                value_high=high,
                mean=float(entry.values[metric].mean()),
                n_layers=entry.values[metric].size,
                summary=entry.report.summary,
                warnings=marks[i],
            )
        )
    return tuple(models), order


def _rank_intervals(drawn: Vector, ranks: Vector, last: np.ndarray) -> list[tuple[int, int]]:
    """Return the 95 % range of every model's place; one without replicates may be anywhere."""
    unknown = np.asarray(np.isnan(drawn).any(axis=0))
    places = _places(drawn, last)
    found = []
    for i, rank in enumerate(ranks):
        low, high = (1.0, float(len(ranks))) if unknown[i] else statistics.interval(places[:, i])
        high = min(high + unknown.sum(), len(ranks))
        found.append((int(min(low, rank)), int(max(high, rank))))
    return found


def _places(values: Vector, last: np.ndarray) -> Vector:
    """Rank each row's models from 1, lowest first, those set aside after all others; ties share.

    Parameters
    ----------
    values : ndarray of shape (n, n_models)
    last : ndarray of shape (n_models,), bool
    """
    below = (values[:, None, :] < values[:, :, None]) & (last[None, None, :] == last[None, :, None])
    before = ~last[None, None, :] & last[None, :, None]
    return np.asarray(1.0 + (below | before).sum(axis=2))


def _format_of(report: ModelReport) -> str:
    return ", ".join(sorted({layer.dequantised_from for layer in report.layers if layer.averaged}))


def _marks(entry: _Entry, usual: str) -> tuple[Mark, ...]:
    layers = [layer for layer in entry.report.layers if layer.averaged]
    over = sum(layer.verdict is Verdict.OVER_TRAINED for layer in layers)
    noise = sum(Finding.RANDOM_LIKE in layer.warnings for layer in layers)
    failed = sum(layer.status not in FITTED_OR_SMALL for layer in entry.report.layers)
    checks = {
        Mark.BROKEN: any(layer.status is Status.NON_FINITE for layer in entry.report.layers),
        Mark.OVER_TRAINED: over >= max(2, OVER_TRAINED_SHARE * len(layers)) or over == len(layers),
        Mark.MOSTLY_RANDOM_LIKE: noise > len(layers) / 2,
        Mark.FEW_LAYERS: next(iter(entry.values.values())).size < FEW_LAYERS,
        Mark.MIXED_FORMATS: _format_of(entry.report) != usual,
        Mark.LAYERS_FAILED: failed >= FAILED_SHARE * len(entry.report.layers),
        Mark.INCOMPLETE: not entry.report.complete,
    }
    return tuple(mark for mark, met in checks.items() if met)


def _pairs(
    models: Sequence[RankedModel], entries: Sequence[_Entry], drawn: Vector
) -> tuple[Pair, ...]:
    pairs = []
    for i, a in enumerate(models):
        for j, b in enumerate(models[i + 1 :], start=i + 1):
            # Where the mark decides, the metric's own word would contradict the order.
            p = (
                math.nan
                if a.is_set_aside != b.is_set_aside
                else statistics.p_lower(drawn[:, i], drawn[:, j])
            )
            paired = a.group == b.group and entries[i].paired and entries[j].paired
            pairs.append(Pair(a.name, b.name, p, paired))
    return tuple(pairs)


def _scores(
    entries: Sequence[_Entry],
    drawn: Mapping[str, Vector],
    known: tuple[str, held_against.Known],
    higher_is_better: bool | None,
) -> Scores:
    """Hold every metric's order against known scores, over all models and within groups."""
    label, table = known
    models = {entry.name: _called(entry) for entry in entries}
    found = held_against.matched(table, models, f"scores ({label})")
    told = held_against.is_higher_better(label) if higher_is_better is None else higher_is_better
    higher_is_better = told is not False
    values = {name: table[entry][0] for name, entry in found.items()}
    given = {name: table[entry][1] for name, entry in found.items()}
    groups = given if any(given.values()) else {entry.name: entry.group for entry in entries}
    quality = np.array([values[entry.name] for entry in entries]) * (1 if higher_is_better else -1)
    parts = [
        [i for i, entry in enumerate(entries) if groups[entry.name] == group]
        for group in dict.fromkeys(groups.values())
    ]
    parts = [members for members in parts if SMALLEST_GROUP <= len(members) < len(entries)]
    agreements: list[Agreement] = []
    for metric, replicates in drawn.items():
        typical = np.array([_typical(entry, metric) for entry in entries])
        # Of every metric with an order, lower is better.
        held = partial(_held, metric, -typical, -replicates, quality)
        agreements.append(held(range(len(entries)), held_against.POOLED))
        inside = [held(members, groups[entries[members[0]].name]) for members in parts]
        agreements += [*inside, held_against.within(inside, metric)] if inside else []
    paradox = held_against.paradox_in(agreements, next(iter(drawn)))
    return Scores(
        label, higher_is_better, values, groups, tuple(agreements), paradox, assumed=told is None
    )


def _held(
    metric: str,
    goodness: Vector,
    drawn: Vector,
    quality: Vector,
    members: Sequence[int],
    group: str,
) -> Agreement:
    chosen = list(members)
    return held_against.agreement(
        metric, group, goodness[chosen], drawn[:, chosen], quality[chosen]
    )


def _called(entry: _Entry) -> tuple[str, ...]:
    """Everything a table of scores may call a model."""
    paths = [Path(entry.given), Path(entry.report.source.address)]
    return (entry.name, *(name for path in paths for name in (str(path), path.name, path.stem)))
