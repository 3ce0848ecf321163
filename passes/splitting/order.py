"""Another order of a value's channels, taken up by what reads it.

The order goes along through ops that keep channels apart (elementwise ops, pools, zero pads and means over other
axes, flattens, depthwise convs) and ends at layers, whose columns take it up. What meets the value in an op with
two operands must have the same order: it follows from the value as well, or is a constant, or comes from a layer
that nothing else reads, whose rows take it up (the gate of a squeeze-excite block). Anything else refuses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from ...compiler.ir.channelwise import ELEMENTWISE, WINDOWS
from ...compiler.ir.constants import constant, set_constant
from ...compiler.ir.nodes import describe, sole_user
from ...compiler.ir.ops import OPS, aten, bound_args, op_name
from ...compiler.ir.passes import PassContext
from ...compiler.quant.channel_stats import ChannelStat
from .._layers import Layer, parameters, set_parameters
from .._rewrite import rank_of, shape_of

_TWO_OPERANDS = frozenset({aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor})
_FLATTENS = frozenset({aten.flatten.using_ints, aten.view.default, aten.reshape.default})


def channel_axis(gm: fx.GraphModule, layer: fx.Node) -> int | None:
    """The axis on which a layer reads and gives channels; None where its input's rank is not known."""
    rank = rank_of(gm, layer.args[0])
    return None if rank is None else rank - 1 - OPS[layer.target].spatial  # type: ignore[index]


def is_depthwise(layer: Layer) -> bool:
    """Whether each output channel comes from the input channel of the same number."""
    return layer.groups > 1 and tuple(layer.weight.shape[:2]) == (layer.groups, 1)


