"""Self-contained HTML pages: of one model, and of a ranking, from the same pieces."""

from spectra.reports.html.page import to_html
from spectra.reports.html.rankings import ranking_to_html

__all__ = ["ranking_to_html", "to_html"]
