"""The integer arithmetic of QNNPACK, op by op, as `torch.ops.quantized` runs it under the engine qnnpack.

Settled against torch 2.13 on x86-64, activations quint8 [0, 255], weights qint8 symmetric;
`tests/backends/qnnpack/test_ops.py` confirms each kernel on random, extreme and tie-rich integers:

* Conv, transposed conv and linear: `rint(f32(acc + bias) * (f32(s_x * s_w) * f32(1 / s_y))) + z_y`, halves to
  even, in 32-bit sums on every instruction set. The kernels take a float bias and bring it to int32 themselves:
  `rint(b * f32(1 / f32(s_x * s_w)))`.
* add: fixed point. Each operand's scale over s_y becomes an integer below 2**22, the larger one with all 22 bits;
  the sum is shifted back, halves away from zero. Takes scales of 2**-14 to 2**8 times s_y.
* leaky_relu: the sum of what is above zero and of what is below zero, whose scale is multiplied by the slope.
  torch's own kernel rounds ties one way in vectors and another way in the rest.
* hardswish, hardsigmoid, sigmoid and tanh: a table of 256 entries, each computed in float32 and rounded half to
  even; hardswish adds the zero point before rounding.
* Average pools: `rint(f32(sum) * f32(s / f32(s * n))) + z` for windows of n elements.
* mul, quantize and whatever moves, selects or bounds elements: torch's own kernels, as under every other engine.

No rule beyond those that no engine has: 3d convolutions (torch cannot store QNNPACK's packed form).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ...compiler.quant.arithmetic import Kernel, KernelCall, centered, channel_shape
from ...compiler.quant.kernels import LayerKernels, bias_scale, rounded
from ...compiler.quant.qparams import QParams

aten = torch.ops.aten

_ADD_BITS = 22


def bias_integers(bias: Tensor, in_qparams: QParams, weight_qparams: QParams) -> Tensor:
    """The int32 bias that the kernels make of the float one that they are given; it goes through float32, so that
    integers beyond 2**21 may come out a little otherwise than they went in."""
    scale = bias_scale(in_qparams, weight_qparams)
    real = bias if bias.is_floating_point() else bias.float() * scale
    return torch.round(real * (1.0 / scale)).clamp(-(2**31), 2**31 - 1).to(torch.int64)


def _requantize(call: KernelCall, total: Tensor, axis: int) -> Tensor:
    """`total` is overwritten."""
    assert call.weight_qparams is not None
    scale = bias_scale(call.in_qparams[0], call.weight_qparams) * (1.0 / call.out_qparams.scale_tensor())
    return rounded(call, total.float().mul_(channel_shape(scale, total.ndim, axis)))


# quantized::conv1d and conv2d, conv_transpose1d and 2d, linear.
layers = LayerKernels(bias_integers, _requantize)


def add(call: KernelCall) -> Tensor:
    """quantized::add and add_relu."""
    first, second = (qp.scale_tensor() for qp in call.in_qparams)
    return _fixed_point_sum(call, centered(call, 0), first, centered(call, 1), second)


def leaky_relu(call: KernelCall) -> Tensor:
    """max(x, 0) + slope * min(x, 0)."""
    x, scale = centered(call), call.in_qparams[0].scale_tensor()
    below = negative_scale(call.in_qparams[0], call.attrs["negative_slope"])
    return _fixed_point_sum(call, x.clamp(min=0), scale, x.clamp(max=0), torch.tensor([below]).float())


def negative_scale(qp: QParams, slope: float) -> float:
    """The scale that quantized::mul_scalar gives to the negative part."""
    return qp.scale[0] * slope


def addable(scales: tuple[float, ...], out_scale: float) -> bool:
    """Whether QNNPACK's add takes operands of these scales."""
    ratios = (torch.tensor(scales) / torch.tensor(out_scale)).tolist()
    return all(2.0**-14 <= ratio < 2.0**8 for ratio in ratios)


