"""The commands that turn a report into what other programs act on: policy prune, freeze, lora."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from spectra.cli.files import check_outputs, write
from spectra.cli.options import RULES, arguments, shared

if TYPE_CHECKING:
    from spectra.policies import Policy
    from spectra.records import ModelReport

Command = TypeVar("Command", bound=Callable[..., Any])


def _common(command: Command) -> Command:
    """Add what all three take, in the order of the help."""
    computed = shared(*RULES, "device", "precision", "no_cache")(command)
    shown = click.option(
        "--rows",
        metavar="N",
        type=click.IntRange(min=0),
        default=60,
        show_default=True,
        help="Most rows of the table. 0: all.",
    )(shared("quiet")(computed))
    output = click.option(
        "-o",
        "--output",
        metavar="FILE",
        default="-",
        help="Where it goes; left out, standard output.",
    )(shown)
    return click.argument("source", metavar="SOURCE")(output)


@click.group(short_help="Say what to prune, train or adapt, by layer.")
def policy() -> None:
    """Turn what is seen in SOURCE into what other programs act on, layer by layer.

    SOURCE is whatever analyze takes. The policy goes to standard output, or to a file; a table of it to
    standard error, or then to standard output. No weights are changed.
    """


@policy.command(short_help="How much of each layer to prune (AlphaPruning).")
@click.option(
    "--target",
    metavar="SHARE",
    type=float,
    default=0.7,
    show_default=True,
    help="Share of the weights of all layers together.",
)
@click.option(
    "--spread",
    metavar="SHARE",
    type=float,
    default=0.3,
    show_default=True,
    help="How far blocks may lie from it: between 1 less and 1 more this, times a factor for all.",
)
@click.option(
    "--estimator",
    metavar="NAME",
    default="xmin_peak",
    show_default=True,
    help="How alpha is estimated, as for analyze; xmin_peak is the paper's.",
)
@_common
def prune(source: str, target: float, spread: float, **options: Any) -> None:  # noqa: ANN401 - click's
    """Say how much of each layer to prune: less where tails are heavy.

    Writes JSON with a ratio for every layer, the same within a block: AlphaPruning's linear map of the
    block's mean alpha (arXiv 2410.10912). SOURCE may also be the JSON of analyze with this estimator.
    Embeddings, heads and layers outside blocks are left alone.

    Exit codes: 0 done; 2 wrong usage, or a spread that would prune a block whole; 3 SOURCE cannot be
    read, or has no alphas; 130 interrupted.
    """
    from spectra import policies

    estimator = options["estimator"]
    _run(
        source,
        lambda report: policies.pruning_ratios(report, target, spread, estimator=estimator),
        **options,
    )


@policy.command(short_help="Which layers to fine-tune (Spectrum).")
@click.option(
    "--fraction",
    metavar="SHARE",
    type=float,
    default=0.25,
    show_default=True,
    help="Share of the layers of each type to train, rounded down.",
)
@click.option(
    "--by",
    type=click.Choice(["snr", "snr_edge"]),
    default="snr",
    show_default=True,
    help="Signal over noise by the threshold of Spectrum's program, or by the edge of noise of the"
    " same shape.",
)
@click.option("--layers-only", is_flag=True, help="Freeze embeddings and heads too.")
@_common
def freeze(source: str, fraction: float, by: str, layers_only: bool, **options: Any) -> None:  # noqa: ANN401
    """Say which layers to fine-tune, the others being frozen: those of most signal over noise.

    Writes YAML, unfrozen_parameters with a list of regular expressions, as Spectrum's program (arXiv
    2406.06623) does and axolotl reads. Layers are ranked among those with one name in their blocks.

    Exit codes: 0 done; 2 wrong usage, or a share that chooses no layer; 3 SOURCE cannot be read, or is
    JSON, which holds no spectra; 130 interrupted.
    """
    from spectra import policies

    _run(
        source,
        lambda report: policies.layers_to_train(report, fraction, by=by, ends=not layers_only),
        **options,
    )


@policy.command(short_help="Which rank each LoRA adapter gets.")
@click.option(
    "--rank",
    "mean_rank",
    metavar="N",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="The adapters together cost what this rank everywhere would.",
)
@click.option(
    "--budget", metavar="N", type=click.IntRange(min=1), help="Or how many parameters they have."
)
@click.option(
    "--by",
    type=click.Choice(["n_spikes", "n_tail", "stable_rank"]),
    default="n_spikes",
    show_default=True,
    help="What ranks are in proportion to.",
)
@click.option(
    "--lowest",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Least rank.",
)
@click.option(
    "--highest",
    metavar="N",
    type=click.IntRange(min=1),
    help="Largest rank; left out, 4 times --rank.",
)
@_common
def lora(
    source: str,
    mean_rank: int,
    budget: int | None,
    by: str,
    lowest: int,
    highest: int | None,
    **options: Any,  # noqa: ANN401
) -> None:
    """Say which rank each LoRA adapter gets: more where more of the spectrum stands out of noise.

    Writes JSON whose keys, r and rank_pattern, are arguments of PEFT's LoraConfig. No paper tells this
    rule. SOURCE may also be the JSON of analyze.

    Exit codes: 0 done; 2 wrong usage, or too small a budget; 3 SOURCE cannot be read, or has no linear
    layer; 130 interrupted.
    """
    from spectra import policies

    _run(
        source,
        lambda report: policies.lora_ranks(
            report, mean_rank, budget=budget, by=by, lowest=lowest, highest=highest
        ),
        **options,
    )


def _run(
    source: str,
    decide: "Callable[[ModelReport], Policy]",
    *,
    output: str,
    rows: int,
    quiet: bool,
    **options: Any,  # noqa: ANN401 - those of an analysis
) -> None:
    from rich.console import Console

    from spectra.cli.progress import progress_bar
    from spectra.ranking import report_of
    from spectra.reports import policies, policy_terminal

    err = check_outputs({"json_file": output}, (source, options["base"]))
    with progress_bar(quiet=quiet) as progress:
        report = report_of(source, arguments(options) | {"replicates": 0}, progress)
    decided = decide(report)
    write(output, policies.to_file(decided))
    if not quiet:
        policy_terminal.show_policy(decided, Console(stderr=err), rows=rows)
