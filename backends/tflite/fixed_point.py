"""The 31-bit fixed-point arithmetic of TFLite's own kernels, which run what XNNPACK leaves to them.

A real factor is an integer of 31 bits and a power of two. Three roundings of `total · factor` are in use (LiteRT
2.3 on x86-64): `twice`, at the product and at the shift, halves away from zero (elementwise kernels, most matrix
products); `twice_up`, the same with halves up (layers); `once`, halves up (matrix products by ruy). `builtin` says
which kernel takes which.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...compiler.quant.arithmetic import KernelCall, centered

# XNNPACK takes sums and products whose scales are in these ratios to the output's (first included, last not).
_SUM_RATIOS = (2.0**-10, 2.0**8)
_PRODUCT_RATIOS = (2.0**-16, 2.0**8)

# Bits that the operands of a sum are shifted left by, before they are scaled.
_HEADROOM = 20


def twice(total: Tensor, factor: float | Tensor) -> Tensor:
    """`total` (int64) times `factor`: MultiplyByQuantizedMultiplier of gemmlowp."""
    return twice_by(total, *parts(factor))


def twice_by(total: Tensor, multiplier: Tensor, exponent: Tensor) -> Tensor:
    """The same for a factor in `parts`."""
    left, right = exponent.clamp(min=0), (-exponent).clamp(min=0)
    product = (total << left) * multiplier
    nudge = torch.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = torch.div(product + nudge, 1 << 31, rounding_mode="trunc")
    mask = (torch.ones_like(right) << right) - 1
    threshold = (mask >> 1) + (high < 0).to(torch.int64)
    return (high >> right) + ((high & mask) > threshold).to(torch.int64)


def twice_up(total: Tensor, factor: float | Tensor) -> Tensor:
    """The same with halves up."""
    multiplier, exponent = parts(factor)
    left, right = exponent.clamp(min=0), (-exponent).clamp(min=0)
    high = ((total << left) * multiplier + (1 << 30)) >> 31
    half = (torch.ones_like(right) << right) >> 1
    return (high + half) >> right


def once(total: Tensor, factor: float | Tensor) -> Tensor:
    """The same with one rounding, halves up."""
    multiplier, exponent = parts(factor)
    shift = 31 - exponent
    return (total * multiplier + (torch.ones_like(shift) << (shift - 1))) >> shift


def sum_is_delegated(call: KernelCall) -> bool:
    """Whether XNNPACK takes an ADD or SUB of these scales."""
    scale = call.out_qparams.scale[0]
    return all(_SUM_RATIOS[0] <= qp.scale[0] / scale < _SUM_RATIOS[1] for qp in call.in_qparams)


def product_is_delegated(call: KernelCall) -> bool:
    """Whether XNNPACK takes a MUL of these scales."""
    a, b = call.in_qparams
    return _PRODUCT_RATIOS[0] <= a.scale[0] * b.scale[0] / call.out_qparams.scale[0] < _PRODUCT_RATIOS[1]


def add(call: KernelCall, sign: int = 1) -> Tensor:
    """ADD, and SUB with `sign` -1, in TFLite's own kernel: both operands on twice the larger scale.

    An ADD whose operands have the same channels takes 16 elements at a time, and shifts before it multiplies; the
    last few elements (fewer than 16) it adds as a SUB does, which is not followed here: 1 LSB where sums lie next
    to a rounding boundary.
    """
    vectors = sign == 1 and _channels(call.inputs[0]) == _channels(call.inputs[1])
    scales = [float(qp.scale[0]) for qp in call.in_qparams]
    widest = 2 * max(scales)
    a, b = (
        _scaled_operand(centered(call, index).to(torch.int64), scale / widest, vectors)
        for index, scale in enumerate(scales)
    )
    scaled = twice(a + sign * b, widest / ((1 << _HEADROOM) * float(call.out_qparams.scale[0])))
    return _finish(call, scaled)


def _scaled_operand(x: Tensor, factor: float, shift_first: bool) -> Tensor:
    multiplier, exponent = parts(factor)
    if not shift_first or int(exponent) < -_HEADROOM:
        return twice_by(x << _HEADROOM, multiplier, exponent)
    return twice_by(x << (_HEADROOM + exponent), multiplier, torch.zeros_like(exponent))


def _channels(x: Tensor) -> int:
    """The size of what is innermost in TFLite: axis 1 of images and sequences, else the last."""
    return x.shape[1 if x.ndim > 2 else -1] if x.ndim else 1


def mul(call: KernelCall) -> Tensor:
    """MUL in TFLite's own kernel."""
    a, b = (float(qp.scale[0]) for qp in call.in_qparams)
    product = centered(call, 0).to(torch.int64) * centered(call, 1).to(torch.int64)
    return _finish(call, twice(product, a * b / float(call.out_qparams.scale[0])))


def _finish(call: KernelCall, scaled: Tensor) -> Tensor:
    return (scaled + call.out_qparams.zero_point[0]).clamp(*call.clamp).to(torch.int32)


def parts(factor: float | Tensor) -> tuple[Tensor, Tensor]:
    """A 31-bit integer and the exponent of two beside it that stand for `factor`, int64 of its shape."""
    mantissa, exponent = torch.frexp(torch.as_tensor(factor, dtype=torch.float64))
    multiplier = torch.floor(mantissa * 2**31 + 0.5).to(torch.int64)
    full = (multiplier == 2**31).to(torch.int64)
    return multiplier >> full, exponent.to(torch.int64) + full
