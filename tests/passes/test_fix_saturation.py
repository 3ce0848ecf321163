"""FixSaturation: which channels change and how, biases and scales that follow, what is left alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from fxedge.compiler.ir.constants import constants
from fxedge.compiler.ir.errors import PassError
from fxedge.compiler.ir.passes import PassContext, PassResult, Skip, run_passes
from fxedge.compiler.quant.program import IntegerStep, build_program
from fxedge.compiler.quant.saturation import by_output, in_one_row, pair_sums, prove_unsaturated
from fxedge.compiler.quant.target import TargetSpec
from fxedge.passes.fix_saturation import FixSaturation
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Calls, graph
from torch import Tensor, nn
from torch.nn import functional as F
from toy_target import TOY, TOY_INT32_BIAS, Lowered, brief, grid, lower


def paired(spec: TargetSpec) -> TargetSpec:
    """The toy target with kernels that saturate on avx2."""
    pairing = lambda step, weight: in_one_row(by_output(step, weight))  # noqa: E731
    return dataclasses.replace(spec, saturation={"avx2": pairing, "vnni": None})


def linear(weight: Tensor, bias: bool = False) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], len(weight), bias=bias)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def fixed(lowered: Lowered, isa: str = "safe") -> PassResult:
    """The pass on the lowered graph, in place, proven to do what it is for; a second run changes nothing."""
    spec = lowered.program.spec
    ctx = PassContext(spec, reference=lowered.float_gm)
    result = run_passes(lowered.gm, [FixSaturation(isa)], ctx)["fix-saturation"]
    assert prove_unsaturated(build_program(lowered.gm, spec), "avx2").unsafe == {}
    assert run_passes(lowered.gm, [FixSaturation(isa)], ctx)["fix-saturation"] == PassResult(0)
    return result


def layer_of(lowered: Lowered) -> IntegerStep:
    program = build_program(lowered.gm, lowered.program.spec)
    (step,) = [step for step in program.steps if isinstance(step, IntegerStep) and step.weight is not None]
    return step


def values(step: IntegerStep) -> Tensor:
    """What the stored weight stands for."""
    assert step.weight is not None
    assert step.weight_qparams is not None
    scales = step.weight_qparams.scale_tensor()
    return step.weight * (scales[:, None] if step.weight_qparams.per_channel else scales)


# Row by row: within the limit; 1 above it; far above it; signs that cancel; negative and 3 above it.
WEIGHT = torch.tensor(
    [
        [127.0, 1, 64, 64, -127, -1],
        [127, 2, 50, 20, 10, 30],
        [127, 126, 3, 2, 1, 1],
        [127, -127, -100, 100, 0, 0],
        [-127, -4, 0, 0, 100, 20],
    ]
)


def test_the_graph_keeps_its_form():
    lowered = lower(Calls(lambda m, x: m.a(x), a=linear(WEIGHT)), grid(4, 6), spec=paired(TOY))
    expected = graph("""
        %0 = input x
        %1 = quantize(%0, 0.00784313772, 255, 0, 255, uint8)
        %2 = dequantize(%1, 0.00784313772, 255, 0, 255, uint8)
        %3 = dequantize_channel(@a.weight_quantized, @a.weight_quantized_scale, @a.weight_quantized_zero_point, 0, -127, 127, int8)
        %4 = linear.default(%2, %3)
        %5 = quantize(%4, 2.1468749, 241, 0, 255, uint8)
        %6 = dequantize(%5, 2.1468749, 241, 0, 255, uint8)
        return %6""")  # noqa: E501
    assert brief(lowered.gm) == expected
    assert fixed(lowered).changes == 3
    assert brief(lowered.gm) == expected


def test_only_channels_that_can_saturate_change():
    lowered = lower(Calls(lambda m, x: m.a(x), a=linear(WEIGHT)), grid(4, 6), spec=paired(TOY))
    assert fixed(lowered).changes == 3
    after = layer_of(lowered)
    assert after.weight is not None
    assert after.weight.tolist() == [
        [127, 1, 64, 64, -127, -1],
        [102, 2, 40, 16, 8, 24],
        [64, 63, 2, 1, 0, 0],
        [127, -127, -100, 100, 0, 0],
        [-70, -2, 0, 0, 55, 11],
    ]
    assert after.weight_qparams is not None
    assert after.weight_qparams.scale == (1.0, 1.25, 2.0, 1.0, 1.8125)


def test_notes_say_what_was_done_to_each_layer():
    lowered = lower(Calls(lambda m, x: m.a(x), a=linear(WEIGHT)), grid(4, 6), spec=paired(TOY))
    what = "3 of 5 channels repaired: 3 of 5 scales larger, by up to 2.0"
    assert fixed(lowered) == PassResult(3, notes=(Skip("linear", what),))


def test_in_a_wide_channel_two_weights_move_and_the_scale_stays():
    weight = torch.linspace(-30, 30.1, 400)[None].clone()
    weight[0, 100:102] = torch.tensor([127.0, 3.4])
    lowered = lower(Calls(lambda m, x: m.a(x), a=linear(weight)), grid(2, 400), spec=paired(TOY))
    before = layer_of(lowered)
    note = Skip("linear", "1 of 1 channels repaired: weights moved, scales kept")
    assert fixed(lowered) == PassResult(1, notes=(note,))
    after = layer_of(lowered)
    assert after.weight_qparams == before.weight_qparams
    assert after.weight is not None
    assert before.weight is not None
    assert (after.weight != before.weight).nonzero().tolist() == [[0, 100], [0, 101]]
    assert before.weight[0, 100:102].tolist() == [127, 3]
    assert after.weight[0, 100:102].tolist() == [126, 2]


@pytest.mark.parametrize("spec", [TOY, TOY_INT32_BIAS])
def test_the_bias_follows_the_scale(spec: TargetSpec):
    layer = linear(WEIGHT, bias=True)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, -2.0, 300.25, 4.0, 5.0]))
    lowered = lower(Calls(lambda m, x: m.a(x), a=layer), grid(4, 6), spec=paired(spec))
    assert fixed(lowered).changes == 3
    step = layer_of(lowered)
    assert step.bias is not None
    assert step.weight_qparams is not None
    assert step.bias.dtype is (torch.float32 if spec is TOY else torch.int32)
    unit = 1.0 if spec is TOY else step.weight_qparams.scale_tensor() * step.in_qparams[0].scale_tensor()
    torch.testing.assert_close(step.bias * unit, layer.bias.detach(), atol=0.17, rtol=0)


def test_a_layer_that_gives_float_is_repaired_too():
    spec = dataclasses.replace(paired(TOY), float_results=True)
    model = Calls(lambda m, x: m.a(x).sin(), a=linear(torch.tensor([[127.0, 127, 1, 1], [127, 1, 1, 1]])))
    lowered = lower(model, grid(64, 4), spec=spec)
    assert prove_unsaturated(lowered.program, "avx2").unsafe == {"linear": 1}
    assert fixed(lowered).changes == 1


def test_one_scale_for_all_weights():
    model = Calls(lambda m, x: m.a(x), a=linear(WEIGHT))
    lowered = lower(model, grid(4, 6), spec=paired(TOY_INT32_BIAS), per_tensor_weights=True)
    before = layer_of(lowered)
    assert before.weight is not None
    narrowed = (torch.round(WEIGHT / 2) * 2 - WEIGHT).square().sum()
    fixed(lowered)
    after = layer_of(lowered)
    assert after.weight_qparams is not None
    assert not after.weight_qparams.per_channel
    assert (values(after) - WEIGHT).square().sum() <= narrowed


def test_scales_stay_where_asked_to():
    lowered = lower(Calls(lambda m, x: m.a(x), a=linear(WEIGHT)), grid(4, 6), spec=paired(TOY))
    ctx = PassContext(lowered.program.spec, reference=lowered.float_gm)
    result = run_passes(lowered.gm, [FixSaturation(rescale=False)], ctx)["fix-saturation"]
    assert result.changes == 3
    after = layer_of(lowered)
    assert after.weight_qparams is not None
    assert after.weight is not None
    assert set(after.weight_qparams.scale) == {1.0}
    assert after.weight.tolist() == [
        [127, 1, 64, 64, -127, -1],
        [127, 1, 50, 20, 10, 30],
        [65, 63, 3, 2, 1, 1],
        [127, -127, -100, 100, 0, 0],
        [-125, -3, 0, 0, 100, 20],
    ]


def twice(spec: TargetSpec, bias: Tensor | None = None) -> Lowered:
    """Two linears that share a weight."""

    def function(m, x):
        return F.linear(x, m.w, bias) + F.linear(x * 2 + 1, m.w, bias)

    weight = torch.tensor([[127.0, 126, 1, 1], [127, 1, 0, 0]])
    return lower(Calls(function, w=weight), grid(4, 4), spec=spec)


def test_a_shared_weight_is_repaired_once_for_all_who_read_it():
    lowered = twice(paired(TOY))
    assert fixed(lowered).changes == 1
    stored = constants(lowered.gm)
    assert stored["w_quantized"].tolist() == [[64, 63, 0, 0], [127, 1, 0, 0]]
    assert stored["w_quantized_scale"].tolist() == [2.0, 1.0]


def test_each_bias_beside_a_shared_weight_follows_the_scale():
    lowered = twice(paired(TOY_INT32_BIAS), bias=torch.tensor([1000.0, 500.0]))
    before = [step for step in lowered.program.steps if isinstance(step, IntegerStep) and step.bias is not None]
    fixed(lowered)
    after = [
        step
        for step in build_program(lowered.gm, lowered.program.spec).steps
        if isinstance(step, IntegerStep) and step.bias is not None
    ]
    assert len(before) == len(after) == 2
    for old, new in zip(before, after, strict=True):
        assert old.bias is not None
        assert new.bias is not None
        assert new.bias.tolist() == [round(int(old.bias[0]) / 2), int(old.bias[1])]


def test_a_shared_weight_that_kernels_pair_differently_keeps_its_scale():
    def pairing(step: IntegerStep, weight: Tensor) -> Tensor:
        turned = step.name.endswith("_1")
        return in_one_row(by_output(step, weight.roll(1, 1) if turned else weight))

    lowered = twice(dataclasses.replace(TOY, saturation={"avx2": pairing, "vnni": None}))
    assert fixed(lowered).changes > 0
    assert constants(lowered.gm)["w_quantized_scale"].tolist() == [1.0, 1.0]


def test_without_the_float_graph_the_integers_stand_for_themselves():
    lowered = lower(Calls(lambda m, x: m.a(x), a=linear(WEIGHT)), grid(4, 6), spec=paired(TOY))
    ctx = PassContext(lowered.program.spec)
    assert run_passes(lowered.gm, [FixSaturation()], ctx)["fix-saturation"].changes == 3


def test_convolutions_over_groups_and_transposed_ones():
    torch.manual_seed(0)

    def function(m, x):
        return m.up(m.a(x))

    model = Calls(function, a=nn.Conv2d(6, 8, 3, groups=2), up=nn.ConvTranspose2d(8, 6, 3, 2, groups=2))
    lowered = lower(model, grid(2, 6, 6, 6), spec=paired(TOY_INT32_BIAS))
    assert prove_unsaturated(lowered.program, "avx2").unsafe
    assert fixed(lowered).changes > 0


@pytest.mark.parametrize(
    ("spec", "isa"), [(paired(TOY), "vnni"), (TOY, "safe")], ids=["sums in 32 bits", "no such kernels"]
)
def test_nothing_to_do(spec: TargetSpec, isa: str):
    lowered = lower(Calls(lambda m, x: m.a(x), a=linear(WEIGHT)), grid(4, 6), spec=spec)
    result = run_passes(lowered.gm, [FixSaturation(isa)], PassContext(spec))
    assert result["fix-saturation"] == PassResult(0)


def test_without_a_target():
    lowered = lower(Calls(lambda m, x: m.a(x), a=linear(WEIGHT)), grid(4, 6))
    assert run_passes(lowered.gm, [FixSaturation("avx2")])["fix-saturation"] == PassResult(0)


def test_an_unknown_instruction_set():
    lowered = lower(Calls(lambda m, x: m.a(x), a=linear(WEIGHT)), grid(4, 6), spec=paired(TOY))
    with pytest.raises(PassError) as error:
        fixed(lowered, "sse9")
    assert str(error.value) == (
        "Pass fix-saturation failed (passes before it: none): The toy target knows no instruction set 'sse9'; "
        "allowed: safe, native, avx2, vnni."
    )


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 6), columns=st.integers(1, 40), seed=st.integers(0, 10_000), heavy=st.booleans())
def test_safe_and_never_worse_than_half_the_grid(rows: int, columns: int, seed: int, heavy: bool):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    weight = weight**3 if heavy else weight
    lowered = lower(Calls(lambda m, x: m.a(x), a=linear(weight)), grid(2, columns), spec=paired(TOY))
    before = layer_of(lowered)
    assert before.weight is not None
    assert before.weight_qparams is not None
    unsafe = (pair_sums(in_one_row(before.weight)) > 128).any(1)
    assert fixed(lowered).changes == int(unsafe.sum())
    after = layer_of(lowered)
    assert after.weight is not None
    assert torch.equal(after.weight[~unsafe], before.weight[~unsafe])
    scales = before.weight_qparams.scale_tensor()[:, None] * 2
    halved = (torch.round(weight / scales) * scales - weight).square().sum(1)
    error = (values(after) - weight).square().sum(1)
    assert (error <= halved * 1.0001)[unsafe].all()
