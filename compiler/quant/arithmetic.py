"""Integer arithmetic shared by every target: exact sums, requantization, lookup tables.

A *kernel* is a pure function from `KernelCall` to int32 integers: what a runtime's int8 kernel computes.
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

    `inputs` are int32 tensors of integers, one `in_qparams` each; `attrs` the aten op's other arguments by
    schema name (stride, padding, dim, …). `weight` holds int32 integers in the aten op's layout, `bias`
    float32 [out] (or int32 integers of scale s_x·s_w where the target says so). `clamp` are the integer bounds
    in force at the output: the dtype's own, narrowed by a fused relu, relu6 or hardtanh.
    """

    inputs: tuple[Tensor, ...]
    in_qparams: tuple[QParams, ...]
    out_qparams: QParams
    clamp: tuple[int, int]
    attrs: Mapping[str, Any]
    weight: Tensor | None = None
    weight_qparams: QParams | None = None
    bias: Tensor | None = None


Kernel = Callable[[KernelCall], Tensor]

_EXACT_IN_FLOAT32 = 2**24


def centered(call: KernelCall, index: int = 0) -> Tensor:
    """Input `index` minus its zero point, int32."""
    return call.inputs[index] - call.in_qparams[index].zero_point[0]


def sum_dtype(weight: Tensor, largest_input: int, out_axis: int = 0) -> torch.dtype:
    """The narrowest float type in which every partial sum of input · weight is exact."""
    per_channel = weight.abs().transpose(0, out_axis).flatten(1).sum(1, dtype=torch.int64)
    bound = int(per_channel.max()) * largest_input
    return torch.float32 if bound < _EXACT_IN_FLOAT32 else torch.float64


def accumulate_conv(call: KernelCall) -> Tensor:
    """Exact int32 sums of a convolution (1d, 2d, 3d; grouped, dilated, asymmetric padding by zero point).

    Returns:
        int32 [batch, out, *spatial].
    """
    assert call.weight is not None
    x, attrs = centered(call), call.attrs
    kind = sum_dtype(call.weight, _largest(call))
    conv = (F.conv1d, F.conv2d, F.conv3d)[call.weight.ndim - 3]
    total = conv(
        x.to(kind),
        call.weight.to(kind),
        None,
        attrs["stride"],
        attrs["padding"],
        attrs["dilation"],
        attrs["groups"],
    )
    return total.to(torch.int32)


def accumulate_conv_transpose(call: KernelCall) -> Tensor:
    """Exact int32 sums of a transposed convolution; weight is [in, out / groups, *kernel]."""
    assert call.weight is not None
    x, attrs = centered(call), call.attrs
    conv = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[call.weight.ndim - 3]
    total = conv(
        x.double(),
        call.weight.double(),
        None,
        attrs["stride"],
        attrs["padding"],
        attrs["output_padding"],
        attrs["groups"],
        attrs["dilation"],
    )
    return total.to(torch.int32)


def accumulate_linear(call: KernelCall) -> Tensor:
    """Exact int32 sums of x · weightᵀ: x [..., in], weight [out, in] -> [..., out]."""
    assert call.weight is not None
    kind = sum_dtype(call.weight, _largest(call))
    return F.linear(centered(call).to(kind), call.weight.to(kind)).to(torch.int32)


def accumulate_matmul(call: KernelCall) -> Tensor:
    """Exact int32 sums of a @ b, both of them activations."""
    return torch.matmul(centered(call, 0).double(), centered(call, 1).double()).to(torch.int32)


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


def _largest(call: KernelCall) -> int:
    qp = call.in_qparams[0]
    return max(qp.qmax - qp.zero_point[0], qp.zero_point[0] - qp.qmin)
