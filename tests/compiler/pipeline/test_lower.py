import dataclasses

import pytest
import torch
from fxedge.backends import registry
from fxedge.compiler.ir.constants import constants
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.ir.passes import Skip
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.lower import lower, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.compiler.quant.program import DequantizeStep, FloatStep, IntegerStep, QuantizeStep
from fxedge.compiler.quant.saturation import SaturationProof
from small_compile import small_data, small_images, small_model
from torch import Tensor, nn


def test_an_unknown_recipe():
    with pytest.raises(InputError) as caught:
        prepare(small_model(), (small_images(2),), CompileOptions(recipe="bset"))
    assert str(caught.value).startswith("Unknown recipe 'bset'; allowed: fast, ")


def test_the_float_model_is_folded_and_not_changed_by_lowering():
    model = prepare(small_model(), (small_images(2),), CompileOptions())
    assert "batch_norm" not in dump(model.gm)
    text = dump(model.gm)
    spec = registry.get("onnx").spec
    plans = plan_targets(model, [spec], CompileOptions())
    stats = collect(model, plans, (batch.inputs for batch in small_data()), CompileOptions())
    lowered = lower(model, spec, plans["onnx"], stats)
    assert dump(model.gm) == text
    assert [type(step) for step in lowered.program.steps] == [
        QuantizeStep,
        IntegerStep,
        IntegerStep,
        IntegerStep,
        DequantizeStep,
    ]
    assert list(lowered.passes)[:2] == ["insert-qdq", "clean-qdq"]


def test_the_plain_model_is_what_it_was_before_the_passes_that_prepare_it_for_integers():
    model = prepare(small_model(), (small_images(2),), CompileOptions(recipe="default", split_ratio=0.5))
    before, after = ([tuple(value.shape) for value in constants(gm).values()] for gm in (model.plain, model.gm))
    assert before == [(4, 1, 3, 3), (4,), (3, 144), (3,)]
    assert max(after) == (4, 9, 3, 3)
    assert list(model.passes)[:3] == ["canonicalize", "fold-batch-norm", "fuse-activation"]
    torch.testing.assert_close(model.gm(small_images(2)), model.plain(small_images(2)))


def test_keep_float_and_per_tensor_reach_the_plan():
    model = prepare(small_model(), (small_images(2),), CompileOptions())
    options = CompileOptions(keep_float=("4",), per_tensor_weights=True)
    plan = plan_targets(model, [registry.get("onnx").spec], options)["onnx"]
    assert [(skip.node.split(" ")[0], skip.reason) for skip in plan.floats] == [("4", "kept float by '4'")]
    assert [op.weight.per_channel for op in plan.ops.values() if op.weight is not None] == [False]


def test_weight_options_reach_the_plan():
    model = prepare(small_model(), (small_images(2),), CompileOptions())
    options = CompileOptions(weight_bits=6, weight_range="mse", layers={"4": LayerOptions(weight_bits=4)})
    plan = plan_targets(model, [registry.get("onnx").spec], options)["onnx"]
    weights = [(op.weight.qmax, op.weight_range) for op in plan.ops.values() if op.weight is not None]
    assert weights == [(31, "mse"), (7, "mse")]


def test_what_is_proven_of_the_instruction_set():
    options = CompileOptions(recipe="fast")
    model = prepare(small_model(), (small_images(2),), options)
    spec = registry.get("onnx").spec
    plans = plan_targets(model, [spec], options)
    stats = collect(model, plans, (batch.inputs for batch in small_data()), options)
    proofs = {
        isa: lower(model, spec, plans["onnx"], stats, dataclasses.replace(options, isa=isa)).saturation
        for isa in ("safe", "vnni")
    }
    assert proofs["vnni"] == SaturationProof("vnni", proofs["safe"].channels)
    assert (proofs["safe"].isa, proofs["safe"].largest > 0) == ("avx2", True)
    with pytest.raises(InputError) as caught:
        lower(model, spec, plans["onnx"], stats, dataclasses.replace(options, isa="sse9"))
    assert str(caught.value) == (
        "The onnx target knows no instruction set 'sse9'; allowed: safe, native, avx2, vnni, neon."
    )


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(1, 1, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x) + self.b(x))


@pytest.mark.parametrize("target", ["onnx", "x86"])
def test_what_is_kept_float_between_integers_runs_in_float(target: str):
    options, images = CompileOptions(keep_float=("add",)), small_images(2)
    model = prepare(Sum(), (images,), options)
    spec = registry.get(target).spec
    plans = plan_targets(model, [spec], options)
    lowered = lower(model, spec, plans[target], collect(model, plans, [(images,)], options))
    assert [step.name for step in lowered.program.steps if isinstance(step, FloatStep)] == ["add"]


def test_a_sum_whose_scales_no_kernel_takes_counts_as_float():
    net, images = Sum(), small_images(2)
    with torch.no_grad():
        net.a.weight *= 1e-7
        net.a.bias *= 1e-7
    options = CompileOptions(recipe="fast")
    model = prepare(net, (images,), options)
    spec = registry.get("qnnpack").spec
    plans = plan_targets(model, [spec], options)
    assert list(plans["qnnpack"].ops) == ["conv2d", "conv2d_1", "add", "conv2d_2"]
    lowered = lower(model, spec, plans["qnnpack"], collect(model, plans, [(images,)], options), options)
    assert list(lowered.plan.ops) == ["conv2d", "conv2d_1", "conv2d_2"]
    assert lowered.plan.floats == (Skip("add", "qnnpack's kernel does not take its parameters"),)
    assert [step.name for step in lowered.program.steps if isinstance(step, FloatStep)] == ["add"]
