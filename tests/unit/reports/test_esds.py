"""The picture of a spectrum and the curves in it."""

import dataclasses
import re

import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid

import spectra
from spectra.reports.densities import density_of, noise_of, power_law_of
from spectra.reports.html.esds import WIDTH, esd, esd_caption
from tests.pages import parse


@pytest.fixture
def report(weights):
    return spectra.analyze(weights)


def path_of(svg, class_):
    (path,) = parse(svg).all("path", class_)
    return np.array([[float(x) for x in pair.split()] for pair in re.split("[ML]", path["d"])[1:]])


def test_noise_matches_the_histogram_of_random_weights(rng):
    report = spectra.analyze({"noise": rng.standard_normal((900, 400)) * 0.3})
    spectrum = report["noise"].spectrum
    x, y = noise_of(spectrum)
    density = density_of(spectrum)
    seen = np.cumsum(density.heights * np.diff(density.edges))
    law = cumulative_trapezoid(y, x, initial=0)
    # eigenvalues of noise are rigid: they follow the law far closer than independent draws would
    assert seen == pytest.approx(np.interp(density.edges[1:], x, law), abs=0.01)
    assert law[-1] == pytest.approx(1, abs=0.01)


def test_a_density_counts_what_lies_left_of_it(report):
    spectrum = report["layers.2.fc.weight"].spectrum
    whole, part = (
        density_of(spectrum),
        density_of(spectrum, low=float(np.median(spectrum.eigenvalues))),
    )
    assert np.sum(whole.heights * np.diff(whole.edges)) == pytest.approx(1)
    assert np.sum(part.heights * np.diff(part.edges)) == pytest.approx(0.5)


def test_the_line_falls_with_alpha_and_begins_at_xmin(report):
    layer = report["layers.2.fc.weight"]
    svg = esd(layer)
    law = path_of(svg, "law")
    slope = (law[-1, 1] - law[0, 1]) / (law[-1, 0] - law[0, 0])
    # both axes are logarithmic, so the line is straight and its slope is alpha times their scales
    assert law[:, 1] == pytest.approx(law[0, 1] + slope * (law[:, 0] - law[0, 0]), abs=0.15)
    x, y = power_law_of(layer)
    assert np.log(y[-1] / y[0]) / np.log(x[-1] / x[0]) == pytest.approx(-layer.alpha)
    assert path_of(svg, "xmin")[0, 0] == pytest.approx(law[0, 0], abs=0.2)


def test_everything_stays_inside_the_picture(report):
    for layer in report.layers:
        for class_ in ("law", "noise-law", "xmin", "erg"):
            points = path_of(esd(layer), class_)
            assert points[:, 0].min() >= 44
            assert points[:, 0].max() <= WIDTH - 8
            assert points[:, 1].min() >= 26
            assert points[:, 1].max() <= 182


def test_names_of_the_cuts_do_not_collide(report):
    layer = report["layers.2.fc.weight"]
    top = layer.spectrum.eigenvalues[-1]
    for xmin, cut in [(top, top * 0.97), (top * 0.97, top), (1.0, 1.01), (top / 50, top)]:
        moved = dataclasses.replace(
            layer, metrics={**layer.metrics, "xmin": xmin, "xmax": top * 1.1, "erg_xmin": cut}
        )
        boxes = []
        for text in parse(esd(moved)).all("text", "halo"):
            x, y = float(text["x"]), float(text["y"])
            width = 7 * len(text.text)
            left = x - width if text.attributes.get("text-anchor") == "end" else x
            assert left > 20
            assert left + width < WIDTH + 4
            boxes.append((left, left + width, y))
        (a, b, y), (c, d, z) = boxes
        assert b <= c + 3 or d <= a + 3 or abs(y - z) > 10


def test_a_layer_without_a_fit_is_drawn_without_a_line(rng):
    small = spectra.analyze({"small": rng.standard_normal((30, 12))})["small"]
    tree = parse(esd(small))
    assert tree.all("path", "bars")
    assert not tree.all("path", "law")
    assert esd_caption(small) == "30 × 12: too few eigenvalues to fit."


def test_equal_eigenvalues_are_said_not_drawn():
    layer = spectra.analyze({"eye": np.eye(40)})["eye"]
    assert "All of its eigenvalues are equal" in parse(esd(layer)).text


def test_a_layer_without_a_spectrum_cannot_be_drawn():
    with pytest.raises(ValueError, match="non_finite"):
        esd(spectra.analyze({"bad": np.full((30, 30), np.nan)})["bad"])
