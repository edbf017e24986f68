"""Files that commands write: refused before the work where they cannot be, whole or not at all."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from spectra.errors import CheckpointError

if TYPE_CHECKING:
    from spectra.reports.plots import Format


def check_writable(file: str | Path | None) -> None:
    """Refuse a place that cannot be written before the work, not after it."""
    if file is None or file == "-":
        return
    place = Path(file)
    folder = next(p for p in (place.parent, *place.parent.parents) if p.exists())
    if not os.access(folder, os.W_OK) or (isinstance(file, str) and folder != place.parent):
        raise CheckpointError(
            "E_WRITE", str(place), "its folder is not there or not writable", "choose another place"
        )


def picture_format(plots: Path | None, suffix: str | None) -> "Format":
    """Return the format of pictures; one that no picture takes is a slip, told as such."""
    if suffix is not None and plots is None:
        raise click.UsageError("--format is that of --plots, which is not given")
    return cast("Format", suffix or "png")


def write(file: str, text: str) -> None:
    """Write text to a file, or to standard output for ``-``."""
    from spectra.reports.tables import write_text

    if file == "-":
        click.echo(text, nl=False)
    else:
        write_text(Path(file), text)


def append(path: Path, text: str) -> None:
    """Add text to the end of a file that others may write to too."""
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError("E_WRITE", str(path), f"cannot be written ({reason})") from error
