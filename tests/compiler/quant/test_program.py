import dataclasses
import operator
import re

import pytest
import torch
from fxedge.compiler.ir.errors import VerifierError
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.ir.passes import evaluate, run_passes
from fxedge.compiler.ir.qops import DQ, DQC, QC, Q
from fxedge.compiler.quant.program import (
    DequantizeStep,
    FloatStep,
    IntegerStep,
    Program,
    QuantizeStep,
    build_program,
    float_layers,
    layers,
)
from fxedge.compiler.quant.qparams import QParams
from fxedge.compiler.quant.simulate import simulate
from fxedge.passes.clean_qdq import CleanQdq
from support import Calls, inputs
from torch import fx, nn
from torch.nn import functional as F
from toy_target import PROBABILITY, TOY, TOY_INT32_BIAS, HandWritten, brief, grid, lower

X = grid(2, 4, 8, 8)
A = (0.5, 10, 0, 255, torch.uint8)
B = (0.25, 20, 0, 255, torch.uint8)
S = (0.5, 0, -127, 127, torch.int8)
QA = QParams((0.5,), (10,), 0, 255, torch.uint8)
QB = QParams((0.25,), (20,), 0, 255, torch.uint8)


def identity() -> nn.Conv2d:
    conv = nn.Conv2d(4, 4, 1, bias=False)
    nn.init.dirac_(conv.weight)
    return conv


def steps(program: Program) -> list[str]:
    """Each step in one line: what kind, of which op, from which values."""
    lines = []
    for step in program.steps:
        match step:
            case IntegerStep():
                names = "+".join(node.name for node in (step.anchor, *step.fused))
                lines.append(f"int8 {names}: {' '.join(step.inputs)} -> {step.name}")
            case FloatStep():
                lines.append(f"float {step.name}")
            case QuantizeStep():
                lines.append(f"quantize {step.source} -> {step.name}")
            case DequantizeStep():
                lines.append(f"dequantize {step.source} -> {step.name}")
    short = (("dequantize_per_tensor_default", "dq"), ("quantize_per_tensor_default", "q"))
    return [line.replace(*short[0]).replace(*short[1]) for line in lines]


def integer_steps(program: Program) -> list[IntegerStep]:
    return [step for step in program.steps if isinstance(step, IntegerStep)]


def assert_close_to_graph(program: Program, *given: torch.Tensor) -> None:
    """The program computes what the graph of quantize and dequantize nodes says, up to one integer."""
    lsb = max(qp.scale[0] for qp in program.integer_values().values())
    expected = evaluate(program.gm, given)
    actual = simulate(program, given).outputs.values()
    for left, right in zip(actual, expected, strict=True):
        torch.testing.assert_close(left.float(), right.float(), atol=1.01 * lsb, rtol=0)


def test_a_conv_and_its_activation_are_one_integer_step():
    program = lower(Calls(lambda m, x: m.a(x).relu(), a=identity()), X).program
    assert steps(program) == ["quantize x -> q", "int8 conv2d+relu: q -> q_1", "dequantize q_1 -> dq_1"]


def test_contents_of_an_integer_step():
    layer = nn.Conv2d(4, 4, 1)
    program = lower(Calls(lambda m, x: m.a(x).relu(), a=layer), X).program
    (step,) = integer_steps(program)
    assert step.rule is TOY.ops[aten.conv2d.default]
    assert step.in_qparams == (QParams((1 / 64,), (128,), 0, 255, torch.uint8),)
    assert step.out_qparams == program.integer_values()[step.name]
    assert step.clamp == (0, 255)
    assert step.weight.dtype == torch.int8
    assert step.weight_qparams.axis == 0
    assert torch.equal(step.bias, layer.bias)
    assert {key: step.attrs[key] for key in ("stride", "padding", "dilation", "groups")} == {
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 1,
    }
    assert program.inputs == ("x",)
    assert program.outputs == {"output": program.steps[-1].name}
    (step,) = integer_steps(lower(Calls(lambda m, x: m.a(x), a=layer), X, spec=TOY_INT32_BIAS).program)
    assert step.bias.dtype == torch.int32


