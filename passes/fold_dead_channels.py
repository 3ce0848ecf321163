"""Take channels that always hold the same value out of the weights, so that they widen no per-tensor scale.

    a reader's input channel is always 0            its weight column becomes 0
    … always c, and the reader does not pad         its bias gains W·c, its weight column becomes 0
    a layer's output channel is always c, or its
    activation makes it constant                    its weight row becomes 0, its bias what gives the constant
    an output channel that every reader weights 0   row and bias become 0

Trained nets have such channels: rows near 1e-19 against a bias, and behind them weights that grew without limit,
because nothing held them (MobileNetV2: a depthwise weight of 56 among weights of 6). Constants spread: a
depthwise conv over a zero channel gives its bias, and so on along the chain. A constant other than 0 that meets
zero padding is not constant at the border, so nothing can be folded there; instead producer and readers trade a
power of two, which is exact: the constant grows within its clamp (without clamp: up to the other channels) and
the readers' column shrinks to the middle of the other columns.

Whether a channel is constant is decided by interval arithmetic (`_intervals.py`, which says what it assumes):
constant to `tolerance` of its own value for every input within `margin` times the example inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, fx

from ..compiler.ir.channelwise import ELEMENTWISE
from ..compiler.ir.nodes import describe, placeholders, sole_user
from ..compiler.ir.ops import clamp_bounds, op_name
from ..compiler.ir.passes import Numerics, PassContext, PassResult, Skip
from ..compiler.ir.stages import Stage
from ..compiler.quant.channel_stats import ChannelStat
from ._intervals import ChannelRanges, channel_ranges
from ._layers import (
    Layer,
    parameters,
    readers_through_padding,
    set_parameters,
    share_channels,
    uneven_border,
)


@dataclass(frozen=True, slots=True)
class FoldDeadChannels:
    """Constant channels go into biases; their weight rows and columns become 0.

    `changes` counts channels: each row, each column and each rescaled constant is one.
    """

    name: ClassVar[str] = "fold-dead-channels"
    requires: ClassVar[Stage] = Stage.FLOAT
    ensures: ClassVar[Stage] = Stage.FLOAT
    numerics: ClassVar[Numerics] = "close"

    tolerance: float = 1e-5
    margin: float = 16.0

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        if not ctx.example_inputs:
            inputs = ", ".join(node.name for node in placeholders(gm))
            return PassResult(0, (Skip(inputs, "without example inputs nothing is known of what channels hold"),))
        ranges = channel_ranges(gm, ctx.example_inputs, self.margin)
        work = _Work(gm, ctx, ranges, self.tolerance)
        layers = list(ranges.outputs)
        changes = sum(work.fold_inputs(node) + work.silence_outputs(node) for node in layers)
        changes += sum(work.silence_unread(node) for node in reversed(layers))
        changes += sum(work.rescale(node) for node in layers)
        return PassResult(changes, tuple(work.skipped))


@dataclass(frozen=True, slots=True)
class _Work:
    """One run: each method looks at one layer and returns how many channels it rewrote."""

    gm: fx.GraphModule
    ctx: PassContext
    ranges: ChannelRanges
    tolerance: float
    skipped: list[Skip] = field(default_factory=list)

    def fold_inputs(self, node: fx.Node) -> int:
        """Constant input channels go into the bias."""
        is_constant, values = self.ranges.inputs[node].constants(self.tolerance)
        layer = self._rewritable(node, is_constant, "reads")
        if layer is None:
            return 0
        taken = is_constant & (layer.input_ranges() > 0)
        if uneven_border(self.gm, node) is not None:
            taken &= values == 0
        if not bool(taken.any()):
            return 0
        bias = None
        if bool(values[taken].any()):
            bias = layer.response(torch.where(taken, values, 0.0)) + layer.bias_or_zeros()
        weight = torch.where(layer.per_input(taken), 0.0, layer.by_input())
        set_parameters(self.gm, layer, layer.from_by_input(weight), bias)
        return int(taken.sum())

    def silence_outputs(self, node: fx.Node) -> int:
        """Rows of zero for output channels that are constant, before or after what reads them."""
        dead, values = self._dead_outputs(node)
        layer = self._rewritable(node, dead, "gives")
        return 0 if layer is None else self._silence(layer, dead, values)

    def silence_unread(self, node: fx.Node) -> int:
        """Rows and biases of zero for output channels that all readers weight with zero."""
        readers = readers_through_padding(_after_activation(node))
        layer = parameters(self.gm, node)
        if isinstance(layer, str) or isinstance(readers, str) or not readers:
            return 0
        unread = torch.ones_like(layer.output_ranges(), dtype=torch.bool)
        for reader in readers:
            found = parameters(self.gm, reader)
            if isinstance(found, str) or not share_channels(layer, found):
                return 0
            unread &= found.input_ranges() == 0
        return self._silence(layer, unread, torch.zeros_like(unread, dtype=torch.float64))

    def rescale(self, node: fx.Node) -> int:
        """Trade powers of two where a constant other than zero feeds a layer that pads."""
        value = _after_activation(node)
        ranges = self.ranges.outputs[node] if value is node else self.ranges.readers[value]
        is_constant, values = ranges.constants(self.tolerance)
        layer = parameters(self.gm, node)
        if isinstance(layer, str):
            return 0
        wanted = is_constant & (values != 0) & (layer.bias_or_zeros() != 0)
        if not bool(wanted.any()):
            return 0
        found = self._scalable_readers(layer, value)
        if isinstance(found, str):
            what = f"{describe(node)} gives {int(wanted.sum())} constant channel(s) other than 0 as they were"
            self.skipped.append(Skip(node.name, f"{what}: {found}"))
            return 0
        low, high = clamp_bounds(value) or (-torch.inf, torch.inf)
        others = self.ranges.outputs[node].typical[~wanted]
        bounds = torch.where(values < 0, -low, high)
        limits = torch.where(bounds.isinf(), others.max() if others.numel() else 0.0, bounds)
        grown = values * 2.0 ** _exponents(found, wanted, values, limits)
        return self._trade(layer, found, values, torch.where(grown == grown.clamp(low, high), grown, values))

    def _rewritable(self, node: fx.Node, channels: Tensor, verb: str) -> Layer | None:
        """The layer if it has such channels; None, and a skip, if it has some but may not be rewritten."""
        if not bool(channels.any()):
            return None
        layer = parameters(self.gm, node)
        if isinstance(layer, Layer):
            return layer
        reason = f"{describe(node)} {verb} {int(channels.sum())} constant channel(s), but {layer}"
        self.skipped.append(Skip(node.name, reason))
        return None

    def _dead_outputs(self, node: fx.Node) -> tuple[Tensor, Tensor]:
        """Which output channels are constant to all readers, and a bias that gives the constant.

        Where an op that reads the layer makes them constant, the bias is 0 if that has the same effect, else the
        value next to 0 that the channel can hold.
        """
        own = self.ranges.outputs[node]
        dead, values = own.constants(self.tolerance)
        readers = [(user, self.ranges.readers.get(user)) for user in node.users]
        behind = torch.ones_like(dead)
        silent = torch.ones_like(dead)  # a bias of 0 gives the same constant
        for user, ranges in readers:
            if ranges is None:
                return dead, values
            is_constant, constants = ranges.constants(self.tolerance)
            behind &= is_constant
            at_zero = user.target(torch.zeros_like(constants), *user.args[1:], **user.kwargs)  # type: ignore[operator]
            silent &= constants == at_zero
        nearest = torch.where(silent, 0.0, torch.zeros_like(values).clamp(own.low, own.high))
        return dead | behind, torch.where(behind & (silent | ~dead), nearest, values)

    def _silence(self, layer: Layer, channels: Tensor, values: Tensor) -> int:
        """Give `channels` rows of zero and `values` as biases; how many of them had others."""
        bias = layer.bias_or_zeros()
        silenced = torch.where(channels, values.to(layer.weight.dtype).double(), bias)
        taken = channels & ((layer.output_ranges() > 0) | (silenced != bias))
        if not bool(taken.any()):
            return 0
        weight = torch.where(layer.per_output(taken), 0.0, layer.by_input())
        changed = silenced if bool((silenced != bias).any()) else None
        set_parameters(self.gm, layer, layer.from_by_input(weight), changed)
        self._set_statistics(layer, taken, silenced)
        return int(taken.sum())

    def _set_statistics(self, layer: Layer, channels: Tensor, values: Tensor) -> None:
        stats = self.ctx.channel_stats
        if stats is not None and (stat := stats.by_weight.get(layer.weight_name)) is not None:
            mean = torch.where(channels, values.float(), stat.mean)
            stats.by_weight[layer.weight_name] = ChannelStat(mean, torch.where(channels, 0.0, stat.std))

    def _scalable_readers(self, layer: Layer, value: fx.Node) -> list[Layer] | str:
        """The layers that read the constants, if a factor can move between them and `layer`."""
        if value is not layer.node and clamp_bounds(value) is None:
            return f"{value.name} ({op_name(value.target)}) does not scale"
        readers = readers_through_padding(value)
        if isinstance(readers, str):
            return readers
        found: list[Layer] = []
        for reader in readers:
            rewritable = parameters(self.gm, reader)
            if isinstance(rewritable, str):
                return rewritable
            if not share_channels(layer, rewritable):
                return f"{reader.name} has its channels on another axis"
            found.append(rewritable)
        return found

    def _trade(self, layer: Layer, readers: list[Layer], values: Tensor, grown: Tensor) -> int:
        """Let the layer give `grown` instead of `values`, powers of two apart, and the readers make up for it."""
        taken = grown != values
        if not bool(taken.any()):
            return 0
        bias = torch.where(taken, grown, layer.bias_or_zeros())
        set_parameters(self.gm, layer, layer.weight, bias)
        for reader in readers:
            shrunk = reader.by_input() * reader.per_input(torch.where(taken, values / grown, 1.0))
            set_parameters(self.gm, reader, reader.from_by_input(shrunk), None)
        self._set_statistics(layer, taken, bias)
        return int(taken.sum())


def _exponents(readers: list[Layer], constant: Tensor, values: Tensor, limits: Tensor) -> Tensor:
    """By which power of two each constant grows: by as much as the readers' columns exceed the middle of the
    columns of channels that are not constant, within its limit. One above its limit shrinks, if the columns then
    stay below that middle."""
    wanted = torch.full_like(values, -torch.inf)
    for reader in readers:
        columns = reader.input_ranges()
        live = columns[~constant & (columns > 0)]
        if live.numel():
            wanted = wanted.maximum((columns / live.median()).log2().ceil())
    room = (limits / values.abs()).log2().floor()
    exponents = torch.where(wanted > 0, wanted.minimum(room).clamp(min=0), wanted.maximum(room).clamp(max=0))
    return torch.where(constant & wanted.isfinite() & exponents.isfinite(), exponents, 0.0)


def _after_activation(node: fx.Node) -> fx.Node:
    """The elementwise op that alone reads `node`, else `node`."""
    user = sole_user(node)
    return user if user is not None and user.target in ELEMENTWISE else node
