"""The command that follows a training run: history."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spectra.cli import exits
from spectra.cli.files import check_outputs, picture_format, write
from spectra.cli.options import COMPUTATION, RULES, arguments, shared

if TYPE_CHECKING:
    from spectra.reports.plots import Format
    from spectra.trajectories import History

TEXT_FILES = ("json_file", "csv_file", "html_file")

EXAMPLES = """\b
Examples:
  spectra history runs/one --html run.html
  spectra history checkpoint-500 checkpoint-1000 --metrics all
  spectra history runs/one --json - --quiet | jq .signs"""


@click.command(epilog=EXAMPLES, short_help="Follow a training run over its checkpoints.")
@click.argument("sources", metavar="FOLDER | SOURCE...", nargs=-1, required=True)
@shared(*RULES, *COMPUTATION, "replicates", "metrics")
@click.option(
    "--rows",
    metavar="N",
    type=click.IntRange(min=0),
    default=60,
    show_default=True,
    help="Most rows of the table, evenly over the run. 0: all.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write everything as JSON; - for stdout.")
@click.option(
    "--csv",
    "csv_file",
    metavar="FILE",
    help="Write one row a checkpoint and layer as CSV; - for stdout.",
)
@shared("html_file")
@click.option(
    "--plots",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write pictures of alpha by step, over all layers and by role.",
)
@shared("format")
@click.option("--strict", is_flag=True, help="Exit with 4 if a checkpoint was left out.")
@click.option("--quiet", is_flag=True, help="No table and no progress.")
def history(sources: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401 - click's values
    """Follow a training run over its checkpoints: what moves, where that changes, what goes wrong.

    FOLDER holds the checkpoints of one run: files, folders such as checkpoint-500, or reports that
    analyze wrote. The number that varies among their names is the step; optimizer states and other
    files are skipped and listed. Or name the checkpoints themselves.

    Layers are compared with themselves. Changes of a rate are told from six checkpoints on, with the
    chance that a steady drift looks as broken. Signs of over-training are more layers below alpha 2,
    a layer whose alpha falls below 2 with all of its interval, correlation traps that appear (with
    --metrics all), ranks that collapse, more layers like random weights, weights that are not finite.

    Exit codes: 0 done; 2 wrong usage; 3 no checkpoint can be read; 4 a checkpoint was left out and
    --strict was given; 130 interrupted (what was done is written, and marked).
    """
    from spectra import trajectories
    from spectra.cli.progress import progress_bar

    options = arguments(options)
    rows, quiet, strict = options.pop("rows"), options.pop("quiet"), options.pop("strict")
    files = {key: options.pop(key) for key in (*TEXT_FILES, "plots")}
    suffix = picture_format(files["plots"], options.pop("suffix"))
    err = check_outputs(files, sources)
    interrupted = False
    try:
        with progress_bar(quiet=quiet) as progress:
            result = trajectories.history(
                sources[0] if len(sources) == 1 else sources,
                progress=progress,
                **options,
            )
    except trajectories.HistoryInterrupted as stop:
        result, interrupted = stop.history, True
    _deliver(result, files, suffix, rows=rows, quiet=quiet, err=err)
    if interrupted:
        sys.exit(exits.INTERRUPTED)
    if strict and result.left_out:
        sys.exit(exits.LAYERS)


def _deliver(
    result: "History",
    files: Mapping[str, Any],
    suffix: "Format",
    *,
    rows: int,
    quiet: bool,
    err: bool,
) -> None:
    from rich.console import Console

    from spectra.reports import histories, history_terminal, history_to_html

    writers = (histories.history_to_json, histories.history_to_csv, history_to_html)
    for key, writer in zip(TEXT_FILES, writers, strict=True):
        if files[key]:
            write(files[key], writer(result))
    if files["plots"]:
        from spectra.reports.plots import save_history_plots

        for path in save_history_plots(result, files["plots"], suffix=suffix):
            if not quiet:
                click.echo(str(path), err=True)
    if not quiet:
        history_terminal.show_history(result, Console(stderr=err), rows=rows)
