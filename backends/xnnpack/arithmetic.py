"""The integer arithmetic of XNNPACK's int8 kernels, as LiteRT 2.3 and ExecuTorch 1.5 run them.

Settled on x86-64 VNNI; the tests of both backends confirm it on random, extreme and tie-rich integers:

* add, sub: fixed point. With r = s / s_y and 2**k the largest power of two that the larger r reaches, multipliers
  are rint(r * 2**(20 - k)); halves of the sum round up.
* mul: `rint(f32(a' * b') * f32(f32(s_a * s_b) / s_y)) + z_y`, halves to even.
* leaky_relu: multipliers of 8 fractional bits on both sides, halves up.
* quantize: `rint(x * f32(1 / s)) + z`. Sigmoid and tanh: a table of 256 entries through float32.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...compiler.quant.arithmetic import Kernel, KernelCall, centered, lookup
from ...compiler.quant.kernels import product, quantize_by_reciprocal, table
from ...compiler.quant.qparams import QParams, QSpec

INT8 = QSpec(-128, 127, torch.int8)
WEIGHT = QSpec(-127, 127, torch.int8, symmetric=True, per_channel=True)


def int8(scale: float, zero_point: int) -> QParams:
    return QParams((scale,), (zero_point,), -128, 127, torch.int8)


# Sigmoid's result, also that of the gate inside silu; tanh's.
PROBABILITY = int8(1 / 256, -128)
TANH = int8(1 / 128, 0)

quantize = quantize_by_reciprocal


def add(call: KernelCall, sign: int = 1) -> Tensor:
    """qs8 vadd; with `sign` -1, vsub."""
    scale = call.out_qparams.scale_tensor()
    ratios = [qp.scale_tensor() / scale for qp in call.in_qparams]
    shift = 20 - (math.frexp(max(float(ratio) for ratio in ratios))[1] - 1)
    a, b = (int(torch.round(ratio.double() * 2.0**shift)) for ratio in ratios)
    total = centered(call, 0).to(torch.int64) * a + centered(call, 1).to(torch.int64) * (b * sign)
    rounded = (total + (1 << (shift - 1))) >> shift
    return (rounded + call.out_qparams.zero_point[0]).clamp(*call.clamp).to(torch.int32)


def sub(call: KernelCall) -> Tensor:
    """qs8 vsub."""
    return add(call, -1)


def leaky_relu(call: KernelCall) -> Tensor:
    """qs8 vlrelu."""
    ratio = call.in_qparams[0].scale_tensor() / call.out_qparams.scale_tensor()
    slope = torch.tensor(call.attrs["negative_slope"], dtype=torch.float32)
    x = centered(call).to(torch.int64)
    multipliers = [int(torch.round(factor * 256)) for factor in (ratio, ratio * slope)]
    scaled = (torch.where(x >= 0, x * multipliers[0], x * multipliers[1]) + 128) >> 8
    return (scaled + call.out_qparams.zero_point[0]).clamp(*call.clamp).to(torch.int32)


def elementwise(function: Callable[[Tensor], Tensor]) -> Kernel:
    """A unary op as a table."""
    return table(function, quantize)


def gated(call: KernelCall, gate: Callable[[KernelCall], Tensor], qp: QParams, mul: Kernel = product) -> Tensor:
    """x times what `gate` makes of it, which is rounded to `qp`."""
    found = gate(dataclasses.replace(call, out_qparams=qp, clamp=(qp.qmin, qp.qmax)))
    inputs, in_qparams = (call.inputs[0], found.to(torch.int32)), (call.in_qparams[0], qp)
    return mul(dataclasses.replace(call, inputs=inputs, in_qparams=in_qparams))


def sigmoid(call: KernelCall) -> Tensor:
    """A table."""
    return lookup(call, torch.sigmoid, quantize)