def test_a_fused_relu6_gives_integer_bounds():
    b = HandWritten()
    value = b(aten.hardtanh.default, b(aten.add.Tensor, *[b(DQ, b(Q, b.x, *A), *A)] * 2), 0.0, 6.0)
    program = build_program(b.done(b(DQ, b(Q, value, *A), *A)), TOY)
    (step,) = integer_steps(program)
    assert [node.target for node in step.fused] == [aten.hardtanh.default]
    assert step.clamp == (10, 22)
    x = torch.tensor([-5.0, 0.5, 2.0, 50.0])
    assert simulate(program, [x]).outputs["output"].tolist() == [0.0, 1.0, 4.0, 6.0]


def test_several_fused_bounds_meet():
    b = HandWritten()
    value = b(aten.add.Tensor, *[b(DQ, b(Q, b.x, *A), *A)] * 2)
    value = b(aten.relu.default, b(aten.hardtanh.default, value, -3.0, 4.0))
    (step,) = integer_steps(build_program(b.done(b(DQ, b(Q, value, *A), *A)), TOY))
    assert len(step.fused) == 2
    assert step.clamp == (10, 18)


def test_bounds_by_channel():
    high = torch.tensor([0.25, 0.5, 100.0, -1.0]).reshape(4, 1, 1)
    lowered = lower(Calls(lambda m, x: torch.clamp(m.a(x).relu(), max=m.u), a=identity(), u=high), X)
    assert steps(lowered.program)[1].startswith("int8 conv2d+relu+clamp")
    (step,) = integer_steps(lowered.program)
    assert step.clamp == (step.out_qparams.zero_point[0], 255)
    assert step.channel_low is None
    assert step.channel_high.dtype == torch.int32
    assert torch.equal(step.channel_high, TOY.quantize(high, step.out_qparams))
    assert_close_to_graph(lowered.program, X)


def test_bounds_by_channel_and_by_numbers_act_in_their_order():
    def function(m, x):
        return torch.clamp(torch.clamp(m.a(x), m.low, m.high).relu(), max=m.u)

    parts = {"low": torch.tensor([-9.0, -0.5, 0.5, -2.0]), "high": torch.tensor([9.0, 0.25, 0.5, -1.0])}
    parts |= {"u": torch.tensor([9.0, 0.125, 0.25, -0.5])}
    bounds = {name: value.reshape(4, 1, 1) for name, value in parts.items()}
    lowered = lower(Calls(function, a=identity(), **bounds), X)
    (step,) = integer_steps(lowered.program)
    assert len(step.fused) == 3
    low = TOY.quantize(torch.tensor([0.0, 0.0, 0.25, -0.5]), step.out_qparams)
    high = TOY.quantize(torch.tensor([9.0, 0.125, 0.25, -0.5]), step.out_qparams)
    assert step.channel_low.flatten().tolist() == low.tolist()
    assert step.channel_high.flatten().tolist() == high.tolist()
    assert_close_to_graph(lowered.program, X)


def test_bounds_by_channel_that_the_range_implies_leave_no_trace():
    model = Calls(lambda m, x: torch.clamp(m.a(x).relu(), max=m.u), a=identity(), u=torch.arange(4.0) + 5)
    (step,) = integer_steps(lower(model, grid(2, 4, 8, 4)).program)
    assert len(step.fused) == 2
    assert (step.channel_low, step.channel_high) == (None, None)


def test_bounds_outside_the_output_range_end_at_it():
    b = HandWritten()
    value = b(aten.hardtanh.default, b(aten.add.Tensor, *[b(DQ, b(Q, b.x, *A), *A)] * 2), -1000.0, -900.0)
    (step,) = integer_steps(build_program(b.done(b(DQ, b(Q, value, *A), *A)), TOY))
    assert step.clamp == (0, 0)


def test_a_narrowed_output_range_is_the_clamp():
    narrow = (0.5, 10, 0, 127, torch.uint8)
    b = HandWritten()
    value = b(aten.add.Tensor, *[b(DQ, b(Q, b.x, *A), *A)] * 2)
    (step,) = integer_steps(build_program(b.done(b(DQ, b(Q, value, *narrow), *narrow)), TOY))
    assert step.clamp == (0, 127)


