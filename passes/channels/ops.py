"""What each op does to the classes of scalar channels: one handler per kind of op, in the table `HANDLERS`.

A handler gives the ids of the node's value (see `channels/classes.py`), a list of them for an op with several
results. An op without a row fixes whatever it reads (`opaque`). Every factor is positive, so relu, max pooling
and |x| scale with their input; whatever only moves elements is run on the ids themselves.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from ...compiler.ir.channelwise import ELEMENTWISE, WINDOWS
from ...compiler.ir.constants import constant
from ...compiler.ir.gains import is_gain
from ...compiler.ir.nodes import describe
from ...compiler.ir.ops import OPS, SIZE_ARITHMETIC, VIEWS, aten, bound_args, op_name
from .._rewrite import number, rank_of, shape_of
from .classes import Classes

Ids = Tensor | list[Tensor]
Handler = Callable[["Trace", fx.Node], Ids]


@dataclass(frozen=True, slots=True)
class LayerTrace:
    """A layer with a constant weight and the ids of its channels."""

    node: fx.Node
    in_ids: Tensor
    out_ids: Tensor
    groups: int


@dataclass(slots=True)
class Trace:
    """What is known while the graph is walked in order."""

    gm: fx.GraphModule
    classes: Classes = field(default_factory=Classes)
    ids: dict[fx.Node, Ids] = field(default_factory=dict)
    layers: list[LayerTrace] = field(default_factory=list)
    clamps: list[tuple[fx.Node, Tensor]] = field(default_factory=list)
    constants: list[tuple[fx.Node, int, Tensor]] = field(default_factory=list)
    gains: list[tuple[fx.Node, Tensor, Tensor]] = field(default_factory=list)
    by_weight: dict[fx.Node, LayerTrace] = field(default_factory=dict)

    def of(self, value: object) -> Tensor:
        """Ids of a node's value that is one tensor; anything else is fixed."""
        ids = self.ids.get(value) if isinstance(value, fx.Node) else None
        return ids if isinstance(ids, Tensor) else self.classes.fixed("a number keeps its scale")

    def all_of(self, node: fx.Node) -> list[Tensor]:
        """Ids of everything that the node reads."""
        found: list[Tensor] = []
        for source in node.all_input_nodes:
            ids = self.ids[source]
            found.extend([ids] if isinstance(ids, Tensor) else ids)
        return found


def opaque(trace: Trace, node: fx.Node) -> Tensor:
    """The op does not scale with what it reads."""
    return _fix_inputs(trace, node, f"{_name(node)} does not scale with its input")


def _fix_inputs(trace: Trace, node: fx.Node, reason: str) -> Tensor:
    for ids in trace.all_of(node):
        trace.classes.fix(ids, reason)
    return trace.classes.fixed(reason)


def _name(node: fx.Node) -> str:
    return f"{op_name(node.target)} of {describe(node)}"


def _same(trace: Trace, node: fx.Node) -> Tensor:
    """Elementwise and homogeneous in the first argument; further tensors are constants."""
    for source in node.all_input_nodes[1:]:
        if source.op != "get_attr":
            trace.classes.fix(trace.of(source), f"{_name(node)} does not scale with {source.name}")
    return trace.of(node.args[0])


def _shape_only(trace: Trace, node: fx.Node) -> Tensor:
    return trace.classes.fixed(f"{_name(node)} gives the same for any input")


# --- layers ---------------------------------------------------------------------------------------------------


