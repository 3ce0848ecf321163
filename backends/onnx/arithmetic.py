"""The integer arithmetic of onnxruntime's CPU kernels that QDQ graphs fuse into, op by op.

Settled against onnxruntime 1.31 on x86-64 VNNI, optimizer at ORT_ENABLE_ALL, activations uint8 [0, 255], weights
int8 symmetric per channel; `tests/backends/onnx/test_arithmetic.py` confirms each kernel on random, extreme and
tie-rich integers at sizes with and without a vector remainder:

* QLinearConv (1d, 2d, 3d, grouped, depthwise, dilated), QGemm, QLinearMatMul:
  `rint(f32(acc + bias) * f32(f32(s_x * s_w) / s_y)) + z_y`, halves to even, bias int32 of scale s_x * s_w.
* QLinearGlobalAveragePool: the same with acc = sum(x - z_x) and multiplier s_x / (s_y * count).
* QLinearAdd: fused multiply-adds, `fma(a, r_a, fma(b, r_b, z_y - fma(r_a, z_a, r_b * z_b)))`, r = s / s_y.
* QLinearMul: `rint(f32(a' * b') * f32(f32(s_a * s_b) / s_y) + z_y)`: the zero point is added before rounding.
* QLinearAveragePool: float32 sum in window order of the dequantized values, `rint(mean / s_y + z_y)`.
* QLinearConcat, QLinearLeakyRelu, QLinearSigmoid: one table of 256 entries through float32.
* QLinearSoftmax: a table of exponentials, summed in float32 in element order.
* Everything that moves or selects elements (views, MaxPool, nearest Resize, Slice, Pad): the integers themselves.
* HardSigmoid is a QLinearAdd whose saturation clamps, HardSwish and SiLU a QLinearMul of x and its gate: the
  runtime has no integer kernel for them as they are, and its float ones cost what int8 saves (MobileNetV3-Small:
  7.7 ms with them, 4.3 ms without, one thread).
* Sub, Tanh, Gelu run in float between dequantize and quantize, and these kernels reproduce that. Tanh, Gelu and
  Sigmoid are polynomials in the runtime, so their tables may be off by one where a value falls next to a rounding
  boundary (measured: 0 of 15,360 entries each).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...compiler.quant.arithmetic import Kernel, KernelCall, accumulate_conv, accumulate_matmul, centered, lookup
from ...compiler.quant.kernels import LayerKernels, as_integer, gelu_table, pool_sizes, rounded, scaled, table
from ...compiler.quant.qparams import QParams, dequantize, quantize

layers = LayerKernels()
# QLinearConv, its sub-pixel form (`emit_integer.conv_transpose`: the same sums, requantized alike), and QGemm.
conv, conv_transpose, linear = layers.conv, layers.conv_transpose, layers.linear


def conv_add(call: KernelCall) -> Tensor:
    """A convolution whose kernel adds a residual, if there is one, before it rounds. onnxruntime has none."""
    if len(call.inputs) == 1:
        return conv(call)
    total = scaled(call, accumulate_conv(call, layers.stored_bias(call)), axis=1)
    ratio = call.in_qparams[1].scale_tensor() / call.out_qparams.scale_tensor()
    residual = call.inputs[1].float() - call.in_qparams[1].zero_point[0]
    return rounded(call, total.add_(residual * ratio))


def matmul(call: KernelCall) -> Tensor:
    """QLinearMatMul of two activations."""
    a, b = call.in_qparams
    multiplier = a.scale_tensor() * b.scale_tensor() / call.out_qparams.scale_tensor()
    return rounded(call, accumulate_matmul(call).float() * multiplier)


def add(call: KernelCall) -> Tensor:
    """QLinearAdd: fused multiply-adds in float32, done here in float64 and rounded once."""
    (a, b), (qa, qb) = call.inputs, call.in_qparams
    scale = call.out_qparams.scale_tensor()
    ratio_a, ratio_b = qa.scale_tensor() / scale, qb.scale_tensor() / scale
    zeros_b = (ratio_b * qb.zero_point[0]).double()
    zeros = (ratio_a.double() * qa.zero_point[0] + zeros_b).float()
    offset = call.out_qparams.zero_point[0] - zeros
    inner = (b.double() * ratio_b.double() + offset.double()).float()
    total = (a.double() * ratio_a.double() + inner.double()).float()
    return torch.round(total).clamp(*call.clamp).to(torch.int32)


def mul(call: KernelCall) -> Tensor:
    """QLinearMul."""
    a, b = call.in_qparams
    ratio = a.scale_tensor() * b.scale_tensor() / call.out_qparams.scale_tensor()
    product = (centered(call, 0) * centered(call, 1)).float() * ratio
    return torch.round(product + call.out_qparams.zero_point[0]).clamp(*call.clamp).to(torch.int32)


def sub(call: KernelCall) -> Tensor:
    """Float Sub between dequantize and quantize."""
    a, b = (dequantize(x, qp) for x, qp in zip(call.inputs, call.in_qparams, strict=True))
    return quantize(a - b, call.out_qparams).clamp(*call.clamp)


def concat(call: KernelCall) -> Tensor:
    """QLinearConcat: each input through its own table."""
    parts = [
        x if qp == call.out_qparams else quantize(dequantize(x, qp), call.out_qparams)
        for x, qp in zip(call.inputs, call.in_qparams, strict=True)
    ]
    return torch.cat(parts, call.attrs["dim"]).clamp(*call.clamp).to(torch.int32)


def global_average(call: KernelCall) -> Tensor:
    """QLinearGlobalAveragePool of adaptive_avg_pool(…, 1) or of mean over every axis from 2 on."""
    x = centered(call)
    axes = list(range(2, x.ndim))
    count = torch.tensor(float(math.prod(x.shape[2:])))
    total = x.sum(axes, keepdim=call.attrs.get("keepdim", True), dtype=torch.int64)
    multiplier = call.in_qparams[0].scale_tensor() / (call.out_qparams.scale_tensor() * count)
    return rounded(call, total.float() * multiplier)


def average_pool(call: KernelCall) -> Tensor:
    """QLinearAveragePool: a float32 sum in window order; padding adds exact zeros."""
    x, attrs = dequantize(call.inputs[0], call.in_qparams[0]), call.attrs
    spatial = x.ndim - 2
    kernel, stride, padding = (pool_sizes(attrs, key, spatial) for key in ("kernel_size", "stride", "padding"))
    total = _window_sum(x, kernel, stride, padding, attrs["ceil_mode"])
    if attrs["count_include_pad"] and any(padding):
        count = torch.tensor(float(math.prod(kernel)))
    else:
        count = _window_sum(torch.ones_like(x[:1, :1]), kernel, stride, padding, attrs["ceil_mode"])
    mean = (total / count) / call.out_qparams.scale_tensor() + call.out_qparams.zero_point[0]
    return torch.round(mean).clamp(*call.clamp).to(torch.int32)


def pad(call: KernelCall) -> Tensor:
    """Pad on the integers; a constant is quantized first."""
    attrs, mode = call.attrs, call.attrs.get("mode", "constant")
    x = call.inputs[0]
    if mode == "constant":
        value = as_integer(attrs.get("value"), call.out_qparams, quantize)
        return F.pad(x, attrs["pad"], value=value).clamp(*call.clamp)
    return F.pad(x.float(), attrs["pad"], mode=mode).to(torch.int32).clamp(*call.clamp)


def softmax(call: KernelCall) -> Tensor:
    """QLinearSoftmax: exponentials from a table that is shifted so that the largest input meets its end."""
    axis = call.attrs["dim"]
    x = call.inputs[0].movedim(axis, -1).numpy()
    table = _exponentials(call.in_qparams[0].scale[0], x.shape[-1])
    terms = table[x + 255 - x.max(-1, keepdims=True)]
    sums = np.add.accumulate(terms, axis=-1, dtype=np.float32)[..., -1:]
    inverse = np.floor(np.float32(1) / np.float32(call.out_qparams.scale[0]))
    rounded = np.rint(terms * inverse / sums).astype(np.int32) + call.out_qparams.zero_point[0]
    return torch.from_numpy(rounded).movedim(-1, axis).clamp(*call.clamp).contiguous()


def elementwise(function: Callable[[Tensor], Tensor]) -> Kernel:
    """A unary op as a table."""
    return table(function, quantize)


gelu = gelu_table(quantize)


def leaky_relu(call: KernelCall) -> Tensor:
    """QLinearLeakyRelu; the slope is a float32."""
    slope = torch.tensor(call.attrs["negative_slope"], dtype=torch.float32)
    return lookup(call, lambda x: torch.where(x >= 0, x, x * slope), quantize)


def clamp(call: KernelCall) -> Tensor:
    """relu, hardtanh or clamp by numbers, standing alone: requantize, then the op's own bounds."""
    attrs = call.attrs
    low = attrs.get("min_val", attrs.get("min", 0.0))
    high = attrs.get("max_val", attrs.get("max"))
    bounded: Kernel = elementwise(lambda x: x.clamp(min=low, max=high))
    return bounded(call)


