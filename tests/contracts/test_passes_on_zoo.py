"""Every float pass on every reference model: numerics promise, second run, recorded shapes, any batch size."""

from __future__ import annotations

import functools

import pytest
import torch
from fxedge import models
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.ir.passes import CLOSE_TOLERANCE, Pass, PassContext, evaluate, relative_error, run_passes
from fxedge.compiler.ir.shapes import annotate
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.pipeline.recipes import make_recipe
from fxedge.compiler.quant.channel_stats import ChannelStats
from fxedge.passes import Canonicalize, FoldBatchNorm, FuseActivation
from torch import fx

PASSES: tuple[Pass, ...] = (Canonicalize(), FoldBatchNorm(), FuseActivation())
SMALL = models.names(full_size=False)
NAMES = [pytest.param(name, marks=() if name in SMALL else pytest.mark.slow) for name in models.names()]


@functools.cache
def _captured(name: str) -> fx.GraphModule:
    entry = models.get(name)
    return capture(entry.factory(), entry.example_inputs())


def _copy(name: str) -> fx.GraphModule:
    """A graph of its own over the same tensors, so that one capture serves all tests."""
    return capture(_captured(name), models.get(name).example_inputs())


@pytest.mark.parametrize("item", PASSES, ids=lambda item: item.name)
@pytest.mark.parametrize("name", NAMES)
def test_promise_holds_alone(name: str, item: Pass) -> None:
    gm, example = _copy(name), models.get(name).example_inputs()
    report = run_passes(gm, [item], PassContext(example_inputs=example, channel_stats=ChannelStats()))
    assert report[item.name].rolled_back is None
    text = dump(gm)
    assert run_passes(gm, [item])[item.name].changes == 0
    assert dump(gm) == text


@pytest.mark.parametrize("name", NAMES)
def test_promise_holds_in_order(name: str) -> None:
    gm, example = _copy(name), models.get(name).example_inputs()
    report = run_passes(gm, PASSES, PassContext(example_inputs=example, channel_stats=ChannelStats()))
    assert [result.rolled_back for result in report.values()] == [None] * len(PASSES)
    assert report.max_error.get("fuse-activation", 0.0) == 0.0
    assert not gm.graph.find_nodes(op="call_function", target=aten.batch_norm.default)
    _assert_shapes_are_true(gm)
    larger = tuple(torch.cat([tensor, tensor[:1]]) for tensor in example)
    error = relative_error(evaluate(gm, larger), evaluate(_captured(name), larger))
    assert error <= CLOSE_TOLERANCE


def _assert_shapes_are_true(gm: fx.GraphModule) -> None:
    calls = [node for node in gm.graph.nodes if node.op == "call_function"]
    recorded = {node: str(getattr(node.meta.pop("val"), "shape", None)) for node in calls}
    annotate(gm)
    assert {node: str(getattr(node.meta["val"], "shape", None)) for node in calls} == recorded


def test_the_fast_recipe_is_these_passes() -> None:
    assert make_recipe(CompileOptions(recipe="fast")).floats == PASSES
