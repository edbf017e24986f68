"""Self-contained HTML pages: of one model, from pieces that other pages can be made of."""

from spectra.reports.html.page import to_html

__all__ = ["to_html"]
