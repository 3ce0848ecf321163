"""Integer arithmetic shared by every target: exact sums, requantization, lookup tables.

A *kernel* is a pure function from `KernelCall` to integers: what a runtime's int8 kernel computes.
Runtimes differ in how the bias enters, in the multiplier and in rounding; each backend builds its kernels
from the pieces here and states in its `TargetSpec` how many LSB they may be off.

Sums are exact: integers are added in float32 where every partial sum stays below 2**24, else in float64
(below 2**53), which is what makes simulation run at float speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from .qparams import QParams, dequantize


@dataclass(frozen=True, slots=True)
class KernelCall:
    """Everything that one integer kernel reads.

    `inputs` are tensors of integers, one `in_qparams` each: int32, or for a layer (which has a `weight`, and reads
    one) the type of `in_qparams`, as it takes floats from there. `attrs` are the aten op's other arguments by
    schema name (stride, padding, dim, …). `weight` holds int32 integers in the aten op's layout, `bias`
    float32 [out] (or int32 integers of scale s_x·s_w where the target says so). `clamp` are the integer bounds
    in force at the output: the dtype's own, narrowed by a fused relu, relu6 or hardtanh. A layer whose kernel adds
    a residual has it as its last input; `after` are the activations that follow, on real numbers.
    """

    inputs: tuple[Tensor, ...]
    in_qparams: tuple[QParams, ...]
    out_qparams: QParams
    clamp: tuple[int, int]
    attrs: Mapping[str, Any]
    weight: Tensor | None = None
    weight_qparams: QParams | None = None
    bias: Tensor | None = None
    after: tuple[Callable[[Tensor], Tensor], ...] = ()


Kernel = Callable[[KernelCall], Tensor]

_CONVS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)

_EXACT_IN_FLOAT32 = 2**24
_WRAPS = 2**31


def centered(call: KernelCall, index: int = 0) -> Tensor:
    """Input `index` minus its zero point, int32."""
    return call.inputs[index] - call.in_qparams[index].zero_point[0]


def largest_sum(weight: Tensor, largest_input: int, out_axis: int = 0, bias: Tensor | None = None) -> int:
    """A bound that no partial sum of input · weight + bias exceeds in magnitude."""
    per_channel = weight.abs().transpose(0, out_axis).flatten(1).sum(1, dtype=torch.int64)
    added = 0 if bias is None else int(bias.to(torch.int64).abs().max())
    return int(per_channel.max()) * largest_input + added


def accumulate_conv(call: KernelCall, bias: Tensor | None = None) -> Tensor:
    """Exact sums of a convolution (1d, 2d, 3d; grouped, dilated, asymmetric padding by zero point) and of the
    integers `bias` [out].

    Returns:
        integers in float32 or float64 [batch, out, *spatial].
    """
    attrs = call.attrs
    places = [attrs[key] for key in ("stride", "padding", "dilation", "groups")]
    return _exactly(call, lambda x, weight, b: _CONVS[weight.ndim - 3](x, weight, b, *places), bias)


def accumulate_conv_transpose(call: KernelCall, bias: Tensor | None = None) -> Tensor:
    """Exact sums of a transposed convolution, as `accumulate_conv`; weight is [in, out / groups, *kernel]."""
    attrs = call.attrs
    places = [attrs[key] for key in ("stride", "padding", "output_padding", "groups", "dilation")]
    return _exactly(call, lambda x, weight, b: _TRANSPOSED[weight.ndim - 3](x, weight, b, *places), bias, 1)


def accumulate_linear(call: KernelCall, bias: Tensor | None = None) -> Tensor:
    """Exact sums of x · weightᵀ + bias, as `accumulate_conv`: x [..., in], weight [out, in] -> [..., out]."""
    return _exactly(call, F.linear, bias)


def accumulate_matmul(call: KernelCall) -> Tensor:
    """Exact sums of a @ b, both of them activations; integers in float32 or float64."""
    bound = call.inputs[0].shape[-1] * _largest(call, 0) * _largest(call, 1)
    kind = torch.float32 if bound < _EXACT_IN_FLOAT32 else torch.float64
    return torch.matmul(centered(call, 0).to(kind), centered(call, 1).to(kind))


def _exactly(
    call: KernelCall, op: Callable[[Tensor, Tensor, Tensor | None], Tensor], bias: Tensor | None, out_axis: int = 0
) -> Tensor:
    """`op` of the centered input, the weight and the bias, in the narrowest float type that holds every partial
    sum; what int32 cannot hold wraps around, as it does in the runtimes."""
    assert call.weight is not None
    bound = largest_sum(call.weight, _largest(call), out_axis, bias)
    kind = torch.float32 if bound < _EXACT_IN_FLOAT32 else torch.float64
    x = call.inputs[0].to(kind)
    if (zero_point := call.in_qparams[0].zero_point[0]) != 0:
        x.sub_(zero_point)
    total = op(x, call.weight.to(kind), None if bias is None else bias.to(kind))
    return total if bound < _WRAPS else total.to(torch.int64).to(torch.int32).to(kind)


def lookup(call: KernelCall, function: Callable[[Tensor], Tensor], quantize: Callable[..., Tensor]) -> Tensor:
    """An elementwise op as a table over the input's integers: dequantize, `function`, `quantize`, clamp."""
    qp = call.in_qparams[0]
    grid = torch.arange(qp.qmin, qp.qmax + 1, dtype=torch.int32)
    table = quantize(function(dequantize(grid, qp)), call.out_qparams).clamp(*call.clamp)
    return table[(call.inputs[0] - qp.qmin).long()]


