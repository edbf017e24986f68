"""Reports as files: the format is the one the ending names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from spectra.errors import SelectionError
from spectra.records import ModelReport
from spectra.reports.frames import to_parquet
from spectra.reports.markdown import to_markdown
from spectra.reports.tables import to_csv, to_json, write_bytes, write_text

WRITERS: Mapping[str, Callable[[ModelReport], str | bytes]] = MappingProxyType(
    {".json": to_json, ".csv": to_csv, ".md": to_markdown, ".parquet": to_parquet}
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
    content = WRITERS[path.suffix](report)
    if isinstance(content, bytes):
        write_bytes(path, content)
    else:
        write_text(path, content)
