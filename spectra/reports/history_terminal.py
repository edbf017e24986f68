"""The history of a run on a terminal: a row a checkpoint, then what changes and what goes wrong."""

import math
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from spectra.errors import printable
from spectra.ranking import LeftOut
from spectra.reports.history_words import change_lines, count, sign_lines
from spectra.reports.ranking_terminal import fit_name
from spectra.reports.terminal import MAX_ROWS, add_row, new_table, shorten
from spectra.trajectories import (
    History,
    HistoryPoint,
)
from spectra.trajectories.checkpoints import POSITION

NAME_WIDTH = 16
LAYER_WIDTH = 34
BAR = 8
LEAST_SPAN = 0.1  # of alpha: what moves less looks level
MAX_LEFT_OUT = 8
EIGHTHS = "▏▎▍▌▋▊▉█"


def show_history(history: History, console: Console, *, rows: int = MAX_ROWS) -> None:
    """Print the checkpoints in order (at most `rows`; 0 for all), the changes and the signs."""
    console.print(Text(printable(history.address), style="bold"))
    state = "" if history.complete else " · INTERRUPTED, incomplete"
    n_layers = len(history.reports[0].layers) if history.reports else 0
    text = (
        f"{count(len(history.checkpoints))} · {len(history.layers)} of {n_layers} layers"
        f" compared · convention {history.options.get('convention')}"
        f" · estimator {history.options.get('estimator')}{state}"
    )
    console.print(Text(printable(text), style="dim" if history.complete else "bold red"))
    shown = _shown(history.checkpoints, rows)
    console.print(_table(history, shown))
    hidden = len(history.checkpoints) - len(shown)
    if hidden:
        console.print(Text(f"  … {hidden} more between; --rows 0 shows all", style="dim"))
    console.print(Text(f"  {_legend(history)}", style="dim"))
    if history.choice:
        console.print(Text(f"  {printable(f'ordered by {history.choice}')}", style="dim"))
    console.print()
    for words in (*change_lines(history), *sign_lines(history, _named)):
        console.print(Text(printable(words)), highlight=False)
    for item in history.left_out[:MAX_LEFT_OUT]:
        line = f"left out: {item.source}: {item.reason}"
        console.print(Text(printable(line), style="yellow"), highlight=False)
    more = len(history.left_out) - MAX_LEFT_OUT
    if more > 0:
        console.print(Text(f"left out: {more} more; --json has them all", style="yellow"))
    if history.skipped:
        console.print(Text(printable(f"skipped: {_skipped(history.skipped)}"), style="dim"))


def _named(layer: str) -> str:
    return shorten(layer, LAYER_WIDTH)


def _shown(points: Sequence[HistoryPoint], rows: int) -> Sequence[HistoryPoint]:
    """Return at most `rows` checkpoints, evenly, with the first and the last."""
    if not rows or len(points) <= rows:
        return points
    last = len(points) - 1
    chosen = {round(i * last / (rows - 1)) for i in range(rows)} if rows > 1 else {last}
    return [points[i] for i in sorted(chosen)]


def _failures_vary(history: History) -> bool:
    """Tell whether a column for them says anything: small layers fail at every checkpoint."""
    return len({point.n_failed for point in history.checkpoints}) > 1


def _table(history: History, shown: Sequence[HistoryPoint]) -> Table:
    named = history.unit == POSITION
    with_traps = any(point.n_traps is not None for point in history.checkpoints)
    failed = _failures_vary(history)
    columns = ["model" if named else history.unit, "alpha", "95 %", "", "<2", "noise"]
    columns += ["traps"] if with_traps else []
    columns += ["KS", "log_norm"]
    columns += ["no α"] if failed else []
    table = new_table(*columns)
    alphas = [p.alpha for p in history.checkpoints if math.isfinite(p.alpha)]
    for point in shown:
        cells = [
            fit_name(point.name, NAME_WIDTH) if named else str(point.step),
            _number(point.alpha, 2),
            _interval(point),
            bar(point.alpha, min(alphas, default=0.0), max(alphas, default=0.0)),
            _percent(point.share_over_trained),
            _percent(point.share_random_like),
        ]
        if with_traps:
            cells.append("–" if point.n_traps is None else str(point.n_traps))
        cells += [_number(point.ks, 3), _number(point.log_norm, 3)]
        cells += [str(point.n_failed)] if failed else []
        add_row(table, *cells)
    return table


def bar(value: float, low: float, high: float) -> str:
    """Draw a value as a bar: all of it at the most, a sliver at the least or 0.1 below the most.

    Examples
    --------
    >>> bar(2.0, 2.0, 4.0), bar(3.0, 2.0, 4.0), bar(4.0, 2.0, 4.0)
    ('▏       ', '████    ', '████████')
    """
    if not math.isfinite(value):
        return " " * BAR
    share = 1 - (high - value) / max(high - low, LEAST_SPAN)
    eighths = max(1, round(share * BAR * 8))
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (EIGHTHS[rest - 1] if rest else "")).ljust(BAR)


def _interval(point: HistoryPoint) -> str:
    if not math.isfinite(point.alpha_low) or not math.isfinite(point.alpha_high):
        return "–"
    return f"{_number(point.alpha_low, 2)} to {_number(point.alpha_high, 2)}"


def _number(value: float, digits: int) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.0e}"


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.0%}"


def _legend(history: History) -> str:
    parts = [
        "alpha, KS, log_norm: mean of the middle half of the layers",
        "95 %: as the layers are resampled",
        "bar: alpha between its least and its most",
        "<2: layers judged below alpha 2, over-trained",
        "noise: layers like random weights",
    ]
    if any(point.n_traps is not None for point in history.checkpoints):
        parts.append("traps: layers with a correlation trap")
    if _failures_vary(history):
        parts.append("no α: layers without numbers")
    return " · ".join(parts)


def _skipped(items: Sequence[LeftOut]) -> str:
    """Count what was skipped by reason, with the first name of each."""
    counts = Counter(item.reason for item in items)
    firsts = {item.reason: item.source for item in reversed(items)}
    parts = [
        f"{fit_name(firsts[reason], LAYER_WIDTH)}"
        + (f" and {count - 1} more" if count > 1 else "")
        + f" ({reason})"
        for reason, count in counts.most_common(6)
    ]
    rest = len(counts) - len(parts)
    return "; ".join(parts) + (f"; {rest} other reasons" if rest else "")
