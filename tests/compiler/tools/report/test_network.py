"""Layers as the report shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fxedge.compiler.pipeline.layers import HistogramEntry, LayersEntry, read_layers
from fxedge.compiler.tools.report.network import Network, _clipped, _depth, view_network
from fxedge.compiler.tools.report.svg import drawing


@pytest.fixture(scope="module")
def layers(explained: Path) -> LayersEntry:
    found = read_layers(explained, "onnx")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def network(layers: LayersEntry) -> Network:
    with drawing():
        return view_network(layers, "t0")


def test_every_step_is_in_the_list_under_its_module(network: Network) -> None:
    rows = [row.end or row.head or row.layer.op for row in network.rows if row.end or row.head or row.layer]
    assert rows == [
        *("input x", "(no module)", "quantize"),
        *("0", "conv2d + relu", "3", "flatten"),
        *("4", "dequantize", "linear", "output output"),
    ]
    assert [row.summary for row in network.rows if row.head] == [
        *("1 conversion", "1 int8", "1 int8", "1 float, 1 conversion"),
    ]
    assert network.conversions == 2


def test_layers_have_their_histograms(network: Network) -> None:
    conv = network.layers[1]
    assert [shown.what for shown in conv.histograms] == ["weights", "values"]
    assert all('class="' not in shown.drawing and "var(--band)" in shown.drawing for shown in conv.histograms)
    assert conv.share > 0
    assert sum(layer.share for layer in network.layers) == pytest.approx(1)
    assert network.layers[-1].histograms == ()


def test_points_of_the_plot_lead_to_layers(network: Network) -> None:
    assert network.plot is not None
    for number in range(3):
        assert network.plot.count(f'<a href="#t0-n{number}"><title>{number} ') >= 2
    assert "_blank" not in network.plot


def test_modules_are_cut_where_there_are_enough_groups() -> None:
    mobilenet = [f"features.{block}.conv.{part}" for block in range(9) for part in range(3)] + ["classifier.1"]
    assert _depth(mobilenet) == 2
    assert _depth(["conv1", "layer1.0.conv1", "layer2.0.conv1", "fc"]) == 1
    assert _depth([""]) == 4
    blocks = [f"part{part}.{block}.conv" for part in range(4) for block in range(20)]
    assert (_depth(blocks[:60]), _depth(blocks)) == (2, 2), "three groups are too few, and so are four of twenty"


def test_the_share_that_is_clipped() -> None:
    found = HistogramEntry(low=0, high=4, start=0, width=1, counts=(1, 2, 3, 4))
    assert _clipped(found, 0, 4) == 0
    assert _clipped(found, 1, 2.5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "broken",
    [{"width": 0.0}, {"counts": ()}, {"start": float("inf")}, {"counts": (-1, 2**70)}, {"low": float("nan")}],
)
def test_numbers_that_cannot_be_drawn(layers: LayersEntry, broken: dict[str, object]) -> None:
    """A bundle may be anybody's: what makes no histogram is left out."""
    node = layers.nodes[1]
    assert node.value is not None
    assert node.value.histogram is not None
    histogram = node.value.histogram.model_copy(update=broken)
    value = node.value.model_copy(update={"histogram": histogram})
    changed = layers.model_copy(update={"nodes": (node.model_copy(update={"value": value}),)})
    with drawing():
        found = view_network(changed, "t0").layers[0].histograms
    assert [shown.what for shown in found] == ["weights", "values"][: 2 if broken.get("counts") else 1]
