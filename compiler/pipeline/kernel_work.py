"""What each call of a float graph costs a runtime: which measured kernel it is most like, and how much of it.

A call that runs inside the kernel before it (an activation after a layer) or moves nothing (a reshape) is free.
Ops that have no kernel of their own in the tables stand for the nearest that touches as many elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..ir.clamps import is_clamp
from ..ir.constants import constant, constant_nodes
from ..ir.nodes import placeholders
from ..ir.ops import CONV_TRANSPOSE, OPS, SIZE_ARITHMETIC, VIEWS, aten, bound_args
from ..quant.simulate import run_node

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Work:
    """`amount` in the unit of the kernel `kind`: multiplications of a layer, else elements."""

    kind: str
    amount: float


# By op: the kernel, and whether the elements of the input count (an op that reduces), or those of the result.
_ELEMENTWISE: Mapping[object, tuple[str, bool]] = {
    aten.add.Tensor: ("add", False),
    aten.sub.Tensor: ("add", False),
    aten.mul.Tensor: ("mul", False),
    aten.div.Tensor: ("mul", False),
    aten.cat.default: ("concat", False),
    aten.max_pool1d.default: ("max_pool3x3", False),
    aten.max_pool2d.default: ("max_pool3x3", False),
    aten.avg_pool2d.default: ("avg_pool3x3", False),
    aten.adaptive_avg_pool2d.default: ("add", True),
    aten.mean.dim: ("add", True),
    aten.sigmoid.default: ("sigmoid", False),
    aten.tanh.default: ("sigmoid", False),
    aten.hardsigmoid.default: ("hardswish", False),
    aten.hardswish.default: ("hardswish", False),
    aten.silu.default: ("hardswish", False),
    aten.gelu.default: ("gelu", False),
    aten.softmax.int: ("softmax", False),
    aten.layer_norm.default: ("layer_norm", False),
}
_MOVES = frozenset({aten.permute.default, aten.transpose.int, aten.slice.Tensor, aten.channel_shuffle.default})
_PRODUCTS = frozenset({aten.matmul.default, aten.bmm.default, aten.mm.default})
_OTHER = "mul"


def recorded_shapes(gm: fx.GraphModule, inputs: Sequence[Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that the float graph computes for `inputs`."""
    values: dict[str, Any] = {node.name: x for node, x in zip(placeholders(gm), inputs, strict=True)}
    with torch.no_grad():
        for node in gm.graph.nodes:
            if node.op == "call_function":
                values[node.name] = run_node(gm, node, values)
    values |= {node.name: constant(gm, node) for node in constant_nodes(gm)}
    return {name: tuple(value.shape) for name, value in values.items() if isinstance(value, Tensor)}


def work_of(gm: fx.GraphModule, node: fx.Node, shapes: Shapes) -> Work | None:
    """What the call `node` costs; None where it is free."""
    shape = shapes.get(node.name)
    if shape is None or node.target in SIZE_ARITHMETIC or _is_fused(node):
        return None
    if node.target in OPS:
        return _layer(gm, node, shapes)
    if node.target in _PRODUCTS:
        return Work("linear_rows", float(torch.Size(shape).numel() * shapes[_source(node)][-1]))
    if node.target in VIEWS and node.target not in _MOVES:
        return None
    kind, reads = ("concat", False) if node.target in _MOVES else _ELEMENTWISE.get(node.target, (_OTHER, False))
    return Work(kind, float(torch.Size(shapes[_source(node)] if reads else shape).numel()))


def _source(node: fx.Node) -> str:
    return node.all_input_nodes[0].name


def _is_fused(node: fx.Node) -> bool:
    """A clamp right behind what can do it on the way out."""
    return is_clamp(node) and node.all_input_nodes[0].target in _CLAMPING


_CLAMPING = frozenset(OPS) | {aten.add.Tensor}


def _layer(gm: fx.GraphModule, node: fx.Node, shapes: Shapes) -> Work:
    """A convolution counts by its kernel's size and groups, a linear by its rows."""
    info, args = OPS[node.target], bound_args(node)  # type: ignore[index]
    source = node.args[info.weight]
    assert isinstance(source, fx.Node)
    weight = constant(gm, source)
    wide = tuple(weight.shape) if weight is not None else shapes[source.name]
    counted = shapes[_source(node)] if node.target in CONV_TRANSPOSE else shapes[node.name]
    amount = torch.Size(counted).numel() / wide[0] * torch.Size(wide).numel()
    if not info.spatial:
        rows = torch.Size(shapes[node.name][:-1]).numel()
        return Work("linear" if rows == 1 else "linear_rows", float(amount))
    return Work(_convolution(wide, args), float(amount))


def _convolution(weight: tuple[int, ...], args: Mapping[str, Any]) -> str:
    if args["groups"] > 1 and weight[1] == 1:
        return "depthwise3x3" if max(weight[2:]) <= 3 else "depthwise5x5"
    if args["groups"] > 1:
        return "grouped3x3"
    if len(weight) == 5:
        return "conv3x3x3"
    if max(weight[2:]) == 1:
        return "conv1x1"
    dilation = args["dilation"]
    return "dilated3x3" if max([dilation] if isinstance(dilation, int) else dilation) > 1 else "conv3x3"
