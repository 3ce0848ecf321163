"""Errors of single values; what they add up to in an explanation is tested there."""

from __future__ import annotations

import torch
from fxedge.backends import registry
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.layer_errors import LayerErrors, parts_within_budget
from fxedge.compiler.pipeline.lower import FloatModel, lower, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.quant.program import Program
from small_compile import small_images, small_model


def _lowered() -> tuple[FloatModel, Program]:
    images, options = small_images(8), CompileOptions(recipe="fast")
    model, spec = prepare(small_model(), (images[:2],), options), registry.get("onnx").spec
    plan = plan_targets(model, [spec], options)["onnx"]
    stats = collect(model, {"onnx": plan}, [(images,)], options)
    return model, lower(model, spec, plan, stats, options).program


def test_batches_add_up() -> None:
    model, program = _lowered()
    images = small_images(8)
    whole, parts = LayerErrors(model.gm, program), LayerErrors(model.gm, program)
    floats = whole.add((images,))
    parts.add((images[:3],))
    parts.add((images[3:],))
    assert list(floats) == list(program.integer_values())
    assert torch.equal(floats[next(iter(floats))], images)
    for one, other in zip(whole.layers(), parts.layers(), strict=True):
        assert abs(one.sqnr - other.sqnr) < 1e-3
        assert abs(one.own_sqnr - other.own_sqnr) < 1e-3


def test_a_batch_is_cut_where_its_values_take_too_much() -> None:
    model, _ = _lowered()
    images = small_images(8)
    assert [len(part) for (part,) in parts_within_budget(model.gm, (images,))] == [8]
    many = images.expand(8, 1, 6, 6).repeat(60_000, 1, 1, 1)
    sizes = [len(part) for (part,) in parts_within_budget(model.gm, (many,))]
    assert sum(sizes) == 480_000
    assert len(sizes) > 1
