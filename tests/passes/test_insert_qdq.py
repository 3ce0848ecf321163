import dataclasses
import re

import pytest
import torch
from fxedge.compiler.ir.constants import constant, constants
from fxedge.compiler.ir.errors import PassError
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.ir.passes import PassResult, Skip, run_passes
from fxedge.compiler.ir.qops import DQ, DQC, Q, is_dequantize, is_quantize
from fxedge.compiler.ir.stages import Stage, verify
from fxedge.compiler.quant.calibrate import CalibrationStats, calibrate
from fxedge.compiler.quant.collectors import CollectorMethod
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.compiler.quant.plan import plan_quantization
from fxedge.compiler.quant.qnodes import read_qparams
from fxedge.compiler.quant.qparams import QParams, QSpec, dequantize
from fxedge.compiler.quant.target import TargetSpec
from fxedge.passes.insert_qdq import InsertQdq, weight_qparams
from support import Calls, Calls2, graph, inputs
from torch import Tensor, fx, nn
from torch.nn import functional as F
from toy_target import TOY, TOY_INT32_BIAS, TOY_SHARED_CAT, WEIGHT, brief, captured, grid

X = grid(2, 4, 8, 8)


def inserted(model: nn.Module, *examples: Tensor, spec: TargetSpec = TOY, **options) -> fx.GraphModule:
    """The graph after the pass alone (no clean-up pass), verified by the runner."""
    gm = captured(model, *(examples or (X,)))
    plan = plan_quantization(gm, spec, **options)
    stats = calibrate(gm, [plan], [examples or (X,)], CollectorMethod("minmax"))
    result = run_passes(gm, [InsertQdq(plan, stats)])["insert-qdq"]
    assert result == PassResult(len(plan.ops), plan.floats)
    return gm


