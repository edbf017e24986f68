"""The spectra of a model: the worst and the best at once, the others on request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spectra.records import ModelReport, Status
from spectra.reports.concerns import Concern, badness, best
from spectra.reports.html import esds, pieces
from spectra.reports.html.markup import Markup, count, tag
from spectra.reports.html.texts import HOW_TO_READ_A_SPECTRUM, NO_SPECTRA

SHOWN_WORST, SHOWN_BEST = 4, 2
MOST_SPECTRA = 300


@dataclass(frozen=True, slots=True)
class Gallery:
    """Places of the layers whose spectra are drawn: `shown` with a word each, `others` folded."""

    shown: tuple[tuple[int, str], ...]
    others: tuple[int, ...]
    n_left_out: int

    @property
    def drawn(self) -> set[int]:
        """All of them."""
        return {*self.others, *(position for position, _ in self.shown)}


def choose(report: ModelReport, worst: Sequence[Concern]) -> Gallery:
    """Choose the spectra of a page: those of the worst layers and of the best, and up to 300 in all."""
    with_spectrum = {i for i, layer in enumerate(report.layers) if layer.spectrum is not None}
    bad = [c.position for c in worst if c.position in with_spectrum][:SHOWN_WORST]
    good = [i for i, _ in best(report.layers) if i in with_spectrum and i not in bad][:SHOWN_BEST]
    rest = sorted(
        with_spectrum - {*bad, *good}, key=lambda i: badness(report.layers[i]), reverse=True
    )
    room = MOST_SPECTRA - len(bad) - len(good)
    return Gallery(
        (*((i, "look at first") for i in bad), *((i, "among the best") for i in good)),
        tuple(sorted(rest[:room])),
        len(rest[room:]),
    )


def spectra_section(report: ModelReport, gallery: Gallery, hrefs: Mapping[int, str]) -> Markup:
    """Return the section of spectra, or why there are none."""
    heading = "Spectra of the worst and the best layers"
    if not gallery.drawn:
        read_back = any(layer.status is Status.OK for layer in report.layers)
        says = NO_SPECTRA if read_back else "No layer has a spectrum to draw."
        return pieces.section("spectra", heading, tag("p", says))
    others = tag(
        "details",
        tag("summary", f"The spectra of {count(len(gallery.others), 'other layer')}"),
        tag("div", [_spectrum(report, i, "", hrefs) for i in gallery.others], class_="gallery"),
    )
    left = f"{gallery.n_left_out} more are not drawn, to keep the page small; --plots draws all."
    return pieces.section(
        "spectra",
        heading if gallery.shown else "Spectra",
        tag("p", HOW_TO_READ_A_SPECTRUM),
        pieces.legend(esds.esd_legend(fitted=any(map(esds.has_fit, report.layers)))),
        tag(
            "div",
            [_spectrum(report, i, label, hrefs) for i, label in gallery.shown],
            class_="gallery",
        ),
        others if gallery.others else None,
        tag("p", left, class_="note") if gallery.n_left_out else None,
    )


def _spectrum(report: ModelReport, position: int, label: str, hrefs: Mapping[int, str]) -> Markup:
    layer = report.layers[position]
    name = tag("a", f"#{position + 1} ", pieces.name_of(layer.name, 26), href=hrefs[position])
    word = tag("span", label, class_="label") if label else None
    return pieces.figure(
        esds.esd(layer),
        esds.esd_caption(layer),
        legend=tag("p", word, name, class_="what"),
        key=f"spectrum-{position + 1}",
    )