def _layer(trace: Trace, node: fx.Node) -> Tensor:
    """weight[out, in] takes up a factor on either side."""
    info, bound = OPS[node.target], bound_args(node)  # type: ignore[index]
    weight = constant(trace.gm, bound["weight"])
    if weight is None or weight.ndim != info.spatial + 2:
        return _fix_inputs(trace, node, f"the weight of {describe(node)} is not a constant")
    rank = rank_of(trace.gm, node.args[0])
    if rank is None:
        return _fix_inputs(trace, node, f"the rank of what {describe(node)} reads is not known")
    groups = bound.get("groups", 1)
    sizes = [weight.shape[info.in_axis], weight.shape[info.out_axis]]
    sizes[0 if info.in_axis else 1] *= groups
    axis = rank - 1 - info.spatial
    in_ids = _along(trace, node, axis).expand(sizes[0])
    layer = LayerTrace(node, in_ids, trace.classes.fresh(sizes[1]), groups)
    _share_weight(trace, layer, bound["weight"])
    bias = bound["bias"]
    if bias is not None and constant(trace.gm, bias) is None:
        reason = f"the bias of {describe(node)} is computed, not constant"
        trace.classes.fix(layer.out_ids, reason)
        trace.classes.fix(trace.of(bias), reason)
    trace.layers.append(layer)
    return _on_axis(layer.out_ids, axis, rank)


def _along(trace: Trace, node: fx.Node, axis: int) -> Tensor:
    """Ids of the node's first input along the axis that it reads as channels, [1] or [channels]; what it has on
    other axes is joined."""
    ids = trace.of(node.args[0])
    return trace.classes.join_along(ids, [other for other in range(ids.ndim) if other != axis]).reshape(-1)


def _on_axis(ids: Tensor, axis: int, rank: int) -> Tensor:
    return ids.view([-1 if index == axis else 1 for index in range(rank)])


def _share_weight(trace: Trace, layer: LayerTrace, weight: fx.Node) -> None:
    """Layers that share a weight share the factors of its rows and of its columns."""
    reason = None
    for user in weight.users:
        if user.target not in OPS or [index for index, arg in enumerate(user.args) if arg is weight] != [1]:
            reason = f"the weight {weight.target} of {describe(layer.node)} is also read by {describe(user)}"
    first = trace.by_weight.setdefault(weight, layer)
    if first.node.target is not layer.node.target or first.groups != layer.groups:
        reason = f"{describe(first.node)} and {describe(layer.node)} use the weight {weight.target} differently"
    if reason is not None:
        for ids in (first.in_ids, first.out_ids, layer.in_ids, layer.out_ids):
            trace.classes.fix(ids, reason)
    elif first is not layer:
        trace.classes.join(first.in_ids, layer.in_ids)
        trace.classes.join(first.out_ids, layer.out_ids)


# --- arithmetic -----------------------------------------------------------------------------------------------


def _sum(trace: Trace, node: fx.Node) -> Tensor:
    """add, sub, maximum, minimum: both sides have one factor; a constant takes it up."""
    left, right = node.args[:2]
    if _is_constant(left) or _is_constant(right):
        index = 0 if _is_constant(left) else 1
        return _sum_constant(trace, node, index)
    rank = rank_of(trace.gm, node)
    if rank is None:
        return opaque(trace, node)
    sides = [_aligned(trace.of(side), rank) for side in (left, right)]
    trace.classes.join(*sides)
    return trace.classes.compact(torch.broadcast_tensors(*sides)[0])


def _is_constant(value: object) -> bool:
    return not isinstance(value, fx.Node) or value.op == "get_attr"


def _aligned(ids: Tensor, rank: int) -> Tensor:
    """Ids with axes of size 1 in front, as broadcasting puts them there."""
    return ids if ids.ndim == 0 else ids.view([1] * (rank - ids.ndim) + list(ids.shape))


def _sum_constant(trace: Trace, node: fx.Node, index: int) -> Tensor:
    other, rank = node.args[1 - index], rank_of(trace.gm, node)
    value = constant(trace.gm, node.args[index])
    if value is None or rank is None or _is_constant(other):
        is_zero = value is None and node.args[index] == 0 and node.target in (aten.add.Tensor, aten.sub.Tensor)
        return trace.of(other) if is_zero and not _is_constant(other) else opaque(trace, node)
    ids = _aligned(trace.of(other), rank)
    shape = [1] * (rank - value.ndim) + list(value.shape)
    ids = trace.classes.join_along(ids, [axis for axis in range(ids.ndim) if shape[axis] == 1])
    trace.constants.append((node, index, ids.reshape(ids.shape[rank - value.ndim :])))
    return ids


