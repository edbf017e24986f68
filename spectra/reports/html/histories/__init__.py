"""The page of a run's history."""

from spectra.reports.html.histories.page import history_to_html

__all__ = ["history_to_html"]
