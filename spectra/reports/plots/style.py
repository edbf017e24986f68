"""What all pictures share: colours, a new figure, writing it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectra.errors import CheckpointError

# Okabe & Ito's colours, told apart by every kind of colour vision.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#777777"


def new_axes(width: float = 6.4) -> Axes:
    """Return the axes of a new figure, `width` inches wide."""
    figure = Figure(figsize=(width, 4.4))
    # Margins by hand: a layout engine would take longer than all the drawing.
    figure.subplots_adjust(left=0.8 / width, right=1 - 0.2 / width, bottom=0.13, top=0.92)
    axes: Axes = figure.add_subplot()
    return axes


def save(ax: Axes, path: Path) -> Path:
    """Write the figure of some axes, in the format that the ending of `path` names."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes belong to no figure")
    with warnings.catch_warnings():
        # Names may be in letters that the font lacks; the file name and the table have them.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(path, dpi=120)
    return path


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Make a folder for pictures; what goes wrong in writing them is one clear error."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError("E_WRITE", str(folder), f"cannot be written ({reason})") from error
