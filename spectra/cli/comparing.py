"""The command that holds two models against each other: compare."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from spectra.cli import exits
from spectra.cli.files import check_outputs, write
from spectra.cli.options import COMPUTATION, RULES, arguments, shared

if TYPE_CHECKING:
    from spectra.comparing import Comparison

TEXT_FILES = ("json_file", "csv_file", "html_file")

EXAMPLES = """\b
Examples:
  spectra compare base.safetensors finetuned.safetensors --html change.html
  spectra compare epoch-10.pt epoch-20.pt --no-subspaces
  spectra compare before.json after.json --json - --quiet | jq .verdict"""


@click.command(epilog=EXAMPLES, short_help="Say what changed from one model to another.")
@click.argument("base", metavar="BASE")
@click.argument("other", metavar="OTHER")
@click.option(
    "--subspaces/--no-subspaces",
    default=True,
    show_default=True,
    help="Compare leading singular subspaces too; as costly as all the rest.",
)
@shared(*(rule for rule in RULES if rule != "base"), "rows", *COMPUTATION, "replicates")
@click.option("--json", "json_file", metavar="FILE", help="Write everything as JSON; - for stdout.")
@click.option(
    "--csv", "csv_file", metavar="FILE", help="Write one row a matched layer as CSV; - for stdout."
)
@shared("html_file")
@click.option("--strict", is_flag=True, help="Exit with 4 if a matched layer has no numbers.")
@click.option("--quiet", is_flag=True, help="No table and no progress.")
def compare(base: str, other: str, **options: Any) -> None:  # noqa: ANN401 - click's values
    """Say what changed from BASE to OTHER, layer by layer, and what kind of change it is.

    Both are checkpoints as analyze takes them, or the JSON that analyze wrote, of which numbers
    alone are compared. Layers are matched by name; GGUF has names of its own. Of their difference:
    size, rank, spectrum, and whether it is noise (rounding, quantisation), of low rank (a merged
    LoRA), a factor, training, or another training run. Biases and norms are not compared.

    Exit codes: 0 done; 2 wrong usage, or numbers that cannot be compared; 3 unreadable input; 4 a
    matched layer has no numbers and --strict was given; 130 interrupted.
    """
    from spectra import comparing
    from spectra.cli.progress import progress_bar

    options = arguments(options)
    quiet, strict, rows = (options.pop(key) for key in ("quiet", "strict", "rows"))
    files = {key: options.pop(key) for key in TEXT_FILES}
    err = check_outputs(files, (base, other))
    with progress_bar(quiet=quiet) as progress:
        result = comparing.compare(base, other, progress=progress, **options)
    _deliver(result, files, rows=rows, quiet=quiet, err=err)
    if not result.layers:
        sys.exit(exits.USAGE)
    if strict and any(side.status != "ok" for x in result.layers for side in (x.base, x.other)):
        sys.exit(exits.LAYERS)


def _deliver(
    result: "Comparison", files: Mapping[str, Any], *, rows: int, quiet: bool, err: bool
) -> None:
    from rich.console import Console

    from spectra.reports import comparing_terminal, comparison_to_html, comparisons

    writers = (comparisons.comparison_to_json, comparisons.comparison_to_csv, comparison_to_html)
    for key, writer in zip(TEXT_FILES, writers, strict=True):
        if files[key]:
            write(files[key], writer(result))
    if not quiet:
        comparing_terminal.show_comparison(result, Console(stderr=err), rows=rows)
