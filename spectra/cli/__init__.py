"""The command line: arguments, progress and exit codes, nothing else.

Exit codes: 0 done, 1 a rule of a gate is met or a check failed, 2 wrong usage, 3 input unreadable or refused, 4 done
but layers failed and --strict was given or a rule could not be judged, 130 interrupted.
"""

import io
import sys
import traceback
from pathlib import Path

import click

from spectra import __version__
from spectra.cli import exits
from spectra.cli.analyzing import analyze, demo, describe
from spectra.cli.caching import cache
from spectra.cli.comparing import compare
from spectra.cli.following import history
from spectra.cli.policies import policy
from spectra.cli.ranking import rank
from spectra.cli.smoothing import smooth
from spectra.errors import DeviceError, SelectionError, SpectraError, printable


class Group(click.Group):
    """Shows errors of the library in one line, with the exit code they stand for."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; of a file or folder in its place, say what was probably meant."""
        name = args[0]
        if self.get_command(ctx, name) is None and Path(name).exists():
            raise click.UsageError(
                f"no command is given; did you mean: spectra analyze {printable(name)}"
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; end with an exit code where the library raises."""
        try:
            return super().invoke(ctx)
        except SpectraError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            click.echo(f"error[{error.code}] {error}", err=True)
            # A mistyped name or an absent device is usage; whatever the input holds is input.
            ctx.exit(
                exits.USAGE if isinstance(error, SelectionError | DeviceError) else exits.INPUT
            )
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(exits.INTERRUPTED)


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


@main.command(short_help="Show versions and devices; check this machine.")
def doctor() -> None:
    """Show versions and devices, and check the arithmetic of this machine."""
    from spectra.cli import checks

    sys.exit(0 if checks.run() else 1)


for command in (analyze, demo, describe, rank, compare, history, smooth, policy, cache):
    main.add_command(command)