def test_absorbed_nodes_are_not_executed():
    def function(m, x):
        y = m.a(x).relu()
        return m.b(y).relu() + y

    program = lower(Calls(function, a=identity(), b=identity()), X).program
    assert [type(step).__name__ for step in program.steps] == [
        "QuantizeStep",
        "IntegerStep",
        "IntegerStep",
        "IntegerStep",
        "DequantizeStep",
    ]
    assert [step.anchor.name for step in integer_steps(program)] == ["conv2d", "conv2d_1", "add"]


def test_float_ops_between_integer_ones():
    program = lower(Calls(lambda m, x: m.b(m.a(x).exp()), a=identity(), b=identity()), X).program
    kinds = [type(step).__name__ for step in program.steps]
    assert kinds == [
        "QuantizeStep",
        "IntegerStep",
        "DequantizeStep",
        "FloatStep",
        "QuantizeStep",
        "IntegerStep",
        "DequantizeStep",
    ]
    assert_close_to_graph(program, X)


def test_pieces_of_a_split_have_an_index():
    def function(m, x):
        pieces = m.a(x).split(1, 1)
        return torch.cat([pieces[2], pieces[0]], 1).relu()

    program = lower(Calls(function, a=identity()), X).program
    found = {step.attrs["index"]: step for step in integer_steps(program) if "index" in step.attrs}
    assert sorted(found) == [0, 2]
    assert {step.anchor.target for step in found.values()} == {aten.split.Tensor}
    assert not any(isinstance(step, FloatStep) for step in program.steps)
    torch.testing.assert_close(simulate(program, [X]).outputs["output"], X[:, [2, 0]].relu(), atol=1 / 128, rtol=0)


def test_a_split_with_one_float_piece_runs_in_float():
    b = HandWritten()
    split = b(aten.split.Tensor, b(DQ, b(Q, b.x, *A), *A), 1, 1)
    first, second = b(operator.getitem, split, 0), b(operator.getitem, split, 1)
    program = build_program(b.done(b(DQ, b(Q, first, *A), *A), b(aten.exp.default, second)), TOY)
    assert not integer_steps(program)
    assert_close_to_graph(program, torch.tensor([[1.0, 2.0]]))


def test_a_split_with_a_piece_of_other_parameters_runs_both_ways():
    b = HandWritten()
    split = b(aten.split.Tensor, b(DQ, b(Q, b.x, *A), *A), 1, 1)
    pieces = [b(operator.getitem, split, index) for index in (0, 1)]
    program = build_program(b.done(*(b(DQ, b(Q, p, *q), *q) for p, q in zip(pieces, (A, B), strict=True))), TOY)
    assert [step.attrs["index"] for step in integer_steps(program)] == [0]
    assert [step.name for step in program.steps if isinstance(step, FloatStep)] == ["split_tensor", "getitem_1"]
    assert_close_to_graph(program, torch.tensor([[1.0, 2.0]]))


def test_an_op_whose_float_value_is_needed_too_runs_once_in_float():
    for reads_it in (lambda b, value: b(aten.exp.default, value), lambda b, value: value):
        b = HandWritten()
        value = b(aten.add.Tensor, *[b(DQ, b(Q, b.x, *A), *A)] * 2)
        program = build_program(b.done(b(DQ, b(Q, value, *B), *B), reads_it(b, value)), TOY)
        assert not integer_steps(program)
        assert next(step.name for step in program.steps if isinstance(step, FloatStep)) == "add_tensor"
        assert_close_to_graph(program, torch.tensor([1.0, 2.0, 3.3]))


def test_two_quantize_nodes_of_one_op_are_two_steps():
    b = HandWritten()
    value = b(aten.add.Tensor, *[b(DQ, b(Q, b.x, *A), *A)] * 2)
    program = build_program(b.done(*(b(DQ, b(Q, value, *q), *q) for q in (A, B))), TOY)
    assert [step.out_qparams for step in integer_steps(program)] == [QA, QB]
    assert not any(isinstance(step, FloatStep) for step in program.steps)
    assert_close_to_graph(program, torch.tensor([1.0, 2.0, 3.3]))


