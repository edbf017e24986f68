"""Pictures, the only place that knows matplotlib: take a record and an Axes, return the Axes."""

from spectra.reports.plots.erg import plot_erg, plot_erg_cut
from spectra.reports.plots.histories import plot_history, plot_roles, save_history_plots
from spectra.reports.plots.layers import plot_alpha_by_depth, plot_esd, save_plots, slug
from spectra.reports.plots.rankings import plot_ranking, plot_scores, save_ranking_plots
from spectra.reports.plots.style import (
    BLUE,
    COLUMN,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    Format,
    new_axes,
    save,
)

__all__ = [
    "BLUE",
    "COLUMN",
    "GREEN",
    "GREY",
    "ORANGE",
    "PINK",
    "Format",
    "new_axes",
    "plot_alpha_by_depth",
    "plot_erg",
    "plot_erg_cut",
    "plot_esd",
    "plot_history",
    "plot_ranking",
    "plot_roles",
    "plot_scores",
    "save",
    "save_history_plots",
    "save_plots",
    "save_ranking_plots",
    "slug",
]
