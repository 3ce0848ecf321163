"""Facts about aten ops, as a table that passes and planners read.

`OpInfo` says where an op keeps its weight and bias and which axes are channels; ops without parameters have no
row. `VIEWS` are the ops that only move or select elements.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class OpInfo:
    """Argument positions of weight and bias, and the weight's channel axes.

    `groups` is the position of the groups argument, or None. `spatial` is the number of spatial dimensions.
    """

    weight: int = 1
    bias: int = 2
    out_axis: int = 0
    in_axis: int = 1
    groups: int | None = None
    spatial: int = 0


OPS: Mapping[OpOverload, OpInfo] = {
    aten.conv1d.default: OpInfo(groups=6, spatial=1),
    aten.conv2d.default: OpInfo(groups=6, spatial=2),
    aten.conv3d.default: OpInfo(groups=6, spatial=3),
    aten.conv_transpose1d.default: OpInfo(out_axis=1, in_axis=0, groups=6, spatial=1),
    aten.conv_transpose2d.input: OpInfo(out_axis=1, in_axis=0, groups=6, spatial=2),
    aten.conv_transpose3d.input: OpInfo(out_axis=1, in_axis=0, groups=6, spatial=3),
    aten.linear.default: OpInfo(),
}

CONV = frozenset({aten.conv1d.default, aten.conv2d.default, aten.conv3d.default})
CONV_TRANSPOSE = frozenset(
    {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
)

CONV_BY_SPATIAL = {OPS[op].spatial: op for op in CONV}

# Views with one result of about the input's size.
SAME_SIZE_VIEWS = frozenset(
    {
        aten.reshape.default,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.permute.default,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.squeeze.default,
        aten.slice.Tensor,
        aten.pixel_shuffle.default,
        aten.channel_shuffle.default,
    }
)

# Ops that only move or select elements: the same integers come out, in another place.
VIEWS = SAME_SIZE_VIEWS | {
    aten.view.default,
    aten.select.int,
    aten.expand.default,
    aten.contiguous.default,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    operator.getitem,
}


# Python's operators on symbolic sizes; `getitem` takes a result out of a tuple.
SIZE_ARITHMETIC = frozenset(
    {operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg}
)
PYTHON_OPS = SIZE_ARITHMETIC | {operator.getitem}


# Positions of the constant operands of ops that compute on one activation.
_CONSTANT_OPERANDS: Mapping[object, frozenset[int]] = {
    **{op: frozenset({info.weight, info.bias}) for op, info in OPS.items()},
    aten.clamp.Tensor: frozenset({1, 2}),
}


def constant_operands(target: object) -> frozenset[int]:
    """Positions of an op's constant operands: weight and bias, the bounds of a clamp by tensors."""
    return _CONSTANT_OPERANDS.get(target, frozenset())


def clamp_bounds(node: fx.Node) -> tuple[float, float] | None:
    """(low, high) of relu, hardtanh (relu6) or clamp by numbers; None for any other node."""
    inf = float("inf")
    if node.target is aten.relu.default:
        return 0.0, inf
    if node.target is aten.hardtanh.default:
        args = bound_args(node)
        return float(args["min_val"]), float(args["max_val"])
    if node.target is aten.clamp.default:
        args = bound_args(node)
        low = -inf if args["min"] is None else float(args["min"])
        return low, inf if args["max"] is None else float(args["max"])
    return None


def bound_args(node: fx.Node) -> dict[str, Any]:
    """Every argument of a call by its schema name, defaults filled in."""
    target = node.target
    if not isinstance(target, OpOverload):
        return {str(index): value for index, value in enumerate(node.args)}
    bound: dict[str, Any] = {}
    for index, argument in enumerate(target._schema.arguments):
        if index < len(node.args):
            bound[argument.name] = node.args[index]
        elif argument.name in node.kwargs:
            bound[argument.name] = node.kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value if argument.has_default_value() else None
    return bound


def op_name(target: object) -> str:
    """`conv2d.default` for an aten overload, `getitem` for a Python operator."""
    if isinstance(target, OpOverload):
        prefix = "" if target.namespace == "aten" else f"{target.namespace}."
        return prefix + target._schema.name.split("::")[1] + "." + target._overloadname
    return getattr(target, "__name__", str(target))