def test_integer_constants_are_read_as_activations():
    gain = torch.linspace(0, 2.55, 4)[:, None, None]
    program = lower(Calls(lambda m, x: m.a(x) * m.gain, a=identity(), gain=gain), X).program
    step = integer_steps(program)[1]
    assert list(program.constants) == [step.inputs[1]]
    assert program.constants[step.inputs[1]].flatten().tolist() == [0, 85, 170, 255]
    assert_close_to_graph(program, X)


def test_an_output_that_is_an_integer():
    b = HandWritten()
    value = b(aten.add.Tensor, *[b(DQ, b(Q, b.x, *A), *A)] * 2)
    program = build_program(b.done(b(Q, value, *A)), TOY)
    assert program.outputs == {"output": integer_steps(program)[0].name}
    output = simulate(program, [torch.tensor([1.0, 2.0])]).outputs["output"]
    assert output.dtype == torch.int32
    assert output.tolist() == [14, 18]


def test_an_input_that_is_an_integer():
    b = HandWritten()
    value = b(aten.add.Tensor, *[b(DQ, b.x, *A)] * 2)
    program = build_program(b.done(b(DQ, b(Q, value, *A), *A)), TOY)
    assert [step.inputs for step in integer_steps(program)] == [("x", "x")]
    x = torch.tensor([10, 12, 255], dtype=torch.uint8)
    assert simulate(program, [x]).outputs["output"].tolist() == [0.0, 2.0, 122.5]


def test_dict_outputs_and_a_constant_output():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = identity()
            self.register_buffer("table", torch.arange(3.0))

        def forward(self, x):
            return {"y": self.conv(x), "table": self.table, "same": x}

    program = lower(Model(), X).program
    outputs = simulate(program, [X]).outputs
    assert list(outputs) == ["y", "table", "same"]
    assert outputs["table"].tolist() == [0, 1, 2]
    assert torch.equal(outputs["same"], X)
    torch.testing.assert_close(outputs["y"], X)


def foreign_conv(
    weight_args: tuple, bias_args: tuple | None = None, axis: int | None = 0, spec=TOY
) -> tuple[Program, fx.GraphModule]:
    """A 1x1 convolution as another tool would quantize it: per channel on `axis`, or per tensor."""
    b = HandWritten()
    scale, zero_point, *rest = weight_args
    weight = b.constant("w", torch.tensor([[4, -6], [8, 10]], dtype=rest[-1])[..., None, None])
    if axis is None:
        weight = b(DQ, weight, *weight_args)
    else:
        scales = b.constant("s", torch.tensor([scale, 2 * scale]))
        weight = b(DQC, weight, scales, b.constant("z", torch.full((2,), zero_point)), axis, *rest)
    bias = b.constant("b", torch.tensor([0.5, -0.5]))
    if bias_args is not None:
        bias = b(DQ, b.constant("c", torch.tensor([8, -8], dtype=torch.int32)), *bias_args)
    value = b(aten.conv2d.default, b(DQ, b(Q, b.x, *A), *A), weight, bias)
    gm = b.done(b(DQ, b(Q, value, *B), *B))
    return build_program(gm, spec), gm


SMALL = (torch.arange(8.0) / 2).reshape(1, 2, 2, 2)
INT32 = (-(2**31), 2**31 - 1, torch.int32)


@pytest.mark.parametrize("axis", [0, None])
def test_a_graph_quantized_elsewhere(axis):
    program, _ = foreign_conv((0.25, 0, -127, 127, torch.int8), axis=axis)
    (step,) = integer_steps(program)
    assert step.weight_qparams.axis == axis
    assert step.bias.tolist() == [0.5, -0.5]
    assert_close_to_graph(program, SMALL)


@pytest.mark.parametrize(
    ("weight", "axis"),
    [
        ((0.25, 3, -127, 127, torch.int8), 0),
        ((0.25, 3, -127, 127, torch.int8), None),
        ((0.25, 0, -127, 127, torch.int8), 1),
        ((0.25, 0, -127, 127, torch.int32), None),
    ],
)
def test_weights_that_the_kernel_does_not_take_run_in_float(weight, axis):
    program, _ = foreign_conv(weight, axis=axis)
    assert not integer_steps(program)
    assert_close_to_graph(program, SMALL)


