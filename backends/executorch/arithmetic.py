"""The integer arithmetic of XNNPACK's int8 kernels as ExecuTorch calls them, op by op.

Settled against executorch 1.5.1 on x86-64 with AVX-512 VNNI, activations int8 [-128, 127], weights int8 symmetric;
`tests/backends/executorch/test_ops.py` confirms each kernel on random and extreme integers:

* Convolution (dense, grouped, depthwise, transposed, 1d) and fully connected:
  `rint(f32(acc + bias) * f32(f32(s_x * s_w) / s_y)) + z_y`, halves to even. The bias is int32: ExecuTorch's
  serializer makes it of a float one with the reciprocal of s_x * s_w (`stored_bias`).
* The mean over height and width is a fully connected layer over the pixels: the same.
* add, sub: `(bias + a * m_a + b * m_b) >> shift`, multipliers of at most 21 bits, halves up.
* mul: `rint(f32(a' * b') * f32(f32(s_a * s_b) / s_y)) + z_y`, halves to even.
* leaky_relu: multipliers of 8 fractional bits, halves up.
* sigmoid, tanh, gelu, hardswish: a table of 256 entries through float32, rounded as quantize does. The functions
  are XNNPACK's own, so a table may be off by one where a value falls next to a rounding boundary (measured: 1 of
  256 entries at one of 52 choices of parameters, hardswish).
* silu is a sigmoid and a mul; hardsigmoid a depthwise convolution of one tap.
* quantize: `rint(x * f32(1 / s)) + z`, halves to even.
* Everything that moves, selects or bounds elements (views, max pool, slice, zero padding, cat, relu, hardtanh):
  the integers themselves; XNNPACK demands equal parameters.

No rule, hence float: average pools with windows, matmul, softmax, normalizations, nearest and bilinear upsampling,
3d convolutions, clamps by tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ...compiler.quant.arithmetic import (
    Kernel,
    KernelCall,
    accumulate_conv,
    accumulate_conv_transpose,
    accumulate_linear,
    centered,
    channel_shape,
    lookup,
)
from ...compiler.quant.program import IntegerStep
from ...compiler.quant.qparams import QParams

aten = torch.ops.aten


def quantize(x: Tensor, qp: QParams) -> Tensor:
    """xnn convert f32 -> qs8: `rint(x * f32(1 / scale)) + zero_point`, clamped."""
    scaled = torch.round(x * (1.0 / qp.scale_tensor())) + qp.zero_point[0]
    return scaled.clamp(qp.qmin, qp.qmax).to(torch.int32)


def conv(call: KernelCall) -> Tensor:
    """XNNPACK's convolution and depthwise convolution."""
    return _requantize(call, accumulate_conv(call, _integer_bias(call)), axis=1)


def conv_transpose(call: KernelCall) -> Tensor:
    """XNNPACK's deconvolution."""
    return _requantize(call, accumulate_conv_transpose(call, _integer_bias(call)), axis=1)


def linear(call: KernelCall) -> Tensor:
    """XNNPACK's fully connected layer: x [..., in], weight [out, in]."""
    return _requantize(call, accumulate_linear(call, _integer_bias(call)), axis=-1)


def float_bias(step: IntegerStep) -> Tensor:
    """The float32 bias that is handed to ExecuTorch."""
    assert step.bias is not None
    assert step.weight_qparams is not None
    return _float_bias(step.bias, step.in_qparams[0], step.weight_qparams)


def _float_bias(bias: Tensor, in_qparams: QParams, weight_qparams: QParams) -> Tensor:
    if bias.is_floating_point():
        return bias
    return bias.float() * (in_qparams.scale_tensor() * weight_qparams.scale_tensor())


def stored_bias(bias: Tensor, in_qparams: QParams, weight_qparams: QParams) -> Tensor:
    """The int32 bias that ExecuTorch's serializer makes of `bias`: times the reciprocal of s_x * s_w, which it
    takes in float32 from a scale for each channel, in float64 from a single one."""
    given = _float_bias(bias, in_qparams, weight_qparams)
    if weight_qparams.per_channel:
        inverse = 1.0 / (weight_qparams.scale_tensor() * in_qparams.scale[0])
        rounded = torch.round(given * inverse)
    else:
        rounded = torch.round(given * (1.0 / (weight_qparams.scale[0] * in_qparams.scale[0])))
    return rounded.clamp(-(2**31), 2**31 - 1).to(torch.int32)


def add(call: KernelCall) -> Tensor:
    """qs8 vadd: 21-bit fixed-point multipliers of both inputs, halves up."""
    (a, b), (qa, qb) = call.inputs, call.in_qparams
    return _add_fixed(call, a, b, qa, qb, 1)


def sub(call: KernelCall) -> Tensor:
    """qs8 vsub: `add` with the second multiplier negative."""
    (a, b), (qa, qb) = call.inputs, call.in_qparams
    return _add_fixed(call, a, b, qa, qb, -1)


def _add_fixed(call: KernelCall, a: Tensor, b: Tensor, qa: QParams, qb: QParams, sign: int) -> Tensor:
    scale = call.out_qparams.scale_tensor()
    ratio_a, ratio_b = qa.scale_tensor() / scale, qb.scale_tensor() / scale
    exponent = int(torch.frexp(torch.maximum(ratio_a, ratio_b)).exponent) - 1
    shift = 20 - exponent
    by_a = int(torch.round(torch.ldexp(ratio_a, torch.tensor(shift))))
    by_b = sign * int(torch.round(torch.ldexp(ratio_b, torch.tensor(shift))))
    bias = (1 << (shift - 1)) - by_a * qa.zero_point[0] - by_b * qb.zero_point[0]
    total = (a.to(torch.int64) * by_a + b.to(torch.int64) * by_b + bias) >> shift
    return (total + call.out_qparams.zero_point[0]).clamp(*call.clamp).to(torch.int32)


