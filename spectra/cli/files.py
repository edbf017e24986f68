"""Files that commands write: refused before the work where they cannot be, whole or not at all."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import click

from spectra.errors import CheckpointError, printable

if TYPE_CHECKING:
    from spectra.reports.plots import Format

DATA: Mapping[str, str] = MappingProxyType(
    {
        "json_file": "--json",
        "csv_file": "--csv",
        "html_file": "--html",
        "markdown_file": "--markdown",
        "parquet_file": "--parquet",
        "spectra": "--spectra",
    }
)
"""Options that write data, of which one may go to standard output."""

BINARY = ("--parquet", "--spectra")


def check_outputs(
    files: Mapping[str, str | Path | None], inputs: Iterable[str | Path | None] = ()
) -> bool:
    """Refuse what cannot be written before the work; tell whether standard output is taken for data.

    Nothing that is read, no weights in a folder that is read, and no other output is written over.
    """
    flags = [flag for key, flag in DATA.items() if files.get(key) == "-"]
    if len(flags) > 1:
        raise click.UsageError(f"{' and '.join(flags[:2])} cannot both write to standard output")
    for file in files.values():
        check_writable(file)
    _check_apart(files, [Path(item) for item in inputs if item])
    for flag in BINARY:
        if flag in flags and sys.stdout.isatty():
            raise click.UsageError(f"{flag} writes binary data: give a file, or a pipe to -")
    if files.get("parquet_file"):
        from spectra.reports import frames

        frames.check_installed()
    return bool(flags)


def _check_apart(files: Mapping[str, str | Path | None], inputs: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for file in files.values():
        if file is None or file == "-":
            continue
        place = Path(file).resolve()
        if place in seen and (place.is_file() or not place.exists()):
            raise click.UsageError(f"{printable(str(file))} is given for two outputs")
        seen.add(place)
        for item in inputs:
            source = item.resolve()
            inside = source in place.parents and place.is_file() and not _is_ours(place)
            if (place == source and not source.is_dir()) or inside:
                reason = "is read by this command and would be written over"
                raise CheckpointError("E_WRITE", str(file), reason, "choose another place")


def _is_ours(place: Path) -> bool:
    """Tell by its name whether a file in a folder of weights may be an earlier report."""
    ours = place.suffix in (".json", ".csv", ".html", ".md", ".parquet", ".spectra")
    return ours and place.name != "config.json" and not place.name.endswith(".index.json")


def check_writable(file: str | Path | None) -> None:
    """Refuse a place that cannot be written before the work, not after it."""
    if file is None or file == "-":
        return
    place = Path(file)
    try:
        place.exists()  # a name too long for the file system is an error here, not an absence
        folder = next(p for p in (place.parent, *place.parent.parents) if p.exists())
    except OSError as error:
        reason = f"cannot be written ({(error.strerror or str(error)).lower()})"
        raise CheckpointError("E_WRITE", str(place), reason, "choose another place") from None
    if not os.access(folder, os.W_OK) or (isinstance(file, str) and folder != place.parent):
        raise CheckpointError(
            "E_WRITE", str(place), "its folder is not there or not writable", "choose another place"
        )


def picture_format(plots: Path | None, suffix: str | None) -> "Format":
    """Return the format of pictures; one that no picture takes is a slip, told as such."""
    if suffix is not None and plots is None:
        raise click.UsageError("--format is that of --plots, which is not given")
    return cast("Format", suffix or "png")


def write(file: str, content: str | bytes) -> None:
    """Write text or bytes to a file, or to standard output for ``-``."""
    from spectra.writing import write_file

    if file == "-":
        click.echo(content, nl=False)
    else:
        write_file(Path(file), content)


def append(path: Path, text: str) -> None:
    """Add text to the end of a file that others may write to too."""
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError("E_WRITE", str(path), f"cannot be written ({reason})") from error
