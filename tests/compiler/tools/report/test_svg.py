"""Drawings as they stand in the page."""

from __future__ import annotations

import html
import re
from xml.etree import ElementTree

import matplotlib
import pytest
from fxedge.compiler.pipeline.layers import HistogramEntry
from fxedge.compiler.tools.report.plots import Point, Strips, histogram, interval, network_plot
from fxedge.compiler.tools.report.svg import COLORS, drawing

FOUND = HistogramEntry(low=-1, high=3, start=-1, width=0.5, counts=(1, 0, 0, 9, 200, 5, 1, 1))


def _points() -> list[Point]:
    return [Point(0, "#a", "a < b", 40.0, 41.0, 0.9999, 1.0), Point(2, "#b", "b", None, 20.0, 0.99, None)]


def _all() -> dict[str, str]:
    with drawing():
        strips = Strips(220, 56)
        drawn = histogram(strips, FOUND, -0.5, 2.5, "weights of <b>")
        return {
            "plot": str(network_plot(_points(), "t0")),
            "histogram": str(drawn),
            "interval": str(interval(strips, 0.5, 0.4, 0.7, (0, 1))),
        }


def test_xml_in_the_colors_of_the_page() -> None:
    for name, text in _all().items():
        root = ElementTree.fromstring(text.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
        assert root.get("role") == "img", name
        assert "http" not in text
        assert "font-family" not in text
        assert re.findall("#[0-9a-f]{6}", text) == [], name
        assert set(re.findall(r"var\(--(\w+)\)", text)) <= set(COLORS)


def test_titles_are_escaped() -> None:
    drawn = _all()
    assert "<title>a &lt; b</title>" in drawn["plot"]
    assert 'aria-label="weights of &lt;b&gt;"' in drawn["histogram"]


@pytest.mark.parametrize("title", [r"\042\076\074meta", r"\q\1\g<0>"])
def test_backslashes_in_a_title_are_only_that(title: str) -> None:
    with drawing():
        text = str(histogram(Strips(220, 56), FOUND, -0.5, 2.5, title))
    assert f'aria-label="{html.escape(title)}"' in text


def test_numbers_of_axes_are_not_rounded() -> None:
    assert "<text" in _all()["plot"]
    assert ">0.0001</text>" in _all()["plot"]


def test_what_is_clipped_has_its_own_color() -> None:
    assert "var(--bad)" in _all()["histogram"]
    with drawing():
        assert "var(--bad)" not in str(histogram(Strips(220, 56), FOUND, -1, 3, "all inside"))


def test_the_users_settings_change_nothing() -> None:
    plain = _all()
    with matplotlib.rc_context({"axes.grid": True, "font.size": 30, "svg.fonttype": "path", "lines.linewidth": 9}):
        assert _all() == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_a_polygon_is_the_same_shape_in_fewer_letters() -> None:
    with drawing():
        text = interval(Strips(100, 10), 0.5, 0.25, 0.75, (0, 1))
    assert 'd="M25 7 75 7 75 3 25 3z"' in text
