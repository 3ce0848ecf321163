"""What a bundle says of each layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fxedge.compiler.ir.errors import BundleError
from fxedge.compiler.pipeline.holdout import few_samples
from fxedge.compiler.pipeline.layers import LayersEntry, NodeEntry, read_layers, write_layers
from small_compile import compile_small, small_data, small_model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("layers") / "bundle"
    compile_small(out, keep_float=("linear",), recipe="fast")
    return out


def _layers(bundle: Path) -> LayersEntry:
    found = read_layers(bundle, "onnx")
    assert found is not None
    return found


def _node(bundle: Path, name: str) -> NodeEntry:
    return next(node for node in _layers(bundle).nodes if node.node == name and node.kind in ("int8", "float"))


def test_steps_in_order_with_what_they_read(bundle: Path) -> None:
    found = _layers(bundle)
    assert (found.target, found.samples, found.inputs) == ("onnx", 4, ("x",))
    assert [(node.kind, node.op, node.fused) for node in found.nodes] == [
        ("quantize", "quantize", ()),
        ("int8", "conv2d", ("relu",)),
        ("int8", "flatten", ()),
        ("dequantize", "dequantize", ()),
        ("float", "linear", ()),
    ]
    known = set(found.inputs)
    for node in found.nodes:
        assert set(node.inputs) <= known
        known.add(node.name)
    assert set(found.outputs.values()) <= known


def test_a_float_op_has_its_reason(bundle: Path) -> None:
    linear = _node(bundle, "linear")
    assert (linear.reason, linear.value, linear.weight) == ("kept float by 'linear'", None, None)
    assert linear.multiplications == 4 * 36 * 3


def test_a_layer_has_its_weight_range_and_errors(bundle: Path) -> None:
    conv = _node(bundle, "conv2d")
    assert (conv.module, conv.shape, conv.multiplications) == ("0", (None, 4, 6, 6), 36 * 9 * 4)
    assert conv.weight is not None
    assert (conv.weight.shape, conv.weight.bits, conv.weight.scales) == ((4, 1, 3, 3), 8, 4)
    assert conv.weight.histogram is not None
    assert sum(conv.weight.histogram.counts) == 36
    assert conv.weight.sqnr_db is not None
    assert conv.weight.sqnr_db > 30
    assert conv.value is not None
    assert conv.value.error is not None
    assert conv.value.error.sqnr_db is not None
    assert conv.value.error.sqnr_db > 20
    assert conv.value.histogram is not None


def test_histograms_are_of_the_float_values(bundle: Path) -> None:
    value = _node(bundle, "conv2d").value
    assert value is not None
    assert value.histogram is not None
    model = small_model().eval()
    with torch.no_grad():
        found = torch.cat([model[:3](*batch.inputs) for batch in few_samples(small_data(), 4)])
    histogram = value.histogram
    assert sum(histogram.counts) == found.numel() == 4 * 4 * 36
    assert (histogram.low, histogram.high) == pytest.approx((float(found.min()), float(found.max())), rel=1e-4)
    edges = [histogram.start + at * histogram.width for at in range(len(histogram.counts) + 1)]
    assert edges[0] <= histogram.low
    assert edges[-1] > histogram.high * (1 - 1e-6)


def test_what_is_written_can_be_read(bundle: Path, tmp_path: Path) -> None:
    write_layers(tmp_path, _layers(bundle))
    assert read_layers(tmp_path, "onnx") == _layers(bundle)
    assert read_layers(tmp_path, "x86") is None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("bits", 10**9, "Input should be less than or equal to 8"),
        ("bits", 1, "Input should be greater than or equal to 2"),
        ("scale_high", float("inf"), "Input should be a finite number"),
        ("scale_low", float("nan"), "Input should be a finite number"),
    ],
)
def test_figures_that_are_none(bundle: Path, tmp_path: Path, field: str, value: float, message: str) -> None:
    write_layers(tmp_path, _layers(bundle))
    path = tmp_path / "layers" / "onnx.json"
    raw = json.loads(path.read_text())
    at = next(index for index, node in enumerate(raw["nodes"]) if node["weight"] is not None)
    raw["nodes"][at]["weight"][field] = value
    path.write_text(json.dumps(raw))
    with pytest.raises(BundleError) as caught:
        read_layers(tmp_path, "onnx")
    assert str(caught.value) == f"{path} is not a description of layers: nodes.{at}.weight.{field}: {message}."


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "layers" / "onnx.json"
    path.parent.mkdir()
    empty = {"schema_version": 1, "target": "onnx", "samples": 4, "inputs": [], "outputs": {}, "nodes": []}
    path.write_text(json.dumps(empty | {"more": 1}))
    with pytest.raises(BundleError) as caught:
        read_layers(tmp_path, "onnx")
    assert str(caught.value) == f"{path} is not a description of layers: more: Extra inputs are not permitted."
    path.write_text(json.dumps(empty | {"schema_version": 2}))
    with pytest.raises(BundleError) as caught:
        read_layers(tmp_path, "onnx")
    assert str(caught.value) == f"{path} has schema 2; this fxedge reads schema 1 of a description of layers."
