"""Options that several commands share: which layers are meant, by which rules, how it is computed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


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
            "--html",
            "html_file",
            metavar="FILE",
            help="Write one page to read in a browser: what to look at first, pictures, every layer,"
            " in one file that needs no network.",
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
