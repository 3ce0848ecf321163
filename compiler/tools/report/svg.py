"""A matplotlib figure as SVG that stands in a page: small, the same bytes each time, in the page's own colours.

Figures are drawn with the colours of `COLORS`, each of which stands for a variable of the page's style sheet, so
that one drawing serves light and dark. Text in figures is numbers; names of nodes get here in titles alone, which
are escaped.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# The page's colour -> what stands for it while matplotlib draws. Black is left out of SVG, so none is black.
COLORS = {
    name: f"#0101{number:02x}"
    for number, name in enumerate(("ink", "faint", "int8", "float", "boundary", "own", "bad", "band"), start=16)
}

_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "axes.unicode_minus": False, "path.simplify": False}
# Who made it, a style for the whole page, names of parts that are not unique in a page, the page's own fonts.
_DROPPED = re.compile(
    r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>"
    r'| id="(?:figure|axes|patch|line2d|text|[xy]tick|matplotlib\.axis|PathCollection)_\d+"'
    r'| target="_blank"|font-family: [^;"]*; ?',
    re.DOTALL,
)
_TAG = re.compile(r"<[^>]*>")
_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_POLYGON = re.compile(r'd="M ([-\d. L]+)(z?) ?"')
_HEAD = re.compile(r"<svg[^>]*?viewBox=\"([^\"]+)\"[^>]*>")


@contextmanager
def drawing() -> Iterator[None]:
    """Within the block figures look the same whatever the user's matplotlib settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def make_figure(width: float, height: float) -> Figure:
    """An empty figure without background; sizes in points, of which the SVG has as many units."""
    figure = Figure(figsize=(width / 72, height / 72))
    figure.patch.set_visible(False)
    FigureCanvasSVG(figure)
    return figure


def to_svg(figure: Figure, name: str, title: str, *, stretched: bool = False) -> Markup:
    """The figure as an `<svg>`. `name` is its own in the page; `title` is what is read out where it is not seen;
    a `stretched` one fills its place without keeping its proportions."""
    matplotlib.rcParams["svg.hashsalt"] = name
    out = io.StringIO()
    figure.canvas.print_svg(out, metadata={"Date": None})  # type: ignore[attr-defined]
    text = out.getvalue()
    text = _DROPPED.sub("", text[text.index("<svg") :])
    text = _TAG.sub(lambda tag: _NUMBER.sub(_rounded, tag[0]), text)
    for variable, color in COLORS.items():
        text = text.replace(color, f"var(--{variable})")
    shape = ' preserveAspectRatio="none"' if stretched else ""
    told = f'role="img" aria-label="{html.escape(title)}"{shape}'
    # not a template: that would read backslashes in the title
    text = _HEAD.sub(lambda head: f'<svg viewBox="{head[1]}" {told}>', text, count=1).replace("xlink:href", "href")
    text = re.sub(r"\s*\n\s*", " ", text).replace("> <", "><").strip()
    return Markup(_POLYGON.sub(_short_polygon, text))


def _rounded(found: re.Match[str]) -> str:
    """To a tenth of a point."""
    return f"{float(found[0]):.1f}".removesuffix(".0")


def _short_polygon(found: re.Match[str]) -> str:
    """Points after the first are lines to without saying so; one that repeats is none."""
    points = [point for point, _ in groupby(found[1].strip().split(" L "))]
    return f'd="M{" ".join(points)}{found[2]}"'
