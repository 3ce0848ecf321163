"""Each kernel against onnxruntime's integer kernel, optimizer on: random, extreme and tie-rich integers.

The QDQ models are built by hand here, so that neither the program nor the emitter stands between.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fxedge.backends.onnx import arithmetic
from fxedge.backends.onnx.rules import ONNX
from fxedge.compiler.quant.arithmetic import Kernel, KernelCall
from fxedge.compiler.quant.isa import native_isa
from fxedge.compiler.quant.kernels import bias_scale
from fxedge.compiler.quant.qparams import QParams, dequantize
from onnx import TensorProto, helper, numpy_helper
from quantized_ops import halved
from torch import Tensor
from torch.nn import functional as F


def uint8(scale: float, zero_point: int) -> QParams:
    return QParams((scale,), (zero_point,), 0, 255, torch.uint8)


def per_channel(scales: Sequence[float]) -> QParams:
    return QParams(tuple(scales), (0,) * len(scales), -127, 127, torch.int8, 0)


class Qdq:
    """dequantize -> one op -> quantize."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.feeds: dict[str, np.ndarray] = {}

    def constant(self, value: Any) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def activation(self, integers: Tensor, qp: QParams) -> str:
        name = f"input_{len(self.feeds)}"
        self.feeds[name] = integers.to(torch.uint8).numpy()
        return self.dequantize(name, qp.scale[0], np.uint8(qp.zero_point[0]))

    def weight(self, integers: Tensor, qp: QParams) -> str:
        stored = self.constant(integers.numpy().astype(np.int8))
        return self.dequantize(stored, qp.scale, np.zeros(len(qp.scale), np.int8), axis=0)

    def bias(self, integers: Tensor, scales: Tensor) -> str:
        stored = self.constant(integers.numpy())
        return self.dequantize(stored, scales.tolist(), np.zeros(len(integers), np.int32), axis=0)

    def dequantize(self, name: str, scale: Any, zero_point: Any, **attributes: Any) -> str:
        inputs = [name, self.constant(np.asarray(scale, np.float32)), self.constant(zero_point)]
        return self.op("DequantizeLinear", inputs, **attributes)

    def op(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def run(self, value: str, qp: QParams, folder: Path) -> tuple[Tensor, set[str]]:
        """The integers of quantize(value) and the op types of onnxruntime's own optimized graph."""
        scale, zero = self.constant(np.float32(qp.scale[0])), self.constant(np.uint8(qp.zero_point[0]))
        last = self.op("QuantizeLinear", [value, scale, zero])
        graph = helper.make_graph(
            self.nodes,
            "qdq",
            [helper.make_tensor_value_info(k, TensorProto.UINT8, v.shape) for k, v in self.feeds.items()],
            [helper.make_tensor_value_info(last, TensorProto.UINT8, None)],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        answer = session.run(None, self.feeds)[0]
        optimized = onnx.load(options.optimized_model_filepath)
        return torch.from_numpy(answer.astype(np.int32)), {node.op_type for node in optimized.graph.node}


def differing(actual: Tensor, expected: Tensor) -> int:
    assert actual.shape == expected.shape
    return int((actual != expected).sum())


def integers(generator: torch.Generator, size: Sequence[int], extreme: bool = False) -> Tensor:
    values = torch.randint(0, 256, tuple(size), generator=generator, dtype=torch.int32)
    return torch.where(values > 127, 255, 0).to(torch.int32) if extreme else values


def weights(generator: torch.Generator, size: Sequence[int], extreme: bool = False) -> Tensor:
    values = torch.randint(-127, 128, tuple(size), generator=generator, dtype=torch.int32)
    values = torch.where(values > 0, 127, -127).to(torch.int32) if extreme else values
    return values if ONNX.saturation[native_isa()] is None else halved(values)


def output_scale(in_scale: float, weight: Tensor, scales: Tensor) -> float:
    """A scale at which the extremes saturate and the rest does not."""
    return float(in_scale * scales.mean() * 73 * weight[0].numel() ** 0.5 * 1.7)


CONVS = {
    "strided": ((2, 3, 17, 17), (16, 3, 3, 3), 2, 1, 1, 1),
    "pointwise": ((1, 16, 9, 11), (24, 16, 1, 1), 1, 0, 1, 1),
    "depthwise-20": ((2, 20, 9, 9), (20, 1, 3, 3), 1, 1, 1, 20),
    "depthwise-32": ((2, 32, 9, 9), (32, 1, 3, 3), 1, 1, 1, 32),
    "depthwise-5x5": ((1, 17, 9, 9), (17, 1, 5, 5), 2, 2, 1, 17),
    "depth-multiplier": ((2, 8, 9, 9), (16, 1, 3, 3), 1, 1, 1, 8),
    "grouped": ((2, 24, 9, 9), (36, 8, 3, 3), 2, 1, 1, 3),
    "dilated": ((1, 8, 13, 13), (9, 8, 3, 3), 1, 2, 2, 1),
    "wide": ((1, 960, 5, 5), (33, 960, 1, 1), 1, 0, 1, 1),
    "1d": ((2, 8, 33), (7, 8, 5), 1, 2, 1, 1),
    "1d-depthwise": ((2, 16, 33), (16, 1, 5), 1, 2, 1, 16),
    "3d": ((1, 4, 7, 7, 7), (5, 4, 3, 3, 3), 1, 1, 1, 1),
    "3d-depthwise": ((1, 6, 7, 7, 7), (6, 1, 3, 3, 3), 1, 1, 1, 6),
}


@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("case", CONVS.values(), ids=CONVS.keys())
def test_convolution_is_exact(case: Any, extreme: bool, tmp_path: Path) -> None:
    size, weight_size, stride, padding, dilation, groups = case
    g, spatial = torch.Generator().manual_seed(1), len(size) - 2
    x, weight = integers(g, size, extreme), weights(g, weight_size, extreme)
    scales = torch.rand(weight_size[0], generator=g) * 0.02 + 0.001
    x_qp, w_qp = uint8(0.031, 77), per_channel(scales.tolist())
    y_qp = uint8(output_scale(0.031, weight, scales), 100)
    bias = torch.randint(-20_000, 20_000, (weight_size[0],), generator=g, dtype=torch.int32)
    model = Qdq()
    operands = [model.activation(x, x_qp), model.weight(weight, w_qp)]
    operands.append(model.bias(bias, bias_scale(x_qp, w_qp)))
    value = model.op(
        "Conv",
        operands,
        strides=[stride] * spatial,
        pads=[padding] * 2 * spatial,
        dilations=[dilation] * spatial,
        group=groups,
    )
    actual, ops = model.run(value, y_qp, tmp_path)
    attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    call = KernelCall((x,), (x_qp,), y_qp, (0, 255), attrs, weight, w_qp, bias)
    assert differing(actual, arithmetic.conv(call)) == 0
    assert ops == {"Transpose", "QLinearConv"}


@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize(("batch", "width", "out"), [(3, 64, 10), (5, 33, 17), (1, 1280, 1000)])
def test_linear_is_exact(batch: int, width: int, out: int, extreme: bool, tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(2)
    x, weight = integers(g, (batch, width), extreme), weights(g, (out, width), extreme)
    scales = torch.rand(out, generator=g) * 0.02 + 0.001
    x_qp, w_qp = uint8(0.017, 9), per_channel(scales.tolist())
    y_qp = uint8(output_scale(0.017, weight, scales), 128)
    bias = torch.randint(-20_000, 20_000, (out,), generator=g, dtype=torch.int32)
    model = Qdq()
    operands = [model.activation(x, x_qp), model.weight(weight, w_qp)]
    operands.append(model.bias(bias, bias_scale(x_qp, w_qp)))
    actual, ops = model.run(model.op("Gemm", operands, transB=1), y_qp, tmp_path)
    call = KernelCall((x,), (x_qp,), y_qp, (0, 255), {}, weight, w_qp, bias)
    assert differing(actual, arithmetic.linear(call)) == 0
    assert ops == {"QGemm"}


def test_a_requantization_tie_goes_to_even_before_the_zero_point_is_added(tmp_path: Path) -> None:
    """One weight for each channel and every input: with these scales each fourth product is half-way."""
    x = torch.arange(256, dtype=torch.int32)[:, None].expand(256, 8).contiguous()
    weight = torch.diag(torch.tensor([1, 3, -5, 7, 11, -13, 101, 127], dtype=torch.int32))
    for step in (2, 6, 10, 14):
        x_qp, w_qp = uint8(0.07, 3), per_channel([0.011] * 8)
        y_qp = uint8(float(torch.tensor(0.07) * torch.tensor(0.011)) * step, 101)
        model = Qdq()
        value = model.op("Gemm", [model.activation(x, x_qp), model.weight(weight, w_qp)], transB=1)
        actual, _ = model.run(value, y_qp, tmp_path)
        call = KernelCall((x,), (x_qp,), y_qp, (0, 255), {}, weight, w_qp, None)
        assert differing(actual, arithmetic.linear(call)) == 0


@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("sizes", [((2, 3, 7, 16), (2, 3, 16, 9)), ((7, 33), (33, 5)), ((1, 9, 512), (512, 3))])
def test_matmul_is_exact(sizes: Any, extreme: bool, tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(3)
    a, b = (integers(g, size, extreme) for size in sizes)
    a_qp, b_qp, y_qp = uint8(0.013, 120), uint8(0.021, 140), uint8(0.09 * sizes[0][-1] ** 0.5, 60)
    model = Qdq()
    value = model.op("MatMul", [model.activation(a, a_qp), model.activation(b, b_qp)])
    actual, ops = model.run(value, y_qp, tmp_path)
    assert differing(actual, arithmetic.matmul(KernelCall((a, b), (a_qp, b_qp), y_qp, (0, 255), {}))) == 0
    assert ops == {"QLinearMatMul"}


_EVERY = torch.arange(256, dtype=torch.int32)
_PAIRS = torch.cartesian_prod(_EVERY, _EVERY)
# Scales whose ratios are small fractions, so that many of the 65,536 pairs fall half-way.
_TIES = [
    (0.1, 0.3, 0.4, 7),
    (0.05, 0.05, 0.1, 0),
    (0.7, 0.1, 0.2, 128),
    (0.09, 0.03, 0.06, 200),
    (1.3, 0.17, 0.34, 33),
]


@pytest.mark.parametrize("scales", _TIES)
@pytest.mark.parametrize(
    ("op_type", "kernel", "ops", "gain"),
    [
        ("Add", arithmetic.add, {"QLinearAdd"}, 1.0),
        ("Mul", arithmetic.mul, {"QLinearMul"}, 10.0),
        ("Sub", arithmetic.sub, {"DequantizeLinear", "Sub", "QuantizeLinear"}, 1.0),
    ],
)
def test_every_pair_of_integers_is_exact(
    op_type: str, kernel: Kernel, ops: set[str], gain: float, scales: Any, tmp_path: Path
) -> None:
    a_qp, b_qp, y_qp = uint8(scales[0], 11), uint8(scales[1], 201), uint8(scales[2] * gain, scales[3])
    a, b = _PAIRS[:, 0].contiguous(), _PAIRS[:, 1].contiguous()
    model = Qdq()
    value = model.op(op_type, [model.activation(a, a_qp), model.activation(b, b_qp)])
    actual, found = model.run(value, y_qp, tmp_path)
    assert differing(actual, kernel(KernelCall((a, b), (a_qp, b_qp), y_qp, (0, 255), {}))) == 0
    assert found == ops


def test_the_offset_of_an_addition_is_a_fused_multiply_add_too(tmp_path: Path) -> None:
    """Met in the residual net of digits: rounding r_a * z_a first puts 111.5 below the half."""
    a_qp, b_qp, y_qp = (
        uint8(0.028692463412880898, 119),
        uint8(0.030842680484056473, 134),
        uint8(0.020405709743499756, 0),
    )
    a, b = _PAIRS[:, 0].contiguous(), _PAIRS[:, 1].contiguous()
    model = Qdq()
    value = model.op("Add", [model.activation(a, a_qp), model.activation(b, b_qp)])
    actual, _ = model.run(value, y_qp, tmp_path)
    call = KernelCall((a, b), (a_qp, b_qp), y_qp, (0, 255), {})
    assert differing(actual, arithmetic.add(call)) == 0
    assert actual[(a == 151) & (b == 178)].tolist() == [112]


@pytest.mark.parametrize("op_type", ["Add", "Mul"])
@pytest.mark.parametrize(
    "sizes", [((1, 7), (1, 7)), ((2, 8, 5, 5), (2, 8, 1, 1)), ((4, 3, 33), (33,)), ((37,), (1,)), ((1,), (65,))]
)
def test_broadcasts_and_vector_remainders_are_exact(op_type: str, sizes: Any, tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(4)
    a, b = (integers(g, size) for size in sizes)
    a_qp, b_qp, y_qp = uint8(0.06, 120), uint8(0.02, 10), uint8(0.04, 128)
    model = Qdq()
    value = model.op(op_type, [model.activation(a, a_qp), model.activation(b, b_qp)])
    actual, _ = model.run(value, y_qp, tmp_path)
    kernel = arithmetic.add if op_type == "Add" else arithmetic.mul
    assert differing(actual, kernel(KernelCall((a, b), (a_qp, b_qp), y_qp, (0, 255), {}))) == 0


POOLS = {
    "3x3": ((2, 8, 9, 9), [3, 3], [2, 2], [1, 1], False, False),
    "3x3-include-pad": ((2, 8, 9, 9), [3, 3], [2, 2], [1, 1], False, True),
    "2x2": ((2, 5, 8, 8), [2, 2], [], [0, 0], False, True),
    "uneven": ((2, 3, 7, 9), [3, 2], [1, 2], [1, 0], False, False),
    "ceil": ((2, 4, 8, 8), [3, 3], [2, 2], [0, 0], True, False),
    "1d": ((2, 4, 19), [3], [2], [1], False, True),
    "3d": ((1, 3, 6, 6, 6), [2, 2, 2], [2, 2, 2], [0, 0, 0], False, False),
}


@pytest.mark.parametrize("scales", [(0.05, 17, 0.05, 17), (0.07, 3, 0.14, 90), (0.01, 200, 0.0077, 128)])
@pytest.mark.parametrize("case", POOLS.values(), ids=POOLS.keys())
def test_average_pool_is_exact(case: Any, scales: Any, tmp_path: Path) -> None:
    size, kernel, stride, padding, ceil_mode, include_pad = case
    x = integers(torch.Generator().manual_seed(5), size)
    x_qp, y_qp = uint8(scales[0], scales[1]), uint8(scales[2], scales[3])
    model = Qdq()
    value = model.op(
        "AveragePool",
        [model.activation(x, x_qp)],
        kernel_shape=kernel,
        strides=stride or kernel,
        pads=padding * 2,
        ceil_mode=int(ceil_mode),
        count_include_pad=int(include_pad and any(padding)),
    )
    actual, ops = model.run(value, y_qp, tmp_path)
    attrs = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "ceil_mode": ceil_mode,
        "count_include_pad": include_pad,
    }
    assert differing(actual, arithmetic.average_pool(KernelCall((x,), (x_qp,), y_qp, (0, 255), attrs))) == 0
    assert "QLinearAveragePool" in ops


@pytest.mark.parametrize("scales", [(0.05, 17, 0.05, 17), (0.07, 3, 0.14, 90), (0.01, 200, 0.0077, 128)])
@pytest.mark.parametrize(
    "size", [(2, 8, 7, 7), (1, 3, 5, 5), (2, 17, 4, 4), (2, 8, 9), (1, 4, 3, 4, 5), (1, 65, 1, 1)]
)
def test_global_average_is_exact(size: Any, scales: Any, tmp_path: Path) -> None:
    x = integers(torch.Generator().manual_seed(6), size)
    x_qp, y_qp = uint8(scales[0], scales[1]), uint8(scales[2], scales[3])
    model = Qdq()
    value = model.op("GlobalAveragePool", [model.activation(x, x_qp)])
    actual, ops = model.run(value, y_qp, tmp_path)
    assert differing(actual, arithmetic.global_average(KernelCall((x,), (x_qp,), y_qp, (0, 255), {}))) == 0
    assert ops == {"QLinearGlobalAveragePool"}


@pytest.mark.parametrize("scale", [0.02, 0.05, 0.04])
def test_concat_is_exact(scale: float, tmp_path: Path) -> None:
    parts = [_EVERY.expand(1, channels, 256).contiguous() for channels in (3, 1, 5)]
    qps = [uint8(0.02, 5), uint8(0.05, 128), uint8(0.03, 255)]
    y_qp = uint8(scale, 5)
    model = Qdq()
    value = model.op("Concat", [model.activation(*pair) for pair in zip(parts, qps, strict=True)], axis=1)
    actual, ops = model.run(value, y_qp, tmp_path)
    call = KernelCall(tuple(parts), tuple(qps), y_qp, (0, 255), {"dim": 1})
    assert differing(actual, arithmetic.concat(call)) == 0
    assert ops == {"QLinearConcat"}


@pytest.mark.parametrize("scale", [0.005, 0.03, 0.3])
@pytest.mark.parametrize(("size", "axis"), [((4, 10), -1), ((2, 3, 7, 33), -1), ((2, 1000), 1), ((2, 5, 16), 1)])
def test_softmax_is_exact(size: Any, axis: int, scale: float, tmp_path: Path) -> None:
    x = integers(torch.Generator().manual_seed(7), size)
    x_qp, y_qp = uint8(scale, 128), uint8(1 / 256, 0)
    model = Qdq()
    value = model.op("Softmax", [model.activation(x, x_qp)], axis=axis)
    actual, ops = model.run(value, y_qp, tmp_path)
    call = KernelCall((x,), (x_qp,), y_qp, (0, 255), {"dim": axis})
    assert differing(actual, arithmetic.softmax(call)) == 0
    assert ops == {"QLinearSoftmax"}


def leaky(slope: float) -> Kernel:
    def kernel(call: KernelCall) -> Tensor:
        return arithmetic.leaky_relu(
            KernelCall(call.inputs, call.in_qparams, call.out_qparams, call.clamp, {"negative_slope": slope})
        )

    return kernel


FLOAT = {"DequantizeLinear", "QuantizeLinear"}
TABLES: dict[str, tuple[str, dict[str, Any], Kernel, set[str]]] = {
    "sigmoid": ("Sigmoid", {}, arithmetic.elementwise(torch.sigmoid), {"QLinearSigmoid"}),
    "leaky": ("LeakyRelu", {"alpha": 0.1}, leaky(0.1), {"QLinearLeakyRelu"}),
    "relu-as-leaky": ("LeakyRelu", {"alpha": 0.0}, arithmetic.elementwise(torch.relu), {"QLinearLeakyRelu"}),
    "hardsigmoid": (
        "HardSigmoid",
        {"alpha": 1 / 6, "beta": 0.5},
        arithmetic.hardsigmoid,
        FLOAT | {"HardSigmoid"},
    ),
    "tanh": ("Tanh", {}, arithmetic.elementwise(torch.tanh), FLOAT | {"Tanh"}),
    "gelu": ("Gelu", {}, arithmetic.elementwise(F.gelu), FLOAT | {"Gelu"}),
}


@pytest.mark.parametrize("case", TABLES.values(), ids=TABLES.keys())
def test_a_table_is_exact_on_every_integer(case: Any, tmp_path: Path) -> None:
    op_type, attributes, kernel, ops = case
    for scale, zero_point, y_scale, y_zero in [
        (0.02, 128, 0.02, 128),
        (0.05, 40, 0.04, 10),
        (0.0313, 200, 0.0078125, 90),
        (0.1, 128, 1 / 256, 0),
        (0.003, 128, 0.0017, 77),
    ]:
        x_qp, y_qp = uint8(scale, zero_point), uint8(y_scale, y_zero)
        model = Qdq()
        actual, found = model.run(
            model.op(op_type, [model.activation(_EVERY, x_qp)], **attributes), y_qp, tmp_path
        )
        assert differing(actual, kernel(KernelCall((_EVERY,), (x_qp,), y_qp, (0, 255), {}))) == 0
        assert found == ops


def test_a_float_bias_is_stored_as_the_runtime_would_round_it(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(8)
    x, weight = integers(g, (2, 8, 5, 5)), weights(g, (16, 8, 3, 3))
    scales = torch.rand(16, generator=g) * 0.02 + 0.001
    x_qp, w_qp = uint8(0.031, 77), per_channel(scales.tolist())
    y_qp = uint8(output_scale(0.031, weight, scales), 100)
    bias = torch.randn(16, generator=g) * 5
    model = Qdq()
    operands = [model.activation(x, x_qp), model.weight(weight, w_qp), model.constant(bias.numpy())]
    actual, ops = model.run(model.op("Conv", operands), y_qp, tmp_path)
    attrs = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    call = KernelCall((x,), (x_qp,), y_qp, (0, 255), attrs, weight, w_qp, bias)
    assert differing(actual, arithmetic.conv(call)) == 0
    assert ops == {"Transpose", "QLinearConv"}


def test_hardswish_and_silu_stay_within_one_step_of_float() -> None:
    """The gate's 255 steps cost at most |x| / 510 besides the rounding of the product."""
    x_qp, y_qp = uint8(0.04, 100), uint8(0.025, 16)
    x = dequantize(_EVERY, x_qp)
    for kernel, function in ((arithmetic.hardswish, F.hardswish), (arithmetic.silu, F.silu)):
        found = kernel(KernelCall((_EVERY,), (x_qp,), y_qp, (0, 255), {}))
        wanted = (function(x) / y_qp.scale[0] + y_qp.zero_point[0]).clamp(0, 255)
        allowed = 0.5 + x.abs() / 510 / y_qp.scale[0] + 1e-3
        assert bool(((found - wanted).abs() <= allowed).all())
