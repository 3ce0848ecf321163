"""One function for each op that runs on integers: an `IntegerStep` becomes calls of `torch.ops.quantized`.

A lowering gets the `Builder` and the step and returns the node of a quint8 tensor with the step's output
parameters. What the packed kernels cannot take is told before anything is built (`refusal`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from ...compiler.ir.ops import CONV, CONV_TRANSPOSE, clamp_bounds, op_name
from ...compiler.ir.shapes import recorded_shape
from ...compiler.quant.arithmetic import static_sizes
from ...compiler.quant.program import IntegerStep
from ...compiler.quant.qparams import QParams
from . import bounds, deprecated
from .arithmetic import quantize
from .builder import Builder
from .grouping import ConvShape, Road, merge_groups, split_into_frames
from .rules import output_size
from .transposed import TransposedShape, TransposeRoad, add_taps

aten = torch.ops.aten
quantized = torch.ops.quantized

Lowering = Callable[[Builder, IntegerStep], fx.Node]
_LOWERINGS: dict[OpOverload, Lowering] = {}


def lower_integer(builder: Builder, step: IntegerStep) -> fx.Node:
    """The quint8 tensor that `step` computes, its clamp included."""
    target = step.anchor.target
    lowering = builder.roads.lowerings.get(target) or _LOWERINGS[target]  # type: ignore[call-overload, index]
    return bounds.within_channels(builder, step, lowering(builder, step))


def refusal(step: IntegerStep) -> str | None:
    """Why `step` cannot be lowered, or None."""
    if step.anchor.target not in _LOWERINGS:
        return f"no quantized kernel for {op_name(step.anchor.target)}"
    for qp in (*step.in_qparams, step.out_qparams):
        if (reason := activation_refusal(qp)) is not None:
            return reason
    if step.rule.shared and any(qp != step.out_qparams for qp in step.in_qparams):
        return "inputs and output must have equal parameters"
    fixed = step.rule.fixed
    if fixed is not None and step.out_qparams != fixed:
        return f"the output must have scale {fixed.scale[0]} and zero point {fixed.zero_point[0]}"
    return _weight_refusal(step)


def activation_refusal(qp: QParams) -> str | None:
    """Why a quint8 tensor cannot have these parameters, or None."""
    if qp.per_channel or (qp.dtype, qp.qmin, qp.qmax) != (torch.uint8, 0, 255):
        return "activations must be uint8 in [0, 255] with one scale"
    return None


def _weight_refusal(step: IntegerStep) -> str | None:
    qp = step.weight_qparams
    if qp is None:
        return None
    if qp.dtype is not torch.int8 or any(qp.zero_point):
        return "weights must be int8 with zero point 0"
    if qp.per_channel and (qp.axis != 0 or step.anchor.target in CONV_TRANSPOSE):
        return "weights must have one scale, or one for each output channel on axis 0"
    return None


def _lowers(ops: Iterable[OpOverload]) -> Callable[[Lowering], Lowering]:
    def register(function: Lowering) -> Lowering:
        for op in ops:
            if op in _LOWERINGS:
                raise ValueError(f"{op_name(op)} has a lowering already")
            _LOWERINGS[op] = function
        return function

    return register


@_lowers(CONV)
def _conv(b: Builder, step: IntegerStep) -> fx.Node:
    assert step.weight is not None
    assert step.weight_qparams is not None
    shape = ConvShape.of(step.weight, step.attrs, output_size(step.anchor))
    road = b.roads.conv(shape)
    stride, padding, dilation = list(shape.stride), list(shape.padding), list(shape.dilation)
    (x,) = b.inputs(step)
    weight, qp = step.weight, step.in_qparams[0]
    if road.merge > 1:
        weight = merge_groups(weight, shape.groups, road.merge)
    if road.realign:
        x = _padded(b, x, qp, [road.lead, 0] * len(padding), qp.zero_point[0]) if road.lead else x
        padding = [shape.half] * len(padding)
    if road.frames:
        weight = split_into_frames(weight)
        stride, padding, dilation = [2, *stride], [1, *padding], [1, *dilation]
        frame = b.call(torch.unsqueeze, x, 2)
        x = b.call(quantized.cat, [frame, frame], 2, *scalars(qp))
    packed = deprecated.quantized_tensor(weight, step.weight_qparams)
    op = f"conv{len(stride)}d"
    window = (stride, padding, dilation, shape.groups // road.merge)
    parameters = b.attribute(deprecated.pack_conv(op, packed, real_bias(step), *window))
    result = activated(b, step, op, x, parameters)
    result = b.call(torch.squeeze, result, 2) if road.frames else result
    return bounded(b, step, _cropped(b, result, road, shape))


def _cropped(b: Builder, result: fx.Node, road: Road, shape: ConvShape) -> fx.Node:
    if road.realign:
        assert shape.output is not None
        for axis, size in enumerate(shape.output, start=2):
            result = b.call(aten.slice, result, axis, road.skip, road.skip + size)
    return result


@_lowers(CONV_TRANSPOSE)
def _conv_transpose(b: Builder, step: IntegerStep) -> fx.Node:
    assert step.weight is not None
    assert step.weight_qparams is not None
    shape = TransposedShape.of(tuple(step.weight.shape), step.attrs)
    road = b.roads.transpose(shape)
    assert isinstance(road, TransposeRoad), road
    _, _, more_padding, more_output = (count * shape.dilation[0] for count in road.value)
    padding = [shape.padding[0] + more_padding, *shape.padding[1:]]
    output_padding = [shape.output_padding[0] + more_output, *shape.output_padding[1:]]
    op = f"conv_transpose{len(padding)}d"
    packed = deprecated.quantized_tensor(add_taps(step.weight, road), step.weight_qparams)
    window = (list(shape.stride), padding, output_padding, list(shape.dilation), shape.groups)
    parameters = b.attribute(deprecated.pack_conv(op, packed, real_bias(step), *window))
    (x,) = b.inputs(step)
    result = b.call(getattr(quantized, op), x, parameters, *scalars(step.out_qparams))
    return bounded(b, step, result, relu_done=False)


def real_bias(step: IntegerStep) -> Tensor | None:
    """The float32 bias that the kernels are given: they bring it to integers themselves where they want it so."""
    if step.bias is None or step.bias.is_floating_point():
        return step.bias
    assert step.weight_qparams is not None
    return step.bias.float() * (step.in_qparams[0].scale_tensor() * step.weight_qparams.scale_tensor())


@_lowers([aten.linear.default])
def _linear(b: Builder, step: IntegerStep) -> fx.Node:
    assert step.weight is not None
    assert step.weight_qparams is not None
    packed = deprecated.quantized_tensor(step.weight, step.weight_qparams)
    parameters = b.attribute(deprecated.pack_linear(packed, real_bias(step)))
    return bounded(b, step, activated(b, step, "linear", *b.inputs(step), parameters))


@_lowers([aten.add.Tensor])
def _add(b: Builder, step: IntegerStep) -> fx.Node:
    return bounded(b, step, activated(b, step, "add", *_same_shapes(b, step)))


@_lowers([aten.mul.Tensor])
def _mul(b: Builder, step: IntegerStep) -> fx.Node:
    return bounded(b, step, activated(b, step, "mul", *_same_shapes(b, step)))


def _same_shapes(b: Builder, step: IntegerStep) -> list[fx.Node]:
    """Inputs [batch, channels, height, width] brought to one shape and layout first: torch's kernels broadcast
    element by element, 3 to 6 times slower than this copy and the whole product together."""
    operands = list(b.inputs(step))
    shapes = [recorded_shape(node) for node in step.anchor.args[:2]]
    if any(shape is None or len(shape) != 4 for shape in shapes):
        return operands
    texts = [tuple(map(str, shape)) for shape in shapes if shape is not None]
    full, small = (0, 1) if _covers(texts[0], texts[1]) else (1, 0)
    if texts[0] != texts[1] and _covers(texts[full], texts[small]):
        operands[small] = b.channels_last(b.call(aten.expand_as, operands[small], operands[full]))
        operands[full] = b.channels_last(operands[full])
    return operands


def _covers(full: tuple[str, ...], small: tuple[str, ...]) -> bool:
    return all(size in ("1", whole) for whole, size in zip(full, small, strict=True))


@_lowers([aten.cat.default])
def _concat(b: Builder, step: IntegerStep) -> fx.Node:
    return b.call(quantized.cat, list(b.inputs(step)), step.attrs["dim"], *scalars(step.out_qparams))


@_lowers([aten.leaky_relu.default])
def _leaky_relu(b: Builder, step: IntegerStep) -> fx.Node:
    slope = step.attrs["negative_slope"]
    return b.call(quantized.leaky_relu, *b.inputs(step), slope, False, *scalars(step.out_qparams))


@_lowers([aten.hardswish.default])
def _hardswish(b: Builder, step: IntegerStep) -> fx.Node:
    return b.call(quantized.hardswish, *b.inputs(step), *scalars(step.out_qparams))


@_lowers([aten.sigmoid.default])
def _sigmoid(b: Builder, step: IntegerStep) -> fx.Node:
    return b.call(quantized.sigmoid, *b.inputs(step), *scalars(step.out_qparams))


@_lowers([aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default])
def _average_pool(b: Builder, step: IntegerStep) -> fx.Node:
    x = b.channels_last(*b.inputs(step))
    return b.call(_packet(step), x, *step.attrs.values())


@_lowers([aten.mean.dim])
def _mean(b: Builder, step: IntegerStep) -> fx.Node:
    """To a scale of its own, which no quantized pool gives."""
    shape = recorded_shape(step.anchor.args[0])
    assert shape is not None
    real = b.call(torch.dequantize, b.channels_last(*b.inputs(step)))
    mean = b.call(aten.avg_pool2d, real, list(shape[2:]))
    mean = mean if step.attrs["keepdim"] else b.call(torch.flatten, mean, 1)
    return b.call(torch.quantize_per_tensor, mean, *scalars(step.out_qparams), deprecated.QUINT8)


@_lowers([aten.upsample_nearest2d.vec])
def _upsample(b: Builder, step: IntegerStep) -> fx.Node:
    return b.call(_packet(step), *b.inputs(step), step.attrs["output_size"], step.attrs["scale_factors"])


@_lowers([aten.pad.default, aten.constant_pad_nd.default])
def _pad(b: Builder, step: IntegerStep) -> fx.Node:
    value = int(quantize(torch.tensor([float(step.attrs.get("value") or 0.0)]), step.out_qparams))
    (x,) = b.inputs(step)
    return _padded(b, x, step.out_qparams, step.attrs["pad"], value)


def _padded(b: Builder, x: fx.Node, qp: QParams, pads: Sequence[int], value: int) -> fx.Node:
    """On plain uint8: torch pads quantized tensors through float, 2 to 3 times slower."""
    padded = b.call(aten.constant_pad_nd, b.call(torch.int_repr, x), pads, value)
    return b.call(aten._make_per_tensor_quantized_tensor, padded, *scalars(qp))


@_lowers([aten.view.default, aten.reshape.default])
def _reshape(b: Builder, step: IntegerStep) -> fx.Node:
    size = step.attrs["size"] if "size" in step.attrs else step.attrs["shape"]
    return b.call(torch.reshape, *b.inputs(step), static_sizes(size))


@_lowers([aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default])
def _piece(b: Builder, step: IntegerStep) -> fx.Node:
    attrs = [value for key, value in step.attrs.items() if key != "index"]
    return b.call(operator.getitem, b.call(_packet(step), *b.inputs(step), *attrs), step.attrs["index"])


@_lowers(
    [
        aten.relu.default,
        aten.hardsigmoid.default,
        aten.tanh.default,
        aten.max_pool1d.default,
        aten.max_pool2d.default,
        aten.flatten.using_ints,
        aten.permute.default,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.pixel_shuffle.default,
        aten.slice.Tensor,
        aten.select.int,
    ]
)
def _same_op(b: Builder, step: IntegerStep) -> fx.Node:
    return b.call(_packet(step), *b.inputs(step), *step.attrs.values())


@_lowers([aten.clamp.default, aten.hardtanh.default])
def _clamp(b: Builder, step: IntegerStep) -> fx.Node:
    """With both bounds, within the range: qnnpack takes no clamp with one."""
    (x,), qp, given = b.inputs(step), step.out_qparams, clamp_bounds(step.anchor)
    assert given is not None
    least, most = ((end - qp.zero_point[0]) * qp.scale[0] for end in (qp.qmin, qp.qmax))
    low, high = (min(max(bound, least), most) for bound in given)
    return clamped(b, step, x, low, high)


@_lowers([aten.expand.default])
def _expand(b: Builder, step: IntegerStep) -> fx.Node:
    return b.call(aten.expand, *b.inputs(step), step.attrs["size"])


@_lowers([aten.contiguous.default, aten.clamp.Tensor])
def _unchanged(b: Builder, step: IntegerStep) -> fx.Node:
    (x,) = b.inputs(step)
    return x


def activated(b: Builder, step: IntegerStep, op: str, *arguments: Any) -> fx.Node:
    """`op`, or its form with a fused relu where the clamp is at least that."""
    variant = f"{op}_relu" if _has_relu(step) else op
    return b.call(getattr(quantized, variant), *arguments, *scalars(step.out_qparams))


def _has_relu(step: IntegerStep) -> bool:
    """Where it would leave a single integer it counts as a clamp: qnnpack's kernels refuse it."""
    qp = step.out_qparams
    return qp.qmin < qp.zero_point[0] <= step.clamp[0] and qp.zero_point[0] < qp.qmax


