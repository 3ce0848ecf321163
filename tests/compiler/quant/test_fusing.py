"""Residuals and activations inside a layer's region, and results that stay float: plan, program, simulation."""

import dataclasses
from textwrap import dedent

import torch
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.ir.passes import evaluate
from fxedge.compiler.quant.arithmetic import KernelCall, accumulate_conv, channel_shape
from fxedge.compiler.quant.plan import plan_quantization
from fxedge.compiler.quant.program import IntegerStep, Program
from fxedge.compiler.quant.qparams import quantize
from fxedge.compiler.quant.simulate import simulate
from fxedge.compiler.quant.target import TargetSpec
from support import Calls
from torch import nn
from torch.nn import functional as F
from toy_target import TOY, captured, lower

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def conv_kernel(call: KernelCall) -> torch.Tensor:
    """In real numbers: the layer, its residual, its activation."""
    scale = call.in_qparams[0].scale_tensor() * call.weight_qparams.scale_tensor()
    real = accumulate_conv(call) * channel_shape(scale, 4, 1) + channel_shape(call.bias, 4, 1)
    if len(call.inputs) > 1:
        qp = call.in_qparams[1]
        real = real + (call.inputs[1].float() - qp.zero_point[0]) * qp.scale[0]
    for function in call.after:
        real = function(real)
    return quantize(real.float(), call.out_qparams).clamp(*call.clamp)


_RULE = TOY.ops[aten.conv2d.default]
ADDING = dataclasses.replace(
    TOY,
    ops={
        **TOY.ops,
        aten.conv2d.default: dataclasses.replace(
            _RULE, kernel=conv_kernel, adds=True, fuses=_RULE.fuses | {aten.silu.default}
        ),
    },
)
FLOATING = dataclasses.replace(ADDING, float_results=True)


def conv(inputs: int = 4, outputs: int = 4) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def text(model: nn.Module, spec: TargetSpec = ADDING, **options) -> str:
    return plan_quantization(captured(model, X), spec, **options).format() + "\n"


def steps(program: Program) -> list[tuple[str, list[str], int]]:
    found = [step for step in program.steps if isinstance(step, IntegerStep)]
    return [(step.anchor.name, [node.name for node in step.fused], len(step.inputs)) for step in found]


def close(model: nn.Module, spec: TargetSpec) -> float:
    """Largest difference between the simulated outputs and those of the quantized graph, run in float."""
    program = lower(model, X, spec=spec).program
    found = next(iter(simulate(program, (X,)).outputs.values()))
    return float((found - evaluate(program.gm, (X,))[0]).abs().max())


def residual() -> Calls:
    torch.manual_seed(0)
    return Calls(lambda m, x: m.c((m.b(m.a(x).relu()) + x).relu()), a=conv(), b=conv(), c=conv())


def test_a_layer_takes_in_the_sum_with_what_is_integers():
    assert text(residual()) == dedent("""\
        plan for toy: 3 integer ops, 0 float
          int8   conv2d + relu: x -> relu
          int8   conv2d_1 + add + relu_1: relu, x -> relu_1
          int8   conv2d_2: relu_1 -> conv2d_2
        """)


def test_the_program_has_one_step_for_it():
    program = lower(residual(), X, spec=ADDING).program
    assert steps(program) == [("conv2d", ["relu"], 1), ("conv2d_1", ["add", "relu_1"], 2), ("conv2d_2", [], 1)]
    assert close(residual(), ADDING) < 0.02


def test_of_two_layers_the_last_one_takes_in_the_sum():
    torch.manual_seed(0)
    model = Calls(lambda m, x: m.a(x) + m.b(x), a=conv(), b=conv())
    assert text(model) == dedent("""\
        plan for toy: 2 integer ops, 0 float
          int8   conv2d: x -> conv2d
          int8   conv2d_1 + add: x, conv2d -> add
        """)
    assert close(model, ADDING) < 0.02


def test_a_sum_with_floats_is_not_taken_in():
    model = Calls(lambda m, x: m.b(m.a(x)) + m.a(x).erf(), a=conv(), b=conv())
    lines = text(model).splitlines()
    assert not any("+ add" in line for line in lines)
    assert "  float  add: its inputs are float" in lines


def test_a_sum_that_is_kept_float_or_scaled_or_read_twice_is_not_taken_in():
    model = Calls(lambda m, x: m.a(x) + x, a=conv())
    assert "+ add" in text(model)
    assert "+ add" not in text(model, keep_float=["add"])
    assert "+ add" not in text(Calls(lambda m, x: torch.add(m.a(x), x, alpha=2), a=conv()))

    def twice(m, x):
        y = m.a(x)
        return y + x, y

    assert "+ add" not in text(Calls(twice, a=conv()))
    assert "+ add" not in text(Calls(lambda m, x: m.a(x) + x.mean((2, 3), keepdim=True), a=conv()))


def test_an_activation_ends_a_region():
    model = Calls(lambda m, x: m.b(F.silu(m.a(x)).relu()), a=conv(), b=conv())
    assert text(model).splitlines()[1:3] == [
        "  int8   conv2d + silu: x -> silu",
        "  int8   relu: silu -> relu",
    ]
    assert steps(lower(model, X, spec=ADDING).program)[0] == ("conv2d", ["silu"], 1)
    assert close(model, ADDING) < 0.02


def test_no_activation_behind_a_clamp():
    model = Calls(lambda m, x: m.b(F.silu(m.a(x).relu())), a=conv(), b=conv())
    assert text(model).splitlines()[1] == "  int8   conv2d + relu: x -> relu"


def test_results_that_only_floats_read_stay_float():
    model = Calls(lambda m, x: m.b(m.a(x).relu()).flatten(1), a=conv(), b=conv())
    assert text(model, FLOATING) == dedent("""\
        plan for toy: 2 integer ops, 1 float
          int8   conv2d + relu: x -> relu
          int8   conv2d_1: relu -> float
          float  flatten: toy has no integer kernel for flatten.using_ints
        """)
    program = lower(model, X, spec=FLOATING).program
    assert steps(program) == [("conv2d", ["relu"], 1)]
    assert [step.name for step in program.steps][-2:] == ["conv2d_1", "flatten"]


def test_weights_of_a_layer_that_adds_are_rounded_like_others():
    """The bounds of the sum say nothing of the layer's own output."""
    from fxedge.passes.rounding.layer_rows import output_bounds

    found = [step for step in lower(residual(), X, spec=ADDING).program.steps if isinstance(step, IntegerStep)]
    assert [bool(output_bounds(step)[1].isinf().all()) for step in found] == [False, True, False]