def hardswish(call: KernelCall) -> Tensor:
    """quantized::hardswish."""
    x = _table_inputs(call)
    inverse = 1.0 / call.out_qparams.scale_tensor()
    real = x * (x + 3).clamp(0, 6) / 6
    return _look_up(call, torch.round(real * inverse + call.out_qparams.zero_point[0]))


def sigmoid(call: KernelCall) -> Tensor:
    """quantized::sigmoid with scale 1 / 256 and zero point 0."""
    exponential = torch.exp(-_table_inputs(call).double()).float()
    return _look_up(call, torch.round(256.0 / (1.0 + exponential)))


def scaled(function: Callable[[Tensor], Tensor]) -> Kernel:
    """A function of x as a table; the scale of its result is a power of two."""

    def kernel(call: KernelCall) -> Tensor:
        real = function(_table_inputs(call)) / call.out_qparams.scale_tensor()
        return _look_up(call, torch.round(real) + call.out_qparams.zero_point[0])

    return kernel


hardsigmoid = scaled(F.hardsigmoid)
tanh = scaled(lambda x: torch.tanh(x.double()).float())


def average_pool(call: KernelCall) -> Tensor:
    """avg_pool2d, whatever counts at its borders."""
    x, attrs = centered(call).double(), dict(call.attrs)
    ones = torch.ones_like(x[:1, :1])
    by_one = attrs | {"divisor_override": 1}
    count = aten.avg_pool2d(ones, **by_one) / aten.avg_pool2d(ones, **attrs)
    return _average(call, aten.avg_pool2d(x, **by_one), torch.round(count))


def adaptive_average_pool(call: KernelCall) -> Tensor:
    """adaptive_avg_pool2d."""
    x = centered(call).double()
    mean = aten.adaptive_avg_pool2d(x, call.attrs["output_size"])
    rows, columns = (_window_lengths(x.shape[axis], mean.shape[axis]) for axis in (2, 3))
    count = rows[:, None] * columns
    return _average(call, mean * count, count)


def _window_lengths(size: int, windows: int) -> Tensor:
    """How many elements each adaptive window covers along one axis, float64 [windows]."""
    ends = [-(-(index + 1) * size // windows) for index in range(windows)]
    lengths = [end - index * size // windows for index, end in enumerate(ends)]
    return torch.tensor(lengths, dtype=torch.float64)


def _average(call: KernelCall, total: Tensor, count: Tensor) -> Tensor:
    scale = call.in_qparams[0].scale_tensor()
    multiplier = scale / (scale * count.float())
    mean = torch.round(torch.round(total).float() * multiplier)
    return _finish(call, mean + call.out_qparams.zero_point[0])


def _fixed_point_sum(
    call: KernelCall, first: Tensor, first_scale: Tensor, second: Tensor, second_scale: Tensor
) -> Tensor:
    ratios = [float(scale / call.out_qparams.scale_tensor()) for scale in (first_scale, second_scale)]
    shift = _ADD_BITS - math.frexp(max(ratios))[1]
    first_factor, second_factor = (round(math.ldexp(ratio, shift)) for ratio in ratios)
    total = first.to(torch.int64) * first_factor + second.to(torch.int64) * second_factor
    away = (total.abs() + (1 << (shift - 1))) >> shift
    return _finish(call, total.sign() * away + call.out_qparams.zero_point[0])


def _table_inputs(call: KernelCall) -> Tensor:
    """The real values of all integers that the input can be."""
    qp = call.in_qparams[0]
    grid = torch.arange(qp.qmin, qp.qmax + 1, dtype=torch.int32)
    return (grid - qp.zero_point[0]).float() * qp.scale_tensor()


def _look_up(call: KernelCall, table: Tensor) -> Tensor:
    return _finish(call, table)[(call.inputs[0] - call.in_qparams[0].qmin).long()]


def _finish(call: KernelCall, integers: Tensor) -> Tensor:
    return integers.clamp(*call.clamp).to(call.out_qparams.dtype)
