"""The integer arithmetic of TFLite's own int8 kernels, which run everything where the XNNPACK delegate is off.

Settled against LiteRT 2.3 on x86-64 without delegates (`fixed_point` has the roundings):

* CONV_2D, FULLY_CONNECTED: `twice_up` with one factor s_x · s_w / s_y for each channel. DEPTHWISE_CONV_2D too, in
  whole vectors of 8 channels, `twice` in the rest; CONV_2D in groups, which has no fast kernel, `twice`.
* ADD, SUB, MUL, LEAKY_RELU: `twice`; the order of an ADD's shifts is that of `fixed_point.add`.
* MEAN over height and width of an image, both axes kept: the sum of the integers themselves, by s_x / (s_y · n),
  then a bias that holds both zero points, rounded; `twice_up` in whole vectors of 16 channels, `twice` in the
  rest (one thread; several cut the channels into pieces of their own). Any other MEAN: the sum of x - z_x by a
  multiplier into which 1 / n is divided without rounding, `twice`.
* QUANTIZE, tables, AVERAGE_POOL_2D, BATCH_MATMUL, SOFTMAX and all that moves integers: as with the delegate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch._ops import OpOverload

from ...compiler.ir.ops import aten
from ...compiler.quant.arithmetic import Kernel, KernelCall, accumulate_conv, centered, channel_shape
from ...compiler.quant.kernels import LayerKernels
from . import fixed_point
from .arithmetic import Gates

# Channels that the kernels take at a time: for means over images, and to scale sums of a depthwise convolution.
_MEAN_VECTOR, _DEPTHWISE_VECTOR = 16, 8


def conv(call: KernelCall) -> Tensor:
    """CONV_2D and DEPTHWISE_CONV_2D."""
    assert call.weight is not None
    depthwise = call.weight.shape[1] == 1 and call.inputs[0].shape[1] > 1
    if call.attrs["groups"] == 1 and not depthwise:
        return _layers.conv(call)
    total, factors = _scaling(call, accumulate_conv(call, _layers.stored_bias(call)), 1)
    return _finish(call, _in_vectors(total, factors, 1, _DEPTHWISE_VECTOR if depthwise else math.inf))


def _in_vectors(total: Tensor, factors: Tensor, axis: int, width: float) -> Tensor:
    """Channels in whole vectors of `width`, halves up, then the rest, halves away from zero."""
    channels = total.shape[axis]
    whole = int(channels // width * width) if math.isfinite(width) else 0
    pieces = [whole, channels - whole]
    vectors, rest = total.split(pieces, axis)
    up, away = factors.expand([channels if i == axis else 1 for i in range(total.ndim)]).split(pieces, axis)
    return torch.cat([fixed_point.twice_up(vectors, up), fixed_point.twice(rest, away)], axis)


def _requantize(call: KernelCall, total: Tensor, axis: int) -> Tensor:
    return _finish(call, fixed_point.twice_up(*_scaling(call, total, axis)))


def _scaling(call: KernelCall, total: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The sums as int64, and the factor of each channel."""
    assert call.weight_qparams is not None
    scales = call.weight_qparams.scale_tensor().double()
    factors = call.in_qparams[0].scale[0] * scales / call.out_qparams.scale[0]
    return total.to(torch.int64), channel_shape(factors, total.ndim, axis)


def _finish(call: KernelCall, scaled: Tensor) -> Tensor:
    return (scaled + call.out_qparams.zero_point[0]).clamp(*call.clamp).to(torch.int32)


_layers = LayerKernels(finish=_requantize)


def sub(call: KernelCall) -> Tensor:
    """SUB."""
    return fixed_point.add(call, -1)


def leaky_relu(call: KernelCall) -> Tensor:
    """LEAKY_RELU."""
    x, slope = (
        centered(call).to(torch.int64),
        float(torch.tensor(call.attrs["negative_slope"], dtype=torch.float32)),
    )
    ratio = call.in_qparams[0].scale[0] / call.out_qparams.scale[0]
    return _finish(call, torch.where(x >= 0, fixed_point.twice(x, ratio), fixed_point.twice(x, ratio * slope)))


def mean(call: KernelCall) -> Tensor:
    """MEAN over the axes `dim`, or of adaptive_avg_pool(…, 1) over every axis from 2 on."""
    x, attrs = call.inputs[0], call.attrs
    axes = sorted(axis % x.ndim for axis in attrs["dim"]) if "dim" in attrs else list(range(2, x.ndim))
    keep = attrs.get("keepdim", True)
    if x.ndim == 4 and keep and axes in ([2, 3], [1, 2]):
        return _image_mean(call, axes)
    count = math.prod(x.shape[axis] for axis in axes)
    total = centered(call).sum(axes, keepdim=keep, dtype=torch.int64)
    multiplier, exponent = fixed_point.parts(call.in_qparams[0].scale[0] / call.out_qparams.scale[0])
    shift = min(count.bit_length() - 1, 32, 31 + int(exponent))
    return _finish(call, fixed_point.twice_by(total, (multiplier << shift) // count, exponent - shift))


def _image_mean(call: KernelCall, axes: list[int]) -> Tensor:
    """Over height and width of an image, whose channels are the axis that is left beside the batch."""
    x, channels = call.inputs[0], 1 if axes == [2, 3] else 3
    ratio = call.in_qparams[0].scale[0] / call.out_qparams.scale[0]
    total = x.sum(axes, keepdim=True, dtype=torch.int64)
    factor = ratio / math.prod(x.shape[axis] for axis in axes)
    factors = torch.full([1] * 4, factor, dtype=torch.float64)
    scaled = _in_vectors(total, factors, channels, _MEAN_VECTOR)
    shift = call.in_qparams[0].zero_point[0] * ratio
    return _finish(call, scaled - math.trunc(shift + math.copysign(0.5, shift)))


_gates = Gates(fixed_point.add, fixed_point.mul)
KERNELS: Mapping[OpOverload, Kernel] = {
    aten.conv1d.default: conv,
    aten.conv2d.default: conv,
    aten.conv_transpose1d.default: _layers.conv_transpose,
    aten.conv_transpose2d.input: _layers.conv_transpose,
    aten.linear.default: _layers.linear,
    aten.sub.Tensor: sub,
    aten.mul.Tensor: fixed_point.mul,
    aten.leaky_relu.default: leaky_relu,
    aten.silu.default: _gates.silu,
    aten.adaptive_avg_pool1d.default: mean,
    aten.adaptive_avg_pool2d.default: mean,
    aten.mean.dim: mean,
}
# Known to within 1 LSB: the last few elements of a sum (`fixed_point.add`), and what is made of one.
SUMS: Mapping[OpOverload, Kernel] = {
    aten.add.Tensor: fixed_point.add,
    aten.hardsigmoid.default: _gates.hardsigmoid,
    aten.hardswish.default: _gates.hardswish,
}
