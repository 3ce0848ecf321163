"""Each rule of TensorRT: a model of ours keeps it, and the same model with one thing changed does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fxedge.backends.tensorrt import backend, emit
from fxedge.backends.tensorrt.rules import TENSORRT
from fxedge.backends.tensorrt.rules_check import broken_rules, needless_quantizers
from fxedge.compiler.ir.errors import UnsupportedOpsError
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.lower import lower, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.quant.collectors import CollectorMethod
from fxedge.compiler.quant.program import Program
from onnx import helper, numpy_helper
from torch import Tensor, nn


class Residual(nn.Module):
    """conv -> relu -> conv -> add -> relu -> max pool -> linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = (self.second(x) + x).relu()
        return self.fc(self.pool(x).flatten(1))


def program_of(net: nn.Module, *shapes: tuple[int, ...]) -> Program:
    torch.manual_seed(0)
    examples = tuple(torch.randn(shape) for shape in shapes)
    options = CompileOptions(recipe="fast", calibration=CollectorMethod.parse("minmax"))
    prepared = prepare(net.eval(), examples, options)
    plans = plan_targets(prepared, [TENSORRT], options)
    return lower(prepared, TENSORRT, plans["tensorrt"], collect(prepared, plans, [examples], options)).program


@pytest.fixture(scope="module")
def content() -> bytes:
    torch.manual_seed(0)
    return emit.program_bytes(program_of(Residual(), (2, 3, 8, 8)))


@pytest.fixture
def model(content: bytes) -> onnx.ModelProto:
    return onnx.load_from_string(content)


def node(model: onnx.ModelProto, op_type: str, index: int = 0) -> onnx.NodeProto:
    return [found for found in model.graph.node if found.op_type == op_type][index]


def store(model: onnx.ModelProto, name: str, value: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def test_what_is_emitted_keeps_every_rule(model: onnx.ModelProto) -> None:
    assert broken_rules(model) == []
    assert needless_quantizers(model) == []
    ops = [found.op_type for found in model.graph.node if found.op_type != "DequantizeLinear"]
    assert ops == [
        "QuantizeLinear",
        *("Conv", "Relu", "QuantizeLinear"),
        *("Conv", "Add", "Relu", "QuantizeLinear"),
        *("MaxPool", "QuantizeLinear"),
        *("Reshape", "QuantizeLinear"),
        *("Gemm", "Identity"),
    ]
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.INT8}
    biases = [node(model, "Conv").input[2], node(model, "Conv", 1).input[2], node(model, "Gemm").input[2]]
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert {stored[name] for name in biases} == {onnx.TensorProto.FLOAT}


def affine(model: onnx.ModelProto) -> None:
    quantize = node(model, "QuantizeLinear")
    quantize.input[2] = store(model, "three", np.int8(3))


def unsigned(model: onnx.ModelProto) -> None:
    node(model, "QuantizeLinear").input[2] = store(model, "unsigned", np.uint8(0))


def negative(model: onnx.ModelProto) -> None:
    node(model, "QuantizeLinear").input[1] = store(model, "negative", np.float32(-1))


def untyped(model: onnx.ModelProto) -> None:
    del node(model, "QuantizeLinear").input[2]


def per_channel_activation(model: onnx.ModelProto) -> None:
    node(model, "QuantizeLinear").input[1] = store(model, "scales", np.ones(3, np.float32))


def other_scale(model: onnx.ModelProto) -> None:
    source = node(model, "QuantizeLinear").output[0]
    reader = next(found for found in model.graph.node if source in found.input)
    reader.input[1] = store(model, "other", np.float32(2))


def pool_on_integers(model: onnx.ModelProto) -> None:
    pool = node(model, "MaxPool")
    dequantize = next(found for found in model.graph.node if pool.input[0] in found.output)
    pool.input[0] = dequantize.input[0]


def wrong_axis(model: onnx.ModelProto) -> None:
    weight = node(model, "Conv", 1).input[1]
    dequantize = next(found for found in model.graph.node if weight in found.output)
    next(attribute for attribute in dequantize.attribute if attribute.name == "axis").i = 1


def quantized_bias(model: onnx.ModelProto) -> None:
    conv = node(model, "Conv")
    inputs = [
        store(model, "bias_integers", np.zeros(8, np.int8)),
        store(model, "bias_scale", np.float32(1)),
        store(model, "bias_zero", np.int8(0)),
    ]
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, ["bias_floats"], name="bias_floats"))
    conv.input[2] = "bias_floats"


def float_input(model: onnx.ModelProto) -> None:
    node(model, "Conv").input[0] = "x"


def integers_elsewhere(model: onnx.ModelProto) -> None:
    cast = helper.make_node("Cast", [store(model, "bytes", np.int8(1))], ["cast"], name="cast", to=1)
    model.graph.node.append(cast)


