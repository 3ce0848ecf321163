"""The integer arithmetic of XNNPACK's int8 kernels as ExecuTorch calls them, op by op.

Settled against executorch 1.5.1 on x86-64 with AVX-512 VNNI, activations int8 [-128, 127], weights int8 symmetric;
`tests/backends/executorch/test_ops.py` confirms each kernel on random and extreme integers:

* Convolution (dense, grouped, depthwise, transposed, 1d) and fully connected:
  `rint(f32(acc + bias) * f32(f32(s_x * s_w) / s_y)) + z_y`, halves to even. The bias is int32: ExecuTorch's
  serializer makes it of a float one with the reciprocal of s_x * s_w (`stored_bias`).
* The mean over height and width is a fully connected layer over the pixels: the same.
* add, sub, mul, leaky_relu, quantize: as `backends/xnnpack` has them.
* sigmoid, tanh, gelu, hardswish: a table of 256 entries through float32, rounded as quantize does. The functions
  are XNNPACK's own, so a table may be off by one where a value falls next to a rounding boundary (measured: 1 of
  256 entries at one of 52 choices of parameters, hardswish).
* silu is a sigmoid and a mul; hardsigmoid a depthwise convolution of one tap.
* Everything that moves, selects or bounds elements (views, max pool, slice, zero padding, cat, relu, hardtanh):
  the integers themselves; XNNPACK demands equal parameters.

No rule, hence float: average pools with windows, matmul, softmax, normalizations, nearest and bilinear upsampling,
3d convolutions, clamps by tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...compiler.quant.arithmetic import KernelCall, centered
from ...compiler.quant.kernels import LayerKernels, rounded
from ...compiler.quant.program import IntegerStep
from ...compiler.quant.qparams import QParams
from ..xnnpack.arithmetic import PROBABILITY, gated, sigmoid


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


layers = LayerKernels(bias=stored_bias)


def silu(call: KernelCall) -> Tensor:
    """x times its sigmoid, which is int8 too."""
    return gated(call, sigmoid, PROBABILITY)


def spatial_mean(call: KernelCall) -> Tensor:
    """The mean over height and width as `emit_steps` writes it: a layer whose weights are all 1."""
    x = centered(call)
    weight_scale = mean_weight(x.shape[2] * x.shape[3]).scale_tensor()
    total = x.sum([2, 3], keepdim=call.attrs.get("keepdim", True), dtype=torch.int64)
    multiplier = call.in_qparams[0].scale_tensor() * weight_scale / call.out_qparams.scale_tensor()
    return rounded(call, total.float() * multiplier)


def mean_weight(pixels: int) -> QParams:
    """Parameters of the ones that stand for a mean over `pixels`."""
    return QParams((1 / pixels,), (0,), -127, 127, torch.int8)


# x / 6 as a depthwise tap: 127 of this scale.
SIXTH = QParams((1 / (6 * 127),), (0,), -127, 127, torch.int8)


def hardsigmoid(call: KernelCall) -> Tensor:
    """A depthwise tap of 1 / 6 with a bias of 0.5; the output's own range bounds it."""
    bias = stored_bias(torch.tensor([0.5]), call.in_qparams[0], SIXTH)
    total = (centered(call) * 127 + bias).float()
    multiplier = call.in_qparams[0].scale_tensor() * SIXTH.scale_tensor() / call.out_qparams.scale_tensor()
    return rounded(call, total * multiplier)


def pad(call: KernelCall) -> Tensor:
    """Zero padding on the integers."""
    zero = call.in_qparams[0].zero_point[0]
    return F.pad(call.inputs[0], call.attrs["pad"], value=zero).clamp(*call.clamp)