@pytest.mark.parametrize("spec", [TOY, TOY_INT32_BIAS])
@pytest.mark.parametrize("scale", [0.125, 0.1])
def test_an_int32_bias_from_elsewhere(spec, scale):
    """0.125 is the scale of the accumulator, 0.1 is not."""
    program, _ = foreign_conv((0.25, 0, -127, 127, torch.int8), (scale, 0, *INT32), axis=None, spec=spec)
    (step,) = integer_steps(program)
    if spec is TOY_INT32_BIAS and scale == 0.125:
        assert step.bias.tolist() == [8, -8]
    else:
        torch.testing.assert_close(step.bias, torch.tensor([8 * scale, -8 * scale]))
    assert_close_to_graph(program, SMALL)


@pytest.mark.parametrize(
    ("op", "args", "before", "after"),
    [
        (aten.max_pool2d.default, ([2, 2],), A, B),
        (aten.sigmoid.default, (), A, A),
        (aten.relu.default, (), S, S),
        (aten.relu.default, (), A, S),
    ],
    ids=["shared", "fixed", "other dtypes", "another output dtype"],
)
def test_parameters_that_the_kernel_does_not_take_run_in_float(op, args, before, after):
    b = HandWritten()
    value = b(op, b(DQ, b(Q, b.x, *before), *before), *args)
    program = build_program(b.done(b(DQ, b(Q, value, *after), *after)), TOY)
    assert not integer_steps(program)
    x = torch.linspace(-3, 30, 16).reshape(1, 1, 4, 4)
    torch.testing.assert_close(simulate(program, [x]).outputs["output"], evaluate(program.gm, [x])[0])


def test_fixed_parameters_that_are_the_kernels_run_on_integers():
    fixed = (PROBABILITY.scale[0], 0, 0, 255, torch.uint8)
    b = HandWritten()
    program = build_program(b.done(b(Q, b(aten.sigmoid.default, b(DQ, b(Q, b.x, *A), *A)), *fixed)), TOY)
    assert len(integer_steps(program)) == 1


def test_activations_per_channel_run_in_float():
    b = HandWritten()
    args = (b.constant("s", torch.tensor([0.5, 0.25])), None, 0, 0, 255, torch.uint8)
    value = b(DQC, b(QC, b.x, b.graph.get_attr("s"), b.constant("z", torch.tensor([0, 0])), *args[2:]), *args)
    program = build_program(b.done(b(DQ, b(Q, b(aten.relu.default, value), *A), *A)), TOY)
    assert not integer_steps(program)
    x = torch.tensor([[1.0, 3.0], [2.0, 7.0]])
    torch.testing.assert_close(simulate(program, [x]).outputs["output"], x)


@pytest.mark.parametrize("missing", ["weight", "activation"])
def test_ops_with_a_float_operand_run_in_float(missing):
    b = HandWritten()
    weight = b.constant("w", torch.eye(4))
    x = b(DQ, b(Q, b.x, *A), *A)
    if missing == "activation":
        weight, x = b(DQ, b.constant("i", torch.eye(4, dtype=torch.int8)), *S), b.x
    program = build_program(b.done(b(DQ, b(Q, b(aten.linear.default, x, weight), *A), *A)), TOY)
    assert not integer_steps(program)
    assert_close_to_graph(program, torch.ones(1, 4))


def test_a_check_of_the_target_counts_for_foreign_graphs_too():
    b = HandWritten()
    value = b(aten.add.Tensor, b(DQ, b(Q, b.x, *A), *A), 1.0)
    assert not integer_steps(build_program(b.done(b(Q, value, *A)), TOY))


