"""Scale the channels of a graph: weights, biases, clamp bounds, added constants and channel statistics together.

A clamp whose channels get different factors becomes `clamp.Tensor` with bounds that broadcast along the channel
axis ([C, 1, 1] after a 2-d conv, [C] after a linear), behind a relu where its lower bound is 0:

    hardtanh(x, 0, 6)     ->  clamp.Tensor(relu(x), None, bounds)
    hardtanh(x, -1, 6)    ->  clamp.Tensor(x, low bounds, high bounds)
    one factor for all    ->  hardtanh, clamp or relu with other numbers
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from ...compiler.ir.constants import add_constant, constant, set_constant
from ...compiler.ir.ops import OPS, aten, bound_args, clamp_bounds
from ...compiler.quant.channel_stats import ChannelStat, ChannelStats
from .._rewrite import clamp_call, insert_call, replace, stand_in, tensor_of
from .maps import ChannelMap, ClampChannels, ConstantOperand, GainChannels, LayerChannels


def rescale(gm: fx.GraphModule, channels: ChannelMap, factors: Tensor, stats: ChannelStats | None = None) -> int:
    """Divide each value of `gm` by the factors of its channels, positive float64 [channels.count], 1 where fixed.

    Powers of two change no output bit (short of underflow). Gives the number of layers, clamps, constants and
    gains that changed; `stats`, keyed by weight, are divided with their layers.
    """
    done: set[fx.Node] = set()
    changes = 0
    for layer in channels.layers:
        if _is_scaled(factors, layer.in_ids) or _is_scaled(factors, layer.out_ids):
            _rescale_layer(gm, layer, factors, stats, done)
            changes += 1
    for clamp in channels.clamps:
        if _is_scaled(factors, clamp.ids):
            _rescale_clamp(gm, clamp, factors)
            changes += 1
    for operand in channels.constants:
        if _is_scaled(factors, operand.ids):
            _rescale_operand(gm, operand, factors)
            changes += 1
    for gain in channels.gains:
        if _is_scaled(factors, gain.in_ids) or _is_scaled(factors, gain.out_ids):
            _rescale_gain(gm, gain, factors)
            changes += 1
    return changes


def _is_scaled(factors: Tensor, ids: Tensor) -> bool:
    return bool((factors[ids] != 1).any())


def _rescale_layer(
    gm: fx.GraphModule, layer: LayerChannels, factors: Tensor, stats: ChannelStats | None, done: set[fx.Node]
) -> None:
    """The weight (once, where layers share it), the bias and the statistics."""
    weight, name = constant(gm, layer.weight), str(layer.weight.target)
    assert weight is not None
    out = factors[layer.out_ids]
    if layer.weight not in done:
        done.add(layer.weight)
        set_constant(gm, name, layer.scaled(weight, factors).to(weight.dtype))
        if stats is not None and name in stats.by_weight:
            old = stats.by_weight[name]
            stats.by_weight[name] = ChannelStat((old.mean / out).float(), (old.std / out).float())
    if layer.bias is not None:
        bias = constant(gm, layer.bias)
        assert bias is not None
        _put(gm, layer.node, OPS[layer.node.target].bias, bias / out)  # type: ignore[index]


def _put(gm: fx.GraphModule, node: fx.Node, index: int, value: Tensor) -> None:
    """Let argument `index` of `node`, a constant, have another value: under its name, or a new one if shared."""
    source = node.args[index]
    assert isinstance(source, fx.Node)
    old = constant(gm, source)
    assert old is not None
    if len(source.users) == 1:
        set_constant(gm, str(source.target), value.to(old.dtype))
    else:
        node.update_arg(index, add_constant(gm, str(source.target), value.to(old.dtype), node))


def _rescale_operand(gm: fx.GraphModule, operand: ConstantOperand, factors: Tensor) -> None:
    value = constant(gm, operand.node.args[operand.index])
    assert value is not None
    _put(gm, operand.node, operand.index, value / factors[operand.ids])


def _rescale_gain(gm: fx.GraphModule, gain: GainChannels, factors: Tensor) -> None:
    value = constant(gm, gain.node.args[1])
    assert value is not None
    _put(gm, gain.node, 1, value * (factors[gain.in_ids] / factors[gain.out_ids]).view(value.shape))


def _rescale_clamp(gm: fx.GraphModule, clamp: ClampChannels, factors: Tensor) -> None:
    node, scale = clamp.node, factors[clamp.ids]
    if node.target is aten.clamp.Tensor:
        _rescale_bounds(gm, node, scale)
        return
    low, high = (0.0, 6.0) if node.target is aten.relu6.default else _bounds(node)
    if bool((scale == scale.flatten()[0]).all()):
        common = float(scale.flatten()[0])
        target, numbers = clamp_call(low / common, high / common)
        replace(gm, node, stand_in(gm, node, target, (node.args[0], *numbers)))
        return
    source, meta = node.args[0], tensor_of(gm, node)
    dtype = torch.float32 if meta is None else meta.dtype
    if low == 0:
        source = insert_call(gm, node, aten.relu.default, (source,), value=node.meta.get("val"))
    scale = scale.reshape(scale.shape[1:]) if scale.shape[0] == 1 else scale
    bounds = [
        None if skip else add_constant(gm, f"{node.name}_{side}", (bound / scale).to(dtype), node)
        for side, bound, skip in (("min", low, low in (0, -math.inf)), ("max", high, high == math.inf))
    ]
    replace(gm, node, stand_in(gm, node, aten.clamp.Tensor, (source, *bounds)))


def _bounds(node: fx.Node) -> tuple[float, float]:
    bounds = clamp_bounds(node)
    assert bounds is not None
    return bounds


def _rescale_bounds(gm: fx.GraphModule, node: fx.Node, scale: Tensor) -> None:
    """Bounds that are tensors already; they grow where they had one number for several channels."""
    bound = bound_args(node)
    node.args, node.kwargs = (node.args[0], bound["min"], bound["max"]), {}
    for index in (1, 2):
        value = constant(gm, node.args[index])
        if value is not None:
            grown = value / scale
            while grown.ndim > value.ndim and grown.shape[0] == 1:
                grown = grown[0]
            _put(gm, node, index, grown)
