"""Self-contained HTML pages: of one model, of a ranking, of a run's history, from the same pieces."""

from spectra.reports.html.histories import history_to_html
from spectra.reports.html.page import to_html
from spectra.reports.html.rankings import ranking_to_html

__all__ = ["history_to_html", "ranking_to_html", "to_html"]
