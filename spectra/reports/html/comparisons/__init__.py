"""The page of a comparison of two models."""

from spectra.reports.html.comparisons.page import comparison_to_html

__all__ = ["comparison_to_html"]
