"""Clamps by constant tensors in one spelling.

    clamp.Tensor, clamp_min.Tensor, clamp_max.Tensor, and minimum, maximum with a constant
        -> a clamp by numbers for a bound that is the same everywhere, clamp.Tensor for one that is not

So relu(x) clamped to one maximum for each channel stays a relu, which runtimes fuse, and a clamp.Tensor. Left as
they are: computed bounds, bounds that widen the input's shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor, fx

from ...compiler.ir.constants import add_constant, constant
from ...compiler.ir.ops import aten, bound_args
from .._rewrite import clamp_call, is_same_shape, shape_of, stand_in, tensor_of

Bound = float | fx.Node | None


def clamp_by_tensors(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    source, *given = _operands(node)
    tensors = [constant(gm, bound) for bound in given]
    if any(not _is_known(bound, tensor) for bound, tensor in zip(given, tensors, strict=True)):
        return None
    if not _keeps_type(gm, node, source):
        return None
    low, high = (_simplest(gm, node, bound, tensor) for bound, tensor in zip(given, tensors, strict=True))
    if node.target is aten.clamp.Tensor and node.args == (source, low, high):
        return None
    if isinstance(low, float) and isinstance(high, float):
        return _clamp(gm, node, source, min(low, high), high)
    if isinstance(low, fx.Node) and isinstance(high, fx.Node):
        return _clamp(gm, node, source, low, high)
    return _clamp(gm, node, _clamp(gm, node, source, low, None), None, high)


def _operands(node: fx.Node) -> tuple[object, object, object]:
    """The clamped value, its lower and its upper bound."""
    args = bound_args(node)
    if node.target not in (aten.minimum.default, aten.maximum.default):
        return args["self"], args.get("min"), args.get("max")
    left, right = args["self"], args["other"]
    if isinstance(left, fx.Node) and left.op == "get_attr":
        left, right = right, left
    return (left, None, right) if node.target is aten.minimum.default else (left, right, None)


def _is_known(bound: object, tensor: Tensor | None) -> bool:
    return bound is None if tensor is None else tensor.numel() > 0


def _keeps_type(gm: fx.GraphModule, node: fx.Node, source: object) -> bool:
    value, before = tensor_of(gm, node), tensor_of(gm, source)
    if value is None or before is None or not value.is_floating_point() or value.dtype != before.dtype:
        return False
    return is_same_shape(shape_of(gm, node), shape_of(gm, source))


def _simplest(gm: fx.GraphModule, node: fx.Node, bound: object, tensor: Tensor | None) -> Bound:
    """A number where all bounds are equal, else a constant of the value's dtype."""
    if tensor is None or not isinstance(bound, fx.Node):
        return None
    value = tensor_of(gm, node)
    assert value is not None
    cast = tensor.to(value.dtype)
    if bool((cast == cast.flatten()[0]).all()):
        return float(cast.flatten()[0])
    return bound if cast.dtype == tensor.dtype else add_constant(gm, f"{bound.target}_cast", cast, node)


def _clamp(gm: fx.GraphModule, node: fx.Node, source: object, low: Bound, high: Bound) -> fx.Node:
    """`source` between two bounds of one kind, an absent one aside; `source` itself where both are absent."""
    assert isinstance(source, fx.Node)
    if low is None and high is None:
        return source
    if isinstance(low, fx.Node) or isinstance(high, fx.Node):
        return stand_in(gm, node, aten.clamp.Tensor, (source, low, high))
    target, numbers = clamp_call(-math.inf if low is None else low, math.inf if high is None else high)
    return stand_in(gm, node, target, (source, *numbers))


RULES: Mapping[object, Callable[[fx.GraphModule, fx.Node], fx.Node | None]] = dict.fromkeys(
    (
        aten.clamp.Tensor,
        aten.clamp_min.Tensor,
        aten.clamp_max.Tensor,
        aten.minimum.default,
        aten.maximum.default,
    ),
    clamp_by_tensors,
)
