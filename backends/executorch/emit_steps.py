"""Ops that XNNPACK takes in another form than aten's, and the bounds of an integer step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from ...compiler.ir.ops import CONV, CONV_TRANSPOSE, aten, bound_args
from ...compiler.ir.shapes import recorded_shape, tensor_meta
from ...compiler.quant.program import IntegerStep
from ...compiler.quant.qparams import QParams, dequantize
from ..xnnpack.arithmetic import PROBABILITY
from .arithmetic import SIXTH, mean_weight

if TYPE_CHECKING:
    from .graph import Builder

_NO_OPS = frozenset({aten.contiguous.default})
SPATIAL_MEANS = frozenset({aten.mean.dim, aten.adaptive_avg_pool2d.default})
RESHAPES = frozenset(
    {
        aten.view.default,
        aten.reshape.default,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unsqueeze.default,
    }
)
# What these leave lies as in memory as a delegate leaves it, so that views of it are views.
_AS_COPIES = {
    aten.view.default: aten.reshape.default,
    aten.permute.default: aten.permute_copy.default,
    aten.transpose.int: aten.transpose_copy.int,
    aten.slice.Tensor: aten.slice_copy.Tensor,
    aten.select.int: aten.select_copy.int,
    aten.expand.default: aten.expand_copy.default,
}
_CONVOLUTIONS = CONV | CONV_TRANSPOSE


def integer_call(builder: Builder, step: IntegerStep) -> fx.Node:
    """The quantize node of a step, with all that stands before it."""
    target = step.anchor.target
    if target in _NO_OPS:
        return builder.values[step.inputs[0]]
    if target in SPATIAL_MEANS:
        return _spatial_mean(builder, step)
    if target is aten.silu.default:
        gate = builder.quantize(builder.call(aten.sigmoid.default, builder.operand(step)), PROBABILITY)
        gated = builder.call(aten.mul.Tensor, builder.operand(step), builder.dequantize(gate, PROBABILITY))
        return bounded(builder, step, gated)
    if target is aten.hardsigmoid.default:
        return bounded(builder, step, _tap(builder, step, 127, SIXTH, bias=0.5))
    if target is aten.slice.Tensor and is_strided(step.anchor):
        return _strided(builder, step)
    if target in RESHAPES:
        sizes = reshaped_sizes(step.anchor)
        return builder.quantize(builder.call(aten.reshape.default, builder.operand(step), sizes), step.out_qparams)
    if target is aten.transpose.int:
        order = _transposed_order(step.anchor)
        copied = builder.call(aten.permute_copy.default, builder.operand(step), order)
        return builder.quantize(copied, step.out_qparams)
    return bounded(builder, step, builder.anchor_call(step))


def normal_form(node: fx.Node) -> fx.Node:
    """`node`, rewritten where it is a convolution, which ExecuTorch would decompose, or a view."""
    node.target = _AS_COPIES.get(node.target, node.target)  # type: ignore[call-overload]
    if node.target in _CONVOLUTIONS:
        args = bound_args(node)
        transposed = node.target in CONV_TRANSPOSE
        output_padding = args["output_padding"] if transposed else [0] * len(args["stride"])
        geometry = args["stride"], args["padding"], args["dilation"], transposed, output_padding, args["groups"]
        node.args, node.kwargs = (args["input"], args["weight"], args["bias"], *geometry), {}
        node.target = aten.convolution.default
    return node


def bounded(builder: Builder, step: IntegerStep, value: fx.Node) -> fx.Node:
    """`value` bounded to the step's clamp, where that is less than the type's own range, and quantized."""
    qp = step.out_qparams
    if step.clamp == (qp.qmin, qp.qmax):
        return builder.quantize(value, qp)
    low, high = dequantize(torch.tensor(step.clamp, dtype=torch.int32), qp).tolist()
    if step.clamp == (qp.zero_point[0], qp.qmax):
        return builder.quantize(builder.call(aten.relu.default, value), qp)
    return builder.quantize(builder.call(aten.hardtanh.default, value, low, high), qp)


def is_strided(node: fx.Node) -> bool:
    """Whether a slice takes every nth row or column of an image of known size, from the first to the last."""
    args, shape = bound_args(node), recorded_shape(node.args[0])
    if shape is None or len(shape) != 4 or not all(isinstance(size, int) for size in shape[1:]):
        return False
    axis, end = args["dim"] % 4, args["end"]
    whole = args["start"] in (None, 0) and (end is None or (isinstance(end, int) and end >= shape[axis]))
    return axis >= 2 and isinstance(args["step"], int) and args["step"] > 1 and whole


def _strided(builder: Builder, step: IntegerStep) -> fx.Node:
    """A depthwise convolution of one tap, 1 of scale 1: XNNPACK slices in steps of 1 only."""
    args = bound_args(step.anchor)
    stride = [args["step"] if args["dim"] % 4 == axis else 1 for axis in (2, 3)]
    return builder.quantize(_tap(builder, step, 1, mean_weight(1), stride), step.out_qparams)


def _tap(
    builder: Builder,
    step: IntegerStep,
    value: int,
    qp: QParams,
    stride: Sequence[int] = (1, 1),
    bias: float | None = None,
) -> fx.Node:
    """A depthwise convolution whose only tap is `value`, the same for every channel."""
    shape = recorded_shape(step.anchor.args[0])
    assert shape is not None
    weight = builder.store(torch.full((shape[1], 1, 1, 1), value, dtype=torch.int8))
    added = None if bias is None else builder.store(torch.full((shape[1],), bias))
    operands = builder.operand(step), builder.dequantize(weight, qp), added
    return normal_form(builder.call(aten.conv2d.default, *operands, list(stride), [0, 0], [1, 1], shape[1]))


def reshaped_sizes(node: fx.Node) -> list[Any] | None:
    """The sizes of a view's result, its one symbolic size as -1; None where there are several."""
    meta = tensor_meta(node)
    if meta is None:
        return None
    sizes = [size if isinstance(size, int) else -1 for size in meta.shape]
    return sizes if sizes.count(-1) <= 1 else None


def _transposed_order(node: fx.Node) -> list[int]:
    args, meta = bound_args(node), tensor_meta(node)
    assert meta is not None
    order = list(range(meta.ndim))
    first, second = args["dim0"] % meta.ndim, args["dim1"] % meta.ndim
    order[first], order[second] = order[second], order[first]
    return order


def _spatial_mean(builder: Builder, step: IntegerStep) -> fx.Node:
    """The mean over height and width as a linear layer over the pixels, its weights 1, their scale 1 / pixels.

    XNNPACK has an int8 kernel for it, but that one gives wrong results once a loaded program has run on fewer
    samples than it gets now (executorch 1.5.1).
    """
    shape = recorded_shape(step.anchor.args[0])
    assert shape is not None
    pixels = shape[2] * shape[3]
    in_qp, weight_qp = step.in_qparams[0], mean_weight(pixels)
    flat = builder.call(aten.view.default, builder.operand(step), [-1, shape[1], pixels])
    source = builder.dequantize(builder.quantize(flat, in_qp), in_qp)
    ones = builder.dequantize(builder.store(torch.ones(1, pixels, dtype=torch.int8)), weight_qp)
    mean = bounded(builder, step, builder.call(aten.linear.default, source, ones))
    viewed = builder.call(aten.view.default, builder.dequantize(mean, step.out_qparams), _sizes(step.anchor))
    return builder.quantize(viewed, step.out_qparams)


def _sizes(node: fx.Node) -> list[Any]:
    sizes = reshaped_sizes(node)
    assert sizes is not None
    return sizes
