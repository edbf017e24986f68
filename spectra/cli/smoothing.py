"""The command that writes a truncated copy of a checkpoint: smooth."""

import sys
from typing import Any

import click

from spectra.cli import exits
from spectra.cli.files import check_outputs, write
from spectra.cli.options import shared
from spectra.errors import printable

EXAMPLES = """\b
Examples:
  spectra smooth model.safetensors -o model-erg.safetensors
  spectra smooth model/ --to power_law -o model-cut/
  spectra smooth model/ --layers '*.mlp.*' -o model-mlp/ --json cut.json"""


@click.command(epilog=EXAMPLES, short_help="Write a copy cut to its tails (SETOL).")
@click.argument("source", metavar="SOURCE")
@click.option(
    "--to",
    type=click.Choice(["erg", "power_law", "midpoint"]),
    default="erg",
    show_default=True,
    help="The tail that stays: that of the ERG condition, that of the power-law fit, or half way.",
)
@click.option(
    "-o",
    "--out",
    metavar="OUT",
    required=True,
    help="A file in .safetensors, or a folder; one that is there is never written over.",
)
@shared("convention", "layers", "exclude", "conv")
@click.option(
    "--rows",
    metavar="N",
    type=click.IntRange(min=0),
    default=60,
    show_default=True,
    help="Most rows of the table, the first layers. 0: all.",
)
@shared("no_cache", "json_file")
@click.option("--strict", is_flag=True, help="Exit with 4 if a layer could not be cut.")
@shared("quiet")
def smooth(source: str, out: str, **options: Any) -> None:  # noqa: ANN401 - click's values
    """Write a copy of SOURCE in which each matrix is cut to its tail.

    Of a matrix's singular components those in the tail stay: where SETOL says the learnt
    correlations are. If the copy is as good on test data as the original, they were. All other
    tensors are copied byte by byte, and so are layers without such a tail; embeddings and output
    heads too, unless --layers names them. The slices of a convolution share one threshold.

    SOURCE is a safetensors file, a folder or an index of shards, or a torch or NumPy file, which is
    written as safetensors. Quantised weights and other formats are refused. The type of each
    tensor stays. A folder OUT gets the configuration and the tokenizer too.

    Exit codes: 0 done; 2 wrong usage; 3 SOURCE cannot be read, or is refused, or OUT is taken or
    cannot be written; 4 a layer could not be cut and --strict was given; 130 interrupted (OUT is
    then not there).
    """
    from spectra import smoothing
    from spectra.cli.progress import progress_bar
    from spectra.reports import smoothing_terminal, smoothings
    from spectra.store import Store

    json_file, rows = options.pop("json_file"), options.pop("rows")
    quiet, strict = options.pop("quiet"), options.pop("strict")
    store = None if options.pop("no_cache") else Store()
    err = check_outputs({"json_file": json_file, "out": out}, (source,))
    with progress_bar(quiet=quiet) as progress:
        copy = smoothing.smooth(source, out, store=store, progress=progress, **options)
    if json_file:
        write(json_file, smoothings.smoothed_to_json(copy))
    if not quiet:
        from rich.console import Console

        smoothing_terminal.show_smoothed(copy, Console(stderr=err), rows=rows)
    failed = [layer for layer in copy.layers if layer.status != "ok" and not layer.cut]
    if strict and failed:
        named = f"{printable(failed[0].name)} ({failed[0].status})"
        click.echo(
            f"--strict: {len(failed)} of {len(copy.layers)} layers not cut: {named}", err=True
        )
        sys.exit(exits.LAYERS)
