"""The command line: arguments, progress and exit codes, nothing else.

Exit codes: 0 done, 2 wrong usage, 3 input unreadable or refused, 4 done but layers failed and
--strict was given, 130 interrupted.
"""

import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from spectra import __version__
from spectra.errors import (
    AnalysisInterrupted,
    CheckpointError,
    DeviceError,
    SelectionError,
    SpectraError,
)

if TYPE_CHECKING:
    from spectra.records import ModelReport

EXIT_USAGE = 2
EXIT_INPUT = 3
EXIT_LAYERS = 4
EXIT_INTERRUPTED = 130
THOROUGH_REPLICATES = 200

Command = TypeVar("Command", bound=Callable[..., Any])


class Group(click.Group):
    """Shows errors of the library in one line, with the exit code they stand for."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; end with an exit code where the library raises."""
        try:
            return super().invoke(ctx)
        except SpectraError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            click.echo(f"error[{error.code}] {error}", err=True)
            # A mistyped name or an absent device is usage; whatever the input holds is input.
            ctx.exit(EXIT_USAGE if isinstance(error, SelectionError | DeviceError) else EXIT_INPUT)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 90},
    epilog="Start with: spectra demo. Then: spectra analyze model.safetensors",
)
@click.version_option(__version__, prog_name="spectra")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Tell how good weights are, layer by layer, with no data.

    Reads a trained network's weight matrices and tells from their spectra how well each layer is
    trained: the power-law exponent alpha (2 to 6 in well-trained layers, lower is better down
    to 2), alpha-hat, the ERG condition, norms and ranks.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show α gets a question mark, not a traceback.
            stream.reconfigure(errors="replace")


