"""Small graph edits and questions that the float passes share: shapes as capture recorded them, new calls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from ..compiler.ir.constants import constant
from ..compiler.ir.nodes import inherit
from ..compiler.ir.ops import aten

Size = int | torch.SymInt


def tensor_of(gm: fx.GraphModule, node: object) -> Tensor | None:
    """A tensor with the shape and dtype of `node`'s value: a constant itself, else the fake one that capture
    recorded; None where neither is known or the value is no tensor."""
    if not isinstance(node, fx.Node):
        return None
    value = constant(gm, node) if node.op == "get_attr" else node.meta.get("val")
    return value if isinstance(value, Tensor) else None


def shape_of(gm: fx.GraphModule, node: object) -> tuple[Size, ...] | None:
    """Sizes of `node`'s value, dynamic ones as `SymInt`; None where unknown."""
    value = tensor_of(gm, node)
    return None if value is None else tuple(value.shape)


def rank_of(gm: fx.GraphModule, node: object) -> int | None:
    value = tensor_of(gm, node)
    return None if value is None else value.ndim


def number(size: object) -> int | None:
    """A size as a number, a dynamic one as in the capture, which restricts nothing; None for anything else."""
    if isinstance(size, torch.SymInt):
        return size.node.hint
    return size if isinstance(size, int) else None


def is_same_size(left: Size, right: Size) -> bool:
    """Whether two sizes are surely equal; asks nothing of the symbolic shapes that would restrict them."""
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    if isinstance(left, torch.SymInt) and isinstance(right, torch.SymInt):
        return bool(left.node.expr == right.node.expr)
    return False


def is_same_shape(left: Sequence[Size] | None, right: Sequence[Size] | None) -> bool:
    if left is None or right is None or len(left) != len(right):
        return False
    return all(is_same_size(a, b) for a, b in zip(left, right, strict=True))


def insert_call(
    gm: fx.GraphModule,
    before: fx.Node,
    target: OpOverload,
    args: Sequence[object],
    *,
    value: object = None,
) -> fx.Node:
    """A new call in front of `before`, with its module path and source line.

    `value` is the recorded value (shape and dtype) of the result, None where it is not known.
    """
    with gm.graph.inserting_before(before):
        node = inherit(gm.graph.call_function(target, tuple(args)), before)  # type: ignore[arg-type]
    if value is not None:
        node.meta["val"] = value
    return node


def stand_in(gm: fx.GraphModule, node: fx.Node, target: OpOverload, args: Sequence[object]) -> fx.Node:
    """A new call in front of `node` that gives the same value, so it keeps the shape recorded for `node`."""
    return insert_call(gm, node, target, args, value=node.meta.get("val"))


def replace(gm: fx.GraphModule, old: fx.Node, new: fx.Node) -> None:
    """Let every reader of `old` read `new`, and erase `old`."""
    old.replace_all_uses_with(new)
    gm.graph.erase_node(old)


def clamp_call(low: float, high: float) -> tuple[OpOverload, tuple[float | None, ...]]:
    """The one spelling of a clamp to [low, high]: relu, hardtanh, or clamp with one bound."""
    if low == 0 and high == math.inf:
        return aten.relu.default, ()
    if math.isfinite(low) and math.isfinite(high):
        return aten.hardtanh.default, (low, high)
    return aten.clamp.default, (None if low == -math.inf else low, None if high == math.inf else high)
