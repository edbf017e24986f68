"""Options that several commands share, each said once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import click

THOROUGH_REPLICATES = 200

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "convention": click.option(
            "--convention",
            metavar="NAME",
            default="htsr",
            show_default=True,
            help="What is counted and how: htsr, or weightwatcher-0.7.7 for that program's numbers.",
        ),
        "layers": click.option(
            "--layers",
            metavar="GLOB",
            multiple=True,
            help="Only layers whose name matches, as 'encoder.*'; may be repeated.",
        ),
        "exclude": click.option(
            "--exclude", metavar="GLOB", multiple=True, help="All but these; may be repeated."
        ),
        "conv": click.option(
            "--conv",
            type=click.Choice(["slices", "flatten"]),
            default="slices",
            show_default=True,
            help="Convolution kernels: one matrix a position, pooled, or one matrix in all.",
        ),
        "base": click.option(
            "--base",
            metavar="SOURCE",
            help="The model a LoRA adapter belongs to: analyze the merged matrices.",
        ),
        "allow_partial": click.option(
            "--allow-partial",
            is_flag=True,
            help="Take a folder from which shards are missing, and mark the report.",
        ),
        "rows": click.option(
            "--rows",
            metavar="N",
            type=click.IntRange(min=0),
            default=60,
            show_default=True,
            help="Most rows of the table; the layers that most need a look stay. 0: all.",
        ),
        "estimator": click.option(
            "--estimator",
            metavar="NAME",
            default="csn",
            show_default=True,
            help="How alpha is estimated: csn (maximum likelihood, xmin of least KS distance),"
            " csn_truncated, hill_mid, hill_k, xmin_peak, xmin_peak_compat or clip_xmax.",
        ),
        "device": click.option(
            "--device",
            metavar="NAME",
            default="auto",
            show_default=True,
            help="auto, cpu, cuda or cuda:1.",
        ),
        "precision": click.option(
            "--precision",
            type=click.Choice(["double", "fast", "svd"]),
            default="double",
            show_default=True,
            help="fast: float32, alpha to about 1e-3; svd: no Gram matrices, for the smallest"
            " eigenvalues, several times slower.",
        ),
        "seed": click.option(
            "--seed",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Seed of the bootstrap.",
        ),
        "replicates": click.option(
            "--replicates",
            metavar="N",
            type=click.IntRange(min=0),
            help="Bootstrap replicates behind alpha's interval (20; 200 with --metrics all).",
        ),
        "metrics": click.option(
            "--metrics",
            type=click.Choice(["default", "all"]),
            default="default",
            show_default=True,
            help="all: also nulls of the same shape, correlation traps, goodness of fit, other"
            " families; several times slower.",
        ),
        "json_file": click.option(
            "--json", "json_file", metavar="FILE", help="Write everything as JSON; - for stdout."
        ),
        "csv_file": click.option(
            "--csv", "csv_file", metavar="FILE", help="Write one row a layer as CSV; - for stdout."
        ),
        "spectra": click.option(
            "--spectra",
            metavar="FILE",
            help="Keep the spectra, to be analyzed again without the weights: FILE is a SOURCE.",
        ),
        "no_cache": click.option(
            "--no-cache",
            is_flag=True,
            help="Decompose every layer anew; keep and look up no spectra (see: spectra cache).",
        ),
        "html_file": click.option(
            "--html",
            "html_file",
            metavar="FILE",
            help="Write one page to read in a browser: the verdict, pictures and tables, in one file"
            " that needs no network.",
        ),
        "markdown_file": click.option(
            "--markdown",
            "markdown_file",
            metavar="FILE",
            help="Write a summary for pull requests as Markdown; - for stdout.",
        ),
        "parquet_file": click.option(
            "--parquet",
            "parquet_file",
            metavar="FILE",
            help="Write one row a layer as Parquet, typed, the rest in its metadata; - for a pipe.",
        ),
        "plots": click.option(
            "--plots",
            metavar="DIR",
            type=click.Path(file_okay=False, path_type=Path),
            help="Write a picture of every spectrum, of alpha by depth, and of alpha against the ERG"
            " condition.",
        ),
        "format": click.option(
            "--format",
            "suffix",
            type=click.Choice(["png", "svg", "pdf"]),
            help="How --plots writes them: png, or for papers svg or pdf, with text as text.  "
            "[default: png]",
        ),
        "explain": click.option(
            "--explain", is_flag=True, help="Say in words what is seen in each layer."
        ),
        "strict": click.option(
            "--strict", is_flag=True, help="Exit with 4 if a layer has no numbers."
        ),
        "quiet": click.option("--quiet", is_flag=True, help="No table and no progress."),
    }
)

RULES = ("convention", "layers", "exclude", "conv", "base", "allow_partial")
"""Which layers are meant, and by which rules."""

COMPUTATION = ("estimator", "device", "precision", "seed", "no_cache")
"""How the numbers are computed."""


def shared(*names: str) -> Callable[[Command], Command]:
    """Add options to a command, in this order."""

    def add(command: Command) -> Command:
        for name in reversed(names):
            command = _OPTIONS[name](command)
        return command

    return add


def arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Turn what the shared options say into the arguments of an analysis."""
    from spectra.analysis import REPLICATES
    from spectra.store import Store

    told = dict(options)
    told["store"] = None if told.pop("no_cache") else Store()
    if "metrics" in told:
        told["evidence"] = told.pop("metrics") == "all"
    if "replicates" in told and told["replicates"] is None:
        told["replicates"] = THOROUGH_REPLICATES if told.get("evidence") else REPLICATES
    return told
