"""Kernels that several runtimes share, from the pieces in `arithmetic`.

A layer's kernel is exact sums, an int32 bias and a requantization; runtimes differ in the last two
(`LayerKernels`). What moves, selects or bounds elements is the same everywhere but for how a number becomes an
integer, which is given as `quantize`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .arithmetic import (
    Kernel,
    KernelCall,
    accumulate_conv,
    accumulate_conv_transpose,
    accumulate_linear,
    centered,
    channel_shape,
    lookup,
)
from .qparams import QParams

Quantize = Callable[[Tensor, QParams], Tensor]


def scaled(call: KernelCall, total: Tensor, axis: int) -> Tensor:
    """Sums, whose channels lie along `axis`, times f32(f32(s_x * s_w) / s_y); `total` is overwritten."""
    assert call.weight_qparams is not None
    multiplier = bias_scale(call.in_qparams[0], call.weight_qparams) / call.out_qparams.scale_tensor()
    return total.float().mul_(channel_shape(multiplier, total.ndim, axis))


def rounded(call: KernelCall, real: Tensor) -> Tensor:
    """`rint(real) + z_y`, clamped; `real`, in units of the output, is overwritten."""
    real.round_()
    if (zero_point := call.out_qparams.zero_point[0]) != 0:
        real.add_(zero_point)
    return real.clamp_(*call.clamp).to(call.out_qparams.dtype)


def requantize(call: KernelCall, total: Tensor, axis: int) -> Tensor:
    """`rint(f32(total) * f32(f32(s_x * s_w) / s_y)) + z_y`, halves to even; `total` is overwritten."""
    return rounded(call, scaled(call, total, axis))


def bias_scale(in_qparams: QParams, weight_qparams: QParams) -> Tensor:
    """f32(s_x * s_w), [1] or [out]."""
    return in_qparams.scale_tensor() * weight_qparams.scale_tensor()


def integer_bias(bias: Tensor, in_qparams: QParams, weight_qparams: QParams) -> Tensor:
    """The int32 bias that is stored: as it is, or a float bias over f32(s_x * s_w), halves to even."""
    if not bias.is_floating_point():
        return bias.to(torch.int32)
    scale = bias_scale(in_qparams, weight_qparams).double()
    return torch.round(bias.double() / scale).clamp(-(2**31), 2**31 - 1).to(torch.int32)


@dataclass(frozen=True, slots=True)
class LayerKernels:
    """Convolution, transposed convolution and linear of a runtime: `bias` makes integers of a bias and the
    parameters of input and weight, `finish` requantizes sums whose channels lie along an axis."""

    bias: Callable[[Tensor, QParams, QParams], Tensor] = integer_bias
    finish: Callable[[KernelCall, Tensor, int], Tensor] = requantize

    def conv(self, call: KernelCall) -> Tensor:
        return self.finish(call, accumulate_conv(call, self.stored_bias(call)), 1)

    def conv_transpose(self, call: KernelCall) -> Tensor:
        return self.finish(call, accumulate_conv_transpose(call, self.stored_bias(call)), 1)

    def linear(self, call: KernelCall) -> Tensor:
        """x [..., in], weight [out, in]."""
        return self.finish(call, accumulate_linear(call, self.stored_bias(call)), -1)

    def stored_bias(self, call: KernelCall) -> Tensor | None:
        """The bias as integers."""
        if call.bias is None:
            return None
        assert call.weight_qparams is not None
        return self.bias(call.bias, call.in_qparams[0], call.weight_qparams)


def product(call: KernelCall) -> Tensor:
    """`rint(f32(a' * b') * f32(f32(s_a * s_b) / s_y)) + z_y` of two activations, element by element."""
    a, b = call.in_qparams
    ratio = a.scale_tensor() * b.scale_tensor() / call.out_qparams.scale_tensor()
    return rounded(call, (centered(call, 0) * centered(call, 1)).float() * ratio)


def concat(call: KernelCall) -> Tensor:
    """Inputs with the output's own parameters, joined."""
    return torch.cat(call.inputs, call.attrs["dim"]).clamp(*call.clamp)


def quantize_by_reciprocal(x: Tensor, qp: QParams) -> Tensor:
    """Float -> int32: `rint(x * f32(1 / scale)) + zero_point`, clamped to [qmin, qmax]."""
    inverse = 1.0 / qp.scale_tensor()
    return (torch.round(x * inverse) + qp.zero_point[0]).clamp(qp.qmin, qp.qmax).to(torch.int32)


def clamp_integers(attrs: Mapping[str, Any], qp: QParams, quantize: Quantize) -> tuple[int, int]:
    """The integers of the bounds of relu, hardtanh or clamp by numbers; those of the type where there is none."""
    low = attrs.get("min_val", attrs.get("min", 0.0))
    high = attrs.get("max_val", attrs.get("max"))
    return (
        qp.qmin if low is None else as_integer(low, qp, quantize),
        qp.qmax if high is None else as_integer(high, qp, quantize),
    )


def clamp_alone(quantize: Quantize) -> Kernel:
    """relu, hardtanh or clamp by numbers, standing alone: the op's bounds as integers, parameters kept."""
    return lambda call: (
        call.inputs[0].clamp(*clamp_integers(call.attrs, call.in_qparams[0], quantize)).clamp(*call.clamp)
    )


def as_integer(value: float | None, qp: QParams, quantize: Quantize) -> int:
    """The integer that stands for a number (None: 0), as that of a pad."""
    return int(quantize(torch.tensor([float(value or 0.0)]), qp))


def table(function: Callable[[Tensor], Tensor], quantize: Quantize) -> Kernel:
    """A unary op as a table: dequantize, `function` in float32, quantize."""
    return lambda call: lookup(call, function, quantize)


def gelu_table(quantize: Quantize) -> Kernel:
    """Gelu as a table, `approximate` as the aten op says."""
    return lambda call: lookup(call, lambda x: F.gelu(x, approximate=call.attrs["approximate"]), quantize)


def pool_sizes(attrs: Mapping[str, Any], key: str, spatial: int) -> list[int]:
    """One number for each spatial axis; an absent stride is the kernel size, [n] stands for every axis."""
    value = attrs[key] if attrs[key] or key != "stride" else attrs["kernel_size"]
    values = [value] if isinstance(value, int) else list(value)
    return values * spatial if len(values) == 1 else values


def max_pool(call: KernelCall) -> Tensor:
    """Max pooling over 1, 2 or 3 spatial axes, on the integers."""
    x, attrs = call.inputs[0], call.attrs
    spatial = x.ndim - 2
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[spatial - 1]
    sizes = [pool_sizes(attrs, key, spatial) for key in ("kernel_size", "stride", "padding", "dilation")]
    largest: Tensor = pool(x.float(), *sizes, ceil_mode=attrs["ceil_mode"])
    return largest.to(torch.int32).clamp(*call.clamp)


def upsample_nearest(call: KernelCall) -> Tensor:
    """Nearest resize (asymmetric, floor) on the integers."""
    attrs = call.attrs
    size, factors = attrs["output_size"], attrs["scale_factors"]
    resized = F.interpolate(call.inputs[0].float(), size=size, scale_factor=factors, mode="nearest")
    return resized.to(torch.int32).clamp(*call.clamp)
