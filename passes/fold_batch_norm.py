"""Batch norm in eval mode is an affine map per channel; put it into the layer next to it.

Forms, tried in this order (gain = gamma / sqrt(var + eps), shift = beta - mean · gain, in float64):

    conv1d/2d/3d, conv_transpose1d/2d/3d, linear -> bn  weight·gain over the output channels, bias·gain + shift
    bn -> conv, conv_transpose, linear                  weight·gain over the input channels, bias + Σ weight·shift
    bn alone, rank 3 to 5                               a depthwise conv of kernel 1
    bn alone, rank 2                                    mul by gain, add shift

A layer that other nodes read too, or whose weight is shared or computed, keeps its own parameters, and its batch
norm stands alone. Before a conv that pads with zeros the shift cannot move into the bias: at the border the conv
would see zeros where the padding came after the shift. Batch norms without running statistics are left.

After a fold the layer's output has mean beta and standard deviation |gamma|, per channel (Nagel et al.,
*Data-Free Quantization*, 2019, §4.1.3); `ctx.channel_stats` keeps that under the weight's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from ..compiler.ir.constants import add_constant, constant
from ..compiler.ir.nodes import describe, sole_user
from ..compiler.ir.ops import CONV_BY_SPATIAL, OPS, aten, bound_args, op_name
from ..compiler.ir.passes import Numerics, PassContext, PassResult, Skip
from ..compiler.ir.stages import Stage
from ..compiler.quant.channel_stats import ChannelStat
from ._layers import Layer, parameters, set_parameters, uneven_border
from ._rewrite import insert_call, rank_of, replace, stand_in


@dataclass(frozen=True, slots=True)
class FoldBatchNorm:
    """conv/linear -> batch_norm, batch_norm -> conv/linear and a lone batch_norm become convs and linears."""

    name: ClassVar[str] = "fold-batch-norm"
    requires: ClassVar[Stage] = Stage.FLOAT
    ensures: ClassVar[Stage] = Stage.FLOAT
    numerics: ClassVar[Numerics] = "close"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        changes, skipped = 0, []
        for node in gm.graph.find_nodes(op="call_function", target=aten.batch_norm.default):
            affine = _read(gm, node)
            if isinstance(affine, Skip):
                skipped.append(affine)
                continue
            reason = _fold(gm, affine, ctx)
            if reason is not None:
                alone = _stand_alone(gm, affine, ctx)
                how = "became an op of its own" if alone else "stays a batch norm (its rank is unknown)"
                skipped.append(Skip(node.name, f"{describe(node)} {how}: {reason}"))
            changes += reason is None or alone
        return PassResult(changes, tuple(skipped))


@dataclass(frozen=True, slots=True)
class Affine:
    """A batch norm as `gain · x + shift` over axis 1, float64 [channels]; `mean` and `std` of its output."""

    node: fx.Node
    gain: Tensor
    shift: Tensor
    mean: Tensor
    std: Tensor
    name: str


def _read(gm: fx.GraphModule, node: fx.Node) -> Affine | Skip:
    bound = bound_args(node)
    if bound["running_mean"] is None or bound["running_var"] is None:
        return Skip(node.name, f"{describe(node)} has no running statistics")
    tensors = {key: constant(gm, bound[key]) for key in ("weight", "bias", "running_mean", "running_var")}
    mean, var = tensors["running_mean"], tensors["running_var"]
    if mean is None or var is None:
        return Skip(node.name, f"{describe(node)} computes its statistics")
    for key in ("weight", "bias"):
        if tensors[key] is None and bound[key] is not None:
            return Skip(node.name, f"{describe(node)} computes its {key}")
    mean, var = mean.double(), var.double()
    gamma = torch.ones_like(mean) if tensors["weight"] is None else tensors["weight"].double()
    beta = torch.zeros_like(mean) if tensors["bias"] is None else tensors["bias"].double()
    gain = gamma / torch.sqrt(var + bound["eps"])
    if not bool(torch.isfinite(gain).all()):
        return Skip(node.name, f"{describe(node)} has a running variance that is not above -eps")
    name = str(bound["running_mean"].target).removesuffix("running_mean").removesuffix(".") or node.name
    return Affine(node, gain, beta - mean * gain, beta, gamma.abs(), name)


def _fold(gm: fx.GraphModule, affine: Affine, ctx: PassContext) -> str | None:
    """Put the batch norm into a neighbour; why not, if there is none that can take it."""
    after = _match_after(gm, affine)
    if isinstance(after, Layer):
        _fold_after(gm, affine, after, ctx)
        return None
    before = _match_before(gm, affine)
    if isinstance(before, Layer):
        _fold_before(gm, affine, before)
        return None
    return f"{after}; {before}"


def _match_after(gm: fx.GraphModule, affine: Affine) -> Layer | str:
    """The layer whose output is normalized, or why it cannot take the batch norm."""
    layer = affine.node.args[0]
    assert isinstance(layer, fx.Node)
    if layer.target not in OPS:
        return f"its input {layer.name} is {_kind(layer)}, not a conv or linear"
    if sole_user(layer) is not affine.node:
        return f"{layer.name} has {len(layer.users)} users"
    if not _has_channels_on_axis_1(gm, layer, layer):
        return f"{layer.name} does not give its channels on axis 1, where the batch norm reads them"
    return parameters(gm, layer)


def _match_before(gm: fx.GraphModule, affine: Affine) -> Layer | str:
    """The layer that alone reads the batch norm and can take it, or why there is none."""
    layer = sole_user(affine.node)
    if layer is None:
        return f"its output has {len(affine.node.users)} users"
    if layer.target not in OPS or layer.args[0] is not affine.node:
        return f"its reader {layer.name} is {_kind(layer)}, not a conv or linear"
    if not _has_channels_on_axis_1(gm, layer, affine.node):
        return f"{layer.name} does not read its channels on axis 1, where the batch norm gives them"
    if bool(affine.shift.any()) and (reason := uneven_border(gm, layer)):
        return f"{reason}, and the batch norm shifts"
    return parameters(gm, layer)


def _has_channels_on_axis_1(gm: fx.GraphModule, layer: fx.Node, value: fx.Node) -> bool:
    """Whether axis 1 of the layer's input or output `value` is its channel axis: not for a linear over
    sequences, nor for a conv without batch axis. A conv of unknown rank has its batch axis."""
    rank = rank_of(gm, value)
    if layer.target is aten.linear.default:
        return rank == 2
    return rank is None or rank == OPS[layer.target].spatial + 2  # type: ignore[index]


def _fold_after(gm: fx.GraphModule, affine: Affine, layer: Layer, ctx: PassContext) -> None:
    bias = torch.zeros_like(affine.shift) if layer.bias is None else layer.bias.double()
    scaled = layer.by_input() * layer.per_output(affine.gain)
    set_parameters(gm, layer, layer.from_by_input(scaled), bias * affine.gain + affine.shift)
    replace(gm, affine.node, layer.node)
    _keep_statistics(ctx, layer.node, affine)


def _fold_before(gm: fx.GraphModule, affine: Affine, layer: Layer) -> None:
    scaled = layer.by_input() * layer.per_input(affine.gain)
    added = layer.response(affine.shift)
    bias = added if layer.bias is None else layer.bias.double() + added
    set_parameters(gm, layer, layer.from_by_input(scaled), bias)
    source = affine.node.args[0]
    assert isinstance(source, fx.Node)
    replace(gm, affine.node, source)


def _stand_alone(gm: fx.GraphModule, affine: Affine, ctx: PassContext) -> bool:
    """The batch norm as an op that every target runs; False where its rank is not known."""
    rank, node = rank_of(gm, affine.node), affine.node
    if rank is None or rank - 2 not in (0, *CONV_BY_SPATIAL):
        return False
    source, channels, spatial = node.args[0], affine.gain.numel(), rank - 2
    dtype = _dtype(gm, node)
    gain, shift = affine.gain.to(dtype), affine.shift.to(dtype)
    if spatial == 0:
        scale = add_constant(gm, f"{affine.name}.folded_scale", gain, node)
        offset = add_constant(gm, f"{affine.name}.folded_shift", shift, node)
        scaled = insert_call(gm, node, aten.mul.Tensor, (source, scale), value=node.meta.get("val"))
        replace(gm, node, stand_in(gm, node, aten.add.Tensor, (scaled, offset)))
        return True
    kernel = gain.view(channels, 1, *[1] * spatial)
    weight = add_constant(gm, f"{affine.name}.folded_weight", kernel, node)
    bias = add_constant(gm, f"{affine.name}.folded_bias", shift, node)
    ones, zeros = [1] * spatial, [0] * spatial
    conv = stand_in(gm, node, CONV_BY_SPATIAL[spatial], (source, weight, bias, ones, zeros, ones, channels))
    replace(gm, node, conv)
    _keep_statistics(ctx, conv, affine)
    return True


def _keep_statistics(ctx: PassContext, layer: fx.Node, affine: Affine) -> None:
    if ctx.channel_stats is not None:
        name = str(bound_args(layer)["weight"].target)
        ctx.channel_stats.by_weight[name] = ChannelStat(affine.mean.float(), affine.std.float())


def _dtype(gm: fx.GraphModule, node: fx.Node) -> torch.dtype:
    mean = constant(gm, bound_args(node)["running_mean"])
    assert mean is not None
    return mean.dtype


def _kind(node: fx.Node) -> str:
    return {"placeholder": "an input", "output": "the output"}.get(node.op, op_name(node.target))
