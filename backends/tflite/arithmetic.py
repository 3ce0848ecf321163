"""The integer arithmetic of LiteRT's int8 kernels under the XNNPACK delegate, op by op.

Settled against LiteRT 2.3 on x86-64 VNNI, activations int8 affine [-128, 127], weights int8 symmetric per channel;
`tests/backends/tflite/test_arithmetic.py` confirms each kernel on random, extreme and tie-rich integers:

* CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED: `rint(f32(acc + bias) * f32(f32(s_x * s_w) / s_y)) + z_y`, halves to
  even, bias int32 of scale s_x * s_w.
* ADD, SUB: fixed point. With r = s / s_y and 2**-k the largest power of two at or above which the larger r lies,
  multipliers are rint(r * 2**(20 + k)), halves of the sum round up.
* MUL: `rint(f32(a' * b') * f32(f32(s_a * s_b) / s_y)) + z_y`.
* MEAN: `rint(f32(sum) * (f32(s_x / s_y) / count) + z_y)`: the zero point is added before rounding.
* QUANTIZE: `rint(x * f32(1 / s)) + z`.
* LOGISTIC, TANH: a table of 256 entries through float32; GELU too, in TFLite's own kernel.
* LEAKY_RELU: fixed point with multipliers rint(256 * r), halves up.
* AVERAGE_POOL_2D (TFLite's own kernel): the sum of the integers over the count, halves away from zero.
* Everything that moves, selects or bounds elements: the integers themselves.
* Hard-sigmoid is ADD of 3 with a result that saturates at 0 and 6, then MUL by 1/6; hard-swish and SiLU are MUL of
  x and its gate. TFLite has a HARD_SWISH of its own, fifty times slower than these three (112 × 112 × 16: 1.2 ms
  against 0.02 ms).
* BATCH_MATMUL runs in TFLite's own kernels, in 31-bit fixed point: rounded once (halves up) where the right
  operand's zero point is 0, else at the product and at the shift. SOFTMAX is TFLite's own too, and so are ADD, SUB
  and MUL at scales that XNNPACK does not take (`fixed_point`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...compiler.quant.arithmetic import (
    Kernel,
    KernelCall,
    accumulate_conv,
    accumulate_conv_transpose,
    accumulate_linear,
    accumulate_matmul,
    centered,
    channel_shape,
    lookup,
)
from ...compiler.quant.qparams import QParams, dequantize
from . import fixed_point


def int8(scale: float, zero_point: int) -> QParams:
    return QParams((scale,), (zero_point,), -128, 127, torch.int8)


PROBABILITY = int8(1 / 256, -128)
TANH = int8(1 / 128, 0)
# Hard-sigmoid: 0 and 1 are both integers.
GATE = int8(1 / 255, -128)
# x + 3 between 0 and 6, and the constants 3 and 1/6, each the largest integer of its scale.
SHIFTED = int8(6 / 255, -128)
THREE = int8(3 / 255, -128)
SIXTH = int8(1 / 6 / 255, -128)
LARGEST = 127


def quantize(x: Tensor, qp: QParams) -> Tensor:
    """QUANTIZE, float -> int32: `rint(x * f32(1 / scale)) + zero_point`, clamped to [qmin, qmax]."""
    inverse = 1.0 / qp.scale_tensor()
    return (torch.round(x * inverse) + qp.zero_point[0]).clamp(qp.qmin, qp.qmax).to(torch.int32)


def conv(call: KernelCall) -> Tensor:
    """CONV_2D, DEPTHWISE_CONV_2D."""
    return _requantize(call, accumulate_conv(call, _integer_bias(call)), axis=1)


def conv_transpose(call: KernelCall) -> Tensor:
    """CONV_2D of the sub-pixel form: the same sums, requantized alike."""
    return _requantize(call, accumulate_conv_transpose(call, _integer_bias(call)), axis=1)


def linear(call: KernelCall) -> Tensor:
    """FULLY_CONNECTED: x [..., in], weight [out, in]."""
    return _requantize(call, accumulate_linear(call, _integer_bias(call)), axis=-1)


def integer_bias(bias: Tensor, in_qparams: QParams, weight_qparams: QParams) -> Tensor:
    """The int32 bias that is stored: as it is, or a float bias over f32(s_x * s_w), halves to even."""
    if not bias.is_floating_point():
        return bias.to(torch.int32)
    scale = bias_scale(in_qparams, weight_qparams).double()
    return torch.round(bias.double() / scale).clamp(-(2**31), 2**31 - 1).to(torch.int32)


def bias_scale(in_qparams: QParams, weight_qparams: QParams) -> Tensor:
    """f32(s_x * s_w), [1] or [out]."""
    return in_qparams.scale_tensor() * weight_qparams.scale_tensor()


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
    return _sum(call, 1) if fixed_point.sum_is_delegated(call) else fixed_point.add(call)


def sub(call: KernelCall) -> Tensor:
    """SUB."""
    return _sum(call, -1) if fixed_point.sum_is_delegated(call) else fixed_point.add(call, -1)


def mul(call: KernelCall) -> Tensor:
    """MUL."""
    if not fixed_point.product_is_delegated(call):
        return fixed_point.mul(call)
    a, b = call.in_qparams
    ratio = a.scale_tensor() * b.scale_tensor() / call.out_qparams.scale_tensor()
    return _round(call, (centered(call, 0) * centered(call, 1)).float() * ratio)


def concat(call: KernelCall) -> Tensor:
    """CONCATENATION of inputs with the output's own parameters."""
    return torch.cat(call.inputs, call.attrs["dim"]).clamp(*call.clamp)