def bounded(b: Builder, step: IntegerStep, node: fx.Node, relu_done: bool = True) -> fx.Node:
    """A clamp where the step's bounds are tighter than the dtype's and the fused relu's."""
    qp = step.out_qparams
    floor = qp.zero_point[0] if relu_done and _has_relu(step) else qp.qmin
    if step.clamp == (floor, qp.qmax):
        return node
    low, high = ((bound - qp.zero_point[0]) * qp.scale[0] for bound in step.clamp)
    return clamped(b, step, node, low, high)


def clamped(b: Builder, step: IntegerStep, x: fx.Node, low: float, high: float) -> fx.Node:
    """`x`, of the shape of the step's anchor, within the bounds. Where the engine's clamp must have contiguous
    tensors, images are handed over with their channels as the last axis, as they lie in memory."""
    if b.roads.clamps_any_layout:
        return b.call(torch.clamp, x, low, high)
    shape = recorded_shape(step.anchor)
    if shape is None or len(shape) != 4:
        return b.call(torch.clamp, b.method("contiguous", x), low, high)
    rows = b.call(aten.permute, b.channels_last(x), [0, 2, 3, 1])
    return b.call(aten.permute, b.call(torch.clamp, rows, low, high), [0, 3, 1, 2])


def _packet(step: IntegerStep) -> Any:
    target = step.anchor.target
    assert isinstance(target, OpOverload)
    return target.overloadpacket


def scalars(qp: QParams) -> tuple[float, int]:
    return qp.scale[0], qp.zero_point[0]
