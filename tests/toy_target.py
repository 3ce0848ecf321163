"""A test double of a runtime, to test plans, programs and the simulator without any real backend.

Its kernels say plainly what an exact runtime computes: exact sums, everything after them in float64, one rounding.
`TOY` has uint8 activations, float biases, and a concat that requantizes; the variants differ in what their name
says. `lower` takes a module all the way to a program.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fxedge.compiler.ir.capture import capture
from fxedge.compiler.ir.clamps import unusable_bounds
from fxedge.compiler.ir.dump import dump
from fxedge.compiler.ir.ops import aten
from fxedge.compiler.ir.passes import PassContext, PassReport, run_passes
from fxedge.compiler.ir.shapes import annotate
from fxedge.compiler.quant.arithmetic import (
    Kernel,
    KernelCall,
    accumulate_conv,
    accumulate_conv_transpose,
    accumulate_linear,
    accumulate_matmul,
    channel_shape,
    unchanged,
)
from fxedge.compiler.quant.calibrate import CalibrationStats, calibrate
from fxedge.compiler.quant.collectors import CollectorMethod
from fxedge.compiler.quant.plan import Plan, plan_quantization
from fxedge.compiler.quant.program import Program, build_program
from fxedge.compiler.quant.qparams import QParams, QSpec, dequantize, quantize
from fxedge.compiler.quant.target import OpRule, TargetSpec
from fxedge.passes.clean_qdq import CleanQdq
from fxedge.passes.insert_qdq import InsertQdq
from torch import Tensor, fx, nn
from torch._ops import OpOverload

UINT8 = QSpec(0, 255, torch.uint8)
WEIGHT = QSpec(-127, 127, torch.int8, symmetric=True, per_channel=True)
PROBABILITY = QParams((1 / 256,), (0,), 0, 255, torch.uint8)


def conv(call: KernelCall) -> Tensor:
    return _requantize(call, accumulate_conv(call), out_axis=1)


def conv_transpose(call: KernelCall) -> Tensor:
    return _requantize(call, accumulate_conv_transpose(call), out_axis=1)


def linear(call: KernelCall) -> Tensor:
    return _requantize(call, accumulate_linear(call), out_axis=-1)


def matmul(call: KernelCall) -> Tensor:
    scale = call.in_qparams[0].scale[0] * call.in_qparams[1].scale[0]
    return _round(call, accumulate_matmul(call).double() * scale)


def _requantize(call: KernelCall, total: Tensor, out_axis: int) -> Tensor:
    assert call.weight_qparams is not None
    scale = call.in_qparams[0].scale_tensor().double() * call.weight_qparams.scale_tensor().double()
    real = total.double() * channel_shape(scale, total.ndim, out_axis)
    if call.bias is not None:
        bias = call.bias.double() if call.bias.is_floating_point() else call.bias.double() * scale
        real = real + channel_shape(bias, total.ndim, out_axis)
    return _round(call, real)


def _round(call: KernelCall, real: Tensor) -> Tensor:
    integers = torch.round(real / call.out_qparams.scale[0]) + call.out_qparams.zero_point[0]
    return integers.clamp(*call.clamp).to(torch.int32)


def in_float(op: Callable[..., Tensor]) -> Kernel:
    """Dequantize, `op` in float, quantize; a list argument of tensors is put together again by `op` itself."""

    def kernel(call: KernelCall) -> Tensor:
        values = [dequantize(x, qp) for x, qp in zip(call.inputs, call.in_qparams, strict=True)]
        return quantize(op(*values, **call.attrs), call.out_qparams).clamp(*call.clamp)

    return kernel


def move(op: Callable[..., Tensor]) -> Kernel:
    """`op` on the integers themselves."""
    return lambda call: op(call.inputs[0], **call.attrs)


def _piece(call: KernelCall) -> Tensor:
    attrs = dict(call.attrs)
    index = attrs.pop("index")
    return aten.split.Tensor(call.inputs[0], **attrs)[index]


def _pad(call: KernelCall) -> Tensor:
    value = int(quantize(torch.tensor(call.attrs["value"] or 0.0), call.out_qparams))
    return aten.constant_pad_nd.default(call.inputs[0], call.attrs["pad"], value)


def _max_pool(x: Tensor, **attrs: Any) -> Tensor:
    return aten.max_pool2d.default(x.float(), **attrs).to(torch.int32)


def _no_number(node: fx.Node) -> str | None:
    return None if isinstance(node.args[1], fx.Node) else "the other operand is a number"


def _shared(kernel: Kernel) -> OpRule:
    return OpRule(kernel, shared=True)


CLAMPS = frozenset({aten.relu.default, aten.hardtanh.default, aten.clamp.Tensor})
OPS: Mapping[OpOverload, OpRule] = {
    aten.conv1d.default: OpRule(conv, fuses=CLAMPS),
    aten.conv2d.default: OpRule(conv, fuses=CLAMPS),
    aten.conv_transpose2d.input: OpRule(conv_transpose, fuses=CLAMPS),
    aten.linear.default: OpRule(linear, fuses=CLAMPS),
    aten.matmul.default: OpRule(matmul),
    aten.add.Tensor: OpRule(in_float(aten.add.Tensor), fuses=CLAMPS, check=_no_number),
    aten.mul.Tensor: OpRule(in_float(aten.mul.Tensor), check=_no_number),
    aten.cat.default: OpRule(in_float(lambda *parts, dim: torch.cat(parts, dim))),
    aten.relu.default: OpRule(in_float(aten.relu.default)),
    aten.hardtanh.default: OpRule(in_float(aten.hardtanh.default)),
    aten.clamp.Tensor: OpRule(unchanged, shared=True, check=unusable_bounds),
    aten.mean.dim: OpRule(in_float(aten.mean.dim)),
    aten.sigmoid.default: OpRule(in_float(aten.sigmoid.default), fixed=PROBABILITY),
    aten.softmax.int: OpRule(in_float(aten.softmax.int), fixed=PROBABILITY),
    aten.max_pool2d.default: _shared(move(_max_pool)),
    aten.pad.default: _shared(_pad),
    aten.split.Tensor: _shared(_piece),
    aten.reshape.default: _shared(move(aten.reshape.default)),
    aten.view.default: _shared(move(aten.reshape.default)),
    aten.permute.default: _shared(move(aten.permute.default)),
    aten.slice.Tensor: _shared(move(aten.slice.Tensor)),
}

TOY = TargetSpec("toy", UINT8, WEIGHT, "float32", OPS, quantize)
TOY_INT32_BIAS = dataclasses.replace(TOY, name="toy-int32-bias", bias="int32")
TOY_SHARED_CAT = dataclasses.replace(
    TOY,
    name="toy-shared-cat",
    ops={**OPS, aten.cat.default: _shared(lambda call: torch.cat(call.inputs, call.attrs["dim"]))},
)


@dataclass(frozen=True, slots=True)
class Lowered:
    """A model on its way to the toy target: the float graph, its plan and ranges, the quantized program."""

    float_gm: fx.GraphModule
    plan: Plan
    stats: CalibrationStats
    report: PassReport
    program: Program

    @property
    def gm(self) -> fx.GraphModule:
        return self.program.gm


def captured(model: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    """`model` as an annotated graph."""
    gm = capture(model, inputs)
    annotate(gm)
    return gm


def lower(model: nn.Module, *inputs: Tensor, spec: TargetSpec = TOY, **options: Any) -> Lowered:
    """Capture, plan (with the keyword arguments `options`), calibrate on `inputs`, quantize."""
    float_gm, gm = captured(model, *inputs), captured(model, *inputs)
    plan = plan_quantization(gm, spec, **options)
    stats = calibrate(gm, [plan], [inputs], CollectorMethod("minmax"))
    report = run_passes(gm, [InsertQdq(plan, stats), CleanQdq()], PassContext(spec, inputs))
    annotate(gm)
    return Lowered(float_gm, plan, stats, report, build_program(gm, spec))


class HandWritten:
    """A graph written node by node, as one from elsewhere: input x, calls, constants, then `done`."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.x = self.graph.placeholder("x")

    def __call__(self, target: Callable[..., Any], *args: Any) -> fx.Node:
        return self.graph.call_function(target, args)

    def constant(self, name: str, value: Tensor) -> fx.Node:
        self.root.register_buffer(name, value)
        return self.graph.get_attr(name)

    def done(self, *outputs: fx.Node) -> fx.GraphModule:
        self.graph.output(outputs)
        return fx.GraphModule(self.root, self.graph)


def grid(*shape: int) -> Tensor:
    """Every value k / 64 of k = -128 ... 127 in turn: quantized by min and max, scale 1/64 and zero point 128.

    Needs 256 elements."""
    return ((torch.arange(math.prod(shape)) % 256 - 128) / 64).reshape(shape)


_SHORT = re.compile(r"quantized_decomposed\.(\w+)_per_(tensor|channel)\.default")


def brief(gm: fx.GraphModule) -> str:
    """`dump`, with `quantize` and `dequantize_channel` for the long names."""
    return _SHORT.sub(lambda m: m[1] + ("_channel" if m[2] == "channel" else ""), dump(gm))


class Rounding(fx.Interpreter):
    """A float graph with the values of some nodes rounded."""

    def __init__(self, gm: fx.GraphModule, members: Collection[str], qp: QParams) -> None:
        super().__init__(gm)
        self._members, self._qp = members, qp

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        return dequantize(quantize(result, self._qp), self._qp) if n.name in self._members else result