def scaled(channels: int, *factors: float) -> nn.Conv2d:
    """A 1x1 convolution that multiplies each channel by a factor; no bias."""
    conv = nn.Conv2d(channels, channels, 1, bias=False, groups=channels)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(factors * (channels // len(factors))).reshape(-1, 1, 1, 1))
    return conv


def calls(gm: fx.GraphModule, *targets) -> list[fx.Node]:
    return [node for node in gm.graph.nodes if node.target in targets]


def test_the_graph_before_and_after():
    model = Calls(lambda m, x: (m.a(x).relu() + x).exp(), a=scaled(4, 1.0))
    before = captured(model, X)
    assert brief(before) == graph("""
        %0 = input x
        %1 = conv2d.default(%0, @a.weight, None, [1, 1], [0, 0], [1, 1], 4)
        %2 = relu.default(%1)
        %3 = add.Tensor(%2, %0)
        %4 = exp.default(%3)
        return %4""")
    assert brief(inserted(model)) == graph("""
        %0 = input x
        %1 = quantize(%0, 0.015625, 128, 0, 255, uint8)
        %2 = dequantize(%1, 0.015625, 128, 0, 255, uint8)
        %3 = dequantize_channel(@a.weight_quantized, @a.weight_quantized_scale, @a.weight_quantized_zero_point, 0, -127, 127, int8)
        %4 = conv2d.default(%2, %3, None, [1, 1], [0, 0], [1, 1], 4)
        %5 = relu.default(%4)
        %6 = quantize(%5, 0.00778186275, 0, 0, 255, uint8)
        %7 = dequantize(%6, 0.00778186275, 0, 0, 255, uint8)
        %8 = dequantize(%1, 0.015625, 128, 0, 255, uint8)
        %9 = add.Tensor(%7, %8)
        %10 = quantize(%9, 0.0234068632, 85, 0, 255, uint8)
        %11 = dequantize(%10, 0.0234068632, 85, 0, 255, uint8)
        %12 = exp.default(%11)
        return %12""")  # noqa: E501


def test_one_quantize_for_each_value_and_one_dequantize_for_each_reader():
    def function(m, x):
        y = m.a(x)
        return (m.b(y) + m.c(y)).exp(), y.exp(), y

    gm = inserted(Calls(function, a=scaled(4, 1.0), b=scaled(4, 2.0), c=scaled(4, 3.0)))
    sources = [node.args[0] for node in calls(gm, Q)]
    assert [str(source) for source in sources] == ["x", "conv2d", "conv2d_1", "conv2d_2", "add"]
    assert len(set(sources)) == len(sources)
    for node in calls(gm, DQ):
        assert len(node.users) == 1
    readers = [next(iter(node.users)).name for node in calls(gm, Q)[1].users]
    assert sorted(readers) == ["conv2d_1", "conv2d_2", "exp_1", "output"]


def test_float_readers_of_a_float_value_keep_it():
    gm = inserted(Calls(lambda m, x: (m.a(x.exp()), x.exp().relu()), a=scaled(4, 1.0)))
    assert [str(node.args[0]) for node in calls(gm, aten.relu.default)] == ["exp_1"]
    gm = inserted(Calls(lambda m, x: (m.a(x), x.exp()), a=scaled(4, 1.0)))
    assert [str(node.args[0]) for node in calls(gm, aten.exp.default)] == ["x"]


def test_the_same_value_twice_has_one_dequantize():
    gm = inserted(Calls(lambda m, x: m.a(torch.add(x, x)), a=scaled(4, 1.0)))
    (add,) = calls(gm, aten.add.Tensor)
    assert is_dequantize(add.args[0])
    assert add.args[0] is add.args[1]


def test_an_output_that_is_returned_twice():
    gm = inserted(Calls(lambda m, x: (lambda y: {"a": y, "b": y})(m.a(x)), a=scaled(4, 1.0)))
    outputs = gm(X)
    assert torch.equal(outputs["a"], outputs["b"])
    assert len(calls(gm, DQ)) == 2


def test_inputs_stay_in_front():
    first, second = inputs((2, 4, 8, 8), (2, 4, 8, 8))
    gm = inserted(Calls2(lambda m, x, y: m.a(x) + m.a(y), a=scaled(4, 1.0)), first, second)
    ops = [node.op for node in gm.graph.nodes if node.op != "get_attr"]
    assert ops[:2] == ["placeholder", "placeholder"]
    assert [node.op for node in gm.graph.nodes if is_quantize(node)] == ["call_function"] * 5


def test_a_shared_group_has_equal_parameters():
    model = Calls(lambda m, x: F.max_pool2d(torch.cat([m.a(x), m.b(x)], 1), 2), a=scaled(4, 1.0), b=scaled(4, 5.0))
    gm = inserted(model, spec=TOY_SHARED_CAT)
    qparams = {str(node.args[0]): read_qparams(gm, node) for node in calls(gm, Q)}
    assert qparams["conv2d"] == qparams["conv2d_1"] == qparams["cat"] == qparams["max_pool2d"]
    assert qparams["cat"].scale == (5 / 64,)


def test_each_piece_of_a_split_is_quantized():
    gm = inserted(Calls(lambda m, x: m.a(x).split(1, 1)[2], a=scaled(4, 1.0)))
    (split,) = calls(gm, aten.split.Tensor)
    assert is_dequantize(split.args[0])
    quantized = [node for node in calls(gm, Q) if str(node.args[0]).startswith("getitem")]
    assert len(quantized) == 1


def test_a_constant_operand_becomes_an_integer_constant():
    gain = torch.linspace(0, 2.55, 4)[:, None, None]
    gm = inserted(Calls(lambda m, x: m.a(x) * m.gain, a=scaled(4, 1.0), gain=gain))
    (mul,) = calls(gm, aten.mul.Tensor)
    dequantized = mul.args[1]
    assert dequantized.target is DQ
    stored = constant(gm, dequantized.args[0])
    assert stored.dtype == torch.uint8
    assert stored.flatten().tolist() == [0, 85, 170, 255]


def test_weights_are_int8_per_output_channel():
    weight = torch.tensor([[1.27, -0.5], [0.005, 0.02], [0.0, 0.0]])
    layer = nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight.copy_(weight)
    gm = inserted(layer, grid(128, 2))
    (node,) = calls(gm, DQC)
    integers, qp = constant(gm, node.args[0]), read_qparams(gm, node)
    assert integers.dtype == torch.int8
    assert integers.tolist() == [[127, -50], [32, 127], [0, 0]]
    assert (qp.axis, qp.zero_point) == (0, (0, 0, 0))
    torch.testing.assert_close(qp.scale_tensor(), torch.tensor([0.01, 0.02 / 127, 1.0]))
    assert node.args[-3:] == (-127, 127, torch.int8)
    assert torch.equal(node.target(integers, *map_constants(gm, node)), dequantize(integers, qp))
    assert set(constants(gm)) == {
        "weight_quantized",
        "weight_quantized_scale",
        "weight_quantized_zero_point",
        "bias",
    }


def map_constants(gm: fx.GraphModule, node: fx.Node) -> tuple:
    return fx.map_arg(node.args[1:], lambda arg: constant(gm, arg))


@pytest.mark.parametrize("spec", [TOY, TOY_INT32_BIAS])
def test_per_tensor_weights(spec):
    gm = inserted(Calls(lambda m, x: m.a(x), a=nn.Conv2d(4, 3, 3)), spec=spec, per_tensor_weights=True)
    assert not calls(gm, DQC)
    weight = calls(gm, aten.conv2d.default)[0].args[1]
    assert weight.target is DQ
    assert constant(gm, weight.args[0]).abs().max() == 127


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_weights_of_fewer_bits(method):
    layer = nn.Conv2d(4, 3, 3)
    gm = inserted(Calls(lambda m, x: m.a(x), a=layer), weight_bits=4, weight_range=method)
    weight = calls(gm, aten.conv2d.default)[0].args[1]
    integers, qp = constant(gm, weight.args[0]), read_qparams(gm, weight)
    assert (integers.dtype, qp.qmin, qp.qmax) == (torch.int8, -7, 7)
    assert integers.flatten(1).abs().amax(1).tolist() == [7, 7, 7]
    largest = layer.weight.detach().abs().amax((1, 2, 3))
    assert ((qp.scale_tensor() * 7 - largest).abs() < 1e-6).all() == (method == "minmax")
    assert (qp.scale_tensor() * 7 <= largest + 1e-6).all()


def test_a_shared_weight_is_stored_once_for_each_number_of_bits():
    model = Calls(lambda m, x: m.a(m.a(m.a(x))), a=nn.Conv2d(4, 4, 1))
    layers = {"conv2d_1": LayerOptions(weight_bits=4), "conv2d_2": LayerOptions(weight_bits=4)}
    gm = inserted(model, layers=layers)
    weights = [node.args[1].args[0].target for node in calls(gm, aten.conv2d.default)]
    assert weights == ["a.weight_quantized", "a.weight_quantized_1", "a.weight_quantized_1"]


@pytest.mark.parametrize("spec", [TOY, TOY_INT32_BIAS])
def test_grouped_transposed_convolutions_are_per_tensor(spec):
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
    gm = inserted(Calls(lambda m, x: m.a(x), a=layer), spec=spec)
    weight = calls(gm, aten.conv_transpose2d.input)[0].args[1]
    assert weight.target is DQ
    torch.testing.assert_close(gm(X), layer(X).detach(), atol=0.1, rtol=0)


def test_float_biases_are_left_alone():
    layer = nn.Conv2d(4, 3, 1)
    gm = inserted(Calls(lambda m, x: m.a(x), a=layer))
    bias = calls(gm, aten.conv2d.default)[0].args[2]
    assert torch.equal(constant(gm, bias), layer.bias)


def test_integer_biases_have_the_scale_of_the_accumulator():
    layer = nn.Conv2d(4, 3, 1)
    gm = inserted(Calls(lambda m, x: m.a(x), a=layer), spec=TOY_INT32_BIAS)
    conv = calls(gm, aten.conv2d.default)[0]
    weight_qp, bias_qp = read_qparams(gm, conv.args[1]), read_qparams(gm, conv.args[2])
    integers = constant(gm, conv.args[2].args[0])
    scale = weight_qp.scale_tensor() * torch.tensor(1 / 64)
    assert integers.dtype == torch.int32
    assert bias_qp == QParams(tuple(scale.tolist()), (0, 0, 0), -(2**31), 2**31 - 1, torch.int32, 0)
    assert torch.equal(integers, torch.round(layer.bias.double() / scale.double()).int())


def integer_bias(weights: list[float], biases: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Integers, scales and the float value of the int32 bias of a convolution with these weights (one each)."""
    layer = nn.Conv2d(len(weights), len(weights), 1, groups=len(weights))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights).reshape(-1, 1, 1, 1))
        layer.bias.copy_(torch.tensor(biases))
    x = grid(len(weights), 1, 256 // len(weights), len(weights)).movedim(0, 1)
    gm = inserted(Calls(lambda m, x: m.a(x), a=layer), x, spec=TOY_INT32_BIAS)
    node = calls(gm, aten.conv2d.default)[0].args[2]
    qp = read_qparams(gm, node)
    integers = constant(gm, node.args[0])
    return integers, qp.scale_tensor(), dequantize(integers, qp)


def test_a_big_bias_on_tiny_weights_fits_an_int32():
    integers, _, value = integer_bias([1e-19, 1.0, 0.0, 1e-30], [5.0, 0.5, -3.0, 1e6])
    assert integers.abs().max() <= 2**30
    assert integers[0] == pytest.approx(2**30, rel=1e-6)
    torch.testing.assert_close(value, torch.tensor([5.0, 0.5, -3.0, 1e6]))


def test_weights_without_a_bias_may_be_as_small_as_they_like():
    integers, scales, value = integer_bias([1e-34, 1e-38, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0])
    assert integers.tolist() == [0, 0, 0, 0]
    assert (scales >= 2.0**-117).all()
    assert value.tolist() == [0.0, 0.0, 0.0, 0.0]


def test_weights_whose_product_with_the_input_scale_is_no_float32_count_as_zero():
    weight = torch.tensor([[1.0], [1e-10]])
    qp = weight_qparams(weight, WEIGHT, 0, input_scale=1e-25)
    torch.testing.assert_close(qp.scale_tensor(), torch.tensor([1 / 127, 1.0]))


def test_all_zero_channels():
    layer = nn.Conv2d(4, 2, 1)
    nn.init.zeros_(layer.weight)
    for spec in (TOY, TOY_INT32_BIAS):
        gm = inserted(Calls(lambda m, x: m.a(x), a=layer), spec=spec)
        weight = calls(gm, aten.conv2d.default)[0].args[1]
        assert not constant(gm, weight.args[0]).any()
        torch.testing.assert_close(gm(X), layer(X).detach(), atol=0.01, rtol=0)


@pytest.mark.parametrize("spec", [TOY, TOY_INT32_BIAS])
def test_a_shared_weight_is_right_for_each_of_its_readers(spec):
    """The second convolution's input is 1000 times smaller: its int32 bias needs another weight scale."""
    layer = nn.Conv2d(4, 4, 1)
    with torch.no_grad():
        layer.weight.mul_(1e-3)
        layer.bias.fill_(100.0)
    model = Calls(lambda m, x: (m.a(x), m.a(x * m.small)), a=layer, small=torch.tensor([1e-6]))
    gm = inserted(model, X, spec=spec)
    first, second = calls(gm, aten.conv2d.default)
    for conv, scale in ((first, 1 / 64), (second, 1e-6 / 64)):
        weight_qp = read_qparams(gm, conv.args[1])
        stored = constant(gm, conv.args[1].args[0])
        weight = dequantize(stored, weight_qp)
        torch.testing.assert_close(weight, layer.weight.detach(), atol=max(weight_qp.scale), rtol=0)
        if spec is TOY_INT32_BIAS:
            bias_qp = read_qparams(gm, conv.args[2])
            torch.testing.assert_close(bias_qp.scale_tensor(), weight_qp.scale_tensor() * scale)
            value = dequantize(constant(gm, conv.args[2].args[0]), bias_qp)
            torch.testing.assert_close(value, layer.bias.detach())
    shares = first.args[1].args[0] is second.args[1].args[0]
    assert shares == (spec is TOY)


def test_constants_with_equal_integers_are_stored_once():
    gm = inserted(Calls(lambda m, x: (m.a(x), m.a(x)), a=nn.Conv2d(4, 4, 1)), spec=TOY_INT32_BIAS)
    names = [name for name in constants(gm) if not name.endswith(("_scale", "_zero_point"))]
    assert sorted(names) == ["a.bias_quantized", "a.weight_quantized"]
    assert len(calls(gm, DQC)) == 4


def test_a_second_run_is_refused_by_the_stage():
    gm = captured(Calls(lambda m, x: m.a(x), a=scaled(4, 1.0)), X)
    plan = plan_quantization(gm, TOY)
    step = InsertQdq(plan, calibrate(gm, [plan], [(X,)], CollectorMethod("minmax")))
    run_passes(gm, [step])
    verify(gm, Stage.QUANTIZED)
    text = brief(gm)
    message = (
        "Pass insert-qdq failed (passes before it: none): quantize_per_tensor_default quantizes in a graph that "
        "should be float only"
    )
    with pytest.raises(PassError, match=f"^{re.escape(message)}$"):
        run_passes(gm, [step])
    assert brief(gm) == text


def test_statistics_of_another_calibration_are_refused():
    gm = captured(Calls(lambda m, x: m.a(x), a=scaled(4, 1.0)), X)
    text = brief(gm)
    plan = plan_quantization(gm, TOY)
    message = "Pass insert-qdq failed (passes before it: none): No statistics of x; calibrate with this plan."
    with pytest.raises(PassError, match=f"^{re.escape(message)}$"):
        run_passes(gm, [InsertQdq(plan, CalibrationStats("minmax", 1, {}))])
    assert brief(gm) == text


def test_what_stays_float_is_skipped_with_its_reason():
    gm = captured(Calls(lambda m, x: m.a(x).exp(), a=scaled(4, 1.0)), X)
    plan = plan_quantization(gm, TOY)
    stats = calibrate(gm, [plan], [(X,)], CollectorMethod("minmax"))
    result = run_passes(gm, [InsertQdq(plan, stats)])["insert-qdq"]
    assert result == PassResult(1, (Skip("exp", "toy has no integer kernel for exp.default"),))


def test_a_target_with_int8_activations():
    spec = dataclasses.replace(TOY, activation=QSpec(-128, 127, torch.int8))
    gm = inserted(Calls(lambda m, x: m.a(x), a=scaled(4, 1.0)), spec=spec)
    assert read_qparams(gm, calls(gm, Q)[0]) == QParams((1 / 64,), (0,), -128, 127, torch.int8)
