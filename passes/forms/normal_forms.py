"""Normal forms of arguments, activations, arithmetic, convs, pads and interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx
from torch._ops import OpOverload

from ...compiler.ir.ops import CONV, CONV_BY_SPATIAL, CONV_TRANSPOSE, OPS, aten, bound_args
from .._rewrite import clamp_call, insert_call, rank_of, shape_of, stand_in, tensor_of
from .views import drop, drop_if_same_shape

# Ops whose every argument is written out -> number of spatial axes, to which short lists are widened.
_SPATIAL: Mapping[object, int] = {op: OPS[op].spatial for op in CONV | CONV_TRANSPOSE} | {
    aten.max_pool1d.default: 1,
    aten.max_pool2d.default: 2,
    aten.max_pool3d.default: 3,
    aten.avg_pool1d.default: 1,
    aten.avg_pool2d.default: 2,
    aten.avg_pool3d.default: 3,
}
_ADAPTIVE_AVERAGES: Mapping[object, int] = {
    aten.adaptive_avg_pool1d.default: 1,
    aten.adaptive_avg_pool2d.default: 2,
    aten.adaptive_avg_pool3d.default: 3,
}
_FILLED = frozenset(
    {*_SPATIAL, aten.linear.default, aten.hardtanh.default, aten.leaky_relu.default, aten.elu.default}
)
_FLOATS = frozenset({aten.hardtanh.default, aten.leaky_relu.default, aten.elu.default})
_AXIS_NAMES = frozenset({"dim", "dims", "dim0", "dim1", "start_dim", "end_dim"})
_ADDS_AN_AXIS = frozenset({aten.unsqueeze.default, aten.stack.default, aten.diag_embed.default})
_SORTED_AXES = frozenset({aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default})


def positional_arguments(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Keyword arguments that can stand by position do; ops of `_FILLED` get all of theirs."""
    if not isinstance(node.target, OpOverload):
        return None
    schema = [item for item in node.target._schema.arguments if not item.kwarg_only]
    bound = bound_args(node)
    count = len(node.args)
    for index, item in enumerate(schema):
        if item.name in node.kwargs or node.target in _FILLED:
            count = index + 1
    args = [bound[item.name] for item in schema[:count]]
    if node.target in _SPATIAL:
        args = _widened(node, bound, args)
    if node.target in _FLOATS:
        args[1:] = [float(number) for number in args[1:]]
    names = {item.name for item in schema}
    if _is_written_so(node, args) and names.isdisjoint(node.kwargs):
        return None
    node.args = tuple(args)
    node.kwargs = {key: value for key, value in node.kwargs.items() if key not in names}
    return node


def _widened(node: fx.Node, bound: dict[str, Any], args: list[Any]) -> list[Any]:
    """One number for all axes -> one for each; a pool's absent stride -> its kernel size."""
    spatial = _SPATIAL[node.target]
    if "kernel_size" in bound and not bound["stride"]:
        args[2] = args[1]
    return [list(arg) * spatial if isinstance(arg, list) and len(arg) == 1 else arg for arg in args]


def _is_written_so(node: fx.Node, args: list[Any]) -> bool:
    """Whether `args` are the node's own, floats told from integers."""
    kinds = [isinstance(arg, float) for arg in node.args] == [isinstance(arg, float) for arg in args]
    return kinds and list(node.args) == args