def _product(trace: Trace, node: fx.Node) -> Tensor:
    """x · gate: the result has the factors of x, the gate none. The gate is what is fixed already, else the
    smaller one, else the second. A gain gives its result factors of its own."""
    left, right = node.args[:2]
    rank = rank_of(trace.gm, node)
    if rank is None or (_is_constant(left) and _is_constant(right)):
        return opaque(trace, node)
    if is_gain(node):
        return _gain(trace, node, rank)
    if _is_constant(left) or _is_constant(right):
        return _aligned(trace.of(right if _is_constant(left) else left), rank)
    scaled, gate = _by_role(trace, left, right)
    trace.classes.fix(trace.of(gate), f"{_name(node)} takes it as a gate")
    return _aligned(trace.of(scaled), rank)


def _gain(trace: Trace, node: fx.Node, rank: int) -> Tensor:
    """A constant for each channel takes up a factor on either side."""
    value = constant(trace.gm, node.args[1])
    assert value is not None
    axis = rank - value.ndim + next(index for index, size in enumerate(value.shape) if size > 1)
    in_ids, out_ids = _along(trace, node, axis).expand(value.numel()), trace.classes.fresh(value.numel())
    trace.gains.append((node, in_ids, out_ids))
    return _on_axis(out_ids, axis, rank)


def _by_role(trace: Trace, left: object, right: object) -> tuple[object, object]:
    fixed = [trace.classes.is_fixed(trace.of(side)) for side in (left, right)]
    if fixed[0] != fixed[1]:
        return (right, left) if fixed[0] else (left, right)
    shapes = [shape_of(trace.gm, side) or () for side in (left, right)]
    ones = [sum(isinstance(size, int) and size == 1 for size in shape) - len(shape) for shape in shapes]
    return (right, left) if ones[0] > ones[1] else (left, right)


def _quotient(trace: Trace, node: fx.Node) -> Tensor:
    """x / gate."""
    top, bottom = node.args[:2]
    rank = rank_of(trace.gm, node)
    if rank is None or _is_constant(top) or node.kwargs.get("rounding_mode") is not None:
        return opaque(trace, node)
    if not _is_constant(bottom):
        trace.classes.fix(trace.of(bottom), f"{_name(node)} takes it as a divisor")
    return _aligned(trace.of(top), rank)


def _clamp(trace: Trace, node: fx.Node) -> Tensor:
    """Bounds are divided by the factor of each channel."""
    if any(source.op != "get_attr" for source in node.all_input_nodes[1:]):
        return opaque(trace, node)
    rank = rank_of(trace.gm, node)
    if rank is None:
        return opaque(trace, node)
    ids = _aligned(trace.of(node.args[0]), rank)
    trace.clamps.append((node, ids))
    return ids


def _matmul(trace: Trace, node: fx.Node) -> Tensor:
    """The result has the factors that one side has outside of the axis summed over; the other side has none. That
    is the left one where it is fixed already, as attention weights are, else the right one."""
    left, right = node.args[:2]
    ranks = [rank_of(trace.gm, side) for side in (left, right)]
    if None in ranks or min(ranks) < 2:  # type: ignore[type-var, operator]
        return opaque(trace, node)
    takes_right = trace.classes.is_fixed(trace.of(left))
    scaled, gate = (right, left) if takes_right else (left, right)
    trace.classes.fix(trace.of(gate), f"{_name(node)} takes it as a gate")
    rank = max(ranks)  # type: ignore[type-var]
    ids = _aligned(trace.of(scaled), rank)  # type: ignore[arg-type]
    return ids if ids.ndim == 0 else trace.classes.join_along(ids, [rank - 2 if takes_right else rank - 1])  # type: ignore[operator]