def keeps_channels(gm: fx.GraphModule, node: fx.Node, axis: int) -> bool:
    """Whether `node` maps each channel of its one input to a channel of its own, all of them alike."""
    if node.target in ELEMENTWISE:
        return True
    rank = rank_of(gm, node.args[0]) if node.args else None
    if rank is None:
        return False
    if (window := WINDOWS.get(node.target)) is not None:  # type: ignore[call-overload]
        return axis < rank - window.spatial
    if node.target is aten.constant_pad_nd.default:
        pad = bound_args(node)["pad"]
        return not any(amount for index, amount in enumerate(pad) if rank - 1 - index // 2 == axis)
    return False


@dataclass(slots=True)
class Reordering:
    """Who takes up an order: layers with their rows or columns, constants along one axis. `values` have the order
    along an axis. New channel i is old channel order[i]."""

    rows: dict[fx.Node, Tensor] = field(default_factory=dict)
    columns: dict[fx.Node, Tensor] = field(default_factory=dict)
    operands: dict[fx.Node, tuple[int, Tensor]] = field(default_factory=dict)
    values: dict[fx.Node, tuple[int, Tensor]] = field(default_factory=dict)

    def apply(self, gm: fx.GraphModule, ctx: PassContext) -> None:
        """Rewrite the constants, and the statistics of layers whose rows move."""
        for node, order in self.columns.items():
            layer = _layer(gm, node)
            set_parameters(gm, layer, layer.from_by_input(layer.by_input()[:, :, order]), None)
        for node, order in self.rows.items():
            layer = _layer(gm, node)
            by_input = layer.by_input()
            moved = by_input[order] if layer.groups > 1 else by_input[:, order]
            set_parameters(
                gm, layer, layer.from_by_input(moved), None if layer.bias is None else layer.bias[order]
            )
            move_statistics(ctx, layer.weight_name, layer.weight_name, order)
        for node, (axis, order) in self.operands.items():
            value = constant(gm, node)
            assert value is not None
            set_constant(gm, str(node.target), value.index_select(axis, order))


def move_statistics(ctx: PassContext, old: str, new: str, channels: Tensor) -> None:
    """Keep the statistics of `channels` of the layer with weight `old` for the one with weight `new`."""
    stats = ctx.channel_stats
    if stats is not None and (stat := stats.by_weight.get(old)) is not None:
        stats.by_weight[new] = ChannelStat(stat.mean[channels], stat.std[channels])


def plan_order(gm: fx.GraphModule, value: fx.Node, axis: int, order: Tensor) -> Reordering | str:
    """Who takes up another order of the channels of `value`, or why nobody can."""
    walk = _Walk(gm, Reordering(values={value: (axis, order)}))
    for node in gm.graph.nodes:
        sources = [source for source in node.all_input_nodes if source in walk.found.values]
        if not sources or node in walk.found.values:
            continue
        reason = walk.read(node, sources[0])
        if reason is not None:
            return reason
    return walk.found


@dataclass(frozen=True, slots=True)
class _Walk:
    gm: fx.GraphModule
    found: Reordering

    def read(self, node: fx.Node, source: fx.Node) -> str | None:
        """Let `node`, a reader of `source`, take up the order or pass it on."""
        axis, order = self.found.values[source]
        if node.target in OPS:
            return self._read_by_layer(node, source)
        if keeps_channels(self.gm, node, axis):
            self.found.values[node] = axis, order
            return None
        if node.target in _TWO_OPERANDS or node.target is aten.clamp.Tensor:
            return self._read_with_operands(node, source)
        if node.target is aten.sym_size.int:
            return None
        if node.op == "output":
            return "they are an output"
        moved = self._mean(node, source) if node.target is aten.mean.dim else self._flat(node, source)
        if moved is None:
            return f"{describe(node)} ({op_name(node.target)}) reads them"
        self.found.values[node] = moved
        return None

    def _read_by_layer(self, node: fx.Node, source: fx.Node) -> str | None:
        axis, order = self.found.values[source]
        layer = parameters(self.gm, node)
        if isinstance(layer, str):
            return layer
        if node.args[0] is not source or source in node.args[1:] or channel_axis(self.gm, node) != axis:
            return f"{describe(node)} has its channels on another axis"
        if is_depthwise(layer):
            self.found.rows[node] = order
            self.found.values[node] = axis, order
            return None
        if layer.groups > 1:
            return f"{describe(node)} reads them in {layer.groups} groups"
        self.found.columns[node] = order
        return None

    def _read_with_operands(self, node: fx.Node, source: fx.Node) -> str | None:
        axis, order = self.found.values[source]
        rank = rank_of(self.gm, source)
        if rank is None or rank_of(self.gm, node) != rank:
            return f"{describe(node)} ({op_name(node.target)}) gives them on another axis"
        for other in node.all_input_nodes:
            if other is not source and (reason := self._meet(other, rank - axis, node, order)) is not None:
                return reason
        self.found.values[node] = axis, order
        return None

    def _meet(self, other: fx.Node, from_end: int, node: fx.Node, order: Tensor) -> str | None:
        """`other` meets the channels, on the axis `from_end` counts from the last, in `node`."""
        shape = shape_of(self.gm, other)
        if shape is None:
            return f"the shape of {other.name} is not known"
        if len(shape) < from_end or shape[-from_end] == 1:
            return None
        axis = len(shape) - from_end
        if (known := self.found.values.get(other)) is not None:
            same = known[0] == axis and torch.equal(known[1], order)
            return None if same else f"{describe(node)} reads them in two orders"
        if sole_user(other) is not node:
            return f"{other.name}, which {describe(node)} reads beside them, is also read elsewhere"
        if other.op == "get_attr":
            self.found.operands[other] = axis, order
            return None
        return self._give(other, axis, order)

    def _give(self, node: fx.Node, axis: int, order: Tensor) -> str | None:
        """Let `node`, which has one reader, give its channels in this order."""
        while keeps_channels(self.gm, node, axis):
            self.found.values[node] = axis, order
            node = node.args[0]  # type: ignore[assignment]
            if sole_user(node) is None:
                return f"{describe(node)} is also read elsewhere"
        if node.target not in OPS:
            return f"{describe(node)} ({op_name(node.target)}) cannot give them in another order"
        layer = parameters(self.gm, node)
        if isinstance(layer, str):
            return layer
        if layer.groups > 1 or channel_axis(self.gm, node) != axis:
            return f"{describe(node)} cannot give them in another order"
        self.found.rows[node] = order
        self.found.values[node] = axis, order
        return None

    def _mean(self, node: fx.Node, source: fx.Node) -> tuple[int, Tensor] | None:
        axis, order = self.found.values[source]
        bound, rank = bound_args(node), rank_of(self.gm, source)
        if rank is None or not bound["dim"]:
            return None
        dims = {dim % rank for dim in bound["dim"]}
        if axis in dims:
            return None
        return (axis, order) if bound["keepdim"] else (axis - sum(dim < axis for dim in dims), order)

    def _flat(self, node: fx.Node, source: fx.Node) -> tuple[int, Tensor] | None:
        """A flatten of the channels with all that follows them: each channel is a run of places."""
        axis, order = self.found.values[source]
        before, after = shape_of(self.gm, source), shape_of(self.gm, node)
        if node.target not in _FLATTENS or before is None or after is None or len(after) != axis + 1:
            return None
        if not all(isinstance(size, int) for size in (after[axis], *before[axis:])):
            return None
        run = math.prod(int(size) for size in before[axis + 1 :])
        if after[axis] != len(order) * run:
            return None
        return axis, (order[:, None] * run + torch.arange(run)).flatten()


def _layer(gm: fx.GraphModule, node: fx.Node) -> Layer:
    layer = parameters(gm, node)
    assert isinstance(layer, Layer)
    return layer