def selection(command: Command) -> Command:
    """Add the options that say which layers are meant, and by which rules."""
    options = [
        click.option(
            "--convention",
            metavar="NAME",
            default="htsr",
            show_default=True,
            help="What is counted and how: htsr, or weightwatcher-0.7.7 for that program's numbers.",
        ),
        click.option(
            "--layers",
            metavar="GLOB",
            multiple=True,
            help="Only layers whose name matches, as 'encoder.*'; may be repeated.",
        ),
        click.option(
            "--exclude", metavar="GLOB", multiple=True, help="All but these; may be repeated."
        ),
        click.option(
            "--conv",
            type=click.Choice(["slices", "flatten"]),
            default="slices",
            show_default=True,
            help="Convolution kernels: one matrix a position, pooled, or one matrix in all.",
        ),
        click.option(
            "--base",
            metavar="SOURCE",
            help="The model a LoRA adapter belongs to: analyze the merged matrices.",
        ),
        click.option(
            "--allow-partial",
            is_flag=True,
            help="Take a folder from which shards are missing, and mark the report.",
        ),
        click.option(
            "--rows",
            metavar="N",
            type=click.IntRange(min=0),
            default=60,
            show_default=True,
            help="Most rows of the table; the layers that most need a look stay. 0: all.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def output(command: Command) -> Command:
    """Add the options of an analysis: how it is computed and where its results go."""
    options = [
        click.option(
            "--estimator",
            metavar="NAME",
            default="csn",
            show_default=True,
            help="How alpha is estimated: csn (maximum likelihood, xmin of least KS distance),"
            " csn_truncated, hill_mid, hill_k, xmin_peak, xmin_peak_compat or clip_xmax.",
        ),
        click.option(
            "--device",
            metavar="NAME",
            default="auto",
            show_default=True,
            help="auto, cpu, cuda or cuda:1.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["double", "fast", "svd"]),
            default="double",
            show_default=True,
            help="fast: float32, alpha to about 1e-3; svd: no Gram matrices, for the smallest"
            " eigenvalues, several times slower.",
        ),
        click.option(
            "--seed", type=int, default=0, show_default=True, help="Seed of the bootstrap."
        ),
        click.option(
            "--replicates",
            metavar="N",
            type=click.IntRange(min=0),
            help="Bootstrap replicates behind alpha's interval (20; 200 with --metrics all).",
        ),
        click.option(
            "--metrics",
            type=click.Choice(["default", "all"]),
            default="default",
            show_default=True,
            help="all: also nulls of the same shape, correlation traps, goodness of fit, other"
            " families; several times slower.",
        ),
        click.option(
            "--json", "json_file", metavar="FILE", help="Write everything as JSON; - for stdout."
        ),
        click.option(
            "--csv", "csv_file", metavar="FILE", help="Write one row a layer as CSV; - for stdout."
        ),
        click.option(
            "--plots",
            metavar="DIR",
            type=click.Path(file_okay=False, path_type=Path),
            help="Write a picture of every spectrum, and of alpha by depth.",
        ),
        click.option("--explain", is_flag=True, help="Say in words what is seen in each layer."),
        click.option("--strict", is_flag=True, help="Exit with 4 if a layer has no numbers."),
        click.option("--quiet", is_flag=True, help="No table and no progress."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


EXAMPLES = """\b
Examples:
  spectra analyze model.safetensors
  spectra analyze checkpoint.pt --layers 'encoder.*' --plots figures
  spectra analyze model/ --json - --quiet | jq .summary.alpha"""


@main.command(epilog=EXAMPLES)
@click.argument("source", metavar="SOURCE")
@selection
@output
def analyze(source: str, **options: Any) -> None:  # noqa: ANN401 - click's values
    """Diagnose the weights in SOURCE, layer by layer.

    SOURCE is a checkpoint: a file (safetensors, torch, TorchScript, GGUF, ONNX, Keras, NumPy, Flax),
    an index of shards, a folder that holds one, a repository of the Hugging Face hub (org/name), or
    a URL. Nothing in it is ever run.

    Exit codes: 0 done; 2 wrong usage; 3 SOURCE cannot be read, or is refused; 4 some layers have
    no numbers and --strict was given; 130 interrupted (what was done is written, and marked).
    """
    _run(source, **options)


@main.command()
@selection
@output
def demo(**options: Any) -> None:  # noqa: ANN401 - click's own values
    """Analyze the model that ships with spectra: no argument needed.

    A three-layer perceptron (784-300-100-10) trained on MNIST as in the SETOL paper.
    """
    from spectra import sources

    record = sources.demo_record()
    if not options["quiet"] and "-" not in (options["json_file"], options["csv_file"]):
        click.echo(
            f"A {record['architecture'].split(',')[0]} perceptron, trained on MNIST as in"
            f" arXiv 2507.17912:\ntest error {record['test_error']:.2%} (the paper: 1.64 %), and"
            " the paper's alpha for its layers: fc1 2.47, fc2 2.30.\n"
        )
    _run(sources.demo_model(), **options)


@main.command(short_help="List what an analysis would take and skip.")
@click.argument("source", metavar="SOURCE")
@selection
@click.option("--json", "json_file", metavar="FILE", help="Write it as JSON; - for stdout.")
def describe(
    source: str,
    json_file: str | None,
    rows: int,
    **options: Any,  # noqa: ANN401 - passed on
) -> None:
    """List what an analysis of SOURCE would take and skip, and its cost, without running it.

    Reads headers alone where the format has them (safetensors, large torch zip files).
    """
    from rich.console import Console

    from spectra import analysis
    from spectra.reports import inventory_json, terminal

    stock = analysis.describe(source, **options)
    if json_file:
        _write(json_file, inventory_json(stock))
    if json_file != "-":
        terminal.show_inventory(stock, Console(), rows=rows)


@main.command(short_help="Show versions and devices; check this machine.")
def doctor() -> None:
    """Show versions and devices, and check the arithmetic of this machine."""
    from spectra.cli import checks

    sys.exit(0 if checks.run() else 1)


def _run(source: str | Path, **options: Any) -> None:  # noqa: ANN401 - passed on
    """Analyze, write what was asked for, and leave with the right exit code."""
    from spectra import analysis
    from spectra.cli.progress import progress_bar

    thorough = options.pop("metrics") == "all"
    replicates = options.pop("replicates")
    if replicates is None:
        replicates = THOROUGH_REPLICATES if thorough else analysis.REPLICATES
    rows, quiet, strict = options.pop("rows"), options.pop("quiet"), options.pop("strict")
    words = options.pop("explain")
    files = {key: options.pop(key) for key in ("json_file", "csv_file", "plots")}
    if files["json_file"] == "-" == files["csv_file"]:
        raise click.UsageError("--json and --csv cannot both write to standard output")
    for file in (files["json_file"], files["csv_file"], files["plots"]):
        _check_writable(file)
    interrupted = False
    try:
        with progress_bar(quiet=quiet) as progress:
            report = analysis.analyze(
                str(source),
                progress=progress,
                evidence=thorough,
                replicates=replicates,
                **options,
            )
    except AnalysisInterrupted as stop:
        report, interrupted = stop.report, True
    _deliver(report, rows=rows, quiet=quiet, words=words, **files)
    if interrupted:
        _leave_at_once()
        sys.exit(EXIT_INTERRUPTED)
    if strict and report.summary["n_failed"]:
        sys.exit(EXIT_LAYERS)


def _leave_at_once() -> None:
    """End the process where solvers still run after a second Ctrl-C: an orderly exit would wait."""
    from spectra import engine

    if engine.is_solving():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_INTERRUPTED)


def _check_writable(file: str | Path | None) -> None:
    """Refuse a place that cannot be written before the work, not after it."""
    if file is None or file == "-":
        return
    place = Path(file)
    folder = next(p for p in (place.parent, *place.parent.parents) if p.exists())
    if not os.access(folder, os.W_OK) or (isinstance(file, str) and folder != place.parent):
        raise CheckpointError(
            "E_WRITE", str(place), "its folder is not there or not writable", "choose another place"
        )


def _deliver(
    report: "ModelReport",
    *,
    rows: int,
    quiet: bool,
    words: bool,
    json_file: str | None,
    csv_file: str | None,
    plots: Path | None,
) -> None:
    from rich.console import Console

    from spectra.reports import terminal, to_csv, to_json

    # Files first: a table that goes into a closed pipe must not cost them.
    if json_file:
        _write(json_file, to_json(report))
    if csv_file:
        _write(csv_file, to_csv(report))
    if not quiet:
        # With data on standard output the table goes where a person looks: standard error.
        console = Console(stderr="-" in (json_file, csv_file))
        terminal.show_report(report, console, rows=rows)
        if words:
            terminal.show_words(report, console)
    if plots and report.complete:
        from spectra.cli.progress import progress_bar
        from spectra.reports.plots import save_plots

        total = 1 + sum(layer.spectrum is not None for layer in report.layers)
        with progress_bar(quiet=quiet) as progress:
            for done, path in enumerate(save_plots(report, plots), start=1):
                if progress:
                    progress(done, total, path.name)
        if not quiet:
            click.echo(f"{total} pictures in {plots}", err=True)


def _write(file: str, text: str) -> None:
    from spectra.reports.tables import write_text

    if file == "-":
        click.echo(text, nl=False)
    else:
        write_text(Path(file), text)
