"""The integer arithmetic of `torch.ops.quantized`, op by op, under the engines fbgemm, x86 and onednn.

Settled against torch 2.13 on x86-64 with AVX-512 VNNI and with AVX2, activations quint8 [0, 255], weights qint8
symmetric; `tests/backends/torchscript/test_ops.py` confirms each kernel on random, extreme and tie-rich integers:

* Conv and transposed conv under fbgemm, linear under fbgemm and x86: `rint((f32(acc) + b / f32(s_x * s_w)) *
  f32(f32(s_x * s_w) / s_y)) + z_y`, halves to even. With one scale for the whole weight the bias is multiplied
  by the reciprocal instead, and the compiler has made one instruction of that and the addition: `fma(b, f32(1 /
  f32(s_x * s_w)), f32(acc))`. Two roundings differ from it in one of 2 million integers (measured on AVX2).
* Conv under x86 and onednn, transposed conv where oneDNN runs it: `rint(((f32(acc) * s_x) * s_w + b) * f32(1 /
  s_y) + z_y)`. The zero point is added before rounding; s_x went through its reciprocal in float32, twice.
  Linear under onednn: the same, with s_w through its reciprocal too. On AVX2 oneDNN multiplies s_x * s_w first,
  and the x86 engine takes fbgemm for everything: it asks for AVX512-VNNI.
* quantize_per_tensor: `rint(fma(x, f32(1 / s), z))`: one rounding before the integer's.
* mul: `rint(f32(a' * b') * (f32(s_a * s_b) * f32(1 / s_y))) + z_y`.
* add and the elementwise functions dequantize with a fused multiply-add, `fma(q, s, -(s * z))`, and quantize
  with f32(1 / s_y). Elements that do not fill a vector (the last `numel mod 128`, and the ends of each thread's
  share) go through a scalar loop that treats ties otherwise, so these state a tolerance of 1. Measured: no
  difference in 19,200 elements of random scales; 5 % of the elements of such a tail where s_y / s_x is a small
  whole ratio.
* Average pools, channels last: channels in whole vectors and the rest round differently (see `average_pool`,
  `adaptive_average_pool`); both are exact. They give the scale that they read, which is far too coarse for a mean
  over an image: it varies little. That one goes through float (`spatial_mean`), a few microseconds slower, to a
  scale of its own: mobilenet_v3_small under x86 11.7 -> 14.1 dB of signal over noise.
* Everything that moves, selects or bounds elements (views, max pool, nearest, pad, cat of equal parameters,
  relu, hardtanh): the integers themselves.

No rule, hence float: softmax, matmul, layer_norm, batch_norm, group_norm and embedding (torch's own kernels
convert to float and back, nothing is gained), gelu, silu, sub, div (no kernel), mean over other axes (a float
sum whose order depends on the layout), 1d and 3d average pools.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...compiler.quant.arithmetic import (
    Kernel,
    KernelCall,
    accumulate_conv,
    accumulate_conv_transpose,
    accumulate_linear,
    centered,
    channel_shape,
)
from ...compiler.quant.kernels import as_integer, clamp_alone
from ...compiler.quant.qparams import QParams, dequantize
from .transposed import TransposedShape, x86_takes_fbgemm

aten = torch.ops.aten


def quantize(x: Tensor, qp: QParams) -> Tensor:
    """quantize_per_tensor, float -> int32: `rint(fma(x, f32(1 / scale), zero_point))`, clamped to [qmin, qmax]."""
    inverse = 1.0 / qp.scale_tensor()
    shifted = (x.double() * inverse.double() + qp.zero_point[0]).float()
    return torch.round(shifted).clamp(qp.qmin, qp.qmax).to(torch.int32)


def fbgemm_conv(call: KernelCall) -> Tensor:
    """quantized::conv1d, conv2d, conv3d under fbgemm."""
    return _fbgemm_requantize(call, accumulate_conv(call), axis=1)


def fbgemm_conv_transpose(call: KernelCall) -> Tensor:
    """quantized::conv_transpose1d, 2d, 3d under fbgemm; one scale for the whole weight."""
    return _fbgemm_requantize(call, accumulate_conv_transpose(call), axis=1)


def fbgemm_linear(call: KernelCall) -> Tensor:
    """quantized::linear under fbgemm and x86: x [..., in], weight [out, in]."""
    return _fbgemm_requantize(call, accumulate_linear(call), axis=-1)


def onednn_conv(call: KernelCall, joined: bool = False) -> Tensor:
    """quantized::conv1d, conv2d, conv3d under onednn, and under x86 with at most 100 groups. `joined`: on AVX2."""
    assert call.weight_qparams is not None
    return _onednn_requantize(call, accumulate_conv(call), call.weight_qparams.scale_tensor(), 1, joined)


def onednn_conv_transpose(call: KernelCall, joined: bool = False) -> Tensor:
    """quantized::conv_transpose1d, 2d, 3d under onednn. `joined`: on AVX2."""
    assert call.weight_qparams is not None
    total = accumulate_conv_transpose(call)
    return _onednn_requantize(call, total, call.weight_qparams.scale_tensor(), 1, joined)


def x86_conv_transpose(call: KernelCall) -> Tensor:
    """quantized::conv_transpose1d, 2d, 3d under x86: fbgemm or oneDNN, as `transposed` sends it."""
    assert call.weight is not None
    shape = TransposedShape.of(tuple(call.weight.shape), call.attrs)
    return (fbgemm_conv_transpose if x86_takes_fbgemm(shape) else onednn_conv_transpose)(call)


def onednn_linear(call: KernelCall, joined: bool = False) -> Tensor:
    """quantized::linear under onednn. `joined`: on AVX2."""
    assert call.weight_qparams is not None
    scale = _through_reciprocal(call.weight_qparams.scale_tensor())
    return _onednn_requantize(call, accumulate_linear(call), scale, -1, joined)


def add(call: KernelCall) -> Tensor:
    """quantized::add and add_relu."""
    a, b = (_dequantize_fused(x, qp) for x, qp in zip(call.inputs, call.in_qparams, strict=True))
    return _finish(call, _quantize_vector(a + b, call.out_qparams))


def mul(call: KernelCall) -> Tensor:
    """quantized::mul and mul_relu."""
    a, b = call.in_qparams
    multiplier = a.scale_tensor() * b.scale_tensor() * (1.0 / call.out_qparams.scale_tensor())
    product = (centered(call, 0) * centered(call, 1)).float()
    return _finish(call, torch.round(product * multiplier) + call.out_qparams.zero_point[0])


clamp = clamp_alone(quantize)


def elementwise(function: Callable[[Tensor], Tensor]) -> Kernel:
    """A unary op as a table: dequantize, `function` in float32, quantize."""

    def kernel(call: KernelCall) -> Tensor:
        qp = call.in_qparams[0]
        grid = torch.arange(qp.qmin, qp.qmax + 1, dtype=torch.int32)
        table = _finish(call, _quantize_vector(function(_dequantize_fused(grid, qp)), call.out_qparams))
        return table[(call.inputs[0] - qp.qmin).long()]

    return kernel


def leaky_relu(call: KernelCall) -> Tensor:
    """quantized::leaky_relu."""
    slope = call.attrs["negative_slope"]
    return elementwise(lambda x: torch.nn.functional.leaky_relu(x, slope))(call)


def max_pool(call: KernelCall) -> Tensor:
    """max_pool1d, max_pool2d on the integers."""
    pool = aten.max_pool1d if call.inputs[0].ndim == 3 else aten.max_pool2d
    return _finish(call, pool(call.inputs[0].float(), **call.attrs))


def average_pool(call: KernelCall, lanes: int = 16) -> Tensor:
    """avg_pool2d on channels-last data: x [batch, channels, height, width].

    Channels in whole vectors of `lanes` (AVX-512: 16, AVX2: 8) give `rint(sum * f32(1 / n)) + z`, the rest
    `rint(sum * f32(1 / n) + z)`.
    """
    x, attrs = centered(call).double(), dict(call.attrs)
    total = torch.round(aten.avg_pool2d(x, **(attrs | {"divisor_override": 1})))
    ones = torch.ones_like(x[:1, :1])
    count = aten.avg_pool2d(ones, **(attrs | {"divisor_override": 1})) / aten.avg_pool2d(ones, **attrs)
    mean = total.float() * (1.0 / torch.round(count).float())
    zero_point = call.out_qparams.zero_point[0]
    return _by_vector(call, torch.round(mean) + zero_point, torch.round(mean + zero_point), lanes)


def adaptive_average_pool(call: KernelCall) -> Tensor:
    """adaptive_avg_pool2d on channels-last data.

    Channels in whole vectors of 8 give `rint(fma(sum, f32(1 / n), z))`, the rest `rint(sum * f32(1 / n) + z)`.
    """
    x = centered(call).double()
    mean = aten.adaptive_avg_pool2d(x, call.attrs["output_size"])
    count = _window_counts(x.shape[2], mean.shape[2])[:, None] * _window_counts(x.shape[3], mean.shape[3])
    total, inverse = torch.round(mean * count), 1.0 / count.float()
    zero_point = call.out_qparams.zero_point[0]
    fused = torch.round((total * inverse.double() + zero_point).float())
    return _by_vector(call, fused, torch.round(total.float() * inverse + zero_point), 8)


def spatial_mean(call: KernelCall) -> Tensor:
    """Mean over height and width: dequantize, avg_pool2d in float32 on channels-last data, quantize.

    The pool adds one position after the other, in the same order for every channel and vectors of any width.
    """
    (x,), (qp,) = call.inputs, call.in_qparams
    real = dequantize(x, qp).contiguous(memory_format=torch.channels_last)
    mean = quantize(aten.avg_pool2d(real, real.shape[2:]), call.out_qparams)
    return _finish(call, mean if call.attrs["keepdim"] else mean.flatten(1))


def upsample_nearest(call: KernelCall) -> Tensor:
    """upsample_nearest2d on the integers."""
    attrs = call.attrs
    resized = aten.upsample_nearest2d.vec(call.inputs[0].float(), attrs["output_size"], attrs["scale_factors"])
    return _finish(call, resized)


def pad(call: KernelCall) -> Tensor:
    """Constant padding on the integers; the constant is quantized first."""
    value = as_integer(call.attrs.get("value"), call.in_qparams[0], quantize)
    return aten.constant_pad_nd(call.inputs[0], call.attrs["pad"], value).clamp(*call.clamp)


def _fbgemm_requantize(call: KernelCall, total: Tensor, axis: int) -> Tensor:
    """`total` is overwritten."""
    assert call.weight_qparams is not None
    scale = call.in_qparams[0].scale_tensor() * call.weight_qparams.scale_tensor()
    sums = total.float()
    if call.bias is not None and call.weight_qparams.per_channel:
        sums.add_(channel_shape(call.bias / scale, total.ndim, axis))
    elif call.bias is not None:  # a fused multiply-add: float64 holds the product
        inverse = (1.0 / scale.double()).float()
        bias = call.bias.double() * inverse.double()
        sums = sums.double().add_(channel_shape(bias, total.ndim, axis)).float()
    multiplier = channel_shape(scale / call.out_qparams.scale_tensor(), total.ndim, axis)
    return _finish(call, sums.mul_(multiplier).round_().add_(call.out_qparams.zero_point[0]))


def _onednn_requantize(call: KernelCall, total: Tensor, weight_scale: Tensor, axis: int, joined: bool) -> Tensor:
    """`total` is overwritten. `joined`: the scales of input and weight are multiplied with each other first."""
    in_scale = _through_reciprocal(call.in_qparams[0].scale_tensor())
    if joined:
        real = total.float().mul_(channel_shape(in_scale * weight_scale, total.ndim, axis))
    else:
        real = total.float().mul_(in_scale).mul_(channel_shape(weight_scale, total.ndim, axis))
    if call.bias is not None:
        real.add_(channel_shape(call.bias, total.ndim, axis))
    real.mul_(1.0 / call.out_qparams.scale_tensor())
    return _finish(call, real.add_(call.out_qparams.zero_point[0]).round_())


def _through_reciprocal(scale: Tensor) -> Tensor:
    """f32(1 / f32(1 / scale)): oneDNN's wrapper keeps reciprocals of scales."""
    return (1.0 / (1.0 / scale.double()).float().double()).float()


