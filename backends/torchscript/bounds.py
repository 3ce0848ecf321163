"""Clamping a quint8 tensor to bounds of its own for each channel: quantized tensors have no such kernel.

Small tensors leave for plain uint8 and come back. Large images go through quantized::batch_norm2d, which adds a
number to each channel and saturates at 0 and 255: a shift up by 255 - high and one back leave min(x, high), one
down by low and one back leave max(x, low). Shifts are whole integers, so nothing is rounded. That takes half the
time of int_repr, which copies element by element (96 channels of 112 x 112: 0.6 and 1.2 ms).
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from ...compiler.ir.shapes import recorded_shape
from ...compiler.quant.program import IntegerStep
from .builder import Builder

aten = torch.ops.aten

# Elements of one image from which the fixed cost of batch_norm2d is worth it.
_LARGE = 50_000


def within_channels(b: Builder, step: IntegerStep, x: fx.Node) -> fx.Node:
    """`x`, the quint8 result of `step`, within the step's bounds by channel."""
    low, high = step.channel_low, step.channel_high
    if low is None and high is None:
        return x
    channels = _channels_of_large_image(step)
    if channels is not None and all(_is_by_channel(bound) for bound in (low, high) if bound is not None):
        return _shifted(b, step, x, channels)
    integers = b.call(torch.int_repr, x)
    for narrow, bound in ((torch.maximum, low), (torch.minimum, high)):
        if bound is not None:
            integers = b.call(narrow, integers, b.attribute(bound.to(torch.uint8)))
    qp = step.out_qparams
    return b.call(aten._make_per_tensor_quantized_tensor, integers, qp.scale[0], qp.zero_point[0])


def _channels_of_large_image(step: IntegerStep) -> int | None:
    shape = recorded_shape(step.anchor)
    if shape is None or len(shape) != 4 or not all(isinstance(size, int) for size in shape[1:]):
        return None
    return shape[1] if torch.Size(shape[1:]).numel() >= _LARGE else None


def _is_by_channel(bound: Tensor) -> bool:
    return bound.numel() == 1 or (bound.ndim in (3, 4) and bound.numel() == bound.shape[-3])


def _shifted(b: Builder, step: IntegerStep, x: fx.Node, channels: int) -> fx.Node:
    qp = step.out_qparams
    up, down = torch.zeros(channels), torch.zeros(channels)
    if step.channel_high is not None:
        up = up + (qp.qmax - step.channel_high).flatten()
    if step.channel_low is not None:
        down = down + (step.channel_low - qp.qmin).flatten()
    one, zero = b.attribute(torch.ones(channels)), b.attribute(torch.zeros(channels))
    for shift in (up, -up - down, down):
        if bool(shift.any()):
            real = b.attribute(shift * qp.scale_tensor())
            numbers = (one, real, zero, one, 0.0, qp.scale[0], qp.zero_point[0])
            x = b.call(torch.ops.quantized.batch_norm2d, x, *numbers)
    return x