def positive_axes(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Negative axes count from the end; the same axes from the start, sorted where their order is free."""
    if not isinstance(node.target, OpOverload) or (rank := _axis_rank(gm, node)) is None:
        return None
    args: list[Any] = list(node.args)
    for index, item in enumerate(node.target._schema.arguments[: len(args)]):
        if item.name not in _AXIS_NAMES:
            continue
        if isinstance(args[index], int):
            args[index] = args[index] % rank if rank else 0
        elif isinstance(args[index], (list, tuple)) and rank:
            axes = [axis % rank for axis in args[index]]
            args[index] = sorted(axes) if node.target in _SORTED_AXES else axes
    if list(node.args) == args:
        return None
    node.args = tuple(args)
    return node


def _axis_rank(gm: fx.GraphModule, node: fx.Node) -> int | None:
    """How many axes the op's axis arguments count over."""
    if not node.args:
        return None
    first = node.args[0]
    rank = rank_of(gm, first[0] if isinstance(first, (list, tuple)) and first else first)
    return None if rank is None else rank + (node.target in _ADDS_AN_AXIS)


def clamp(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """relu6, clamp, clamp_min, clamp_max, hardtanh -> relu, hardtanh, or clamp with one bound."""
    value = tensor_of(gm, node)
    if (value is not None and not value.is_floating_point()) or len(node.all_input_nodes) > 1:
        return None
    low, high = _bounds(node)
    target, numbers = clamp_call(low, high)
    args = (node.args[0], *numbers)
    if node.target is target and _is_written_so(node, list(args)):
        return None
    return stand_in(gm, node, target, args)


def _bounds(node: fx.Node) -> tuple[float, float]:
    if node.target is aten.relu6.default:
        return 0.0, 6.0
    bound = bound_args(node)
    low, high = bound.get("min", bound.get("min_val")), bound.get("max", bound.get("max_val"))
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def add_or_sub(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """add and sub without alpha, by a number or a tensor; a constant first operand of add goes second."""
    bound = bound_args(node)
    left, right, alpha = bound["self"], bound["other"], bound["alpha"]
    is_sub = node.target in (aten.sub.Tensor, aten.sub.Scalar)
    target = aten.sub.Tensor if is_sub else aten.add.Tensor
    if alpha != 1:
        right = _scaled(gm, node, right, alpha)
    elif node.target is target and not node.kwargs:
        return None if is_sub else constant_second(gm, node)
    return stand_in(gm, node, target, (left, right))


def reversed_sub(gm: fx.GraphModule, node: fx.Node) -> fx.Node:
    """rsub(x, y, alpha) = y - alpha·x: a sub of tensors, or (-alpha)·x + y for a number y."""
    bound = bound_args(node)
    source, other, alpha = bound["self"], bound["other"], bound["alpha"]
    if not isinstance(other, fx.Node):
        return stand_in(gm, node, aten.add.Tensor, (_scaled(gm, node, source, -alpha), other))
    if alpha != 1:
        source = _scaled(gm, node, source, alpha)
    return stand_in(gm, node, aten.sub.Tensor, (other, source))


def _scaled(gm: fx.GraphModule, node: fx.Node, operand: Any, factor: Any) -> Any:
    if not isinstance(operand, fx.Node):
        return operand * factor
    value = operand.meta.get("val")
    return insert_call(gm, node, aten.mul.Tensor, (operand, factor), value=value)


def scalar(gm: fx.GraphModule, node: fx.Node) -> fx.Node:
    """mul.Scalar and div.Scalar -> the tensor overload, which takes numbers too."""
    target = aten.mul.Tensor if node.target is aten.mul.Scalar else aten.div.Tensor
    return stand_in(gm, node, target, node.args)


def constant_second(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    left, right = node.args[:2]
    is_constant = isinstance(left, fx.Node) and left.op == "get_attr"
    if not is_constant or not isinstance(right, fx.Node) or right.op == "get_attr":
        return None
    node.args = (right, left)
    return node


def softmax(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A dtype argument that names the input's own dtype, or none, is dropped."""
    source = tensor_of(gm, node.args[0])
    if len(node.args) < 3 or (node.args[2] is not None and (source is None or source.dtype != node.args[2])):
        return None
    node.args = node.args[:2]
    return node


def pad(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """pad of zeros is dropped; pad with a constant is constant_pad_nd; the other modes keep `pad`."""
    bound = bound_args(node)
    if all(size == 0 for size in bound["pad"]):
        return drop(gm, node)
    if node.target is aten.constant_pad_nd.default or bound["mode"] != "constant":
        return None
    value = 0.0 if bound["value"] is None else float(bound["value"])
    return stand_in(gm, node, aten.constant_pad_nd.default, (node.args[0], bound["pad"], value))


def conv_with_padding_string(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """'valid' and 'same' -> numbers; a lopsided 'same' pads the last side more, in front of the conv."""
    bound = bound_args(node)
    weight = shape_of(gm, bound["weight"])
    if weight is None:
        return None
    spatial = len(weight) - 2
    stride, dilation = (list(bound[key]) * (spatial // len(bound[key])) for key in ("stride", "dilation"))
    total = [0] * spatial
    if bound["padding"] == "same":
        total = [d * (int(k) - 1) for d, k in zip(dilation, weight[2:], strict=True)]
    source, padding = bound["input"], [amount // 2 for amount in total]
    if any(amount % 2 for amount in total):
        sides = [side for amount in reversed(total) for side in (amount // 2, amount - amount // 2)]
        source = insert_call(gm, node, aten.constant_pad_nd.default, (source, sides, 0.0))
        padding = [0] * spatial
    args = (source, bound["weight"], bound["bias"], stride, padding, dilation, bound["groups"])
    return stand_in(gm, node, CONV_BY_SPATIAL[spatial], args)


def upsample(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """upsample_*.default -> .vec, with the output size, or with the scales where they give that size."""
    assert isinstance(node.target, OpOverload)
    bound, shape = bound_args(node), shape_of(gm, node.args[0])
    size = list(bound["output_size"])
    scales = [value for name, value in bound.items() if name.startswith("scales")]
    vec = getattr(getattr(aten, node.target._schema.name.split("::")[1]), "vec")  # noqa: B009
    corners = [bound["align_corners"]] if "align_corners" in bound else []
    if all(scale is None for scale in scales):
        return stand_in(gm, node, vec, (node.args[0], size, *corners, None))
    if shape is None or None in scales:
        return None
    known = zip(shape[-len(size) :], scales, size, strict=True)
    if not all(isinstance(n, int) and math.floor(n * s) == out for n, s, out in known):
        return None
    return stand_in(gm, node, vec, (node.args[0], None, *corners, scales))


def global_average(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """An adaptive average pool to one element -> mean over the spatial axes, which stay with size 1."""
    size, rank = bound_args(node)["output_size"], rank_of(gm, node.args[0])
    if rank is None or any(wanted != 1 for wanted in size):
        return None
    axes = list(range(rank - _ADAPTIVE_AVERAGES[node.target], rank))
    return stand_in(gm, node, aten.mean.dim, (node.args[0], axes, True))


RULES: Mapping[object, Callable[[fx.GraphModule, fx.Node], fx.Node | None]] = {
    aten.relu6.default: clamp,
    aten.clamp.default: clamp,
    aten.clamp_min.default: clamp,
    aten.clamp_max.default: clamp,
    aten.hardtanh.default: clamp,
    aten.add.Tensor: add_or_sub,
    aten.add.Scalar: add_or_sub,
    aten.sub.Tensor: add_or_sub,
    aten.sub.Scalar: add_or_sub,
    aten.rsub.Scalar: reversed_sub,
    aten.rsub.Tensor: reversed_sub,
    aten.mul.Scalar: scalar,
    aten.div.Scalar: scalar,
    aten.mul.Tensor: constant_second,
    aten.softmax.int: softmax,
    aten.log_softmax.int: softmax,
    aten.pad.default: pad,
    aten.constant_pad_nd.default: pad,
    aten.conv1d.padding: conv_with_padding_string,
    aten.conv2d.padding: conv_with_padding_string,
    aten.conv3d.padding: conv_with_padding_string,
    aten.upsample_nearest1d.default: upsample,
    aten.upsample_nearest2d.default: upsample,
    aten.upsample_nearest3d.default: upsample,
    aten.upsample_linear1d.default: upsample,
    aten.upsample_bilinear2d.default: upsample,
    aten.upsample_trilinear3d.default: upsample,
    aten.upsample_bicubic2d.default: upsample,
    aten.unflatten.int: drop_if_same_shape,
    **dict.fromkeys(_ADAPTIVE_AVERAGES, global_average),
}