# Sigmoid and hard-sigmoid inside a product: 0 and 1 are both integers.
GATE = QParams((1 / 255,), (0,), 0, 255, torch.uint8)
# The constant 0.5 that hard-sigmoid adds to x / 6.
HALF = QParams((0.5 / 255,), (0,), 0, 255, torch.uint8)


def sixth(qp: QParams) -> QParams:
    """Parameters by which the integers of x stand for x / 6."""
    return dataclasses.replace(qp, scale=(float(qp.scale_tensor() / 6),))


@dataclass(frozen=True, slots=True)
class Gates:
    """What is made of a QLinearAdd and a QLinearMul, which arm64 computes otherwise."""

    add: Kernel
    mul: Kernel

    def hardsigmoid(self, call: KernelCall) -> Tensor:
        """QLinearAdd of x / 6 and 0.5 where saturation is the clamp to [0, 1]; else the op in float."""
        if call.out_qparams == GATE:
            half = torch.full_like(call.inputs[0], 255)
            operands = (sixth(call.in_qparams[0]), HALF)
            return self.add(KernelCall((call.inputs[0], half), operands, GATE, call.clamp, {}))
        return lookup(call, _float_hardsigmoid, quantize)

    def hardswish(self, call: KernelCall) -> Tensor:
        """QLinearMul of x and its hard-sigmoid."""
        return self._gated(call, self.hardsigmoid(_gate_call(call)))

    def silu(self, call: KernelCall) -> Tensor:
        """QLinearMul of x and its QLinearSigmoid."""
        return self._gated(call, lookup(_gate_call(call), torch.sigmoid, quantize))

    def _gated(self, call: KernelCall, gate: Tensor) -> Tensor:
        operands, qparams = (call.inputs[0], gate), (call.in_qparams[0], GATE)
        return self.mul(dataclasses.replace(call, inputs=operands, in_qparams=qparams))