def _dequantize_fused(q: Tensor, qp: QParams) -> Tensor:
    """fma(q, scale, f32(-scale * zero_point)), computed in float64 and rounded once."""
    scale = qp.scale_tensor()
    offset = -scale * qp.zero_point[0]
    return (q.double() * scale.double() + offset.double()).float()


def _quantize_vector(x: Tensor, qp: QParams) -> Tensor:
    """The vector loops of elementwise kernels: `rint(x * f32(1 / scale)) + zero_point`, not clamped."""
    return torch.round(x * (1.0 / qp.scale_tensor())) + qp.zero_point[0]


def _window_counts(size: int, windows: int) -> Tensor:
    """How many elements each adaptive window covers along one axis, float64 [windows]."""
    starts = [index * size // windows for index in range(windows)]
    ends = [-(-(index + 1) * size // windows) for index in range(windows)]
    return torch.tensor([end - start for start, end in zip(starts, ends, strict=True)], dtype=torch.float64)


def _by_vector(call: KernelCall, vectors: Tensor, rest: Tensor, lanes: int) -> Tensor:
    """`vectors` for the channels that fill whole vectors of `lanes`, `rest` for those after them."""
    whole = vectors.shape[1] // lanes * lanes
    return _finish(call, torch.cat([vectors[:, :whole], rest[:, whole:]], 1))


def _finish(call: KernelCall, integers: Tensor) -> Tensor:
    return integers.clamp(*call.clamp).to(call.out_qparams.dtype)
