"""The integer arithmetic of LiteRT's int8 kernels under the XNNPACK delegate, op by op.

Settled against LiteRT 2.3 on x86-64 VNNI (MEAN: AVX2), activations int8 affine [-128, 127], weights int8 symmetric
per channel; `tests/backends/tflite/test_arithmetic.py` confirms each kernel on random, extreme and tie-rich
integers:

* CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED: `rint(f32(acc + bias) * f32(f32(s_x * s_w) / s_y)) + z_y`, halves to
  even, bias int32 of scale s_x * s_w.
* ADD, SUB, MUL, LEAKY_RELU, QUANTIZE, LOGISTIC, TANH: as `backends/xnnpack` has them; GELU is a table too, in
  TFLite's own kernel.
* MEAN: `rint(f32(sum) * m + (z_y - f32(z_x * count) * m))` of the integers as they are, m = `f32(s_x / s_y) *
  f32(1 / count)`, each operation rounded to float32: what centers the sum is rounded before the result is.
* AVERAGE_POOL_2D (TFLite's own kernel): the sum of the integers over the count, halves away from zero.
* Everything that moves, selects or bounds elements: the integers themselves.
* Hard-sigmoid is ADD of 3 with a result that saturates at 0 and 6, then MUL by 1/6; hard-swish and SiLU are MUL of
  x and its gate. TFLite has a HARD_SWISH of its own, fifty times slower than these three (112 × 112 × 16: 1.2 ms
  against 0.02 ms).
* Without the delegate TFLite's own kernels run everything: `builtin`.
* BATCH_MATMUL runs in TFLite's own kernels, in 31-bit fixed point: rounded once (halves up) where the right
  operand's zero point is 0, else at the product and at the shift. SOFTMAX is TFLite's own too, and so are ADD, SUB
  and MUL at scales that XNNPACK does not take (`fixed_point`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...compiler.quant.arithmetic import Kernel, KernelCall, accumulate_matmul
from ...compiler.quant.kernels import (
    LayerKernels,
    as_integer,
    clamp_integers,
    gelu_table,
    pool_sizes,
    product,
)
from ...compiler.quant.qparams import QParams, dequantize
from ..xnnpack import arithmetic as xnnpack
from ..xnnpack.arithmetic import PROBABILITY, gated, int8, quantize, sigmoid
from . import fixed_point

# Hard-sigmoid: 0 and 1 are both integers.
GATE = int8(1 / 255, -128)
# x + 3 between 0 and 6, and the constants 3 and 1/6, each the largest integer of its scale.
SHIFTED = int8(6 / 255, -128)
THREE = int8(3 / 255, -128)
SIXTH = int8(1 / 6 / 255, -128)
LARGEST = 127


# CONV_2D and DEPTHWISE_CONV_2D, CONV_2D of the sub-pixel form, and FULLY_CONNECTED.
layers = LayerKernels()
conv, conv_transpose, linear = layers.conv, layers.conv_transpose, layers.linear


def matmul(call: KernelCall) -> Tensor:
    """BATCH_MATMUL of two activations, in TFLite's own kernel: fixed point, rounded once where the right operand's
    zero point is 0, else twice."""
    a, b = call.in_qparams
    real = float((a.scale_tensor() * b.scale_tensor()).item()) / float(call.out_qparams.scale[0])
    total = accumulate_matmul(call).to(torch.int64)
    scaled = fixed_point.once(total, real) if b.zero_point == (0,) else fixed_point.twice(total, real)
    return (scaled + call.out_qparams.zero_point[0]).clamp(*call.clamp).to(torch.int32)


def add(call: KernelCall) -> Tensor:
    """ADD."""
    return xnnpack.add(call) if fixed_point.sum_is_delegated(call) else fixed_point.add(call)


def sub(call: KernelCall) -> Tensor:
    """SUB."""
    return xnnpack.sub(call) if fixed_point.sum_is_delegated(call) else fixed_point.add(call, -1)


def mul(call: KernelCall) -> Tensor:
    """MUL."""
    return product(call) if fixed_point.product_is_delegated(call) else fixed_point.mul(call)


def mean(call: KernelCall) -> Tensor:
    """MEAN over the axes `dim`, or of adaptive_avg_pool(…, 1) over every axis from 2 on."""
    x, attrs, out = call.inputs[0], call.attrs, call.out_qparams
    axes = [axis % x.ndim for axis in attrs["dim"]] if "dim" in attrs else list(range(2, x.ndim))
    count = math.prod(x.shape[axis] for axis in axes)
    total = x.sum(axes, keepdim=attrs.get("keepdim", True), dtype=torch.int64).float()
    multiplier = call.in_qparams[0].scale_tensor() / out.scale_tensor() * torch.tensor(1 / count)
    centering = out.zero_point[0] - call.in_qparams[0].zero_point[0] * count * multiplier
    return torch.round(total * multiplier + centering).clamp(*call.clamp).to(out.dtype)


def average_pool(call: KernelCall) -> Tensor:
    """AVERAGE_POOL_2D in TFLite's own kernel, windows inside the (zero-padded) input."""
    x, attrs = call.inputs[0], call.attrs
    spatial = x.ndim - 2
    kernel, stride, padding = (pool_sizes(attrs, key, spatial) for key in ("kernel_size", "stride", "padding"))
    sides = [side for pad in reversed(padding) for side in (pad, pad)]
    wide = F.pad(x.double(), sides, value=float(call.in_qparams[0].zero_point[0]))
    pool: Any = (F.avg_pool1d, F.avg_pool2d)[spatial - 1]
    count = math.prod(kernel)
    total = torch.round(pool(wide, kernel, stride) * count).to(torch.int64)
    away = torch.div(total.abs() + count // 2, count, rounding_mode="floor") * total.sign()
    return away.clamp(*call.clamp).to(torch.int32)


def pad(call: KernelCall) -> Tensor:
    """PAD, PADV2 on the integers; the constant is quantized first."""
    value = as_integer(call.attrs.get("value"), call.out_qparams, quantize)
    return F.pad(call.inputs[0], call.attrs["pad"], value=value).clamp(*call.clamp)


def clamp(call: KernelCall) -> Tensor:
    """relu, hardtanh or clamp by numbers, standing alone: MAXIMUM and MINIMUM on the integers."""
    return call.inputs[0].clamp(*alone_bounds(call.attrs, call.out_qparams)).clamp(*call.clamp)


def alone_bounds(attrs: Any, qp: QParams) -> tuple[int, int]:
    """The integers of the bounds of a clamp, which keeps its input's parameters."""
    low, high = clamp_integers(attrs, qp, quantize)
    return low, max(low, high)


gelu = gelu_table(quantize)


@dataclass(frozen=True, slots=True)
class Gates:
    """What is made of an ADD and a MUL, by whose kernels it is computed."""

    add: Kernel
    mul: Kernel

    def hardsigmoid(self, call: KernelCall) -> Tensor:
        """ADD of 3, saturating at 0 and 6, then MUL by 1/6."""
        x = call.inputs[0]
        largest = x.new_full((1,) * x.ndim, LARGEST)
        operands = (call.in_qparams[0], THREE)
        shifted = self.add(KernelCall((x, largest), operands, SHIFTED, (-128, 127), {}))
        return self.mul(KernelCall((shifted, largest), (SHIFTED, SIXTH), call.out_qparams, call.clamp, {}))

    def hardswish(self, call: KernelCall) -> Tensor:
        """MUL of x and its hard-sigmoid."""
        return gated(call, self.hardsigmoid, GATE, self.mul)

    def silu(self, call: KernelCall) -> Tensor:
        """MUL of x and its LOGISTIC."""
        return gated(call, sigmoid, PROBABILITY, self.mul)


gates = Gates(add, mul)
hardsigmoid, hardswish, silu = gates.hardsigmoid, gates.hardswish, gates.silu


def softmax(call: KernelCall) -> Tensor:
    """SOFTMAX in TFLite's own kernel."""
    axis = call.attrs["dim"]
    shares = torch.softmax(dequantize(call.inputs[0], call.in_qparams[0]).double(), axis).float()
    return quantize(shares, call.out_qparams).clamp(*call.clamp)