def mean(call: KernelCall) -> Tensor:
    """MEAN over the axes `dim`, or of adaptive_avg_pool(…, 1) over every axis from 2 on."""
    x, attrs = centered(call), call.attrs
    axes = [axis % x.ndim for axis in attrs["dim"]] if "dim" in attrs else list(range(2, x.ndim))
    count = torch.tensor(float(math.prod(x.shape[axis] for axis in axes)))
    total = x.sum(axes, keepdim=attrs.get("keepdim", True), dtype=torch.int64)
    multiplier = call.in_qparams[0].scale_tensor() / call.out_qparams.scale_tensor() / count
    scaled = torch.round(total.float() * multiplier + call.out_qparams.zero_point[0])
    return scaled.clamp(*call.clamp).to(call.out_qparams.dtype)


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


def pool_sizes(attrs: Any, key: str, spatial: int) -> list[int]:
    """One number for each spatial axis; an absent stride is the kernel size, [n] stands for every axis."""
    value = attrs[key] if attrs[key] or key != "stride" else attrs["kernel_size"]
    values = [value] if isinstance(value, int) else list(value)
    return values * spatial if len(values) == 1 else values


def max_pool(call: KernelCall) -> Tensor:
    """MAX_POOL_2D."""
    x, attrs = call.inputs[0], call.attrs
    spatial = x.ndim - 2
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[spatial - 1]
    sizes = [pool_sizes(attrs, key, spatial) for key in ("kernel_size", "stride", "padding", "dilation")]
    largest: Tensor = pool(x.float(), *sizes, ceil_mode=attrs["ceil_mode"])
    return largest.to(torch.int32).clamp(*call.clamp)


def upsample_nearest(call: KernelCall) -> Tensor:
    """RESIZE_NEAREST_NEIGHBOR by whole factors."""
    attrs = call.attrs
    size, factors = attrs["output_size"], attrs["scale_factors"]
    resized = F.interpolate(call.inputs[0].float(), size=size, scale_factor=factors, mode="nearest")
    return resized.to(torch.int32).clamp(*call.clamp)


def pad(call: KernelCall) -> Tensor:
    """PAD, PADV2 on the integers; the constant is quantized first."""
    value = pad_value(call.attrs.get("value"), call.out_qparams)
    return F.pad(call.inputs[0], call.attrs["pad"], value=value).clamp(*call.clamp)


def pad_value(value: float | None, qp: QParams) -> int:
    """The integer that stands for a pad constant."""
    return int(quantize(torch.tensor([value or 0.0]), qp))


def clamp(call: KernelCall) -> Tensor:
    """relu, hardtanh or clamp by numbers, standing alone: MAXIMUM and MINIMUM on the integers."""
    return call.inputs[0].clamp(*alone_bounds(call.attrs, call.out_qparams)).clamp(*call.clamp)


def alone_bounds(attrs: Any, qp: QParams) -> tuple[int, int]:
    """The integers of the bounds of a clamp, which keeps its input's parameters."""
    low = attrs.get("min_val", attrs.get("min", 0.0))
    high = attrs.get("max_val", attrs.get("max"))
    low_integer = qp.qmin if low is None else int(quantize(torch.tensor([float(low)]), qp))
    high_integer = qp.qmax if high is None else int(quantize(torch.tensor([float(high)]), qp))
    return low_integer, max(high_integer, low_integer) if low is not None else high_integer


