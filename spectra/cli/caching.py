"""The commands that look after the store of spectra: cache list, clear, verify."""

import dataclasses
import json
import re
import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import click

from spectra.cli import exits
from spectra.cli.files import write
from spectra.errors import CheckpointError, printable

if TYPE_CHECKING:
    from spectra.store import Entry, Store

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
AGE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", re.ASCII)


def _age(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """Turn an age as 30d into seconds."""
    if value is None:
        return None
    match = AGE.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no age; give one as 30d, 12h or 2w")
    return float(match[1]) * SECONDS[match[2]]


@click.group(short_help="Look after the spectra kept on this machine.")
def cache() -> None:
    """Look after the spectra kept on this machine.

    Commands keep the spectrum of every layer they decompose under a digest of its numbers, so that the
    same weights are decomposed once, whatever file they are in. They lie in $SPECTRA_CACHE, else in
    $XDG_CACHE_HOME/spectra, else in ~/.cache/spectra. With --no-cache a command does without them.
    """


@cache.command("list", short_help="Show where they are, how many, and how large.")
@click.option(
    "--rows",
    metavar="N",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Most rows of the table; 0: all.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write every entry; - for stdout.")
def list_(rows: int, json_file: str | None) -> None:
    """Show where spectra are kept, how many there are and how large, by shape of the layer."""
    store, place = _opened()
    entries = list(store.entries())
    if json_file:
        content = {
            "schema_version": 1,
            "path": str(store.path),
            "entries": [dataclasses.asdict(entry) for entry in entries],
        }
        write(json_file, json.dumps(content, indent=2) + "\n")
    if json_file != "-":
        total = sum(entry.nbytes for entry in entries)
        click.echo(f"{place}: {_spectra(len(entries))}, {_size(total)}")
        for line in _table(entries, rows):
            click.echo(line)


@cache.command(short_help="Remove them.")
@click.option(
    "--older-than",
    metavar="AGE",
    callback=_age,
    help="Only those written longer ago than AGE, as 30d, 12h or 2w.",
)
def clear(older_than: float | None) -> None:
    """Remove kept spectra, all or the older ones; nothing else that lies in their folder.

    Exit codes: 0 done; 2 wrong usage; 3 some could not be removed.
    """
    store, place = _opened()
    done = store.clear(older_than)
    click.echo(f"{place}: removed {_spectra(done.n_removed)}, {_size(done.nbytes)}")
    if done.n_left:
        reason = f"{_spectra(done.n_left)} could not be removed"
        raise CheckpointError("E_CACHE", str(store.path), reason, "look at its permissions")


@cache.command(short_help="Check that they are as they were written.")
@click.option("--remove", is_flag=True, help="Remove those that are damaged.")
def verify(remove: bool) -> None:
    """Read every kept spectrum and compare it with its checksum; name those that are damaged.

    A damaged one does no harm: it counts as absent, and is replaced when its layer is analyzed again.

    Exit codes: 0 all are intact, or the others were removed; 1 some are damaged; 2 wrong usage.
    """
    store, place = _opened()
    done = store.verify(remove=remove)
    for path, flaw in done.damaged:
        click.echo(f"{printable(str(path))}: {flaw}")
    found = f"{len(done.damaged)} damaged" if done.damaged else "all intact"
    if done.damaged and remove:
        found += " and removed"
    click.echo(f"{place}: {_spectra(done.n_checked)} checked, {found}")
    if done.damaged and not remove:
        sys.exit(exits.DAMAGED)


def _opened() -> "tuple[Store, str]":
    """Return the store of the commands, and its place as it may be shown."""
    from spectra.store import Store

    store = Store()
    if store.path is None:
        reason, advice = "has no place: there is no home directory", "set SPECTRA_CACHE to a folder"
        raise CheckpointError("E_CACHE", "the store of spectra", reason, advice)
    return store, printable(str(store.path))


def _spectra(count: int) -> str:
    return f"{count:,} {'spectrum' if count == 1 else 'spectra'}"


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:,.1f} kB"


def _table(entries: "list[Entry]", rows: int) -> list[str]:
    """Return lines of a table, one a shape, the largest first."""
    by_shape: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        slices = f"×{entry.n_matrices}" if entry.n_matrices > 1 else ""
        by_shape[f"{entry.N}×{entry.M}{slices}"].append(entry)
    sizes = {shape: sum(entry.nbytes for entry in found) for shape, found in by_shape.items()}
    shown = sorted(by_shape, key=lambda shape: -sizes[shape])[: rows or None]
    if not shown:
        return []
    now = time.time()
    cells = [("N×M", "spectra", "size", "newest")]
    for shape in shown:
        newest = max(entry.time for entry in by_shape[shape])
        cells.append((shape, f"{len(by_shape[shape]):,}", _size(sizes[shape]), _ago(now - newest)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    ]
    if len(by_shape) > len(shown):
        lines.append(f"  … {len(by_shape) - len(shown)} more shapes; --rows 0 shows all")
    return lines


def _ago(seconds: float) -> str:
    """Say how long ago something was, in the largest unit that makes one of it."""
    unit = next((unit for unit in "wdhm" if seconds >= SECONDS[unit]), "s")
    return f"{max(seconds, 0) / SECONDS[unit]:.0f} {unit} ago"
