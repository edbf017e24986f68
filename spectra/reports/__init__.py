"""Reports: the record of an analysis as JSON, CSV, Parquet, Markdown, frames, a page, tables and plots."""

from spectra.reports import frames
from spectra.reports.files import write
from spectra.reports.html import comparison_to_html, history_to_html, ranking_to_html, to_html
from spectra.reports.markdown import to_markdown
from spectra.reports.notebooks import html_table, ranking_html_table
from spectra.reports.tables import inventory_json, to_csv, to_dict, to_json
from spectra.reports.terminal import to_text
from spectra.reports.words import explain

__all__ = [
    "comparison_to_html",
    "explain",
    "frames",
    "history_to_html",
    "html_table",
    "inventory_json",
    "ranking_html_table",
    "ranking_to_html",
    "to_csv",
    "to_dict",
    "to_html",
    "to_json",
    "to_markdown",
    "to_text",
    "write",
]
