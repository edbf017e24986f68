"""What all pictures share: colours, a new figure, text that fits its width, writing it."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectra.errors import CheckpointError, printable
from spectra.records import LayerReport

# Okabe & Ito's colours, told apart by every kind of colour vision.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#777777"

KIND_STYLE: Mapping[str, tuple[str, str]] = {
    "linear": (BLUE, "o"),
    "conv1d": (GREEN, "^"),
    "conv2d": (GREEN, "s"),
    "conv3d": (GREEN, "D"),
    "embedding": (PINK, "v"),
    "head": (ORANGE, "P"),
}

ALPHA_TICKS = (1, 1.5, 2, 3, 4, 6, 10, 20, 50, 100)

Corner = Literal["best", "upper left", "lower left"]
Format = Literal["png", "svg", "pdf"]

COLUMN = 3.3
"""Width in inches of a column of a two-column paper."""

NARROW = 3.6  # inches of axes, below which text is that of a paper's column

NO_DATE: Mapping[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def new_axes(width: float = 6.4) -> Axes:
    """Return the axes of a new figure, `width` inches wide; `COLUMN` for one column of a paper."""
    height = min(4.4, 0.8 * width)
    figure = Figure(figsize=(width, height))
    scale = 0.7 if width < NARROW else 1.0
    # Margins by hand: a layout engine would take longer than all the drawing.
    figure.subplots_adjust(
        left=scale * 0.8 / width,
        right=1 - scale * 0.2 / width,
        bottom=scale * 0.57 / height,
        top=1 - scale * 0.35 / height,
    )
    axes: Axes = figure.add_subplot()
    return axes


def is_narrow(ax: Axes) -> bool:
    """Whether axes are so narrow that their text is made smaller: those of a paper's column."""
    figure = ax.get_figure(root=True)
    return figure is not None and ax.get_window_extent().width / figure.dpi < NARROW


def small_text(ax: Axes) -> float:
    """Return the size in points of the text within some axes, legend and names of points."""
    return 6.5 if is_narrow(ax) else 8.0


def legend(ax: Axes, loc: Corner, ncols: int = 1) -> None:
    """Draw the legend, close together where the axes are narrow."""
    narrow = is_narrow(ax)
    ax.legend(
        fontsize=small_text(ax),
        loc=loc,
        ncols=ncols,
        columnspacing=0.9 if narrow else None,
        handletextpad=0.4 if narrow else None,
        handlelength=1.4 if narrow else None,
    )


def finish(ax: Axes) -> Axes:
    """Give ticks, labels and title the size that the axes' width calls for."""
    ax.title.set_fontsize(8 if is_narrow(ax) else 10)
    if is_narrow(ax):
        ax.tick_params(labelsize=7)
        for label in (ax.xaxis.label, ax.yaxis.label):
            label.set_fontsize(8)
        ax.xaxis.labelpad = ax.yaxis.labelpad = 2
    return ax


def caption(layer: LayerReport, ax: Axes) -> str:
    """Return the title of a picture of a layer; drawn with ``parse_math=False``: names hold "$"."""
    slices = f", {layer.n_matrices} slices" if layer.n_matrices > 1 else ""
    name, room = printable(layer.name), 34 if is_narrow(ax) else 60
    name = name if len(name) <= room else f"{name[: room // 3]}…{name[1 - room + room // 3 :]}"
    return f"{name}  ({layer.N}×{layer.M}{slices})"


def save(ax: Axes, path: Path) -> Path:
    """Write the figure of some axes, in the format that the ending of `path` names."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes belong to no figure")
    # Text stays text, to be searched, and set in the fonts of the paper; equal pictures are equal files.
    written = mpl.rc_context(
        {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "spectra"}
    )
    with warnings.catch_warnings(), written:
        # Names may be in letters that the font lacks; the file name and the table have them.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        dots = 240 if figure.get_figwidth() < NARROW else 120
        figure.savefig(path, dpi=dots, metadata=NO_DATE.get(path.suffix[1:]))
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
