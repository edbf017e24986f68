"""The commands that look at one model: analyze, demo, describe."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spectra.cli import exits, gating
from spectra.cli.files import DATA, check_outputs, picture_format, write
from spectra.cli.options import COMPUTATION, RULES, arguments, shared
from spectra.errors import AnalysisInterrupted, printable

if TYPE_CHECKING:
    from spectra.records import ModelReport
    from spectra.reports.plots import Format

NAMED = 3
ENDINGS = {
    "json_file": ".json",
    "csv_file": ".csv",
    "html_file": ".html",
    "markdown_file": ".md",
    "parquet_file": ".parquet",
    "spectra": ".spectra",
}
"""Options that write a file, with the ending that names the format."""

ANALYSIS = (
    *RULES,
    "rows",
    *COMPUTATION,
    "replicates",
    "metrics",
    *DATA,
    "plots",
    "format",
    "explain",
    "strict",
    "quiet",
)

EXAMPLES = """\b
Examples:
  spectra analyze model.safetensors
  spectra analyze checkpoint.pt --layers 'encoder.*' --html report.html
  spectra analyze model/ --fail-on 'layers(alpha < 2) > 5%' --fail-on 'any(non_finite)'
  spectra analyze model/ --spectra model.spectra
  spectra analyze model.spectra --estimator hill_mid
  spectra analyze model/ --json - --quiet | jq .summary.alpha"""


@click.command(epilog=EXAMPLES)
@click.argument("source", metavar="SOURCE")
@shared(*ANALYSIS)
@gating.gates
def analyze(source: str, **options: Any) -> None:  # noqa: ANN401 - click's values
    """Diagnose the weights in SOURCE, layer by layer.

    SOURCE is a checkpoint: a file (safetensors, torch, TorchScript, GGUF, ONNX, Keras, NumPy, Flax),
    an index of shards, a folder that holds one, a repository of the Hugging Face hub (org/name), or
    a URL; or a file that --spectra wrote. Nothing in it is ever run.

    Exit codes: 0 done; 1 a rule of --fail-on or --max-regress is met; 2 wrong usage; 3 SOURCE
    cannot be read, or is refused; 4 some layers have no numbers, and --strict was given or a rule
    could not be judged; 130 interrupted (what was done is written, and marked).
    """
    _run(source, **options)


@click.command()
@shared(*ANALYSIS)
@gating.gates
def demo(**options: Any) -> None:  # noqa: ANN401 - click's own values
    """Analyze the model that ships with spectra: no argument needed.

    A three-layer perceptron (784-300-100-10) trained on MNIST as in the SETOL paper.
    """
    from spectra import sources

    record = sources.demo_record()
    if not options["quiet"] and "-" not in map(options.get, DATA):
        click.echo(
            f"A {record['architecture'].split(',')[0]} perceptron, trained on MNIST as in"
            f" arXiv 2507.17912:\ntest error {record['test_error']:.2%} (the paper: 1.64 %), and"
            " the paper's alpha for its layers: fc1 2.47, fc2 2.30.\n"
        )
    _run(sources.demo_model(), **options)


@click.command(short_help="List what an analysis would take and skip.")
@click.argument("source", metavar="SOURCE")
@shared(*RULES, "rows")
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

    from spectra import inventory
    from spectra.reports import inventory_json, terminal

    stock = inventory.describe(source, **options)
    if json_file:
        write(json_file, inventory_json(stock))
    if json_file != "-":
        terminal.show_inventory(stock, Console(), rows=rows)


def _run(source: str | Path, **options: Any) -> None:  # noqa: ANN401 - passed on
    """Analyze, write what was asked for, and leave with the right exit code."""
    from spectra import analysis
    from spectra.cli.progress import progress_bar

    options = arguments(options)
    rows, quiet, strict = options.pop("rows"), options.pop("quiet"), options.pop("strict")
    words = options.pop("explain")
    files = {key: options.pop(key) for key in (*DATA, "plots")}
    suffix = picture_format(files["plots"], options.pop("suffix"))
    asked = {key: options.pop(key) for key in gating.OPTIONS}
    err = check_outputs(files, (source, options["base"], asked["baseline"]))
    gate = gating.prepare(asked, options, evidence=options["evidence"])
    interrupted = False
    with gating.names_are_no_commands(gate, err=err):
        try:
            with progress_bar(quiet=quiet) as progress:
                report = analysis.analyze(
                    str(source),
                    progress=progress,
                    **options,
                )
        except AnalysisInterrupted as stop:
            report, interrupted = stop.report, True
        _write_files(report, files)
        if not quiet:
            # With data on standard output the table goes where a person looks: standard error.
            _show(report, rows=rows, words=words, err=err)
        if files["plots"] and report.complete:
            _draw(report, files["plots"], suffix, quiet=quiet)
        outcomes = gating.judge(gate, report, quiet=quiet, err=err)
    code = gating.conclude(gate, report, outcomes, err=err)
    if interrupted:
        _leave_at_once()
        sys.exit(exits.INTERRUPTED)
    if code:
        sys.exit(code)
    if strict and report.summary["n_failed"]:
        _say_failed(report)
        sys.exit(exits.LAYERS)


def _say_failed(report: "ModelReport") -> None:
    """Say on standard error which layers --strict stumbled over."""
    failed = [layer for layer in report.layers if layer.status != "ok"]
    named = ", ".join(f"{printable(x.name)} ({x.status})" for x in failed[:NAMED])
    more = f" and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    click.echo(
        f"--strict: {len(failed)} {'layer has' if len(failed) == 1 else 'layers have'} no alpha: {named}{more}",
        err=True,
    )


def _leave_at_once() -> None:
    """End the process where solvers still run after a second Ctrl-C: an orderly exit would wait."""
    from spectra import engine

    if engine.is_solving():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exits.INTERRUPTED)


def _write_files(report: "ModelReport", files: Mapping[str, Any]) -> None:
    """Write what was asked for, before any table: one that goes into a closed pipe must not cost it."""
    from spectra.reports.files import WRITERS

    for key, ending in ENDINGS.items():
        if files[key]:
            write(files[key], WRITERS[ending](report))


def _show(report: "ModelReport", *, rows: int, words: bool, err: bool) -> None:
    from rich.console import Console

    from spectra.reports import terminal

    console = Console(stderr=err)
    terminal.show_report(report, console, rows=rows)
    if words:
        terminal.show_words(report, console)


def _draw(report: "ModelReport", folder: Path, suffix: "Format", *, quiet: bool) -> None:
    from spectra.cli.progress import progress_bar
    from spectra.reports.plots import save_plots

    total = 2 + sum(layer.spectrum is not None for layer in report.layers)
    with progress_bar(quiet=quiet) as progress:
        for done, path in enumerate(save_plots(report, folder, suffix=suffix), start=1):
            if progress:
                progress(done, total, path.name)
    if not quiet:
        click.echo(f"{total} pictures in {folder}", err=True)
