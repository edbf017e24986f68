import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spectra.errors import printable
from spectra.reports.html import charts
from spectra.reports.html.charts import Axis
from spectra.reports.html.markup import escape, tag
from spectra.reports.names import shorten
from tests.pages import parse


def test_axes_map_their_ends_to_the_ends_and_equal_ratios_to_equal_lengths():
    axis = Axis(0.01, 100, 40, 240, "log")
    assert (axis.at(0.01), axis.at(100)) == (40, 240)
    assert axis.at(1) == pytest.approx(140)
    assert axis.at(10) - axis.at(1) == pytest.approx(axis.at(1) - axis.at(0.1))
    assert Axis(0, 10, 200, 0).at(2.5) == 150


def test_values_beyond_an_axis_stay_at_its_end():
    axis = Axis(1, 10, 0, 100, "log")
    assert (axis.at(0.001), axis.at(1e9), axis.at(-3)) == (0, 100, 0)
    assert axis.at(math.inf) == 100


def test_an_asinh_axis_is_odd_and_nearly_logarithmic_far_out():
    axis = Axis(-1e4, 1e4, -100, 100, "asinh")
    assert axis.at(0) == pytest.approx(0)
    assert axis.at(-50) == pytest.approx(-axis.at(50))
    steps = axis.at(1000) - axis.at(100), axis.at(10_000) - axis.at(1000)
    assert steps[0] == pytest.approx(steps[1], rel=1e-3)


@given(
    low=st.floats(1e-8, 1e6),
    ratio=st.floats(1.05, 1e9),
    scaling=st.sampled_from(["linear", "log", "asinh"]),
    pixels=st.floats(100, 900),
)
@example(low=0.5, ratio=800000002, scaling="linear", pixels=100)
def test_ticks_lie_on_the_axis_apart_and_rise(low, ratio, scaling, pixels):
    axis = Axis(low, low * ratio, 0, pixels, scaling)
    found = charts.ticks(axis, 40)
    assert found == sorted(found)
    places = [axis.at(value) for value in found]
    assert all(b - a >= 19 for a, b in itertools.pairwise(places))
    # a tick may lie beyond the end by what nobody sees: a millionth of the end or of the axis
    slack = 1e-6 * low * ratio if scaling == "linear" else 1e-6 * low
    assert all(low - slack <= value <= low * ratio * (1 + 1e-6) for value in found)
    assert len({charts.tick_text(value) for value in found}) == len(found)


def test_ticks_are_round_numbers():
    assert charts.ticks(Axis(0, 0.2, 0, 200), 40) == [0, 0.05, 0.1, 0.15, 0.2]
    assert charts.ticks(Axis(1e-6, 1, 0, 400, "log"), 40) == pytest.approx(
        [10.0**e for e in range(-6, 1)]
    )


@pytest.mark.parametrize("shape", charts.SHAPES)
def test_marks_are_drawn_around_their_point(shape):
    path = charts.SHAPES[shape]
    # the outline of relative moves: follow it and see that the point lies in the middle
    at, corners = np.zeros(2), []
    for letter, numbers in re.findall(r"([a-z])([^a-z]*)", path):
        values = [float(x) for x in re.findall(r"-?\d*\.?\d+", numbers)]
        if letter == "a":
            pairs = [values[5:7]]
        elif letter in "hv":
            pairs = [[values[0], 0] if letter == "h" else [0, values[0]]]
        else:
            pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
        for pair in pairs:
            at = at + pair
            corners.append(at)
    if shape != "circle":
        middle = (np.max(corners, axis=0) + np.min(corners, axis=0)) / 2
        assert np.abs(middle).max() < 1.5
    assert np.max(np.abs(corners)) <= 6


def test_markup_escapes_what_is_not_markup():
    made = tag("p", "<b>", tag("br"), ["&", None, 3], title='"', hidden=False, class_="x")
    assert made == '<p title="&quot;" class="x">&lt;b&gt;<br>&amp;3</p>'
    assert escape("\u202e") == "\\u202e"


@given(st.text(max_size=60))
def test_any_text_survives_as_text_and_nothing_else(text):
    page = parse(tag("p", text, title=text))
    (element,) = page.all()
    assert element.text == element["title"] == printable(text)


@given(st.text(min_size=1, max_size=80), st.integers(8, 40))
def test_shortened_names_fit_and_are_never_empty(name, width):
    assert 0 < len(shorten(name, width)) <= width