def _layer_norm(trace: Trace, node: fx.Node) -> Tensor:
    """Gain and shift take up the factors of what the norm gives, if they are constants of its last axis."""
    bound, rank = bound_args(node), rank_of(trace.gm, node)
    given = [bound[key] for key in ("weight", "bias") if bound[key] is not None]
    gain = constant(trace.gm, bound["weight"])
    fixed = opaque(trace, node)
    known = all(_is_constant(value) and value in node.args for value in given)
    if gain is None or gain.ndim != 1 or rank is None or not known:
        return fixed
    ids = trace.classes.fresh(gain.numel())
    trace.constants += [(node, node.args.index(value), ids) for value in given]
    return _on_axis(ids, rank - 1, rank)


# --- spatial ops, reductions, pads ----------------------------------------------------------------------------


def _over_last(spatial: int) -> Handler:
    """Mixes along the last `spatial` axes, linearly or by maximum; the other axes stay."""

    def handle(trace: Trace, node: fx.Node) -> Tensor:
        ids = trace.of(node.args[0])
        return trace.classes.join_along(ids, range(max(0, ids.ndim - spatial), ids.ndim))

    return handle


def _first_over_last(spatial: int) -> Handler:
    """The same for an op that gives indices as its second result."""
    handle = _over_last(spatial)
    return lambda trace, node: [handle(trace, node), _shape_only(trace, node)]  # type: ignore[list-item]


def _reduction(trace: Trace, node: fx.Node) -> Tensor:
    bound, ids = bound_args(node), trace.of(node.args[0])
    if ids.ndim == 0:
        return ids
    axes = bound["dim"] if isinstance(bound["dim"], (list, tuple)) else [bound["dim"]]
    axes = [axis % ids.ndim for axis in axes if axis is not None] or list(range(ids.ndim))
    ids = trace.classes.join_along(ids, axes)
    if bound["keepdim"]:
        return ids
    return ids.view([size for axis, size in enumerate(ids.shape) if axis not in axes])


