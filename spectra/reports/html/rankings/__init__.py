"""The page of a ranking."""

from spectra.reports.html.rankings.page import ranking_to_html

__all__ = ["ranking_to_html"]