def between(model: onnx.ModelProto, consumer: onnx.NodeProto, place: int, name: str) -> None:
    """A quantize and a dequantize node in front of an input of `consumer`."""
    scale, zero = store(model, f"{name}_scale", np.float32(0.1)), store(model, f"{name}_zero", np.int8(0))
    pair = [
        helper.make_node("QuantizeLinear", [consumer.input[place], scale, zero], [f"{name}_q"], name=f"{name}_q"),
        helper.make_node("DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_dq"], name=f"{name}_dq"),
    ]
    consumer.input[place] = pair[1].output[0]
    position = list(model.graph.node).index(consumer)
    for new in reversed(pair):
        model.graph.node.insert(position, new)


def before_relu(model: onnx.ModelProto) -> None:
    between(model, node(model, "Relu"), 0, "early")


def before_sum(model: onnx.ModelProto) -> None:
    total = node(model, "Add")
    between(model, total, list(total.input).index(node(model, "Conv", 1).output[0]), "early")


def other_parameters_behind_a_pool(model: onnx.ModelProto) -> None:
    quantize = next(found for found in model.graph.node if node(model, "MaxPool").output[0] in found.input)
    dequantize = next(found for found in model.graph.node if quantize.output[0] in found.input)
    quantize.input[1] = dequantize.input[1] = store(model, "wide", np.float32(9))


def quantized_output(model: onnx.ModelProto) -> None:
    between(model, node(model, "Identity"), 0, "late")


def test_an_output_that_is_quantized_for_nothing(model: onnx.ModelProto) -> None:
    quantized_output(model)
    assert broken_rules(model) == []
    assert needless_quantizers(model) == [("output", "Identity", "the output is quantized by late_q for nothing")]


def integer_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = node(model, "QuantizeLinear", 1).output[0]


BREAKS: dict[Callable[[onnx.ModelProto], None], str] = {
    affine: "its zero point is not 0",
    unsigned: "its integers are uint8, not int8",
    negative: "its scale is not a positive float32",
    untyped: "it has no zero point, so its type is not said",
    per_channel_activation: "an activation has several scales",
    other_scale: "dequantize_per_tensor_default dequantizes it with other parameters",
    pool_on_integers: "MaxPool max_pool2d reads its integers",
    wrong_axis: "the scales of the weight of conv2d_1 are on axis 1, not 0, its output channels",
    quantized_bias: "the bias of conv2d is quantized",
    float_input: "its weight is quantized but its input is float, so that it runs in float",
    integers_elsewhere: "it reads the 8-bit integers bytes",
    before_relu: "the result of conv2d is quantized before it",
    before_sum: "the result of conv2d_1 is quantized before it",
    other_parameters_behind_a_pool: "quantize_per_tensor_default_3 gives it other parameters than it reads",
    integer_output: "an output of the graph is int8",
}


@pytest.mark.parametrize("change", BREAKS, ids=lambda change: change.__name__)
def test_a_break_is_found(change: Callable[[onnx.ModelProto], None], model: onnx.ModelProto) -> None:
    change(model)
    assert BREAKS[change] in [reason for _, _, reason in broken_rules(model)]


def test_a_model_that_breaks_a_rule_is_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = program_of(Residual(), (2, 3, 8, 8))
    monkeypatch.setattr(
        emit.rules_check, "broken_rules", lambda model, exposed: [("conv2d", "Conv", "the reason")]
    )
    path = tmp_path / "model.onnx"
    with pytest.raises(UnsupportedOpsError) as error:
        backend.emit(program, path)
    assert str(error.value) == "1 op(s) cannot be lowered to tensorrt:\n  conv2d Conv: the reason"
    assert not path.exists()


def test_exposed_integers_are_allowed_for() -> None:
    program = program_of(Residual(), (2, 3, 8, 8))
    names = list(program.integer_values())
    shown = onnx.load_from_string(emit.program_bytes(program, names))
    assert len(shown.graph.output) == 1 + len(names)
    assert "an output of the graph is int8" in [reason for _, _, reason in broken_rules(shown)]


class Tokens(nn.Module):
    """Linears of rank 3, each with something behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(torch.nn.functional.gelu(self.wide(x)))


def test_linears_of_rank_3_have_their_scales_on_the_last_axis() -> None:
    torch.manual_seed(0)
    model = onnx.load_from_string(emit.program_bytes(program_of(Tokens(), (2, 4, 6))))
    ops = [found.op_type for found in model.graph.node if found.op_type != "DequantizeLinear"]
    assert ops == ["QuantizeLinear", "MatMul", "Add", "Gelu", "QuantizeLinear", "MatMul", "Add", "Identity"]
    weights = [tensor.dims for tensor in model.graph.initializer if len(tensor.dims) == 2]
    assert weights == [[6, 12], [12, 6]]
