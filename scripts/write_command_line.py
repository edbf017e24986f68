"""Write docs/command-line.md from the commands' own help: python scripts/write_command_line.py."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from spectra.cli import main as spectra

PAGE = Path(__file__).parents[1] / "docs" / "command-line.md"

HEAD = """# The command line

Standard output is data, standard error is progress. `-` for a file is standard output; `NO_COLOR` is honoured.
What each command says with `--help` (this page is made of it by `scripts/write_command_line.py`):
"""


def help_of(*names: str) -> str:
    result = CliRunner(env={"COLUMNS": "92"}).invoke(
        spectra, [*names, "--help"], prog_name="spectra"
    )
    return re.sub(r"[ \t]+$", "", result.output, flags=re.MULTILINE).strip()


def commands(command: click.Command, names: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield names
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from commands(command.commands[name], (*names, name))


def page() -> str:
    parts = (
        f"## {' '.join(('spectra', *names))}\n\n```text\n{help_of(*names)}\n```\n"
        for names in commands(spectra)
    )
    return "\n".join([HEAD, *parts])


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