def elementwise(function: Callable[[Tensor], Tensor]) -> Kernel:
    """A unary op as a table: dequantize, `function` in float32, quantize."""
    return lambda call: lookup(call, function, quantize)


def gelu(call: KernelCall) -> Tensor:
    """GELU, `approximate` as the aten op says."""
    approximate = call.attrs["approximate"]
    return lookup(call, lambda x: F.gelu(x, approximate=approximate), quantize)


def leaky_relu(call: KernelCall) -> Tensor:
    """LEAKY_RELU in XNNPACK."""
    ratio = call.in_qparams[0].scale_tensor() / call.out_qparams.scale_tensor()
    slope = torch.tensor(call.attrs["negative_slope"], dtype=torch.float32)
    x = centered(call).to(torch.int64)
    multipliers = [int(torch.round(factor * 256)) for factor in (ratio, ratio * slope)]
    scaled = (torch.where(x >= 0, x * multipliers[0], x * multipliers[1]) + 128) >> 8
    return (scaled + call.out_qparams.zero_point[0]).clamp(*call.clamp).to(torch.int32)


def hardsigmoid(call: KernelCall) -> Tensor:
    """ADD of 3, saturating at 0 and 6, then MUL by 1/6."""
    x = call.inputs[0]
    largest = torch.full_like(x, LARGEST)
    operands = (call.in_qparams[0], THREE)
    shifted = add(KernelCall((x, largest), operands, SHIFTED, (-128, 127), {}))
    return mul(KernelCall((shifted, largest), (SHIFTED, SIXTH), call.out_qparams, call.clamp, {}))


def hardswish(call: KernelCall) -> Tensor:
    """MUL of x and its hard-sigmoid."""
    return _gated(call, hardsigmoid(_gate_call(call, GATE)), GATE)


def silu(call: KernelCall) -> Tensor:
    """MUL of x and its LOGISTIC."""
    return _gated(call, lookup(_gate_call(call, PROBABILITY), torch.sigmoid, quantize), PROBABILITY)


def softmax(call: KernelCall) -> Tensor:
    """SOFTMAX in TFLite's own kernel."""
    axis = call.attrs["dim"]
    shares = torch.softmax(dequantize(call.inputs[0], call.in_qparams[0]).double(), axis).float()
    return quantize(shares, call.out_qparams).clamp(*call.clamp)


def _sum(call: KernelCall, sign: int) -> Tensor:
    scale = call.out_qparams.scale_tensor()
    ratios = [qp.scale_tensor() / scale for qp in call.in_qparams]
    shift = 20 - (math.frexp(max(float(ratio) for ratio in ratios))[1] - 1)
    a, b = (int(torch.round(ratio.double() * 2.0**shift)) for ratio in ratios)
    total = centered(call, 0).to(torch.int64) * a + centered(call, 1).to(torch.int64) * (b * sign)
    rounded = (total + (1 << (shift - 1))) >> shift
    return (rounded + call.out_qparams.zero_point[0]).clamp(*call.clamp).to(torch.int32)


def _gate_call(call: KernelCall, gate: QParams) -> KernelCall:
    return dataclasses.replace(call, out_qparams=gate, clamp=(-128, 127))


def _gated(call: KernelCall, gate: Tensor, qp: QParams) -> Tensor:
    operands, qparams = (call.inputs[0], gate.to(torch.int32)), (call.in_qparams[0], qp)
    return mul(dataclasses.replace(call, inputs=operands, in_qparams=qparams))


def _integer_bias(call: KernelCall) -> Tensor | None:
    if call.bias is None:
        return None
    assert call.weight_qparams is not None
    return integer_bias(call.bias, call.in_qparams[0], call.weight_qparams)


def _requantize(call: KernelCall, total: Tensor, axis: int) -> Tensor:
    """`total` is overwritten."""
    assert call.weight_qparams is not None
    multiplier = bias_scale(call.in_qparams[0], call.weight_qparams) / call.out_qparams.scale_tensor()
    return _round(call, total.float().mul_(channel_shape(multiplier, total.ndim, axis)))


def _round(call: KernelCall, scaled: Tensor) -> Tensor:
    """`scaled` is overwritten."""
    scaled.round_()
    if (zero_point := call.out_qparams.zero_point[0]) != 0:
        scaled.add_(zero_point)
    return scaled.clamp_(*call.clamp).to(call.out_qparams.dtype)
