"""Reports as files: the format is the one the ending names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from spectra.errors import SelectionError
from spectra.records import ModelReport
from spectra.reports.html import to_html
from spectra.reports.tables import to_csv, to_json, write_text

WRITERS: Mapping[str, Callable[[ModelReport], str]] = MappingProxyType(
    {".json": to_json, ".csv": to_csv, ".html": to_html}
)
"""What turns a report into text, by the ending of the file."""


def write(report: ModelReport, path: str | Path) -> None:
    """Write the report in the format its ending names: ``.json``, ``.csv`` or ``.html``.

    Raises
    ------
    SelectionError
        If the ending is none of them.
    CheckpointError
        If the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        known = " or ".join(WRITERS)
        raise SelectionError("E_FORMAT", str(path), f"has no known ending; use {known}")
    write_text(path, WRITERS[path.suffix](report))