def _float_hardsigmoid(x: Tensor) -> Tensor:
    """clamp(x * f32(1/6) + 0.5, 0, 1), in the runtime's order of operations."""
    return (x * torch.tensor(1 / 6, dtype=torch.float32) + 0.5).clamp(0.0, 1.0)


def _gate_call(call: KernelCall) -> KernelCall:
    return dataclasses.replace(call, out_qparams=GATE, clamp=(0, 255))


gates = Gates(add, mul)
hardsigmoid, hardswish, silu = gates.hardsigmoid, gates.hardswish, gates.silu


def _window_sum(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], ceil_mode: bool
) -> Tensor:
    """Sums over every window, element by element in window order; x is [batch, channel, *spatial]."""
    sizes = [
        pooled_size(n, k, s, p, ceil_mode) for n, k, s, p in zip(x.shape[2:], kernel, stride, padding, strict=True)
    ]
    reach = [(o - 1) * s + k for o, s, k in zip(sizes, stride, kernel, strict=True)]
    margins = [(p, max(r - p - n, 0)) for r, p, n in zip(reach, padding, x.shape[2:], strict=True)]
    padded = F.pad(x, [side for margin in reversed(margins) for side in margin])
    total = x.new_zeros((*x.shape[:2], *sizes))
    for offsets in itertools.product(*(range(k) for k in kernel)):
        window = tuple(slice(o, o + (n - 1) * s + 1, s) for o, n, s in zip(offsets, sizes, stride, strict=True))
        total = total + padded[(slice(None), slice(None), *window)]
    return total


def pooled_size(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Output size of one spatial axis; in ceil mode a window must start inside the input or its left padding."""
    span = size + 2 * padding - kernel
    count = (span + (stride - 1 if ceil_mode else 0)) // stride + 1
    return count - 1 if ceil_mode and (count - 1) * stride >= size + padding else count


def _exponentials(scale: float, count: int) -> np.ndarray:
    """exp((i - 255 + shift) * scale), i in 0…255: the shift keeps a sum of `count` terms inside float32."""
    room = float(np.log(np.finfo(np.float32).max / np.float32(count)))
    shift = max(0.0, room - 5.0) / scale
    return np.exp((np.arange(256) - 255 + shift) * scale).astype(np.float32)
