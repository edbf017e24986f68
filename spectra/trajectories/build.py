"""From reports to a history: one architecture, the layers compared, trajectories, changes, signs."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spectra.comparable import said
from spectra.metrics import METRICS
from spectra.naming import ROLES, Role, role_of
from spectra.ranking import LeftOut, statistics
from spectra.ranking.order import SAME_RULES
from spectra.records import Finding, ModelReport, Status, Vector, Verdict
from spectra.trajectories import changes
from spectra.trajectories.records import ChangePoint, History, HistoryPoint, Trajectory
from spectra.trajectories.signs import signs_of

TRACED = (*(name for name, metric in METRICS.items() if metric.in_summary), "ks")
WATCHED = ("alpha", "ks", "log_norm", "stable_rank")
"""Metrics of all layers whose rate is looked at for changes; of every role, alpha alone."""

REPLICATES = 1000
ENOUGH = 0.5


@dataclass(frozen=True, slots=True)
class Step:
    """A checkpoint on its way into the history: its place, its name, its report."""

    step: int
    name: str
    report: ModelReport


def without_spectra(report: ModelReport) -> ModelReport:
    """Drop the spectra: a long run would hold them all, and only the layers' numbers are needed."""
    layers = tuple(dataclasses.replace(x, spectrum=None, fit=None) for x in report.layers)
    return dataclasses.replace(report, layers=layers)


def history_of(
    given: Sequence[Step],
    *,
    address: str,
    unit: str,
    choice: str = "",
    skipped: Sequence[LeftOut] = (),
    left_out: Sequence[LeftOut] = (),
    seed: int = 0,
    complete: bool = True,
) -> History:
    """Build the history of a run from the reports of its checkpoints.

    Parameters
    ----------
    given : sequence of Step
        At least one, steps rising. The architecture and rules that most of them share (of equally
        many, the earliest) make the history; the others are left out.
    address, unit, choice, skipped, left_out, complete
        As in the record.
    seed : int, default: 0
        Of the resampling of layers and the permutations.
    """
    steps, others = _of_one_kind(given)
    reports = [item.report for item in steps]
    places = [s.step for s in steps]
    compared = _compared(reports)
    trajectories = _trajectories(reports, compared)
    return History(
        address=address,
        unit=unit,
        choice=choice,
        checkpoints=_points(steps, trajectories, _intervals(reports, compared, seed)),
        layers=tuple(reports[0].layers[i].name for i in compared),
        trajectories=trajectories,
        change_points=_change_points(places, trajectories, seed),
        signs=signs_of(places, reports),
        skipped=tuple(skipped),
        left_out=(*left_out, *others),
        options=reports[0].options,
        complete=complete,
        reports=tuple(reports),
    )


def _of_one_kind(given: Sequence[Step]) -> tuple[list[Step], list[LeftOut]]:
    """Keep the largest group of equal architecture and rules, and say how the others differ."""
    groups: dict[object, list[Step]] = {}
    for item in given:
        groups.setdefault((_architecture(item.report), _rules(item.report)), []).append(item)
    kept = max(groups.values(), key=len)  # the first of equals
    first = kept[0].report
    others = []
    for group in groups.values():
        for item in group if group is not kept else ():
            if _architecture(item.report) == _architecture(first):
                rule = next(
                    r
                    for r in SAME_RULES
                    if said(item.report.options.get(r)) != said(first.options.get(r))
                )
                what = f"its {rule} is {said(item.report.options.get(rule))}, not {said(first.options.get(rule))}"
            else:
                what = f"another architecture: {_difference(item.report, first)}"
            others.append(LeftOut(item.name, f"{what} as in {kept[0].name}"))
    return kept, others


def _architecture(report: ModelReport) -> tuple[tuple[object, ...], ...]:
    return tuple((x.name, x.kind, x.N, x.M, x.n_matrices) for x in report.layers)


def _rules(report: ModelReport) -> tuple[str, ...]:
    return tuple(said(report.options.get(rule)) for rule in SAME_RULES)


def _difference(report: ModelReport, usual: ModelReport) -> str:
    if len(report.layers) != len(usual.layers):
        return f"{len(report.layers)} layers, not {len(usual.layers)}"
    pairs = zip(_architecture(report), _architecture(usual), strict=True)
    mine, other = next((a, b) for a, b in pairs if a != b)
    if mine[0] != other[0]:
        return f"a layer {mine[0]}, not {other[0]}"
    return f"{mine[0]} of {mine[2]}×{mine[3]}, not {other[2]}×{other[3]}"


