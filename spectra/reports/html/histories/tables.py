"""The tables of a run: its checkpoints, and where rates change and signs start."""

import math

from spectra.records import Value
from spectra.reports.history_words import p_text, rate_text, watched
from spectra.reports.html import pieces
from spectra.reports.html.histories.texts import HISTORY_TERMS, SIGN_NAMES
from spectra.reports.html.markup import Child, Markup, count, number, tag
from spectra.reports.html.pieces import Column
from spectra.reports.names import shorten_middle
from spectra.trajectories import ChangePoint, History, HistoryPoint, Sign, SignKind

CHECKPOINTS = "checkpoint-table"
CHANGES = "change-table"
SIGNS = "sign-table"
POINT_COLUMNS = (
    Column("step", "step"),
    Column("name", "checkpoint", is_number=False, is_head=True),
    Column("alpha", "alpha", HISTORY_TERMS["typical"].meaning),
    Column("interval", "95 % interval", HISTORY_TERMS["interval"].meaning),
    Column("share_over_trained", "below 2", "share of layers below alpha 2, over-trained"),
    Column("share_random_like", "like random", HISTORY_TERMS["noise"].meaning),
    Column("n_traps", "traps", "layers with a correlation trap"),
    Column("ks", "KS", HISTORY_TERMS["ks"].meaning),
    Column("log_norm", "log norm", HISTORY_TERMS["log_norm"].meaning),
    Column("n_failed", "no alpha", "layers without numbers"),
)
CHANGE_COLUMNS = (
    Column("watched", "of", is_number=False, is_head=True),
    Column("step", "from step", HISTORY_TERMS["change"].meaning),
    Column("before", "before", is_number=False),
    Column("after", "then", is_number=False),
    Column("p_adjusted", "p", "chance of it in any of the series, if the drift were steady"),
    Column("found", "told from chance", is_number=False),
)
SIGN_COLUMNS = (
    Column("step", "from step", "the first checkpoint that shows it"),
    Column("kind", "sign", HISTORY_TERMS["sign"].meaning, is_number=False),
    Column("layer", "layer", is_number=False, is_head=True),
    Column("n_checkpoints", "checkpoints", "how many show it"),
    Column("value", "value", "alpha, a share or a number, at the end"),
    Column("p_value", "p", "the chance of it if nothing were changing"),
)


def checkpoints_section(history: History) -> Markup:
    """Return every checkpoint with its numbers."""
    rows = [_point_row(point, place) for place, point in enumerate(history.checkpoints, start=1)]
    caption = f"{count(len(rows), 'checkpoint')} in the order of their steps"
    table = pieces.table(POINT_COLUMNS, rows, key=CHECKPOINTS, caption=caption)
    note = "alpha, KS and log norm are means of the middle half of the layers compared."
    return pieces.section("checkpoints", "The checkpoints", tag("p", note, class_="note"), table)


def _point_row(point: HistoryPoint, place: int) -> pieces.Row:
    interval = f"{number(point.alpha_low)} to {number(point.alpha_high)}"
    cells: tuple[Child, ...] = (
        str(point.step),
        tag("code", shorten_middle(point.name, 60), title=shorten_middle(point.source, 400)),
        number(point.alpha),
        interval if math.isfinite(point.alpha_low) else "–",
        percent(point.share_over_trained),
        percent(point.share_random_like),
        "–" if point.n_traps is None else str(point.n_traps),
        number(point.ks, 3),
        number(point.log_norm, 3),
        str(point.n_failed),
    )
    return pieces.Row(cells, {"id": f"checkpoint-{place}"})


def changes_section(history: History) -> Markup | None:
    """Return where rates change, and every sign with the step at which it starts."""
    parts: list[Child] = []
    if history.change_points:
        rows = [_change_row(change, history.unit) for change in history.change_points]
        parts += [
            tag("h3", "Changes of a rate"),
            pieces.table(CHANGE_COLUMNS, rows, key=CHANGES,
                         caption="where each series changes most, and how sure that is"),
        ]  # fmt: skip
    if history.signs:
        parts += [
            tag("h3", "Signs of over-training"),
            pieces.table(SIGN_COLUMNS, [_sign_row(sign) for sign in history.signs], key=SIGNS,
                         caption=count(len(history.signs), "sign")),
        ]  # fmt: skip
    return pieces.section("changes", "Changes and signs", parts) if parts else None


def _change_row(change: ChangePoint, unit: str) -> pieces.Row:
    cells: tuple[Child, ...] = (
        watched(change),
        str(change.step),
        rate_text(change.rate_before, unit),
        rate_text(change.rate_after, unit),
        p_text(change.p_adjusted),
        "yes" if change.found else "no",
    )
    return pieces.Row(cells, {})


def _sign_row(sign: Sign) -> pieces.Row:
    cells: tuple[Child, ...] = (
        str(sign.step),
        SIGN_NAMES[sign.kind],
        pieces.name_of(sign.layer, 60) if sign.layer else "the model",
        str(sign.n_checkpoints),
        _seen(sign.kind, sign.value),
        "–" if math.isnan(sign.p_value) else p_text(sign.p_value),
    )
    return pieces.Row(cells, {})


def _seen(kind: SignKind, value: Value) -> str:
    if kind in (
        SignKind.RANK_COLLAPSE,
        SignKind.OVER_TRAINED_RISING,
        SignKind.RANDOM_LIKE_RISING,
    ):
        return percent(value)
    return number(value, 0 if kind is SignKind.CORRELATION_TRAP else 2)


def percent(share: float) -> str:
    """Return a share in hundredths; a dash where there is none.

    Examples
    --------
    >>> percent(0.25), percent(math.nan)
    ('25 %', '–')
    """
    return f"{100 * share:.0f} %" if math.isfinite(share) else "–"
