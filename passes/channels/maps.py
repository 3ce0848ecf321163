"""Channel classes of a float graph: which scalar channels can be scaled, and which only together.

Two channels are of one class if a factor on one forces the same factor on the other (they meet in an addition,
repeat one element, or share a weight). A class is fixed if some op does not scale with it, or if the caller of the
graph sees it. For any positive factors `s` of the free classes (1 for the fixed ones) the graph gives the same if

    weight[out, in] becomes weight · s[in] / s[out]      every layer in `layers`
    bias[out]       becomes bias / s[out]
    bounds          become  bounds / s                   every op in `clamps`
    constants       become  constant / s                 every one in `constants`: what is added, a norm's gain
    gain[channel]   becomes gain · s[in] / s[out]        every one in `gains` (see `ir/gains.py`)

so that each value is divided by the factors of its channels; `channels/rescale.py` does that. Known are convs and
transposed convs with groups, linears (a flatten before one repeats each channel's class), residual sums, concats,
splits and any other movement of elements, zero pads, pools, spatial means, products with a gate or with attention
weights, layer norms; see `channels/ops.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ...compiler.ir.nodes import input_name
from ...compiler.ir.ops import OPS, bound_args
from .._rewrite import shape_of
from .ops import HANDLERS, Ids, Trace, opaque


@dataclass(frozen=True, slots=True)
class LayerChannels:
    """A conv, conv_transpose or linear with a constant weight.

    `weight` and `bias` are the constants' nodes, other layers may read them too (then with equal classes, for the
    weight). `in_ids` [channels read] and `out_ids` [channels given] are class ids, int64.
    """

    node: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    in_ids: Tensor
    out_ids: Tensor
    groups: int

    def by_group(self, weight: Tensor) -> Tensor:
        """The weight as [groups, outputs of a group, inputs of a group, kernel...]."""
        grouped = weight.reshape(self.groups, -1, *weight.shape[1:])
        return grouped.transpose(1, 2) if self._is_transposed else grouped

    def from_groups(self, by_group: Tensor) -> Tensor:
        """The inverse of `by_group`."""
        back = by_group.transpose(1, 2) if self._is_transposed else by_group
        return back.reshape(-1, *back.shape[2:])

    def scaled(self, weight: Tensor, factors: Tensor) -> Tensor:
        """weight · factors[in] / factors[out], in the dtype of `factors` [classes]."""
        by_group = self.by_group(weight.to(factors.dtype))
        tail = (1,) * (by_group.ndim - 3)
        by_group = by_group * factors[self.in_ids].view(self.groups, 1, -1, *tail)
        return self.from_groups(by_group / factors[self.out_ids].view(self.groups, -1, 1, *tail))

    @property
    def _is_transposed(self) -> bool:
        return OPS[self.node.target].out_axis == 1  # type: ignore[index]


@dataclass(frozen=True, slots=True)
class ClampChannels:
    """relu6, hardtanh or clamp: `ids` are class ids that broadcast to its value."""

    node: fx.Node
    ids: Tensor


@dataclass(frozen=True, slots=True)
class ConstantOperand:
    """Argument `index` of `node`, a sum or a norm, is a constant; `ids` are class ids that broadcast to it."""

    node: fx.Node
    index: int
    ids: Tensor


@dataclass(frozen=True, slots=True)
class GainChannels:
    """A product with a constant, its second argument, of one number for each channel; class ids [channels]."""

    node: fx.Node
    in_ids: Tensor
    out_ids: Tensor


@dataclass(frozen=True, slots=True)
class ChannelMap:
    """Classes are numbered 0 … `count` - 1.

    `ids` has for each value with channels on one axis that axis and the class of each channel [channels]; values
    without it are fixed or have classes that change along several axes. `reasons` has the fixed classes, and why.
    """

    count: int
    ids: dict[fx.Node, tuple[int, Tensor]]
    layers: tuple[LayerChannels, ...]
    clamps: tuple[ClampChannels, ...]
    constants: tuple[ConstantOperand, ...]
    reasons: dict[int, str]
    gains: tuple[GainChannels, ...] = ()

    @property
    def free(self) -> Tensor:
        """Which classes may be scaled, bool [count]."""
        free = torch.ones(self.count, dtype=torch.bool)
        free[list(self.reasons)] = False
        return free


def channel_map(gm: fx.GraphModule) -> ChannelMap:
    """The channel classes of a FLOAT graph with shapes; `gm` is not changed."""
    trace = Trace(gm)
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            trace.ids[node] = trace.classes.fixed(f"the graph input {input_name(node)} keeps its scale")
        elif node.op == "get_attr":
            trace.ids[node] = trace.classes.fixed(f"the constant {node.target} keeps its scale")
        elif node.op == "output":
            for ids in trace.all_of(node):
                trace.classes.fix(ids, "a graph output keeps its scale")
        else:
            trace.ids[node] = HANDLERS.get(node.target, opaque)(trace, node)
    return _numbered(trace)


def _numbered(trace: Trace) -> ChannelMap:
    """Classes in the order of their first channel, 0, 1, 2 …"""
    values = {node: _on_one_axis(trace, node, ids) for node, ids in trace.ids.items()}
    ids = {node: found for node, found in values.items() if found is not None}
    used = [along for _, along in ids.values()]
    used += [item for layer in trace.layers for item in (layer.in_ids, layer.out_ids)]
    used += [item for _, *both in trace.gains for item in both]
    used += [item for _, item in trace.clamps] + [item for _, _, item in trace.constants]
    roots = trace.classes.roots(torch.cat([torch.zeros(0, dtype=torch.int64), *map(torch.flatten, used)])).unique()

    def number(ids: Tensor) -> Tensor:
        return torch.searchsorted(roots, trace.classes.roots(ids))

    reasons = {index: trace.classes.reason(root) for index, root in enumerate(roots.tolist())}
    layers = []
    for layer in trace.layers:
        bound = bound_args(layer.node)
        both = number(layer.in_ids), number(layer.out_ids)
        layers.append(LayerChannels(layer.node, bound["weight"], bound["bias"], *both, layer.groups))
    return ChannelMap(
        len(roots),
        {node: (axis, number(along)) for node, (axis, along) in ids.items()},
        tuple(layers),
        tuple(ClampChannels(node, number(ids)) for node, ids in trace.clamps),
        tuple(ConstantOperand(node, index, number(ids)) for node, index, ids in trace.constants),
        {index: reason for index, reason in reasons.items() if reason is not None},
        tuple(GainChannels(node, *map(number, both)) for node, *both in trace.gains),
    )


def _on_one_axis(trace: Trace, node: fx.Node, ids: Ids) -> tuple[int, Tensor] | None:
    """The channel axis and the ids along it; axis 1 where all channels are of one class."""
    shape = shape_of(trace.gm, node)
    if isinstance(ids, list) or ids.ndim == 0 or shape is None:
        return None
    axes = [axis for axis, size in enumerate(ids.shape) if size > 1] or [min(1, ids.ndim - 1)]
    size = shape[axes[0]]
    if len(axes) > 1 or not isinstance(size, int):
        return None
    return axes[0], ids.flatten().expand(size)
