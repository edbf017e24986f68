"""Files that are there whole or not at all, whatever happens while they are written."""

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from spectra.errors import CheckpointError

TEMPORARY = ".spectra-{}.tmp"
"""The name under which a file is written before it is moved into place."""


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file that a user asked for; into a device or a pipe as it is.

    Text that is no Unicode is written as escapes.

    Raises
    ------
    CheckpointError
        ``E_WRITE`` if it cannot be written.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    try:
        if path.exists() and not path.is_file():  # nothing to be moved over
            path.write_bytes(content)
        else:
            replace_file(path, content)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError(
            "E_WRITE", str(path), f"cannot be written ({reason})", "choose another place"
        ) from error


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under a name of its own beside its place, then move it there.

    A process that is killed meanwhile leaves the old file, or none, and a temporary one. Nothing is
    forced to the disk: what a loss of power spoils, its reader must be able to tell.

    Raises
    ------
    OSError
        If it cannot be written; what was there is as it was.
    """
    # The system applies the umask: to ask for it is to change it, under other threads' feet.
    with whole(path) as temporary, temporary.open("xb") as file:
        file.write(content)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a name beside `path` for a file or folder to be written, then move it there.

    What stood there as a file, or an empty folder, is replaced. After an error nothing is left.
    """
    temporary = path.with_name(TEMPORARY.format(secrets.token_hex(8)))
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            if temporary.is_dir():
                shutil.rmtree(temporary)
            temporary.unlink(missing_ok=True)
        raise
