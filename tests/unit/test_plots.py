import dataclasses
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import spectra
from spectra.reports.plots import (
    COLUMN,
    new_axes,
    plot_alpha_by_depth,
    plot_erg,
    plot_erg_cut,
    plot_esd,
    plot_ranking,
    plot_scores,
    save,
    save_plots,
    slug,
)


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


def test_one_picture_a_layer_and_two_of_the_model(report, tmp_path):
    written = list(save_plots(report, tmp_path / "new", suffix="svg"))
    assert len(written) == 2 + len(report.layers) - 1  # the bad layer has none
    assert all(path.stat().st_size > 1000 for path in written)


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "a/b", "x" * 300, "a$b", "C:\\x", ".hidden", "", "alpha_by_depth", "erg"],
)
def test_file_names_are_safe_and_distinct(name):
    safe = slug(name)
    assert len(safe) < 100
    assert not set(safe) & set("/\\:$")
    assert not safe.startswith(".")
    assert safe not in ("", "alpha_by_depth", "erg")
    assert slug(name + "!") != safe


def test_names_with_dollars_are_no_mathematics(rng, tmp_path):
    report = spectra.analyze({"$\\frac{$": rng.standard_normal((40, 30))})
    assert len(list(save_plots(report, tmp_path))) == 3


def test_the_erg_picture_shows_every_fitted_layer_and_the_ideal_point(report):
    ax = Figure().add_subplot()
    assert plot_erg(report, ax) is ax
    points = {point for line in ax.lines for point in zip(*line.get_data(), strict=True)}
    fitted = [layer for layer in report.layers if layer.status == "ok"]
    assert {(layer.alpha, layer.delta_lambda_min) for layer in fitted} | {(2, 0)} <= points


def test_the_erg_picture_marks_where_noise_lies_once_that_is_known(rng):
    report = spectra.analyze({"a": rng.standard_t(3, (60, 50))}, evidence=True)
    ax = plot_erg(report)
    [noise] = [line for line in ax.lines if line.get_label() == "noise of the same shape"]
    layer = report["a"]
    assert noise.get_xydata().tolist() == [[layer.alpha_null, layer.delta_lambda_min_null]]


def test_an_erg_picture_of_no_layers_at_all_is_drawn(tmp_path):
    report = spectra.analyze({"bad": np.full((30, 30), np.nan)})
    assert [path.stem for path in save_plots(report, tmp_path)] == ["alpha_by_depth", "erg"]


def test_the_cut_lies_where_the_sum_of_logarithms_comes_back_to_zero(report):
    layer = report["layers.2.fc.weight"]
    ax = plot_erg_cut(layer)
    counts, sums = ax.lines[0].get_data()
    values = np.sort(layer.spectrum.eigenvalues)[::-1]
    products = np.cumprod(values / values.mean())
    assert sums == pytest.approx(np.log(products))
    assert sums[layer.n_erg - 2] >= 0 > sums[layer.n_erg - 1]
    assert counts[layer.n_erg - 1] == layer.n_erg
    [dot] = [line for line in ax.lines if len(line.get_xdata()) == 1]
    assert dot.get_xydata()[0] == pytest.approx((layer.n_tail, sums[layer.n_tail - 1]))


def test_a_cut_without_a_fit_or_with_zero_eigenvalues_is_drawn_and_without_a_spectrum_refused(
    report, rng
):
    thin = rng.standard_normal((40, 5)) @ rng.standard_normal((5, 30))
    made = spectra.analyze({"few": rng.standard_normal((30, 12)), "thin": thin})
    for layer in made.layers:
        labels = [text.get_text() for text in plot_erg_cut(layer).get_legend().get_texts()]
        assert labels == [f"ERG cut, {layer.n_erg}"]
    with pytest.raises(ValueError, match="non_finite"):
        plot_erg_cut(report["bad"])


def whole_picture(report, layer, ranking):
    yield plot_esd, layer
    yield plot_erg_cut, layer
    yield plot_erg, report
    yield plot_alpha_by_depth, report
    yield plot_ranking, ranking
    yield plot_scores, ranking


def test_in_a_column_of_a_paper_no_text_leaves_the_picture(report, rng):
    long = {f"model.layers.{i}.self_attn.q_proj.weight": w for i, w in enumerate(weights_of(rng))}
    known = {"a-rather-long-name-of-a-model": 1.0, "b": 2.0, "c": 3.0}
    models = dict(zip(known, (long, *family(rng, 2)), strict=True))
    ranking = spectra.rank(
        [saved_as(name, spectra.analyze(model)) for name, model in models.items()],
        scores=known,
        higher_is_better=False,
        by="log_spectral_norm",
    )
    layer = spectra.analyze(long).layers[0]
    for draw, record in whole_picture(report, layer, ranking):
        ax = draw(record, new_axes(COLUMN))
        figure = ax.get_figure()
        FigureCanvasAgg(figure).draw()
        page = figure.bbox
        texts = [ax.title, ax.xaxis.label, ax.yaxis.label, ax.get_legend(), *ax.texts]
        for text in (text for text in texts if text is not None):
            box = text.get_window_extent()
            assert page.x0 <= box.x0, draw
            assert box.x1 <= page.x1, draw
            assert page.y0 <= box.y0, draw
            assert box.y1 <= page.y1, draw


def weights_of(rng):
    return [rng.standard_t(3, (60, 50)) for _ in range(3)]


def family(rng, count):
    return [{f"{i}.weight": w for i, w in enumerate(weights_of(rng))} for _ in range(count)]


def saved_as(name, report):
    return dataclasses.replace(report, source=dataclasses.replace(report.source, address=name))


def test_vector_pictures_hold_text_as_text_and_are_the_same_each_time(report, tmp_path):
    layer = report["layers.2.fc.weight"]
    svg = save(plot_esd(layer), tmp_path / "esd.svg").read_bytes()
    texts = " ".join(ElementTree.fromstring(svg).itertext())
    assert "layers.2.fc.weight" in texts
    assert "eigenvalue" in texts
    assert save(plot_esd(layer), tmp_path / "again.svg").read_bytes() == svg
    pdf = save(plot_esd(layer), tmp_path / "esd.pdf").read_bytes()
    assert save(plot_esd(layer), tmp_path / "again.pdf").read_bytes() == pdf
    assert b"/FontType 42" in pdf or b"/CIDFontType2" in pdf or b"TrueType" in pdf
    assert b"/Type3" not in pdf


def test_a_hostile_name_is_only_text_in_a_vector_picture(rng, tmp_path):
    report = spectra.analyze({'</text><script>"\x1b[2J&': rng.standard_normal((40, 30))})
    for path in save_plots(report, tmp_path, suffix="svg"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert "script" not in tags
