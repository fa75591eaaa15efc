"""Charts and pages that load nothing."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from evaluation import page
from evaluation.charts import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, chart, scale

SVG = "{http://www.w3.org/2000/svg}"


def test_points_lie_where_the_axes_say():
    points = [(0.0, 2.0), (50.0, 4.0), (100.0, 3.0)]
    tree = ElementTree.fromstring(chart([Series("a & b", points, ["x", "y", "z"])], "step", "<loss>"))
    places = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in tree.iter(f"{SVG}circle")]
    assert [x for x, _ in places] == pytest.approx([LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT], abs=0.1)
    assert [y for _, y in places] == pytest.approx([HEIGHT - BOTTOM, TOP, (HEIGHT - BOTTOM + TOP) / 2], abs=0.1)
    assert {"step", "<loss>", "x", "y", "z", "0", "100", "2", "4"} <= {label.text for label in tree.iter(f"{SVG}text")}


@pytest.mark.parametrize("values", [[3.0], [0, 1], [-1e-3, 2e-3], [1e6, 1.1e6], [0.99, 0.991], [-5, 5, 7]])
def test_ticks_are_round_and_hold_every_value(values):
    ticks = scale(values)
    steps = np.diff(ticks)
    assert ticks[0] <= min(values) and max(values) <= ticks[-1] and 2 <= len(ticks) <= 12
    assert np.allclose(steps, steps[0]) and round(steps[0] / 10 ** np.floor(np.log10(steps[0] * 1.0001))) in (1, 2, 5)


def test_the_spread_of_points_is_bars_that_the_scale_holds():
    series = Series("a", [(0.0, 2.0), (1.0, 3.0)], spread=[(1.0, 2.5), (2.0, 9.0)])
    tree = ElementTree.fromstring(chart([series], "x", "y"))
    bars = [each.get("d") for each in tree.iter("{http://www.w3.org/2000/svg}path") if each.get("stroke") == COLOURS[0]]
    spans = [tuple(map(float, bar.split("M")[1].split(" ")[1].split("V"))) for bar in bars[1:]]
    assert all(TOP <= high < low <= HEIGHT - BOTTOM for low, high in spans)
    ratio = (spans[1][0] - spans[1][1]) / (spans[0][0] - spans[0][1])
    assert abs(ratio - 7 / 1.5) < 0.05


def test_what_is_no_number_is_left_out_of_a_chart():
    assert chart([Series("a", [(1.0, float("nan"))])], "x", "y") == ""
    assert chart([Series("a", [(1.0, float("inf")), (2.0, 3.0)])], "x", "y").count("<circle") == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_in_the_page_itself(channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 4, channels), np.uint8)
    data = re.search(r"base64,([^\"]+)", page.picture(image, "a <b>"))[1]
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).reshape(image.shape)
    assert np.array_equal(back, image)


def test_names_and_settings_are_escaped():
    results = {"fid<": {"value": 1.25, "n": 3, "reference": {"split": "<train>"}}}
    text = page.page("a <title>", [("Numbers & all", page.numbers(results)), ("Empty", "")])
    assert "1.25" in text and "n 3, reference (split &lt;train&gt;)" in text
    assert "<train>" not in text and "a <title>" not in text and "Empty" not in text
    assert page.numbers({"a": {"value": None}}).count("None") == 1
