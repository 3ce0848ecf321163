"""The 31-bit fixed-point arithmetic of TFLite's own kernels, which run what XNNPACK leaves to them.

A real factor is an integer of 31 bits and a power of two. Three roundings of `total · factor` are in use (LiteRT
2.3 on x86-64): `twice`, at the product and at the shift, halves away from zero (elementwise kernels, most matrix
products); `twice_up`, the same with halves up (convolutions); `once`, halves up (matrix products by ruy).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...compiler.quant.arithmetic import KernelCall, centered

# XNNPACK takes sums and products whose scales are in these ratios to the output's (first included, last not).
_SUM_RATIOS = (2.0**-10, 2.0**8)
_PRODUCT_RATIOS = (2.0**-16, 2.0**8)

# Bits that the operands of a sum are shifted left by, before they are scaled.
_HEADROOM = 20


def twice(total: Tensor, factor: float) -> Tensor:
    """`total` (int64) times `factor`: MultiplyByQuantizedMultiplier of gemmlowp."""
    multiplier, exponent = _parts(factor)
    left, right = max(exponent, 0), max(-exponent, 0)
    product = total * (1 << left) * multiplier
    nudge = torch.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = torch.div(product + nudge, 1 << 31, rounding_mode="trunc")
    mask = (1 << right) - 1
    threshold = (mask >> 1) + (high < 0).to(torch.int64)
    return (high >> right) + ((high & mask) > threshold).to(torch.int64)


def twice_up(total: Tensor, factor: float) -> Tensor:
    """The same with halves up; `factor` is below 1."""
    multiplier, exponent = _parts(factor)
    high = (total * multiplier + (1 << 30)) >> 31
    return high if exponent == 0 else (high + (1 << (-exponent - 1))) >> -exponent


def once(total: Tensor, factor: float) -> Tensor:
    """The same with one rounding, halves up."""
    multiplier, exponent = _parts(factor)
    shift = 31 - exponent
    return (total * multiplier + (1 << (shift - 1))) >> shift


def sum_is_delegated(call: KernelCall) -> bool:
    """Whether XNNPACK takes an ADD or SUB of these scales."""
    scale = call.out_qparams.scale[0]
    return all(_SUM_RATIOS[0] <= qp.scale[0] / scale < _SUM_RATIOS[1] for qp in call.in_qparams)


def product_is_delegated(call: KernelCall) -> bool:
    """Whether XNNPACK takes a MUL of these scales."""
    a, b = call.in_qparams
    return _PRODUCT_RATIOS[0] <= a.scale[0] * b.scale[0] / call.out_qparams.scale[0] < _PRODUCT_RATIOS[1]


def add(call: KernelCall, sign: int = 1) -> Tensor:
    """ADD, and SUB with `sign` -1, in TFLite's own kernel: both operands on twice the larger scale."""
    scales = [float(qp.scale[0]) for qp in call.in_qparams]
    widest = 2 * max(scales)
    a, b = (
        twice(centered(call, index).to(torch.int64) << _HEADROOM, scale / widest)
        for index, scale in enumerate(scales)
    )
    scaled = twice(a + sign * b, widest / ((1 << _HEADROOM) * float(call.out_qparams.scale[0])))
    return _finish(call, scaled)


def mul(call: KernelCall) -> Tensor:
    """MUL in TFLite's own kernel."""
    a, b = (float(qp.scale[0]) for qp in call.in_qparams)
    product = centered(call, 0).to(torch.int64) * centered(call, 1).to(torch.int64)
    return _finish(call, twice(product, a * b / float(call.out_qparams.scale[0])))


def _finish(call: KernelCall, scaled: Tensor) -> Tensor:
    return (scaled + call.out_qparams.zero_point[0]).clamp(*call.clamp).to(torch.int32)


def _parts(factor: float) -> tuple[int, int]:
    """A 31-bit integer and the exponent of two beside it that stand for `factor`."""
    mantissa, exponent = math.frexp(factor)
    multiplier = math.floor(mantissa * 2**31 + 0.5)
    return (multiplier // 2, exponent + 1) if multiplier == 2**31 else (multiplier, exponent)
