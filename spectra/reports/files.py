"""Reports as files: the format is the one the ending names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from spectra import spectra_files
from spectra.errors import SelectionError
from spectra.records import ModelReport
from spectra.reports.html import to_html
from spectra.reports.tables import to_csv, to_json, write_text

TEXTS: Mapping[str, Callable[[ModelReport], str]] = MappingProxyType(
    {".json": to_json, ".csv": to_csv, ".html": to_html}
)
"""What turns a report into text, by the ending of the file."""

BINARIES: Mapping[str, Callable[[ModelReport, Path], None]] = MappingProxyType(
    {".spectra": spectra_files.write}
)
"""What writes a report as something else than text."""


def write(report: ModelReport, path: str | Path) -> None:
    """Write the report in the format its ending names, see `TEXTS` and `BINARIES`.

    Raises
    ------
    SelectionError
        If the ending is none of them.
    CheckpointError
        If the file cannot be written.
    """
    path = Path(path)
    if path.suffix in TEXTS:
        write_text(path, TEXTS[path.suffix](report))
    elif path.suffix in BINARIES:
        BINARIES[path.suffix](report, path)
    else:
        known = " or ".join((*TEXTS, *BINARIES))
        raise SelectionError("E_FORMAT", str(path), f"has no known ending; use {known}")
