"""Reports as files: the format is the one the ending names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from spectra.errors import SelectionError
from spectra.records import ModelReport
from spectra.reports.frames import to_parquet
from spectra.reports.html import to_html
from spectra.reports.markdown import to_markdown
from spectra.reports.tables import to_csv, to_json
from spectra.spectra_files import to_bytes
from spectra.writing import write_file

WRITERS: Mapping[str, Callable[[ModelReport], str | bytes]] = MappingProxyType(
    {
        ".json": to_json,
        ".csv": to_csv,
        ".html": to_html,
        ".md": to_markdown,
        ".parquet": to_parquet,
        ".spectra": to_bytes,
    }
)
"""What turns a report into the content of a file, by the file's ending."""


def write(report: ModelReport, path: str | Path) -> None:
    """Write the report in the format its ending names, one of `WRITERS`.

    Raises
    ------
    SelectionError
        If the ending is none of them.
    CheckpointError
        If the file cannot be written, or the format needs a package that is not installed.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        known = " or ".join(WRITERS)
        raise SelectionError("E_FORMAT", str(path), f"has no known ending; use {known}")
    write_file(path, WRITERS[path.suffix](report))
