"""Layers whose channels differ widely in range become branches, each with scales of its own.

    conv -> activation -> [pad] -> depthwise conv -> activation   becomes   2 … 3 such chains and a concat

A chain starts at a conv or linear without groups and goes on through ops that keep channels apart: elementwise
activations, zero pads, pools, clamps by constants, depthwise convs. Its channels are put into a few parts by their
range, each part gets a copy of the chain with its own rows of every weight, and a concat joins the parts. Each
branch then has its own scale for every weight and every activation inside, the products are as many as before, and
no rounding is added. Unlike equalization this holds for any activation (hardswish, silu).

The concat has the channels in another order, which the readers take up (`splitting/order.py`); where they cannot,
the layer is left alone. What one scale costs and which parts are best is in `splitting/range_parts.py`: counted
are the weights where they get one scale for the tensor, and the activations between the first layer and the concat
where there are samples. Samples also show how much a channel's errors weigh at the graph's outputs
(`splitting/range_costs.py`). In YOLOX-nano, one channel within ±0.3 has 94 % of the influence of its tensor, whose
range is -3 … 4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from ..compiler.ir.channelwise import ELEMENTWISE
from ..compiler.ir.clamps import is_clamp, unusable_bounds
from ..compiler.ir.constants import add_constant, constant
from ..compiler.ir.nodes import inherit, sole_user
from ..compiler.ir.ops import OPS, aten, bound_args
from ..compiler.ir.passes import Numerics, PassContext, PassResult, Skip
from ..compiler.ir.stages import Stage
from ..compiler.quant.channel_stats import Measured, measure_channels
from ..compiler.quant.walk import first_samples
from ._layers import Layer, parameters
from ._rewrite import insert_call, replace
from .splitting.order import (
    Reordering,
    channel_axis,
    is_depthwise,
    keeps_channels,
    move_statistics,
    plan_order,
)
from .splitting.range_costs import RangeCosts, range_costs
from .splitting.range_parts import Cut, Spread, best_cuts, noise_of_one

_BRANCH = re.compile(r"(^|\.)part\d+(\.|$)")  # in the names of a branch's weights
_WEIGHT_STEPS, _ACTIVATION_STEPS = 127, 255
_SAMPLES = 16  # of the calibration data
_COSTED, _AT_ONCE = 8, 4  # of them show what errors cost at the outputs
_UNSURE = 2.0  # as much more must be gained of noise that is not measured at the outputs
_NEAR_BEST = 1.2  # times the least noise: fewer branches are taken if they leave no more


@dataclass(frozen=True, slots=True)
class SplitRanges:
    """Split layers whose channels differ widely in range into at most `branches` branches.

    `per_tensor_weights` says that a weight will get one scale, not one for each row. A layer is split where the
    rounding noise, summed over the weights and activations of its chain, is more than `floor` and falls by a
    factor of `gain` or more, into no more branches than bring it near the best, or below `floor`. The noise is
    that at the graph's outputs, over the signal there, where there are samples to measure it; else it is relative
    to each channel's power, and must fall twice as far. Branches have a multiple of `multiple_of` channels, save
    the last: kernels work on 8 at a time, and fbgemm's depthwise ones take nothing else.

    Raises:
        ValueError: fewer than 2 branches, a multiple below 1, a gain of 1 or less, or a floor of 0 or less.
    """

    per_tensor_weights: bool = False
    branches: int = 4
    gain: float = 2.0
    floor: float = 0.01
    multiple_of: int = 8

    name: ClassVar[str] = "split-ranges"
    requires: ClassVar[Stage] = Stage.FLOAT
    ensures: ClassVar[Stage] = Stage.FLOAT
    numerics: ClassVar[Numerics] = "close"

    def __post_init__(self) -> None:
        if self.branches < 2 or self.multiple_of < 1:
            raise ValueError(
                f"a split needs 2 branches or more of 1 channel or more, got {self.branches} branches with a "
                f"multiple of {self.multiple_of} channels"
            )
        if not (self.gain > 1 and self.floor > 0):
            raise ValueError(f"gain must be above 1 and floor above 0, got {self.gain} and {self.floor}")

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        found = [_match(gm, node) for node in gm.graph.nodes if node.target in OPS]
        skipped = [item for item in found if isinstance(item, Skip)]
        chains = [item for item in found if isinstance(item, _Chain)]
        measured = _measure(gm, chains, ctx)
        costs = self._costs(gm, chains, ctx)
        changes = 0
        for chain in chains:
            planned = self._plan(gm, chain, measured, costs)
            if isinstance(planned, Skip):
                skipped.append(planned)
                continue
            _Rewrite(gm, chain, ctx).split(planned)
            _reorder(measured, costs, planned.reordering)
            changes += 1
        return PassResult(changes, tuple(skipped))

    def _plan(
        self, gm: fx.GraphModule, chain: _Chain, measured: Mapping[str, Measured], costs: RangeCosts | None
    ) -> _Plan | Skip:
        if costs is not None and chain.is_branch():
            return Skip(chain.nodes[0].name, "it is a branch")
        cut = self._cut(
            chain, self._spreads(chain, measured, costs), self.gain * (_UNSURE if costs is None else 1)
        )
        if isinstance(cut, Skip):
            return cut
        reordering = plan_order(gm, chain.nodes[-1], chain.axis, torch.cat(cut.parts))
        if isinstance(reordering, str):
            return Skip(chain.nodes[0].name, f"its channels cannot be put in another order: {reordering}")
        return _Plan(cut, reordering)

    def _cut(self, chain: _Chain, spreads: Sequence[Spread], gain: float) -> Cut | Skip:
        node = chain.nodes[0]
        if not spreads:
            return Skip(node.name, "no scale serves several of its channels, or none is known of")
        whole = noise_of_one(spreads)
        if whole <= self.floor:
            return Skip(node.name, f"one scale leaves {whole:.2g} of noise, no more than {self.floor:g}")
        cuts = best_cuts(spreads, self.branches, self.multiple_of)
        best = min(cut.noise for cut in cuts)
        if best * gain > whole:
            return Skip(node.name, f"{len(cuts)} branches leave {best:.2g} of noise, one leaves {whole:.2g}")
        enough = max(_NEAR_BEST * best, min(self.floor, whole / gain))
        return next(cut for cut in cuts[1:] if cut.noise <= enough)

    def _spreads(self, chain: _Chain, measured: Mapping[str, Measured], costs: RangeCosts | None) -> list[Spread]:
        """What one scale serves: the rows of each weight that gets one, and the channels of each value."""
        found = []
        for node, layer in chain.layers.items() if self.per_tensor_weights else ():
            reach, power = layer.output_ranges(), layer.by_input().square().flatten(2).mean(2).flatten()
            power = power if costs is None else _counting(costs.rows.get(node.name), power)
            found.append(Spread(reach, torch.zeros_like(reach), power, _WEIGHT_STEPS))
        for value in chain.values():
            if (stat := measured.get(value.name)) is not None:
                high, low = stat.high.double().clamp(min=0), -stat.low.double().clamp(max=0)
                power = stat.std.double().square()
                power = power if costs is None else _counting(costs.channels.get(value.name), power)
                found.append(Spread(high, low, power, _ACTIVATION_STEPS))
        return found

    def _costs(self, gm: fx.GraphModule, chains: Sequence[_Chain], ctx: PassContext) -> RangeCosts | None:
        """What errors in the chains cost at the graph's outputs; None without samples."""
        layers = {node: layer for chain in chains for node, layer in chain.layers.items()}
        axes = {node.name: chain.axis for chain in chains for node in chain.values()}
        if ctx.batches is None or not layers:
            return None
        return range_costs(gm, layers, axes, first_samples(gm, ctx.batches(), _COSTED, _AT_ONCE), ctx.seed)


