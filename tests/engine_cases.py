"""Cases of single ops that every engine of torch is tried on: random integers, extreme ones, and ties."""

from __future__ import annotations

from collections.abc import Callable

import torch
from quantized_ops import OpCase, qint8, quint8
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten
KINDS = ("random", "extreme", "ties")


def integers(shape: tuple[int, ...], low: int, high: int, seed: int, kind: str) -> Tensor:
    """Uniform integers; extreme: mostly the bounds; weights and activations alike."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(low, high + 1, shape, generator=generator, dtype=torch.int32)
    if kind != "extreme":
        return values
    return torch.where(torch.rand(shape, generator=generator) < 0.7, high, low).to(torch.int32)


def product(
    op: torch._ops.OpOverload,
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    real: Callable[[Tensor, Tensor], Tensor],
    args: tuple[object, ...],
    kind: str,
    seed: int,
    activation: tuple[object, ...] = (),
    out_channels: int | None = None,
) -> OpCase:
    """A convolution or linear; `out_channels` is given for the transposed ones, whose weight has one scale."""
    x, weight = integers(x_shape, 0, 255, seed, kind), integers(weight_shape, -127, 127, seed + 1, kind)
    generator = torch.Generator().manual_seed(seed)
    channels = out_channels or weight_shape[0]
    count = 1 if out_channels else channels
    scales = torch.rand(count, generator=generator) * 0.01 + 0.001
    bias = torch.randn(channels, generator=generator)
    in_scale, in_zero = 0.0231, (0, 131, 255)[seed % 3]
    if kind == "ties":
        scales = torch.full((count,), 0.0013)
        bias = torch.round(bias * 1000) * (0.0013 * in_scale)
    sums = real((x - in_zero).double(), weight.double())
    out_scale = max(float(sums.std()) * in_scale * float(scales.mean()) / 40, 1e-5)
    if kind == "ties":
        out_scale = in_scale * 0.0013 * max(2, 2 * round(out_scale / (in_scale * 0.0013) / 2))
    qp = qint8(scales, None if out_channels else 0)
    case = OpCase(op, [x], [quint8(in_scale, in_zero)], quint8(out_scale, 117), args, weight, qp, bias)
    case.activation = activation
    return case


# name: op, x, weight, stride, padding, dilation, groups
CONVS = {
    "pointwise": (aten.conv2d.default, (2, 32, 9, 9), (24, 32, 1, 1), 1, 0, 1, 1),
    "3x3": (aten.conv2d.default, (2, 16, 9, 8), (24, 16, 3, 3), 1, 1, 1, 1),
    "stem": (aten.conv2d.default, (2, 3, 17, 17), (32, 3, 3, 3), 2, 1, 1, 1),
    "dilated": (aten.conv2d.default, (1, 16, 15, 15), (8, 16, 3, 3), 1, 2, 2, 1),
    "two groups": (aten.conv2d.default, (1, 16, 9, 9), (16, 8, 3, 3), 1, 1, 1, 2),
    "4 channels per group, 24 in all": (aten.conv2d.default, (1, 24, 9, 9), (24, 4, 3, 3), 1, 1, 1, 6),
    "4 channels per group, 12 in all": (aten.conv2d.default, (1, 12, 9, 9), (12, 4, 3, 3), 1, 1, 1, 3),
    "2 channels per group, 24 in all": (aten.conv2d.default, (1, 24, 9, 9), (24, 2, 3, 3), 2, 1, 1, 12),
    "depthwise 32": (aten.conv2d.default, (2, 32, 9, 9), (32, 1, 3, 3), 1, 1, 1, 32),
    "depthwise 24": (aten.conv2d.default, (2, 24, 9, 9), (24, 1, 3, 3), 2, 1, 1, 24),
    "depthwise 20": (aten.conv2d.default, (1, 20, 9, 9), (20, 1, 3, 3), 1, 1, 1, 20),
    "depthwise 144": (aten.conv2d.default, (1, 144, 7, 7), (144, 1, 3, 3), 1, 1, 1, 144),
    "depthwise 5x5": (aten.conv2d.default, (2, 40, 7, 7), (40, 1, 5, 5), 1, 2, 1, 40),
    "depthwise 5x5, 120": (aten.conv2d.default, (1, 120, 8, 7), (120, 1, 5, 5), 2, 2, 1, 120),
    "depthwise 7x7": (aten.conv2d.default, (1, 32, 9, 9), (32, 1, 7, 7), 1, 3, 1, 32),
    "depthwise 7x7, output smaller than padding": (
        aten.conv2d.default,
        (1, 24, 2, 9),
        (24, 1, 7, 7),
        1,
        3,
        1,
        24,
    ),
    "depthwise, no padding": (aten.conv2d.default, (2, 32, 9, 8), (32, 1, 3, 3), 1, 0, 1, 32),
    "depthwise, no padding, stride 2": (aten.conv2d.default, (2, 24, 9, 8), (24, 1, 3, 3), 2, 0, 1, 24),
    "depthwise 5x5, no padding": (aten.conv2d.default, (1, 24, 11, 10), (24, 1, 5, 5), 2, 0, 1, 24),
    "depthwise 7x7, padding 2": (aten.conv2d.default, (1, 24, 11, 10), (24, 1, 7, 7), 2, 2, 1, 24),
    "depthwise dilated": (aten.conv2d.default, (1, 32, 9, 9), (32, 1, 3, 3), 1, 2, 2, 32),
    "depthwise twice as many": (aten.conv2d.default, (1, 32, 7, 7), (64, 1, 3, 3), 1, 1, 1, 32),
    "1d": (aten.conv1d.default, (2, 16, 33), (24, 16, 3), 1, 1, 1, 1),
    "1d depthwise": (aten.conv1d.default, (2, 16, 33), (16, 1, 5), 2, 2, 1, 16),
    "3d": (aten.conv3d.default, (1, 8, 5, 6, 7), (16, 8, 3, 3, 3), 1, 1, 1, 1),
    "3d depthwise": (aten.conv3d.default, (1, 24, 4, 5, 6), (24, 1, 3, 3, 3), 1, 1, 1, 24),
}


def convolution(name: str, kind: str) -> OpCase:
    op, x, weight, *numbers, groups = CONVS[name]
    spatial = len(x) - 2
    window = [[number] * spatial for number in numbers]
    conv = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
    args = (*window, groups)
    return product(op, x, weight, lambda a, b: conv(a, b, None, *args), args, kind, seed=len(name))


ACTIVATIONS = {
    "relu": (aten.relu.default,),
    "relu6 inside the range": (aten.hardtanh.default, 0.0, 0.05),
    "relu6 beyond the range": (aten.hardtanh.default, 0.0, 6e5),
    "clamp": (aten.clamp.default, -0.02, 0.03),
    "clamp from above zero": (aten.clamp.default, 0.01, None),
    "clamp by channel": (aten.clamp.Tensor, None, torch.linspace(-0.01, 0.05, 8).reshape(8, 1, 1)),
}


TRANSPOSED = {
    "equal channels": ((1, 16, 6, 5), (16, 16, 3, 3), 2, 1, 0, 1, 1),
    "other channels": ((1, 16, 6, 5), (16, 8, 3, 3), 2, 1, 0, 1, 1),
    "other channels, stride 1": ((1, 16, 6, 5), (16, 8, 3, 3), 1, 1, 0, 1, 1),
    "other channels, dilated": ((1, 8, 6, 5), (8, 4, 3, 3), 3, 1, 0, 1, 2),
    "two rows": ((1, 16, 6, 5), (16, 16, 2, 2), 2, 0, 0, 1, 1),
    "two rows, more channels": ((1, 16, 6, 5), (16, 24, 2, 2), 2, 0, 0, 1, 1),
    "output padding": ((1, 8, 6, 5), (8, 4, 3, 3), 2, 1, 1, 1, 1),
    "groups": ((1, 8, 6, 5), (8, 4, 3, 3), 2, 1, 0, 2, 1),
    "depthwise": ((2, 16, 6, 5), (16, 1, 3, 3), 2, 1, 0, 16, 1),
}


def transposed(name: str, kind: str) -> OpCase:
    x, weight, stride, padding, output_padding, groups, dilation = TRANSPOSED[name]
    args = ([stride] * 2, [padding] * 2, [output_padding] * 2, groups, [dilation] * 2)
    return product(
        aten.conv_transpose2d.input,
        x,
        weight,
        lambda a, b: F.conv_transpose2d(a, b, None, *args),
        args,
        kind,
        seed=len(name),
        out_channels=weight[1] * groups,
    )


def two_inputs(
    op: torch._ops.OpOverload,
    kind: str,
    other: tuple[int, ...] | None = None,
    shape: tuple[int, ...] = (2, 16, 8, 8),
) -> OpCase:
    a, b = integers(shape, 0, 255, 1, kind), integers(other or shape, 0, 255, 2, kind)
    scales = (0.0371, 0.0219, 0.0613) if kind != "ties" else (0.02, 0.04, 0.08)
    product_scale = scales[0] * scales[1] * (64 if kind == "ties" else 70)
    out = quint8(product_scale if op is aten.mul.Tensor else scales[2], 91)
    return OpCase(op, [a, b], [quint8(scales[0], 113), quint8(scales[1], 7)], out)


def pooled(op: torch._ops.OpOverload, args: tuple[object, ...], channels: int = 40) -> OpCase:
    qp = quint8(0.0371, 113)
    return OpCase(op, [integers((2, channels, 7, 6), 0, 255, 5, "random")], [qp], qp, args)


MOVES = {
    "max_pool2d": (aten.max_pool2d.default, ([3, 3], [2, 2], [1, 1])),
    "max_pool2d dilated ceil": (aten.max_pool2d.default, ([2, 2], [2, 2], [1, 1], [2, 2], True)),
    "avg_pool2d": (aten.avg_pool2d.default, ([2, 2],)),
    "avg_pool2d padded": (aten.avg_pool2d.default, ([3, 3], [2, 2], [1, 1])),
    "avg_pool2d without padding": (aten.avg_pool2d.default, ([3, 3], [2, 2], [1, 1], False, False)),
    "avg_pool2d ceil": (aten.avg_pool2d.default, ([3, 2], [2, 1], [1, 0], True, True)),
    "adaptive 1": (aten.adaptive_avg_pool2d.default, ([1, 1],)),
    "adaptive 3x2": (aten.adaptive_avg_pool2d.default, ([3, 2],)),
    "mean": (aten.mean.dim, ([2, 3],)),
    "mean kept": (aten.mean.dim, ([-1, -2], True)),
    "nearest": (aten.upsample_nearest2d.vec, (None, [2.0, 3.0])),
    "nearest size": (aten.upsample_nearest2d.vec, ([9, 13], None)),
    "pad": (aten.constant_pad_nd.default, ([1, 2, 0, 1], 0.0)),
    "pad value": (aten.pad.default, ([1, 2], "constant", -0.5)),
    "relu": (aten.relu.default, ()),
    "hardtanh": (aten.hardtanh.default, (-0.4, 1.1)),
    "clamp": (aten.clamp.default, (None, 0.7)),
    "clamp by channel": (aten.clamp.Tensor, (None, torch.linspace(-5, 6, 40).reshape(40, 1, 1))),
    "view": (aten.view.default, ([2, -1],)),
    "reshape": (aten.reshape.default, ([-1, 4, 10, 7, 6],)),
    "flatten": (aten.flatten.using_ints, (1,)),
    "permute": (aten.permute.default, ([0, 2, 3, 1],)),
    "transpose": (aten.transpose.int, (1, 2)),
    "unsqueeze": (aten.unsqueeze.default, (1,)),
    "slice": (aten.slice.Tensor, (1, 2, 30, 3)),
    "select": (aten.select.int, (2, 3)),
    "expand": (aten.expand.default, ([2, 40, 7, 6],)),
    "pixel_shuffle": (aten.pixel_shuffle.default, (2,)),
    "contiguous": (aten.contiguous.default, ()),
}


# Images below and above the size from which bounds by channel go through batch_norm2d; a bound for each row too.
BOUNDED = {
    "small": ((2, 20, 7, 6), (20, 1, 1)),
    "large": ((2, 20, 50, 51), (20, 1, 1)),
    "large, batched bounds": ((1, 33, 40, 40), (1, 33, 1, 1)),
    "large, a bound for each row": ((1, 20, 50, 51), (50, 1)),
    "features": ((3, 20), (20,)),
}


def bounded(name: str, sides: str) -> OpCase:
    """A clamp with bounds of its own for each channel: "min", "max" or "both"."""
    shape, bounds_shape = BOUNDED[name]
    qp = quint8(0.0371, 113)
    generator = torch.Generator().manual_seed(len(name))
    low = -torch.rand(bounds_shape, generator=generator) * 5
    high = torch.rand(bounds_shape, generator=generator) * 6
    args = (None if sides == "max" else low, None if sides == "min" else high)
    return OpCase(aten.clamp.Tensor, [integers(shape, 0, 255, 5, "random")], [qp], qp, args)