def _pad(trace: Trace, node: fx.Node) -> Tensor:
    """Zeros and infinities scale freely: on an axis where the class changes they are classes of their own."""
    bound, ids = bound_args(node), trace.of(node.args[0])
    if ids.ndim == 0:
        return ids
    mode, value = bound.get("mode", "constant"), bound["value"]
    padded_axes = {ids.ndim - 1 - index // 2 for index, amount in enumerate(bound["pad"]) if amount != 0}
    if mode != "constant":
        return trace.classes.join_along(ids, padded_axes)
    if value is not None and value != 0 and math.isfinite(value):
        return _fix_inputs(trace, node, f"{_name(node)} pads with {value:g}")
    amounts = list(bound["pad"])
    for index in range(len(amounts)):
        if ids.shape[ids.ndim - 1 - index // 2] == 1:
            amounts[index] = 0
    padded = torch.constant_pad_nd(ids, amounts, -1)
    new = padded < 0
    padded[new] = trace.classes.fresh(int(new.sum()))
    return padded


# --- ops that move elements -----------------------------------------------------------------------------------


def _move(trace: Trace, node: fx.Node) -> Ids:
    """Run the op on the ids, each value at its full size (symbolic sizes at those of the capture)."""
    sources = [source for source in node.all_input_nodes if _size(source) is None]
    ids = torch.cat([trace.classes.roots(trace.of(source)).flatten() for source in sources])
    if bool((ids == ids[0]).all()):
        return ids[0]
    shapes = {source: [number(size) for size in shape_of(trace.gm, source) or (None,)] for source in sources}
    if any(size is None for shape in shapes.values() for size in shape):
        return _fix_inputs(trace, node, f"{_name(node)} reads a value of unknown size")

    def full(argument: fx.Node) -> Any:
        size = _size(argument)
        if size is not None:
            return size
        return trace.classes.roots(trace.of(argument)).expand(shapes[argument])  # type: ignore[arg-type]

    args, kwargs = fx.map_arg((node.args, node.kwargs), full)
    result = node.target(*args, **kwargs)  # type: ignore[operator]
    if isinstance(result, Tensor):
        return trace.classes.compact(result)
    return [trace.classes.compact(item) for item in result]


def _size(node: fx.Node) -> int | None:
    """The number that a size node stood for in the capture; None for a tensor."""
    return number(node.meta.get("val"))


def _concat(trace: Trace, node: fx.Node) -> Ids:
    """Only the axes on which some class changes and the joined one need their full size."""
    values, axis = node.args[0], bound_args(node)["dim"]
    assert isinstance(values, Sequence)
    shapes = [shape_of(trace.gm, value) for value in values]
    rank = rank_of(trace.gm, node)
    if rank is None or any(shape is None or number(shape[axis]) is None for shape in shapes):
        return opaque(trace, node)
    axis %= rank
    pieces = [
        trace.of(value).expand([1] * rank) if trace.of(value).ndim == 0 else trace.of(value) for value in values
    ]
    common = torch.broadcast_shapes(*(p.narrow(axis, 0, 1).shape for p in pieces))
    sizes = [number(shape[axis]) for shape in shapes]  # type: ignore[index]
    full = [
        piece.expand([*common[:axis], size, *common[axis + 1 :]])  # type: ignore[list-item]
        for piece, size in zip(pieces, sizes, strict=True)
    ]
    return trace.classes.compact(torch.cat(full, axis))


def _item(trace: Trace, node: fx.Node) -> Tensor:
    ids, index = trace.ids[node.args[0]], node.args[1]  # type: ignore[index]
    if isinstance(ids, list) and isinstance(index, int):
        return ids[index]
    return ids if isinstance(ids, Tensor) and ids.ndim == 0 else opaque(trace, node)


def _all(handler: Handler, *ops: object) -> dict[object, Handler]:
    return dict.fromkeys(ops, handler)


HANDLERS: Mapping[object, Handler] = {
    **_all(_move, *VIEWS, aten.stack.default, aten.unbind.int, aten.flip.default, aten.roll.default),
    **_all(_move, aten.repeat.default, aten.pixel_unshuffle.default),
    **_all(_layer, *OPS),
    **_all(_same, *(op for op, function in ELEMENTWISE.items() if function.homogeneous), aten.prelu.default),
    **_all(_same, aten.clone.default, aten.detach.default, aten.alias.default),
    **_all(_same, aten.dropout.default, aten.feature_dropout.default),
    **_all(_shape_only, aten.sym_size.int, aten.zeros_like.default, aten.ones_like.default, *SIZE_ARITHMETIC),
    **_all(_sum, aten.add.Tensor, aten.sub.Tensor, aten.maximum.default, aten.minimum.default),
    **_all(_product, aten.mul.Tensor),
    **_all(_matmul, aten.matmul.default, aten.bmm.default),
    aten.layer_norm.default: _layer_norm,
    **_all(_quotient, aten.div.Tensor),
    **_all(_clamp, aten.hardtanh.default, aten.clamp.default, aten.clamp.Tensor, aten.relu6.default),
    **_all(_reduction, aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default),
    **_all(_pad, aten.constant_pad_nd.default, aten.pad.default),
    **_all(_first_over_last(1), aten.adaptive_max_pool1d.default),
    **_all(_first_over_last(2), aten.adaptive_max_pool2d.default),
    **_all(_first_over_last(3), aten.adaptive_max_pool3d.default),
    **{op: _over_last(window.spatial) for op, window in WINDOWS.items()},
    aten.cat.default: _concat,
    operator.getitem: _item,
}