@dataclass(frozen=True, slots=True)
class _Chain:
    """A layer and the ops after it that keep its channels apart, on `axis`, which is `from_end` from the end."""

    nodes: tuple[fx.Node, ...]
    layers: Mapping[fx.Node, Layer]
    axis: int

    @property
    def from_end(self) -> int:
        return 1 + OPS[self.nodes[0].target].spatial  # type: ignore[index]

    def is_branch(self) -> bool:
        """Whether this is the branch of a chain that was split before."""
        return bool(_BRANCH.search(self.layers[self.nodes[0]].weight_name))

    def values(self) -> list[fx.Node]:
        """What is quantized on the way to the concat, each with a scale of its own."""
        pairs = zip(self.nodes[:-1], self.nodes[1:], strict=True)
        kinds = (*OPS, *ELEMENTWISE)
        return [node for node, after in pairs if (node.target in kinds or is_clamp(node)) and not is_clamp(after)]


@dataclass(frozen=True, slots=True)
class _Plan:
    cut: Cut
    reordering: Reordering


def _match(gm: fx.GraphModule, node: fx.Node) -> _Chain | Skip | None:
    """The chain that starts at a layer; None where it has groups, and so is part of a chain at best."""
    layer = parameters(gm, node)
    if isinstance(layer, str):
        return Skip(node.name, layer)
    if layer.groups > 1:
        return None
    axis = channel_axis(gm, node)
    if axis is None:
        return Skip(node.name, "the rank of its input is not known")
    nodes, layers = [node], {node: layer}
    while (after := sole_user(nodes[-1])) is not None:
        if after.target in OPS:
            behind = parameters(gm, after)
            if isinstance(behind, str) or not is_depthwise(behind) or channel_axis(gm, after) != axis:
                break
            layers[after] = behind
        elif not (keeps_channels(gm, after, axis) or _clamps_channels(after)):
            break
        nodes.append(after)
    while not (nodes[-1].target in OPS or nodes[-1].target in ELEMENTWISE or is_clamp(nodes[-1])):
        nodes.pop()
    return _Chain(tuple(nodes), layers, axis)