def test_an_activation_that_the_op_does_not_fuse_is_an_op_of_its_own():
    b = HandWritten()
    value = b(aten.relu.default, b(aten.mul.Tensor, *[b(DQ, b(Q, b.x, *A), *A)] * 2))
    program = build_program(b.done(b(DQ, b(Q, value, *A), *A)), TOY)
    assert [step.name for step in program.steps if isinstance(step, FloatStep)] == ["mul_tensor", "relu_default"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            (0.5, 300, 0, 255, torch.uint8),
            "quantize_per_tensor_default cannot be read: zero points (300,) outside [0, 255]",
        ),
        (
            (0.5, 0, -32768, 32767, torch.int16),
            "quantize_per_tensor_default cannot be read: torch.int16 is not a quantized type; "
            "allowed: int8, uint8, int32",
        ),
    ],
)
def test_parameters_that_nothing_can_run_are_refused(args, message):
    b = HandWritten()
    with pytest.raises(VerifierError, match=f"^{re.escape(message)}$"):
        build_program(b.done(b(DQ, b(Q, b.x, *args), *args)), TOY)


def test_computed_scales_are_refused():
    b = HandWritten()
    scales = b(aten.exp.default, b.constant("s", torch.zeros(2)))
    args = (scales, b.constant("z", torch.zeros(2, dtype=torch.int64)), 0, 0, 255, torch.uint8)
    message = "quantize_per_channel_default cannot be read: exp_default is computed, not constant"
    with pytest.raises(VerifierError, match=f"^{re.escape(message)}"):
        build_program(b.done(b(QC, b.x, *args)), TOY)


def test_symbolic_sizes_are_numbers_in_the_kernel():
    def function(m, x):
        return F.linear(m.a(x).reshape(x.shape[0] * 4, -1), m.w)

    program = lower(Calls(function, a=identity(), w=torch.eye(64)), X).program
    reshape = integer_steps(program)[1]
    assert reshape.anchor.target in (aten.reshape.default, aten.view.default)
    for batch in (2, 3):
        x = grid(batch, 4, 8, 8)
        output = simulate(program, [x]).outputs["output"]
        assert output.shape == (batch * 4, 64)
        torch.testing.assert_close(output, x.reshape(-1, 64), atol=1e-2, rtol=0)


def test_building_twice_and_cleaning_again_change_nothing():
    def function(m, x):
        y = m.a(x).relu()
        return torch.cat([m.b(y), F.max_pool2d(y, 1)], 1).mean((2, 3)).softmax(-1)

    (x,) = inputs((2, 4, 8, 8))
    lowered = lower(Calls(function, a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1)), x)
    first, text = steps(lowered.program), brief(lowered.gm)
    assert run_passes(lowered.gm, [CleanQdq()])["clean-qdq"].changes == 0
    assert brief(lowered.gm) == text
    assert steps(build_program(lowered.gm, TOY)) == first


class Mixed(nn.Module):
    """Five layers, each behind the one before it; the weight of the last is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 1, bias=name == "c") for name in "abcd")

    def forward(self, x):
        return F.conv2d(self.d(self.c(self.b(self.a(x)))).relu(), self.d.weight.sigmoid())


def test_float_layers_are_those_that_read_something_rounded():
    """The first reads the input as it is; the weight of the last is none that could be tuned."""
    program = lower(Mixed().eval(), X, keep_float=("a", "c", "d", "conv2d_4")).program
    assert [step.anchor.name for step in integer_steps(program)] == ["conv2d_1"]
    found = float_layers(program)
    assert list(found) == ["conv2d_2", "conv2d_3"]
    assert all(layer.in_float for layer in found.values())
    assert not any(layer.in_float for layer in layers(program))
    layer = found["conv2d_2"]
    constants = dict(program.gm.named_buffers()) | dict(program.gm.named_parameters())
    assert torch.equal(layer.weight, constants["c.weight"])
    assert torch.equal(layer.bias, constants["c.bias"])
    assert (layer.inputs, found["conv2d_3"].bias) == ((layer.anchor.args[0].name,), None)
    assert layer.attrs == {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    assert {qp.scale + qp.zero_point for qp in (*layer.in_qparams, layer.weight_qparams)} == {(1.0, 0)}
    with pytest.raises(NotImplementedError, match="no integer kernel"):
        layer.rule.kernel(None)


def test_what_gives_float_from_integers_is_no_float_layer():
    program = lower(identity(), X, spec=dataclasses.replace(TOY, float_results=True)).program
    assert (len(layers(program)), float_layers(program)) == (1, {})
