"""`layers/<target>.json` as the report shows it: the graph, the errors along it, a table, and histograms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from ...pipeline.layers import HistogramEntry, LayersEntry, NodeEntry, WeightEntry
from ..tables import plural
from .lanes import Drawing, Step, draw_lanes
from .plots import Point, Strips, histogram, network_plot

# Modules that a graph is grouped by: the shortest paths that give so many groups, of so many steps on average.
_FEWEST_GROUPS, _USUAL_GROUP = 4, 16
_DEEPEST = 4


@dataclass(frozen=True, slots=True)
class Histogram:
    """A drawing with what it shows: the extremes of the values, the range that integers cover, what they clip."""

    drawing: Markup
    what: str
    seen: str
    covered: str
    clipped: float


@dataclass(frozen=True, slots=True)
class Layer:
    """A step of the program. `id` is its own in the page."""

    id: str
    number: int
    node: NodeEntry
    share: float
    histograms: tuple[Histogram, ...]

    @property
    def op(self) -> str:
        return " + ".join((self.node.op, *self.node.fused))

    @property
    def color(self) -> str:
        return "boundary" if self.node.kind in ("quantize", "dequantize") else self.node.kind

    @property
    def shape(self) -> str:
        return "" if self.node.shape is None else shape_text(self.node.shape)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the graph's list: a step, an input or output of the model (`end`), or the head of a module."""

    layer: Layer | None = None
    end: str = ""
    head: str = ""
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """All that the page shows of one target's layers."""

    samples: int
    layers: tuple[Layer, ...]
    rows: tuple[Row, ...]
    drawing: Drawing
    plot: Markup | None
    conversions: int


def view_network(entry: LayersEntry, prefix: str) -> Network:
    """`prefix` starts the ids of everything in it."""
    strips = Strips(220, 56)
    total = sum(node.multiplications for node in entry.nodes) or 1.0
    layers = tuple(
        Layer(f"{prefix}-n{number}", number, node, node.multiplications / total, tuple(_histograms(strips, node)))
        for number, node in enumerate(entry.nodes)
    )
    rows, steps = _rows(entry, layers)
    return Network(
        samples=entry.samples,
        layers=layers,
        rows=rows,
        drawing=draw_lanes(steps, len(rows)),
        plot=_plot(layers, prefix),
        conversions=sum(layer.color == "boundary" for layer in layers),
    )


def shape_text(shape: Sequence[int | None]) -> str:
    return " × ".join("any" if size is None else str(size) for size in shape)


def _plot(layers: Sequence[Layer], prefix: str) -> Markup | None:
    points = []
    for layer in layers:
        if layer.node.value is not None and (error := layer.node.value.error) is not None:
            label = f"{layer.number} {layer.node.node}: {decibel(error.sqnr_db)}, own {decibel(error.own_sqnr_db)}"
            errors = (error.sqnr_db, error.own_sqnr_db, error.cosine, error.own_cosine)
            points.append(Point(layer.number, f"#{layer.id}", label, *errors))
    return network_plot(points, prefix) if points else None


def decibel(value: float | None) -> str:
    """Where it is not known, nothing differs, or nothing is there to differ from."""
    return "–" if value is None else f"{value:.1f} dB"


def _histograms(strips: Strips, node: NodeEntry) -> Iterator[Histogram]:
    if (weight := node.weight) is not None:
        most = weight_range(weight)
        yield from _histogram(strips, weight.histogram, -most, most, "weights", node.node)
    if (value := node.value) is not None:
        yield from _histogram(strips, value.histogram, value.low, value.high, "values", node.node)


def _histogram(
    strips: Strips, found: HistogramEntry | None, low: float, high: float, what: str, node: str
) -> Iterator[Histogram]:
    if found is None or (drawing := histogram(strips, found, low, high, f"{what} of {node}")) is None:
        return
    seen, covered = f"{found.low:.3g} … {found.high:.3g}", f"{low:.3g} … {high:.3g}"
    yield Histogram(drawing, what, seen, covered, _clipped(found, low, high))


def _clipped(found: HistogramEntry, low: float, high: float) -> float:
    """The share of the values in bins that lie outside the range as a whole."""
    starts = [found.start + found.width * index for index in range(len(found.counts))]
    outside = [
        count
        for start, count in zip(starts, found.counts, strict=True)
        if start + found.width <= low or start >= high
    ]
    return sum(outside) / (sum(found.counts) or 1)


def weight_range(weight: WeightEntry) -> float:
    """The largest weight that the coarsest of its scales covers."""
    return float(weight.scale_high * (2 ** (weight.bits - 1) - 1))


def _rows(entry: LayersEntry, layers: Sequence[Layer]) -> tuple[tuple[Row, ...], list[Step]]:
    rows: list[Row] = []
    steps: list[Step] = []
    for name in entry.inputs:
        steps.append(Step(len(rows), name, (), "end"))
        rows.append(Row(end=f"input {name}"))
    depth = _depth([layer.node.module for layer in layers])
    for module, found in groupby(layers, lambda layer: _cut(layer.node.module, depth)):
        group = list(found)
        rows.append(Row(head=module or "(no module)", summary=_summary(group)))
        for layer in group:
            steps.append(Step(len(rows), layer.node.name, layer.node.inputs, layer.node.kind))
            rows.append(Row(layer))
    for name, value in entry.outputs.items():
        steps.append(Step(len(rows), f"output {name}", (value,), "end"))
        rows.append(Row(end=f"output {name}"))
    return tuple(rows), steps


def _depth(modules: Sequence[str]) -> int:
    """The shortest length of module paths that gives groups enough to find one's way by."""
    enough = max(_FEWEST_GROUPS, len(modules) // _USUAL_GROUP)
    for depth in range(1, _DEEPEST):
        if len({_cut(module, depth) for module in modules}) >= enough:
            return depth
    return _DEEPEST


def _cut(module: str, depth: int) -> str:
    return ".".join(module.split(".")[:depth])


def _summary(layers: Sequence[Layer]) -> str:
    """`3 int8, 1 float, 2 conversions`."""
    kinds = [layer.color for layer in layers]
    parts = [f"{kinds.count(kind)} {kind}" for kind in ("int8", "float") if kind in kinds]
    if "boundary" in kinds:
        parts.append(plural(kinds.count("boundary"), "conversion"))
    return ", ".join(parts)
