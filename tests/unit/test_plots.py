import numpy as np
import pytest
from matplotlib.figure import Figure

import spectra
from spectra.reports.plots import plot_alpha_by_depth, plot_esd, save_plots, slug


@pytest.fixture
def report(weights):
    return spectra.analyze(weights | {"bad": np.full((30, 30), np.nan)})


def test_the_density_integrates_to_one_and_the_line_meets_it(report):
    layer = report["layers.2.fc.weight"]
    ax = plot_esd(layer)
    values, edges, _ = ax.patches[0].get_data()
    assert np.sum(values * np.diff(edges)) == pytest.approx(1)
    x, y = ax.lines[0].get_data()
    assert (x[0], x[-1]) == pytest.approx((layer.xmin, layer.xmax))
    # the power law's own density: alpha is its slope, the tail's share its integral to infinity
    slope = np.diff(np.log(y)) / np.diff(np.log(x))
    assert slope == pytest.approx(-layer.alpha)
    assert y[0] * x[0] / (layer.alpha - 1) == pytest.approx(layer.n_tail / layer.n_eigenvalues)
    assert [line.get_xdata()[0] for line in ax.lines[1:3]] == [layer.xmin, layer.erg_xmin]


def test_every_layer_is_on_the_picture_of_the_model(report):
    ax = Figure().add_subplot()
    assert plot_alpha_by_depth(report, ax) is ax
    heights = [y for c in ax.containers for y in c.lines[0].get_ydata()]
    assert sorted(heights) == sorted(x.alpha for x in report.layers if x.status == "ok")


def test_a_layer_without_a_spectrum_cannot_be_drawn(report):
    with pytest.raises(ValueError, match="non_finite"):
        plot_esd(report["bad"])


def test_a_layer_without_a_fit_is_drawn_without_a_line(rng):
    report = spectra.analyze({"small": rng.standard_normal((30, 12))})
    ax = plot_esd(report["small"])
    assert len(ax.lines) == 0
    assert len(ax.patches) == 1


def test_one_picture_a_layer_and_one_of_the_model(report, tmp_path):
    written = list(save_plots(report, tmp_path / "new", suffix="svg"))
    assert len(written) == 1 + len(report.layers) - 1  # the bad layer has none
    assert all(path.stat().st_size > 1000 for path in written)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/b", "x" * 300, "a$b", "C:\\x", ".hidden", "", "alpha_by_depth"]
)
def test_file_names_are_safe_and_distinct(name):
    safe = slug(name)
    assert len(safe) < 100
    assert not set(safe) & set("/\\:$")
    assert not safe.startswith(".")
    assert safe not in ("", "alpha_by_depth")
    assert slug(name + "!") != safe


def test_names_with_dollars_are_no_mathematics(rng, tmp_path):
    report = spectra.analyze({"$\\frac{$": rng.standard_normal((40, 30))})
    assert len(list(save_plots(report, tmp_path))) == 2
