"""Progress on standard error: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from spectra.reports.terminal import shorten

EVERY_SECONDS = 10.0

Report = Callable[[float, float, str], None]


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Report | None]:
    """Give a callback for ``analyze``; its ETA goes by predicted operations, not by layers."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description:<36}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("reading", total=None)
            yield lambda done, total, name: progress.update(
                task, completed=done, total=total, description=shorten(name, 36)
            )
    else:
        yield _plain_lines()


def _plain_lines() -> Report:
    started = last = time.monotonic()

    def report(done: float, total: float, name: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY_SECONDS and done:
            last = now
            left = (now - started) * (total / done - 1)
            print(f"{done / total:.0%}, about {left:.0f} s left: {name}", file=sys.stderr)  # noqa: T201

    return report