def mul(call: KernelCall) -> Tensor:
    """qs8 vmul."""
    a, b = call.in_qparams
    ratio = a.scale_tensor() * b.scale_tensor() / call.out_qparams.scale_tensor()
    return _round(call, (centered(call, 0) * centered(call, 1)).float() * ratio)


def concat(call: KernelCall) -> Tensor:
    """Concatenation of inputs with the output's own parameters: the integers themselves."""
    return torch.cat(call.inputs, call.attrs["dim"]).clamp(*call.clamp)


def spatial_mean(call: KernelCall) -> Tensor:
    """The mean over height and width as `emit_steps` writes it: a layer whose weights are all 1."""
    x = centered(call)
    weight_scale = mean_weight(x.shape[2] * x.shape[3]).scale_tensor()
    total = x.sum([2, 3], keepdim=call.attrs.get("keepdim", True), dtype=torch.int64)
    multiplier = call.in_qparams[0].scale_tensor() * weight_scale / call.out_qparams.scale_tensor()
    return _round(call, total.float() * multiplier)


def mean_weight(pixels: int) -> QParams:
    """Parameters of the ones that stand for a mean over `pixels`."""
    return QParams((1 / pixels,), (0,), -127, 127, torch.int8)


def clamp(call: KernelCall) -> Tensor:
    """relu, hardtanh or clamp by numbers, standing alone: the op's bounds as integers, parameters kept."""
    attrs, qp = call.attrs, call.in_qparams[0]
    low = attrs.get("min_val", attrs.get("min", 0.0))
    high = attrs.get("max_val", attrs.get("max"))
    low_integer = qp.qmin if low is None else int(quantize(torch.tensor([float(low)]), qp))
    high_integer = qp.qmax if high is None else int(quantize(torch.tensor([float(high)]), qp))
    return call.inputs[0].clamp(low_integer, high_integer).clamp(*call.clamp)


def elementwise(function: Callable[[Tensor], Tensor]) -> Kernel:
    """A unary op as a table."""
    return lambda call: lookup(call, function, quantize)


def leaky_relu(call: KernelCall) -> Tensor:
    """qs8 vlrelu: multipliers of 8 fractional bits on both sides, halves up."""
    ratio = call.in_qparams[0].scale_tensor() / call.out_qparams.scale_tensor()
    slope = torch.tensor(call.attrs["negative_slope"], dtype=torch.float32)
    positive, negative = int(torch.round(256 * ratio)), int(torch.round(256 * (ratio * slope)))
    x = centered(call)
    total = x * torch.where(x > 0, positive, negative) + 128 + (call.out_qparams.zero_point[0] << 8)
    return (total >> 8).clamp(*call.clamp)


# Sigmoid's result; also that of the gate inside silu.
PROBABILITY = QParams((1 / 256,), (-128,), -128, 127, torch.int8)


def silu(call: KernelCall) -> Tensor:
    """x times its sigmoid, which is int8 too."""
    gate_call = dataclasses.replace(call, out_qparams=PROBABILITY, clamp=(-128, 127))
    gate = lookup(gate_call, torch.sigmoid, quantize)
    qparams = (call.in_qparams[0], PROBABILITY)
    return mul(dataclasses.replace(call, inputs=(call.inputs[0], gate), in_qparams=qparams))


# x / 6 as a depthwise tap: 127 of this scale.
SIXTH = QParams((1 / (6 * 127),), (0,), -127, 127, torch.int8)


def hardsigmoid(call: KernelCall) -> Tensor:
    """A depthwise tap of 1 / 6 with a bias of 0.5; the output's own range bounds it."""
    bias = stored_bias(torch.tensor([0.5]), call.in_qparams[0], SIXTH)
    total = (centered(call) * 127 + bias).float()
    multiplier = call.in_qparams[0].scale_tensor() * SIXTH.scale_tensor() / call.out_qparams.scale_tensor()
    return _round(call, total * multiplier)


def gelu(call: KernelCall) -> Tensor:
    """Gelu, `approximate` as the aten op says."""
    return lookup(call, lambda x: F.gelu(x, approximate=call.attrs["approximate"]), quantize)


def max_pool(call: KernelCall) -> Tensor:
    """Max pooling on the integers."""
    largest: Tensor = aten.max_pool2d(call.inputs[0].float(), **call.attrs)
    return largest.to(torch.int32).clamp(*call.clamp)


def pad(call: KernelCall) -> Tensor:
    """Zero padding on the integers."""
    zero = call.in_qparams[0].zero_point[0]
    return F.pad(call.inputs[0], call.attrs["pad"], value=zero).clamp(*call.clamp)


def _integer_bias(call: KernelCall) -> Tensor | None:
    if call.bias is None:
        return None
    assert call.weight_qparams is not None
    return stored_bias(call.bias, call.in_qparams[0], call.weight_qparams)


def _requantize(call: KernelCall, total: Tensor, axis: int) -> Tensor:
    """`total` is overwritten."""
    assert call.weight_qparams is not None
    scale = call.in_qparams[0].scale_tensor() * call.weight_qparams.scale_tensor()
    multiplier = scale / call.out_qparams.scale_tensor()
    return _round(call, total.float().mul_(channel_shape(multiplier, total.ndim, axis)))


def _round(call: KernelCall, scaled: Tensor) -> Tensor:
    """`scaled` is overwritten."""
    scaled.round_().add_(call.out_qparams.zero_point[0])
    return scaled.clamp_(*call.clamp).to(call.out_qparams.dtype)
