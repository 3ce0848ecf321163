"""onnxruntime's integer kernels on arm64, where they compute otherwise than on x86-64 (`arithmetic`).

Settled against onnxruntime 1.31 for aarch64 on emulated processors with and without dot products (Cortex-A72,
Neoverse N1, Neoverse V1: the same integers), optimizer at ORT_ENABLE_ALL and off:

* QLinearAdd: fixed point. With r = s / s_y and 2**k the largest power of two that the larger r reaches, the
  multipliers are rint(r * 2**(21 - k)); halves of the sum go away from zero. With a ratio outside [2**-14, 2**8),
  or a larger one below 2**-10, the sum is in float32.
* QLinearMul: the product and the zero point in one fused multiply-add; x86 rounds between them.
* HardSigmoid, HardSwish and SiLU are made of these two.

Everything else gives the integers of x86: products (nothing saturates), pools, concat, softmax, tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch._ops import OpOverload

from ...compiler.ir.ops import aten
from ...compiler.quant.arithmetic import Kernel, KernelCall, centered
from ...compiler.quant.qparams import dequantize
from .arithmetic import Gates

_SMALLEST_RATIO, _LARGEST_RATIO = 2.0**-14, 2.0**8
_SMALLEST_LARGER = 2.0**-10


def add(call: KernelCall) -> Tensor:
    """QLinearAdd."""
    ratios = [qp.scale_tensor() / call.out_qparams.scale_tensor() for qp in call.in_qparams]
    low, high = sorted(map(float, ratios))
    if low < _SMALLEST_RATIO or not _SMALLEST_LARGER <= high < _LARGEST_RATIO:
        return _float_sum(call)
    shift = 22 - math.frexp(high)[1]
    a, b = (int(torch.round(ratio.double() * 2.0**shift)) for ratio in ratios)
    total = centered(call, 0).to(torch.int64) * a + centered(call, 1).to(torch.int64) * b
    away = total - (total < 0).to(torch.int64) + (1 << (shift - 1)) >> shift
    return (away + call.out_qparams.zero_point[0]).clamp(*call.clamp).to(torch.int32)


def _float_sum(call: KernelCall) -> Tensor:
    """The sum of the dequantized operands over the scale; the zero point is added before rounding."""
    qp = call.out_qparams
    a, b = (dequantize(x, each) for x, each in zip(call.inputs, call.in_qparams, strict=True))
    real = ((a + b) / qp.scale_tensor()).clamp(qp.qmin - qp.zero_point[0], qp.qmax - qp.zero_point[0])
    return torch.round(real + qp.zero_point[0]).clamp(*call.clamp).to(torch.int32)


def mul(call: KernelCall) -> Tensor:
    """QLinearMul."""
    a, b = call.in_qparams
    ratio = a.scale_tensor() * b.scale_tensor() / call.out_qparams.scale_tensor()
    product = (centered(call, 0) * centered(call, 1)).double() * ratio.double()
    fused = (product + call.out_qparams.zero_point[0]).float()
    return torch.round(fused).clamp(*call.clamp).to(torch.int32)


_gates = Gates(add, mul)
KERNELS: Mapping[OpOverload, Kernel] = {
    aten.add.Tensor: add,
    aten.mul.Tensor: mul,
    aten.hardsigmoid.default: _gates.hardsigmoid,
    aten.hardswish.default: _gates.hardswish,
    aten.silu.default: _gates.silu,
}
