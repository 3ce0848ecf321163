"""Recorded shapes: filled in where missing, recomputed where the input changed, symbolic sizes kept."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.ir.shapes import annotate, tensor_meta
from support import Calls, inputs
from torch import nn


def test_missing_shapes_are_filled_in() -> None:
    gm = capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), inputs((2, 3, 6, 6)))
    calls = [node for node in gm.graph.nodes if node.op == "call_function"]
    before = [str(node.meta.pop("val").shape) for node in calls]
    annotate(gm)
    assert [str(node.meta["val"].shape) for node in calls] == before
    assert before[0].endswith(", 4, 4, 4])")


def test_what_depends_on_a_changed_shape_is_recomputed() -> None:
    gm = capture(Calls(lambda m, x: (x.flatten(1) + 1).relu()), inputs((2, 3, 4)))
    flatten, add, relu = [node for node in gm.graph.nodes if node.op == "call_function"]
    flatten.target, flatten.args = aten.unsqueeze.default, (flatten.args[0], 1)
    del flatten.meta["val"]
    annotate(gm)
    for node in (flatten, add, relu):
        value = tensor_meta(node)
        assert value is not None
        assert list(value.shape[1:]) == [1, 3, 4]


def test_dynamic_sizes_stay_dynamic() -> None:
    model = Calls(lambda m, x: F.interpolate(F.pad(x.relu(), (1, 1), value=0.5), scale_factor=2.0))
    gm = capture(model, inputs((2, 3, 4, 4)))
    calls = [node for node in gm.graph.nodes if node.op == "call_function"]
    for node in calls:
        del node.meta["val"]
    annotate(gm)
    assert not any(isinstance(node.meta["val"].shape[0], int) for node in calls)


def test_a_graph_without_shapes_is_refused() -> None:
    gm = torch.fx.symbolic_trace(nn.ReLU())
    with pytest.raises(ValueError, match="the shape of input input_1 is not known; capture the model with fxedge"):
        annotate(gm)


def test_several_results_and_sizes_are_no_tensors() -> None:
    gm = capture(Calls(lambda m, x: x.split(2, 1)[1].reshape(x.shape[0], -1)), inputs((2, 3, 8, 8)))
    annotate(gm)
    nodes = {node.target: node for node in gm.graph.nodes}
    split, size = nodes[aten.split.Tensor], nodes[aten.sym_size.int]
    assert tensor_meta(split) is tensor_meta(size) is None
    assert [tuple(piece.shape[1:]) for piece in split.meta["val"]] == [(2, 8, 8), (1, 8, 8)]


def test_annotating_again_changes_nothing() -> None:
    gm = capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), inputs((2, 3, 6, 6)))
    annotate(gm)
    before = {node: node.meta.get("val") for node in gm.graph.nodes}
    annotate(gm)
    assert all(node.meta.get("val") is value for node, value in before.items())
