"""Signs that a run goes wrong: over-training, traps, ranks that collapse, weights that are not finite."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from spectra import conventions, tails
from spectra.records import Finding, LayerReport, ModelReport, Status, Verdict
from spectra.trajectories.records import Sign, SignKind
from spectra.verdicts import COLLAPSED, OVER_TRAINED

Seen = Callable[[LayerReport], bool]


LEVEL = 0.05
Bools = npt.NDArray[np.bool_]


def signs_of(steps: Sequence[int], reports: Sequence[ModelReport]) -> tuple[Sign, ...]:
    """Look for signs in every layer and in the model, the earliest first.

    A sign of a layer starts at the first checkpoint from which on all show it, up to the last that
    can, and was not there at an earlier one: what comes and goes is none. Weights that are not
    finite count wherever they are.

    Parameters
    ----------
    steps : sequence of int
    reports : sequence of ModelReport
        Of one architecture, in the order of `steps`.

    Returns
    -------
    tuple of Sign
    """
    if not reports:
        return ()
    found: list[Sign] = []
    rules = conventions.CONVENTIONS.get(str(reports[0].options.get("convention")), conventions.HTSR)
    for rows in zip(*(report.layers for report in reports), strict=True):
        found += _of_layer(steps, rows, max(1, rules.min_eigenvalues))
    found += _rising(steps, reports)
    return tuple(sorted(found, key=lambda sign: (sign.step, bool(sign.layer))))


def _of_layer(steps: Sequence[int], rows: Sequence[LayerReport], least: int) -> Iterator[Sign]:
    broken = [i for i, row in enumerate(rows) if row.status is Status.NON_FINITE]
    if broken:
        yield Sign(
            SignKind.NON_FINITE, rows[0].name, steps[broken[0]], len(broken), math.nan, math.nan
        )
    fitted = [i for i, row in enumerate(rows) if row.status is Status.OK]
    able = [i for i in fitted if rows[i].averaged]
    begin = _begin(rows, able, _is_below_band)
    if begin is not None and any(rows[i]["alpha"] >= OVER_TRAINED for i in able if i < begin):
        last = rows[able[-1]]
        chance = tails.edge_p(float(last["alpha"]), float(last["alpha_high"]), OVER_TRAINED)
        yield _sign(SignKind.LEFT_BAND, steps, able, begin, last, float(last["alpha"]), chance)
    looked = [i for i in fitted if "n_traps" in rows[i].metrics]
    begin = _begin(rows, looked, lambda row: Finding.CORRELATION_TRAP in row.warnings)
    if begin is not None and begin > looked[0]:
        last = rows[looked[-1]]
        chance = float(last.metrics.get("trap_p", math.nan))
        yield _sign(
            SignKind.CORRELATION_TRAP, steps, looked, begin, last, float(last["n_traps"]), chance
        )
    losses = [_rank_loss(row, least) for row in rows]
    ranked = [i for i, share in enumerate(losses) if math.isfinite(share)]
    begin = _begin(rows, ranked, lambda row: _rank_loss(row, least) >= COLLAPSED)
    if begin is not None and begin > ranked[0]:
        end = ranked[-1]
        yield _sign(SignKind.RANK_COLLAPSE, steps, ranked, begin, rows[end], losses[end], math.nan)


def _begin(rows: Sequence[LayerReport], able: Sequence[int], seen: Seen) -> int | None:
    """Return where the unbroken run of `seen` that reaches the last checkpoint begins."""
    begin = None
    for i in reversed(able):
        if not seen(rows[i]):
            break
        begin = i
    return begin


def _sign(
    kind: SignKind,
    steps: Sequence[int],
    able: Sequence[int],
    begin: int,
    last: LayerReport,
    value: float,
    p_value: float,
) -> Sign:
    count = sum(i >= begin for i in able)
    return Sign(kind, last.name, steps[begin], count, value, p_value)


def _is_below_band(row: LayerReport) -> bool:
    return row.verdict is Verdict.OVER_TRAINED and float(row["alpha_high"]) < OVER_TRAINED


def _rank_loss(row: LayerReport, least: int) -> float:
    """Return the share of a layer's eigenvalues that are zero, NaN where its rank says nothing.

    A layer left with too few eigenvalues to fit, or with one, has lost the others; one of fewer than
    `least` by its shape never had enough.
    """
    if row.status is Status.ZERO:
        return 1.0
    if row.n_eigenvalues < least:
        return math.nan
    return float(row.metrics.get("rank_loss", math.nan)) / row.n_eigenvalues


def _rising(steps: Sequence[int], reports: Sequence[ModelReport]) -> Iterator[Sign]:
    """Tell whether more layers are over-trained than at the first checkpoint, or random-like than before.

    The same layers are compared: if nothing drove them, as many would cross over upwards as downwards
    (the exact sign test of McNemar, one-sided). The sign starts where the share passes the earlier one
    for good. Fewer and fewer layers are like random weights in a run that learns, so for those the
    earlier one is the least, and chance must be ruled out.
    """
    able = [i for i, report in enumerate(reports) if any(x.averaged for x in report.layers)]
    if len(able) < 2:
        return
    rows = [reports[i].layers for i in able]
    known = np.array([[x.averaged for x in layers] for layers in rows])
    sunk = np.array([[x.verdict is Verdict.OVER_TRAINED for x in layers] for layers in rows])
    noise = np.array([[Finding.RANDOM_LIKE in x.warnings for x in layers] for layers in rows])
    places = [steps[i] for i in able]
    yield from _share_rising(SignKind.OVER_TRAINED_RISING, places, sunk & known, known, start=0)
    least = int(np.argmin((noise & known).sum(axis=1) / known.sum(axis=1)))
    for sign in _share_rising(
        SignKind.RANDOM_LIKE_RISING, places, noise & known, known, start=least
    ):
        if sign.p_value <= LEVEL:
            yield sign


def _share_rising(
    kind: SignKind, places: Sequence[int], met: Bools, known: Bools, *, start: int
) -> Iterator[Sign]:
    shares = met.sum(axis=1) / known.sum(axis=1)
    later = len(places)
    while later - 1 > start and shares[later - 1] > shares[start]:
        later -= 1
    if later == len(places):
        return
    both = known[start] & known[-1]
    gained = int((both & ~met[start] & met[-1]).sum())
    lost = int((both & met[start] & ~met[-1]).sum())
    moved = gained + lost
    chance = (
        float(stats.binomtest(gained, moved, 0.5, alternative="greater").pvalue)
        if moved
        else math.nan
    )
    yield Sign(kind, "", places[later], len(places) - later, float(shares[-1]), chance)
