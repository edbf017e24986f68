"""Reports: the record of an analysis as JSON, CSV, HTML page, terminal table and plots."""

from spectra.reports.files import write
from spectra.reports.html import ranking_to_html, to_html
from spectra.reports.tables import html_table, inventory_json, to_csv, to_dict, to_json
from spectra.reports.terminal import to_text
from spectra.reports.words import explain

__all__ = [
    "explain",
    "html_table",
    "inventory_json",
    "ranking_to_html",
    "to_csv",
    "to_dict",
    "to_html",
    "to_json",
    "to_text",
    "write",
]