def _clamps_channels(node: fx.Node) -> bool:
    return node.target is aten.clamp.Tensor and unusable_bounds(node) is None


def _measure(gm: fx.GraphModule, chains: Sequence[_Chain], ctx: PassContext) -> dict[str, Measured]:
    """What the activations in the chains hold on the first samples; empty where there are none."""
    axes = {node.name: chain.axis for chain in chains for node in chain.values()}
    if ctx.batches is None or not axes:
        return {}
    batches = list(first_samples(gm, ctx.batches(), _SAMPLES))
    return measure_channels(gm, batches, list(axes), axes) if batches else {}


def _counting(cost: Tensor | None, like: Tensor) -> Tensor:
    """The powers for which relative noise, a mean over channels, is the noise over signal at the outputs; infinite
    for what reaches none."""
    return torch.full_like(like, math.inf) if cost is None else 1 / (cost * len(cost))


def _reorder(measured: dict[str, Measured], costs: RangeCosts | None, reordering: Reordering) -> None:
    orders = {node.name: order for node, (_, order) in reordering.values.items()}
    for name in orders.keys() & measured.keys():
        stat, order = measured[name], orders[name]
        low, high = stat.low[order], stat.high[order]
        measured[name] = Measured(stat.mean[order], stat.std[order], low, high, stat.count)
    if costs is not None:
        costs.reorder({node.name: order for node, order in reordering.rows.items()}, orders)


@dataclass(frozen=True, slots=True)
class _Rewrite:
    """Puts branches in the place of a chain."""

    gm: fx.GraphModule
    chain: _Chain
    ctx: PassContext

    def split(self, plan: _Plan) -> None:
        plan.reordering.apply(self.gm, self.ctx)
        end = self.chain.nodes[-1]
        branches = [self._branch(index, part) for index, part in enumerate(plan.cut.parts)]
        value = end.meta.get("val")
        joined = insert_call(self.gm, end, aten.cat.default, (branches, self.chain.axis), value=value)
        if self.ctx.channel_stats is not None:
            for layer in self.chain.layers.values():
                self.ctx.channel_stats.by_weight.pop(layer.weight_name, None)
        replace(self.gm, end, joined)
        for node in reversed(self.chain.nodes[:-1]):
            self.gm.graph.erase_node(node)

    def _branch(self, index: int, part: Tensor) -> fx.Node:
        """A copy of the chain over the channels of `part`; its last node."""
        source, end = self.chain.nodes[0].args[0], self.chain.nodes[-1]
        for node in self.chain.nodes:
            args = self._layer(node, index, part) if node.target in OPS else self._clamp(node, index, part)
            copy = (source, *args[1:])
            with self.gm.graph.inserting_before(end):
                source = self.gm.graph.call_function(node.target, copy, dict(node.kwargs))  # type: ignore[arg-type]
            inherit(source, node)
        assert isinstance(source, fx.Node)
        return source

    def _layer(self, node: fx.Node, index: int, part: Tensor) -> list[object]:
        """The layer's arguments with the rows of `part`."""
        layer = parameters(self.gm, node)  # anew: its columns may have taken up an order since it was matched
        assert isinstance(layer, Layer)
        bound, depthwise = bound_args(node), layer.groups > 1
        rows = layer.weight.index_select(0 if depthwise else layer.info.out_axis, part)
        weight = self._constant(bound["weight"], index, rows)
        move_statistics(self.ctx, layer.weight_name, str(weight.target), part)
        bound["weight"] = weight
        if layer.bias is not None:
            bound["bias"] = self._constant(bound["bias"], index, layer.bias[part])
        if depthwise:
            bound["groups"] = len(part)
        return list(bound.values())

    def _clamp(self, node: fx.Node, index: int, part: Tensor) -> list[object]:
        """The node's arguments, bounds that differ between channels cut to those of `part`."""
        args: list[object] = list(node.args)
        for place, arg in enumerate(args):
            bound = constant(self.gm, arg)
            axis = -1 if bound is None else bound.ndim - self.chain.from_end
            if bound is not None and axis >= 0 and bound.shape[axis] > 1:
                args[place] = self._constant(arg, index, bound.index_select(axis, part))
        return args

    def _constant(self, origin: object, index: int, value: Tensor) -> fx.Node:
        """`block.weight` gives `block.part0.weight`."""
        assert isinstance(origin, fx.Node)
        owner, _, leaf = str(origin.target).rpartition(".")
        name = ".".join(filter(None, (owner, f"part{index}", leaf)))
        return add_constant(self.gm, name, value, self.chain.nodes[-1])