def _compared(reports: Sequence[ModelReport]) -> list[int]:
    """Return the positions of layers that have an alpha wherever checkpoints have alphas.

    A checkpoint that has diverged, with less than half as many alphas as the best, is not asked: it
    would leave nothing to compare at all others.
    """
    averaged = np.array([[x.averaged for x in report.layers] for report in reports], bool)
    counts = averaged.sum(axis=1)
    if not counts.any():
        return []
    asked = averaged[counts >= ENOUGH * counts.max()]
    return [int(i) for i in np.flatnonzero(asked.all(axis=0))]


def _values(reports: Sequence[ModelReport], metric: str, layers: Sequence[int]) -> Vector:
    """Return a metric by checkpoint and layer; a checkpoint that lacks a layer is NaN throughout."""
    table = np.array(
        [[float(r.layers[i].metrics.get(metric, math.nan)) for i in layers] for r in reports]
    ).reshape(len(reports), len(layers))
    known = np.array([[r.layers[i].averaged for i in layers] for r in reports], bool)
    table[~known.reshape(table.shape).all(axis=1)] = math.nan
    return table


def _trajectories(
    reports: Sequence[ModelReport], compared: Sequence[int]
) -> tuple[Trajectory, ...]:
    layers = reports[0].layers
    if not compared:
        return ()
    roles = {i: role_of(layers[i].name, layers[i].kind) for i in compared}
    chosen: dict[Role, list[int]] = {"": list(compared)}
    chosen |= {role: [i for i in compared if roles[i] == role] for role in ROLES}
    made = []
    for role, members in chosen.items():
        for metric in TRACED if members else ():
            table = _values(reports, metric, members)
            made.append(
                Trajectory(
                    metric,
                    role,
                    len(members),
                    tuple(map(float, statistics.typical(table))),
                    tuple(map(float, table.mean(axis=1))),
                    tuple(map(float, np.median(table, axis=1))),
                )
            )
    return tuple(made)


def _intervals(
    reports: Sequence[ModelReport], compared: Sequence[int], seed: int
) -> list[tuple[float, float]]:
    nothing = [(math.nan, math.nan)] * len(reports)
    if not compared:
        return nothing
    table = _values(reports, "alpha", compared)
    known = [int(i) for i in np.flatnonzero(np.isfinite(table).all(axis=1))]
    if not known:
        return nothing
    rng = np.random.default_rng([seed, len(compared)])
    # Not spread as in rankings (statistics.SEEDS): checkpoints of one run share their seed.
    drawn = statistics.replicates(table[known], "alpha", rng, n=REPLICATES)
    found = dict(zip(known, map(statistics.interval, drawn.T), strict=True))
    return [found.get(i, nothing[i]) for i in range(len(reports))]


def _points(
    steps: Sequence[Step],
    trajectories: Sequence[Trajectory],
    intervals: Sequence[tuple[float, float]],
) -> tuple[HistoryPoint, ...]:
    whole = {t.metric: t.typical for t in trajectories if not t.role}
    points = []
    for i, (item, (low, high)) in enumerate(zip(steps, intervals, strict=True)):
        rows = [layer for layer in item.report.layers if layer.averaged]
        looked = any("n_traps" in row.metrics for row in rows)
        points.append(
            HistoryPoint(
                source=item.report.source.address,
                name=item.name,
                step=item.step,
                alpha=whole["alpha"][i] if whole else math.nan,
                alpha_low=low,
                alpha_high=high,
                ks=whole["ks"][i] if whole else math.nan,
                log_norm=whole["log_norm"][i] if whole else math.nan,
                share_over_trained=_share([row.verdict is Verdict.OVER_TRAINED for row in rows]),
                share_random_like=_share([Finding.RANDOM_LIKE in row.warnings for row in rows]),
                n_traps=sum(Finding.CORRELATION_TRAP in row.warnings for row in rows)
                if looked
                else None,
                n_failed=sum(row.status is not Status.OK for row in item.report.layers),
                summary=item.report.summary,
            )
        )
    return tuple(points)


def _share(met: Sequence[bool]) -> float:
    return sum(met) / len(met) if met else math.nan


def _change_points(
    steps: Sequence[int], trajectories: Sequence[Trajectory], seed: int
) -> tuple[ChangePoint, ...]:
    watched = [t for t in trajectories if t.metric in (("alpha",) if t.role else WATCHED)]
    if len({t.role for t in watched}) == 2:  # the one role there is, is all layers
        watched = [t for t in watched if not t.role]
    if not watched:
        return ()
    table = np.array([t.typical for t in watched])
    splits = changes.best_splits(steps, table, np.random.default_rng(seed))
    return tuple(
        ChangePoint(
            item.metric,
            item.role,
            steps[split.position],
            split.rate_before,
            split.rate_after,
            split.p_value,
            split.p_adjusted,
        )
        for item, split in zip(watched, splits, strict=True)
        if split is not None
    )