def unchanged(call: KernelCall) -> Tensor:
    """The input's own integers: a clamp by tensors standing alone, whose bounds the step holds."""
    return call.inputs[0].clamp(*call.clamp)


def move(op: Callable[..., Tensor]) -> Kernel:
    """An op that only moves or selects elements, run on the integers; a symbolic size stands as -1."""

    def kernel(call: KernelCall) -> Tensor:
        attrs = {key: static_sizes(value) for key, value in call.attrs.items()}
        return op(call.inputs[0], **attrs).clamp(*call.clamp)

    return kernel


def reshape(call: KernelCall) -> Tensor:
    """view and reshape on the integers: one unknown size is -1, else a symbol keeps the input's own size."""
    x = call.inputs[0]
    sizes = call.attrs["size"] if "size" in call.attrs else call.attrs["shape"]
    if sum(isinstance(size, fx.Node) or size == -1 for size in sizes) > 1:
        sizes = [x.shape[place] if isinstance(size, fx.Node) else size for place, size in enumerate(sizes)]
    return x.reshape(static_sizes(sizes)).clamp(*call.clamp)


def piece(op: Callable[..., Sequence[Tensor]]) -> Kernel:
    """Piece `index` of a split or chunk, run on the integers."""

    def kernel(call: KernelCall) -> Tensor:
        attrs = {key: value for key, value in call.attrs.items() if key != "index"}
        return op(call.inputs[0], **attrs)[call.attrs["index"]].clamp(*call.clamp)

    return kernel


def static_sizes(value: Any) -> Any:
    """A shape argument with its symbolic sizes (fx nodes) as -1; anything else as it is."""
    if isinstance(value, (list, tuple)):
        return [-1 if isinstance(item, fx.Node) else item for item in value]
    return value


def channel_shape(values: Tensor, ndim: int, axis: int) -> Tensor:
    """[channels] -> a shape that broadcasts along `axis` of an `ndim`-dimensional tensor; [1] stays scalar."""
    shape = [1] * ndim
    shape[axis] = values.numel()
    return values.reshape(shape)


def _largest(call: KernelCall, index: int = 0) -> int:
    qp = call.in_qparams[index]
    return max(qp.qmax - qp.zero_point[0], qp.zero_point[0] - qp.qmin)
