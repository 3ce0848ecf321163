"""The report's figures, drawn with matplotlib: errors along the network, histograms, intervals, latencies."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch

from ...pipeline.layers import HistogramEntry
from .svg import COLORS, make_figure, to_svg

# Cosines are stored with six digits; what rounds to 1 is drawn at the lower edge.
_LEAST_ANGLE = 5e-7
_MOST_COUNT = 2**53


@dataclass(frozen=True, slots=True)
class Point:
    """A value's errors, where it stands in the network, and where a click on it leads."""

    place: int
    link: str
    label: str
    sqnr: float | None
    own_sqnr: float | None
    cosine: float | None
    own_cosine: float | None


def network_plot(points: Sequence[Point], name: str) -> Markup:
    """SQNR and cosine of each value along the network, the accumulated error and the layer's own."""
    figure = make_figure(900, 330)
    upper = figure.add_axes((0.065, 0.5, 0.925, 0.47))
    lower = figure.add_axes((0.065, 0.11, 0.925, 0.31), sharex=upper)
    lower.set_yscale("log")
    lower.yaxis.set_major_formatter("{x:g}")
    for series, color in (("own_", "own"), ("", "int8")):
        _draw_line(upper, points, [getattr(point, f"{series}sqnr") for point in points], color)
        cosines = [getattr(point, f"{series}cosine") for point in points]
        angles = [None if cosine is None else max(1 - cosine, _LEAST_ANGLE) for cosine in cosines]
        _draw_line(lower, points, angles, color)
    upper.set_ylim(bottom=min(0, upper.get_ylim()[0]))
    for axes, label in ((upper, "SQNR, dB"), (lower, "1 - cosine")):
        _dress(axes)
        axes.set_ylabel(label, color=COLORS["ink"], fontsize=11)
    upper.tick_params(labelbottom=False)
    text = str(to_svg(figure, name, "SQNR and cosine of every value along the network"))
    for point in points:
        link = f'<a href="{point.link}">'
        text = text.replace(link, f"{link}<title>{html.escape(point.label)}</title>")
    return Markup(text)


def _draw_line(axes: Axes, points: Sequence[Point], values: Sequence[float | None], color: str) -> None:
    known = [(point, value) for point, value in zip(points, values, strict=True) if value is not None]
    if not known:
        return
    places, heights = [point.place for point, _ in known], [value for _, value in known]
    axes.plot(places, heights, color=COLORS[color], linewidth=1.2, alpha=0.7)
    dots = axes.scatter(places, heights, s=22, color=COLORS[color], linewidth=0)
    dots.set_urls([point.link for point, _ in known])


def _dress(axes: Axes) -> None:
    axes.patch.set_visible(False)
    axes.grid(color=COLORS["faint"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=10, labelcolor=COLORS["ink"])
    axes.minorticks_off()
    for spine in axes.spines.values():
        spine.set_visible(False)


def bare_axes(width: float, height: float) -> Axes:
    """Axes that fill a figure of their own and show nothing but what is drawn into them."""
    axes = make_figure(width, height).add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    return axes


@dataclass(slots=True)
class Strips:
    """Draws small figures one after the other into the same axes: ten times as fast as a figure for each."""

    width: float
    height: float
    axes: Axes = field(init=False)
    _drawn: int = 0

    def __post_init__(self) -> None:
        self.axes = bare_axes(self.width, self.height)

    def finish(self, name: str, title: str) -> Markup:
        """What was drawn since the last time, as SVG."""
        self._drawn += 1
        figure = self.axes.figure
        assert isinstance(figure, Figure)
        text = to_svg(figure, f"{name}-{self._drawn}", title, stretched=True)
        for artist in (*self.axes.patches, *self.axes.lines):
            artist.remove()
        return text


def histogram(strips: Strips, found: HistogramEntry, low: float, high: float, title: str) -> Markup | None:
    """Logarithmic counts, with the chosen range from `low` to `high` behind them and what it clips marked."""
    numbers = (found.start, found.width, found.low, found.high, low, high)
    if not all(map(math.isfinite, numbers)) or found.width <= 0 or not found.counts:
        return None
    counts = np.log1p([min(max(count, 0), _MOST_COUNT) for count in found.counts])
    edges = found.start + found.width * np.arange(len(counts) + 1)
    left, right = min(edges[0], low), max(edges[-1], high)
    top, margin = float(counts.max()) or 1.0, 0.02 * ((right - left) or 1.0)
    axes = strips.axes
    axes.set_xlim(left - margin, right + margin)
    axes.set_ylim(0, 1.06 * top)
    axes.add_artist(Rectangle((low, 0), high - low, 1.06 * top, color=COLORS["band"], linewidth=0, clip_on=False))
    inside = (edges[1:] > low) & (edges[:-1] < high)
    for shown, color in ((inside, "int8"), (~inside, "bad")):
        if counts[shown].any():
            heights = np.where(shown, counts, 0)
            axes.add_artist(StepPatch(heights, edges, fill=True, color=COLORS[color], linewidth=0, clip_on=False))
    if left < 0 < right:
        axes.axvline(0, color=COLORS["ink"], linewidth=0.8, alpha=0.6, clip_on=False)
    return strips.finish("histogram", title)


def interval(strips: Strips, value: float, low: float, high: float, ends: tuple[float, float]) -> Markup:
    """A value with its interval, on an axis from `ends[0]` to `ends[1]`."""
    axes = strips.axes
    axes.set_xlim(*ends)
    axes.set_ylim(0, 1)
    axes.add_artist(Rectangle((low, 0.3), high - low, 0.4, color=COLORS["int8"], alpha=0.3, linewidth=0))
    axes.axvline(value, 0.1, 0.9, color=COLORS["int8"], linewidth=3)
    return strips.finish("interval", f"{value:.4g}, between {low:.4g} and {high:.4g}")


def latencies(strips: Strips, seconds: Sequence[float], p99: float, longest: float, color: str) -> Markup:
    """Timed runs: a box from the first to the third quartile, the median, and a line to the 99th percentile, on
    an axis from 0 to `longest`."""
    low, middle, high = np.quantile(np.asarray(seconds), [0.25, 0.5, 0.75])
    axes = strips.axes
    axes.set_xlim(0, longest)
    axes.set_ylim(0, 1)
    axes.add_artist(Rectangle((0, 0.12), middle, 0.76, color=COLORS[color], alpha=0.25, linewidth=0))
    axes.add_artist(Rectangle((low, 0.12), high - low, 0.76, color=COLORS[color], alpha=0.6, linewidth=0))
    axes.plot([high, max(p99, high)], [0.5, 0.5], color=COLORS[color], linewidth=1.5)
    axes.axvline(middle, 0.05, 0.95, color=COLORS[color], linewidth=3)
    return strips.finish("latency", f"median {1e3 * middle:.3f} ms, 99th percentile {1e3 * p99:.3f} ms")
