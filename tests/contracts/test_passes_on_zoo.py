"""Every pass on every reference model: numerics promise, second run, recorded shapes, any batch size."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from fxedge import models
from fxedge.backends import registry
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.constants import constants
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.ir.passes import CLOSE_TOLERANCE, Pass, PassContext, evaluate, relative_error, run_passes
from fxedge.compiler.ir.shapes import annotate
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.lower import FloatModel, copy_graph, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.pipeline.recipes import make_recipe
from fxedge.compiler.quant.channel_stats import ChannelStats
from fxedge.compiler.quant.plan import Plan, plan_quantization
from fxedge.passes import (
    AbsorbBias,
    Canonicalize,
    CleanQdq,
    CorrectBias,
    EqualizeLayers,
    FixSaturation,
    FoldBatchNorm,
    FoldDeadChannels,
    FuseActivation,
    InsertQdq,
    RoundWeights,
    SmoothActivations,
    SplitOutliers,
    SplitRanges,
)
from torch import fx

PASSES: tuple[Pass, ...] = (Canonicalize(), FoldBatchNorm(), FuseActivation())
ACCURACY_PASSES: tuple[Pass, ...] = (
    FoldDeadChannels(),
    EqualizeLayers(per_tensor_weights=True),
    EqualizeLayers(per_tensor_weights=False, clamp="pinned"),
    AbsorbBias(),
    SmoothActivations(),
    SplitRanges(per_tensor_weights=True),
    SplitOutliers(ratio=0.05),
)
INTEGER_PASSES: tuple[Pass, ...] = (
    FixSaturation("avx2"),
    FixSaturation("avx2", rescale=False),
    RoundWeights("gptq"),
    CorrectBias(),
)
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


@functools.cache
def _prepared(name: str) -> FloatModel:
    """After the passes of the recipe `fast`; its example inputs stand for calibration data."""
    example = models.get(name).example_inputs()
    return prepare(_copy(name), example, CompileOptions(recipe="fast"), batches=lambda: iter([example]))


@functools.cache
def _quantized(name: str) -> tuple[fx.GraphModule, Plan]:
    model, spec = _prepared(name), registry.get("onnx").spec
    plan = plan_quantization(model.gm, spec)
    stats = collect(model, {spec.name: plan}, [model.examples], CompileOptions())
    gm = copy_graph(model.gm)
    run_passes(gm, [InsertQdq(plan, stats), CleanQdq()], PassContext(spec))
    return gm, plan


@pytest.mark.parametrize("item", ACCURACY_PASSES, ids=lambda item: item.name)
@pytest.mark.parametrize("name", SMALL)
def test_accuracy_passes_keep_their_promise_and_find_nothing_twice(name: str, item: Pass) -> None:
    model = _prepared(name)
    gm, stats = copy_graph(model.gm), copy.deepcopy(model.channel_stats)
    ctx = PassContext(example_inputs=model.examples, channel_stats=stats, batches=model.batches)
    assert run_passes(gm, [item], ctx)[item.name].rolled_back is None
    _assert_nothing_is_left(gm, item, ctx)
    _assert_shapes_are_true(gm)


@pytest.mark.parametrize("item", INTEGER_PASSES, ids=lambda item: item.name)
@pytest.mark.parametrize(
    "name", ["depthwise", "grouped_dilated", "conv_transpose", "shared_weights", "transformer"]
)
def test_integer_passes_find_nothing_twice(name: str, item: Pass) -> None:
    model, (quantized, plan) = _prepared(name), _quantized(name)
    gm = copy_graph(quantized)
    ctx = PassContext(
        target=registry.get("onnx").spec,
        example_inputs=model.examples,
        channel_stats=model.channel_stats,
        batches=model.batches,
        reference=model.gm,
        kept=plan.kept,
    )
    run_passes(gm, [item], ctx)
    _assert_nothing_is_left(gm, item, ctx)


def _assert_nothing_is_left(gm: fx.GraphModule, item: Pass, ctx: PassContext) -> None:
    text, before = dump(gm), constants(gm)
    assert run_passes(gm, [item], ctx)[item.name].changes == 0
    assert dump(gm) == text
    assert all(torch.equal(value, before[key]) for key, value in constants(gm).items())


def _assert_shapes_are_true(gm: fx.GraphModule) -> None:
    calls = [node for node in gm.graph.nodes if node.op == "call_function"]
    recorded = {node: str(getattr(node.meta.pop("val"), "shape", None)) for node in calls}
    annotate(gm)
    assert {node: str(getattr(node.meta["val"], "shape", None)) for node in calls} == recorded


def test_the_fast_recipe_is_these_passes() -> None:
    assert make_recipe(CompileOptions(recipe="fast")).plain == PASSES
