"""Self-contained HTML pages, from the same pieces: of a model, a ranking, a run, a comparison."""

from spectra.reports.html.comparisons import comparison_to_html
from spectra.reports.html.histories import history_to_html
from spectra.reports.html.page import to_html
from spectra.reports.html.rankings import ranking_to_html

__all__ = ["comparison_to_html", "history_to_html", "ranking_to_html", "to_html"]
