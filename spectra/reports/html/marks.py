"""How roles are drawn, and the legends that say so."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from spectra.naming import ROLES, Role
from spectra.reports.html import charts
from spectra.reports.html.groups import Entry, has_band
from spectra.reports.html.markup import Markup, tag

MARKS: Mapping[Role, tuple[str, str]] = MappingProxyType(
    {
        "embedding": ("pink", "down"),
        "q": ("blue", "circle"),
        "k": ("sky", "square"),
        "v": ("green", "up"),
        "qkv": ("blue", "hexagon"),
        "o": ("orange", "diamond"),
        "gate": ("red", "down"),
        "up": ("pink", "square"),
        "gate_up": ("red", "hexagon"),
        "down": ("brown", "circle"),
        "router": ("green", "star"),
        "recurrent": ("sky", "hexagon"),
        "conv": ("blue", "square"),
        "linear": ("orange", "circle"),
        "head": ("brown", "plus"),
    }
)
"""Colour and shape of every role: each is told apart by either alone within one kind of network."""


def swatch(shape: str, class_: str) -> Markup:
    """Return one mark for a legend."""
    drawn = charts.mark(8, 8, shape, class_)
    return tag("svg", drawn, viewBox="0 0 16 16", class_="swatch", aria_hidden="true")


def line_swatch(class_: str) -> Markup:
    """Return a piece of a line, or of an area, for a legend."""
    drawn = tag("path", d="M0 8H16", class_=class_)
    if class_ in ("band", "noise", "doubt", "bars", "spread-area"):
        drawn = tag("rect", x=0, y=1, width=16, height=14, class_=class_)
    return tag("svg", drawn, viewBox="0 0 16 16", class_="swatch", aria_hidden="true")


def role_legend(
    entries: Sequence[Entry], *, depth: bool = True, judged: bool = True
) -> list[tuple[Markup, str]]:
    """Return swatches and words of the roles that occur, and of hollow marks and crosses if any do.

    Parameters
    ----------
    entries : sequence of Entry
    depth : bool, default: True
        For a picture of alpha by depth, which has crosses, a band and a mean.
    judged : bool, default: True
        For a picture in which hollow marks stand for layers that are not judged.
    """
    fitted = [entry for entry in entries if entry.fitted]
    seen = {entry.role for entry in (entries if depth or not judged else fitted)}
    items = [
        (swatch(MARKS[role][1], f"r-{MARKS[role][0]}"), words)
        for role, words in ROLES.items()
        if role in seen
    ]
    if judged and any(not entry.is_judged for entry in fitted):
        items.append((swatch("circle", "r-grey hollow"), "hollow: not judged"))
    if depth and len(fitted) < len(entries):
        items.append((swatch("cross", "r-grey stroke"), "no alpha"))
    if depth and has_band(entries):
        items.append((line_swatch("band"), "2 to 6, as in well-trained layers"))
    if depth:
        items.append((line_swatch("mean"), "mean"))
    return items
