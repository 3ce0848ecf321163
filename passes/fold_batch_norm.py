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
from torch._ops import OpOverload

from ..compiler.ir.constants import add_constant, constant, set_constant
from ..compiler.ir.nodes import describe, sole_user
from ..compiler.ir.ops import CONV, CONV_BY_SPATIAL, OPS, OpInfo, aten, bound_args, op_name
from ..compiler.ir.passes import Numerics, PassContext, PassResult, Skip
from ..compiler.ir.stages import Stage
from ..compiler.quant.channel_stats import ChannelStat
from ._rewrite import insert_call, rank_of, replace, stand_in

_TRANSPOSED_AXES = 1  # out_axis of the conv_transpose ops


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


@dataclass(frozen=True, slots=True)
class Layer:
    """A conv, conv_transpose or linear whose parameters may be rewritten."""

    node: fx.Node
    weight: Tensor
    bias: Tensor | None
    groups: int


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
    return _parameters(gm, layer)


def _match_before(gm: fx.GraphModule, affine: Affine) -> Layer | str:
    """The layer that alone reads the batch norm and can take it, or why there is none."""
    layer = sole_user(affine.node)
    if layer is None:
        return f"its output has {len(affine.node.users)} users"
    if layer.target not in OPS or layer.args[0] is not affine.node:
        return f"its reader {layer.name} is {_kind(layer)}, not a conv or linear"
    if not _has_channels_on_axis_1(gm, layer, affine.node):
        return f"{layer.name} does not read its channels on axis 1, where the batch norm gives them"
    if bool(affine.shift.any()) and (reason := _meets_padding(gm, layer)):
        return reason
    return _parameters(gm, layer)


def _has_channels_on_axis_1(gm: fx.GraphModule, layer: fx.Node, value: fx.Node) -> bool:
    """Whether axis 1 of the layer's input or output `value` is its channel axis: not for a linear over
    sequences, nor for a conv without batch axis. A conv of unknown rank has its batch axis."""
    rank = rank_of(gm, value)
    if layer.target is aten.linear.default:
        return rank == 2
    return rank is None or rank == OPS[layer.target].spatial + 2  # type: ignore[index]


def _meets_padding(gm: fx.GraphModule, layer: fx.Node) -> str | None:
    """Why a constant added to the layer's input is not a constant at its output."""
    bound = bound_args(layer)
    if layer.target is aten.linear.default or (layer.target in CONV and not any(bound["padding"])):
        return None
    if layer.target in CONV:
        return f"{layer.name} pads with zeros, and the batch norm shifts"
    weight = constant(gm, bound["weight"])
    point = weight is not None and all(size == 1 for size in weight.shape[2:])
    if point and not any([*bound["padding"], *bound["output_padding"]]) and set(bound["stride"]) == {1}:
        return None
    return f"{layer.name} overlaps its input unevenly, and the batch norm shifts"


def _parameters(gm: fx.GraphModule, layer: fx.Node) -> Layer | str:
    bound = bound_args(layer)
    weight, bias = constant(gm, bound["weight"]), constant(gm, bound["bias"])
    if weight is None:
        return f"the weight of {layer.name} is computed, not constant"
    if len(bound["weight"].users) > 1:
        return f"the weight {bound['weight'].target} of {layer.name} is shared"
    if bias is None and bound["bias"] is not None:
        return f"the bias of {layer.name} is computed, not constant"
    return Layer(layer, weight, bias, bound.get("groups", 1))


def _fold_after(gm: fx.GraphModule, affine: Affine, layer: Layer, ctx: PassContext) -> None:
    bias = torch.zeros_like(affine.shift) if layer.bias is None else layer.bias.double()
    weight = _scale_outputs(layer, affine.gain)
    _set_parameters(gm, layer, weight, bias * affine.gain + affine.shift)
    replace(gm, affine.node, layer.node)
    _keep_statistics(ctx, layer.node, affine)


def _scale_outputs(layer: Layer, gain: Tensor) -> Tensor:
    weight = layer.weight.double()
    tail = (1,) * (weight.ndim - 2)
    if _info(layer).out_axis != _TRANSPOSED_AXES:
        return weight * gain.view(-1, 1, *tail)
    grouped = weight.view(layer.groups, -1, *weight.shape[1:])
    return (grouped * gain.view(layer.groups, 1, -1, *tail)).view(weight.shape)


def _fold_before(gm: fx.GraphModule, affine: Affine, layer: Layer) -> None:
    by_group = _by_input(layer)
    tail = (1,) * (by_group.ndim - 3)
    shift = affine.shift.view(layer.groups, 1, -1, *tail)
    added = (by_group * shift).flatten(2).sum(2).flatten()
    scaled = by_group * affine.gain.view(layer.groups, 1, -1, *tail)
    bias = added if layer.bias is None else layer.bias.double() + added
    _set_parameters(gm, layer, _from_by_input(layer, scaled), bias)
    source = affine.node.args[0]
    assert isinstance(source, fx.Node)
    replace(gm, affine.node, source)


def _by_input(layer: Layer) -> Tensor:
    """The weight as [groups, outputs of a group, inputs of a group, kernel...], float64."""
    weight = layer.weight.double()
    grouped = weight.view(layer.groups, -1, *weight.shape[1:])
    return grouped.transpose(1, 2) if _info(layer).out_axis == _TRANSPOSED_AXES else grouped


def _from_by_input(layer: Layer, by_group: Tensor) -> Tensor:
    transposed = _info(layer).out_axis == _TRANSPOSED_AXES
    return (by_group.transpose(1, 2) if transposed else by_group).reshape(layer.weight.shape)


def _set_parameters(gm: fx.GraphModule, layer: Layer, weight: Tensor, bias: Tensor) -> None:
    """New tensors under the layer's own names; a bias that it lacks or shares gets a name beside the weight."""
    node, info, dtype = layer.node, _info(layer), layer.weight.dtype
    args = list(bound_args(node).values())
    set_constant(gm, str(args[info.weight].target), weight.to(dtype))
    if layer.bias is not None and len(args[info.bias].users) == 1:
        set_constant(gm, str(args[info.bias].target), bias.to(dtype))
        return
    name = str(args[info.weight].target)
    name = f"{name.removesuffix('weight')}bias" if name.endswith("weight") else f"{name}_bias"
    args[info.bias] = add_constant(gm, name, bias.to(dtype), node)
    node.args = tuple(args)


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


def _info(layer: Layer) -> OpInfo:
    assert isinstance(layer.node.target, OpOverload)
    return OPS[layer.node.target]


def _dtype(gm: fx.GraphModule, node: fx.Node) -> torch.dtype:
    mean = constant(gm, bound_args(node)["running_mean"])
    assert mean is not None
    return mean.dtype


def _kind(node: fx.Node) -> str:
    return {"placeholder": "an input", "output": "the output"}.get(node.op, op_name(node.target))
