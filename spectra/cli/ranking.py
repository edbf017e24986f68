"""The command that puts models in order: rank."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spectra.cli import exits
from spectra.cli.files import check_outputs, picture_format, write
from spectra.cli.options import COMPUTATION, RULES, arguments, shared

if TYPE_CHECKING:
    from spectra.ranking import Ranking
    from spectra.reports.plots import Format

TEXT_FILES = ("json_file", "csv_file", "html_file", "markdown_file")

EXAMPLES = """\b
Examples:
  spectra rank run-a.safetensors run-b.safetensors
  spectra rank models/*.pth --scores errors.csv --html ranking.html
  spectra rank a.json b.json --json - | jq .best"""


@click.command(epilog=EXAMPLES, short_help="Put models in order without test data.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option(
    "--by",
    metavar="METRIC",
    default="auto",
    show_default=True,
    help="alpha, alpha_hat, log_norm, log_spectral_norm or log_alpha_norm; auto: alpha for models of"
    " the same layer shapes, alpha_hat for others.",
)
@click.option(
    "--scores",
    metavar="FILE",
    help="CSV of model,score[,group]: hold the order against known quality.",
)
@click.option(
    "--scores-are",
    type=click.Choice(["higher", "lower"]),
    help="Which scores are the better ones; left out, told by the heading (error, loss: lower).",
)
@shared(*(rule for rule in RULES if rule != "base"), *COMPUTATION)
@click.option("--json", "json_file", metavar="FILE", help="Write everything as JSON; - for stdout.")
@click.option(
    "--csv", "csv_file", metavar="FILE", help="Write one row a model as CSV; - for stdout."
)
@shared("html_file", "markdown_file")
@click.option(
    "--plots",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a picture of the ranking, and of the metric against the scores.",
)
@shared("format")
@click.option("--strict", is_flag=True, help="Exit with 4 if a model could not be ranked.")
@click.option("--quiet", is_flag=True, help="No table and no progress.")
def rank(sources: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401 - click's values
    """Put models in order, best first, by their weights alone.

    SOURCE is a checkpoint as analyze takes it, or the JSON that analyze wrote. Two or more.

    Models of one architecture are compared layer by layer by alpha; over depths and widths alpha
    misleads and alpha_hat is taken. Every place has an interval, every pair a probability: how often
    the order stays as the layers are resampled. It says how well the weights tell the models apart,
    and nothing of what weights cannot show. Rank only models trained for the same task. Models that are
    over-trained, hold NaN, or are mostly like random weights come last and are never called best.

    Exit codes: 0 done; 2 wrong usage, or models that cannot be compared; 3 unreadable input; 4 a
    model could not be ranked and --strict was given; 130 interrupted.
    """
    from spectra import ranking
    from spectra.cli.progress import progress_bar

    options = arguments(options)
    quiet, strict = options.pop("quiet"), options.pop("strict")
    files = {key: options.pop(key) for key in (*TEXT_FILES, "plots")}
    suffix = picture_format(files["plots"], options.pop("suffix"))
    err = check_outputs(files, (*sources, options["scores"]))
    direction = options.pop("scores_are")
    with progress_bar(quiet=quiet) as progress:
        result = ranking.rank(
            sources,
            higher_is_better=None if direction is None else direction == "higher",
            progress=progress,
            **options,
        )
    _deliver(result, files, suffix, quiet=quiet, err=err)
    if strict and result.left_out:
        sys.exit(exits.LAYERS)


def _deliver(
    result: "Ranking", files: Mapping[str, Any], suffix: "Format", *, quiet: bool, err: bool
) -> None:
    from rich.console import Console

    from spectra.reports import markdown, ranking_terminal, ranking_to_html, rankings

    writers = (
        rankings.ranking_to_json,
        rankings.ranking_to_csv,
        ranking_to_html,
        markdown.ranking_to_markdown,
    )
    for key, writer in zip(TEXT_FILES, writers, strict=True):
        if files[key]:
            write(files[key], writer(result))
    if files["plots"]:
        from spectra.reports.plots import save_ranking_plots

        for path in save_ranking_plots(result, files["plots"], suffix=suffix):
            if not quiet:
                click.echo(str(path), err=True)
    if not quiet:
        ranking_terminal.show_ranking(result, Console(stderr=err))
