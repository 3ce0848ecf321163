"""What OpenVINO's CPU plugin makes of the ONNX models of `backends/onnx`, and how far it is from their arithmetic.

Its low precision transformations move scales through the graph, so that a kernel's requantization is another
sequence of float32 operations than onnxruntime's: results differ by 1 LSB where a value lies next to a rounding
boundary. Settled with OpenVINO 2026.4 on x86-64 VNNI, `tests/backends/openvino`:

* Convolutions take in a residual and an activation before they round, so no quantize node stands between (with one
  between a convolution and its sum, OpenVINO drops its rounding).
* A convolution or product on integers gives float as cheaply as integers, so a result that only float ops or the
  graph's outputs read is not rounded (YOLOX-Nano, whose SiLUs are float: 0.90 to 1.13 times as fast as float).
* QuantizeLinear is `rint(x · a + b)` with `a = 255 / (high - low)` and `b = -low · a`, high and low the ends of
  the range in float32: the zero point is added before rounding. Some of its kernels fuse the two operations, which
  moves a value next to a boundary (5 of 301,056 normal inputs).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn import functional as F

from ...compiler.ir.ops import CONV, CONV_TRANSPOSE, aten
from ...compiler.quant.arithmetic import KernelCall, accumulate_conv, channel_shape
from ...compiler.quant.fusing import ACTIVATIONS
from ...compiler.quant.kernels import bias_scale, integer_bias
from ...compiler.quant.program import IntegerStep
from ...compiler.quant.qparams import QParams, dequantize
from ...compiler.quant.saturation import any_two, by_output, in_one_row, unpaired, within_taps
from ...compiler.quant.target import OpRule
from ..onnx import arithmetic
from ..onnx.rules import ONNX

_ADDING = frozenset({aten.conv1d.default, aten.conv2d.default, aten.conv3d.default})
# Float in OpenVINO 2026.4, whatever stands around them.
_FLOAT = frozenset({aten.matmul.default, aten.bmm.default, aten.mm.default, aten.softmax.int})


def quantize(x: Tensor, qp: QParams) -> Tensor:
    """OpenVINO's FakeQuantize, int32."""
    scale, zero_point = qp.scale_tensor()[0], qp.zero_point[0]
    low, high = (qp.qmin - zero_point) * scale, (qp.qmax - zero_point) * scale
    factor = torch.tensor(float(qp.qmax - qp.qmin)) / (high - low)
    return (torch.round(x * factor - low * factor) + qp.qmin).clamp(qp.qmin, qp.qmax).to(torch.int32)


def pairing(step: IntegerStep, weight: Tensor) -> Tensor:
    """Which weights its kernels pair without VNNI: neighbouring channels of a tap. Depthwise ones sum in 32 bits;
    in other groups the order is not known: any two."""
    by_channel = by_output(step, weight)
    if step.anchor.target not in CONV | CONV_TRANSPOSE:
        return in_one_row(by_channel)
    if step.attrs["groups"] == 1:
        return within_taps(by_channel)
    depthwise = by_channel.shape[1] == 1 and step.attrs["groups"] == len(by_channel)
    return unpaired(by_channel) if depthwise else any_two(by_channel)


def conv(call: KernelCall) -> Tensor:
    """A convolution; behind its sums, a residual and an activation are real numbers."""
    if not call.after:
        return arithmetic.conv_add(call)
    assert call.weight_qparams is not None
    bias = None
    if call.bias is not None:
        bias = integer_bias(call.bias, call.in_qparams[0], call.weight_qparams)
    scale = bias_scale(call.in_qparams[0], call.weight_qparams)
    total = accumulate_conv(call, bias)
    real = total.float() * channel_shape(scale, total.ndim, 1)
    if len(call.inputs) > 1:
        real = real + dequantize(call.inputs[1].to(torch.int32), call.in_qparams[1])
    for function in call.after:
        real = function(real)
    return quantize(real, call.out_qparams).clamp(*call.clamp)


_TABLES = {
    aten.hardsigmoid.default: arithmetic.elementwise(F.hardsigmoid),
    aten.hardswish.default: arithmetic.elementwise(F.hardswish),
    aten.silu.default: arithmetic.elementwise(F.silu),
}


def _rule(op: OpOverload, rule: OpRule) -> OpRule:
    if op in _ADDING:
        return OpRule(conv, tolerance=1, adds=True, fuses=rule.fuses | ACTIVATIONS)
    if op in _TABLES:
        return dataclasses.replace(rule, kernel=_TABLES[op], tolerance=1)
    return rule if rule.shared else dataclasses.replace(rule, tolerance=1)


OPENVINO = dataclasses.replace(
    ONNX,
    kernels={},
    name="openvino",
    ops={op: _rule(op, rule) for op, rule in ONNX.ops.items() if op not in _FLOAT},
    quantize=quantize,
    isa=("avx2", "vnni"),
    quantize_tolerance=1,
    float_results=True,
    saturation={"avx2": pairing, "vnni": None},
    notes=(
        "The model is ONNX, read as it is. Float ops run in float32 (the f32 hint), not in bfloat16.",
        "Without VNNI (AVX2, AVX-512) sums of two products may saturate unless compiled for the ISA avx2.",
    ),
)
