"""What a strongly typed TensorRT engine is told to compute, op by op: int8 products, float epilogue.

Products are summed in int32; scales, bias, residual and activation are float32, and one quantize step ends each
region, `rint(y / s)`, halves to even, saturated to [-128, 127]. No TensorRT was at hand: these kernels follow the
model's own meaning (its ONNX operators, run one by one in onnxruntime), from which an engine may differ where a
value lies next to a rounding boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...compiler.quant.arithmetic import (
    Kernel,
    KernelCall,
    accumulate_conv,
    accumulate_linear,
    accumulate_matmul,
    channel_shape,
)
from ...compiler.quant.qparams import dequantize, quantize
from ..onnx.arithmetic import pool_sizes


def conv(call: KernelCall) -> Tensor:
    """A convolution, its bias, a residual where there is one, and what follows."""
    real = _with_bias(call, accumulate_conv(call), axis=1)
    if len(call.inputs) > 1:
        real = real + call.inputs[1].float() * call.in_qparams[1].scale_tensor()
    return _finished(call, real)


def linear(call: KernelCall) -> Tensor:
    """x [..., in] times weight [out, in]."""
    return _finished(call, _with_bias(call, accumulate_linear(call), axis=-1))


def matmul(call: KernelCall) -> Tensor:
    """Two activations."""
    a, b = call.in_qparams
    return _finished(call, accumulate_matmul(call).float() * (a.scale_tensor() * b.scale_tensor()))


def floats(function: Callable[..., Tensor]) -> Kernel:
    """An op on dequantized values: `function` of them and the other arguments."""

    def kernel(call: KernelCall) -> Tensor:
        values = (dequantize(x, qp) for x, qp in zip(call.inputs, call.in_qparams, strict=True))
        return _finished(call, function(*values, **call.attrs))

    return kernel


def average_pool(call: KernelCall) -> Tensor:
    """Windows of 1, 2 or 3 axes."""
    x, attrs = dequantize(call.inputs[0], call.in_qparams[0]), call.attrs
    spatial = x.ndim - 2
    pool: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[spatial - 1]
    sizes = [pool_sizes(attrs, key, spatial) for key in ("kernel_size", "stride", "padding")]
    return _finished(call, pool(x, *sizes, attrs["ceil_mode"], attrs["count_include_pad"]))


def global_average(call: KernelCall) -> Tensor:
    """adaptive_avg_pool(…, 1), or the mean over every axis from 2 on."""
    x = dequantize(call.inputs[0], call.in_qparams[0])
    return _finished(call, x.mean(list(range(2, x.ndim)), keepdim=call.attrs.get("keepdim", True)))


def concat(call: KernelCall) -> Tensor:
    """Integers of equal parameters side by side."""
    parts: Sequence[Tensor] = call.inputs
    return torch.cat(list(parts), call.attrs["dim"]).clamp(*call.clamp).to(torch.int32)


def _with_bias(call: KernelCall, total: Tensor, axis: int) -> Tensor:
    assert call.weight_qparams is not None
    scale = call.in_qparams[0].scale_tensor() * call.weight_qparams.scale_tensor()
    real = total.float() * channel_shape(scale, total.ndim, axis)
    return real if call.bias is None else real + channel_shape(call.bias, total.ndim, axis)


def _finished(call: KernelCall, real: Tensor) -> Tensor:
    for function in call.after:
        real = function(real)
    return quantize(real, call.out_qparams).clamp(*call.clamp)
