"""Convs, transposed convs and linears as passes rewrite them: weights over groups, parameters that may change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from ..compiler.ir.constants import add_constant, constant, set_constant
from ..compiler.ir.ops import CONV, OPS, OpInfo, aten, bound_args, op_name

_TRANSPOSED_AXES = 1  # out_axis of the conv_transpose ops


@dataclass(frozen=True, slots=True)
class Layer:
    """A conv, conv_transpose or linear whose parameters may be rewritten."""

    node: fx.Node
    weight: Tensor
    bias: Tensor | None
    groups: int

    @property
    def info(self) -> OpInfo:
        assert isinstance(self.node.target, OpOverload)
        return OPS[self.node.target]

    @property
    def weight_name(self) -> str:
        return str(bound_args(self.node)["weight"].target)

    def bias_or_zeros(self) -> Tensor:
        """The bias, float64 [outputs]; zeros where there is none."""
        return torch.zeros_like(self.output_ranges()) if self.bias is None else self.bias.double()

    def input_ranges(self) -> Tensor:
        """Largest magnitude of the weights that read each input channel, float64 [inputs]."""
        return self.by_input().abs().transpose(1, 2).flatten(2).amax(2).flatten()

    def output_ranges(self) -> Tensor:
        """Largest magnitude of the weights of each output channel, float64 [outputs]."""
        return self.by_input().abs().flatten(2).amax(2).flatten()

    def by_input(self) -> Tensor:
        """The weight as [groups, outputs of a group, inputs of a group, kernel...], float64."""
        weight = self.weight.double()
        grouped = weight.view(self.groups, -1, *weight.shape[1:])
        return grouped.transpose(1, 2) if self.info.out_axis == _TRANSPOSED_AXES else grouped

    def from_by_input(self, by_group: Tensor) -> Tensor:
        """A weight in its own order again."""
        transposed = self.info.out_axis == _TRANSPOSED_AXES
        return (by_group.transpose(1, 2) if transposed else by_group).reshape(self.weight.shape).contiguous()

    def per_input(self, values: Tensor) -> Tensor:
        """One number for each input channel, shaped to multiply `by_input()`."""
        return values.view(self.groups, 1, -1, *(1,) * (self.weight.ndim - 2))

    def per_output(self, values: Tensor) -> Tensor:
        """One number for each output channel, shaped to multiply `by_input()`."""
        return values.view(self.groups, -1, 1, *(1,) * (self.weight.ndim - 2))

    def response(self, values: Tensor) -> Tensor:
        """What the weight adds to each output [outputs] where input channel i is `values[i]` everywhere."""
        return (self.by_input() * self.per_input(values.double())).flatten(2).sum(2).flatten()


def share_channels(layer: Layer, reader: Layer) -> bool:
    """Whether the output channels of one can be the input channels of the other, on the same axis."""
    return layer.info.spatial == reader.info.spatial and len(layer.output_ranges()) == len(reader.input_ranges())


def parameters(gm: fx.GraphModule, layer: fx.Node) -> Layer | str:
    """The layer with its parameters, or why they may not be rewritten."""
    bound = bound_args(layer)
    weight, bias = constant(gm, bound["weight"]), constant(gm, bound["bias"])
    if weight is None:
        return f"the weight of {layer.name} is computed, not constant"
    if len(bound["weight"].users) > 1:
        return f"the weight {bound['weight'].target} of {layer.name} is shared"
    if bias is None and bound["bias"] is not None:
        return f"the bias of {layer.name} is computed, not constant"
    return Layer(layer, weight, bias, bound.get("groups", 1))


def set_parameters(gm: fx.GraphModule, layer: Layer, weight: Tensor, bias: Tensor | None) -> None:
    """New tensors under the layer's own names; a bias that it lacks or shares gets a name beside the weight.

    `bias` None leaves the layer's bias as it is.
    """
    node, info, dtype = layer.node, layer.info, layer.weight.dtype
    args = list(bound_args(node).values())
    set_constant(gm, str(args[info.weight].target), weight.to(dtype))
    if bias is None:
        return
    if layer.bias is not None and len(args[info.bias].users) == 1:
        set_constant(gm, str(args[info.bias].target), bias.to(dtype))
        return
    name = str(args[info.weight].target)
    name = f"{name.removesuffix('weight')}bias" if name.endswith("weight") else f"{name}_bias"
    args[info.bias] = add_constant(gm, name, bias.to(dtype), node)
    node.args = tuple(args)


def uneven_border(gm: fx.GraphModule, layer: fx.Node) -> str | None:
    """Why a constant added to the layer's input is not a constant at its output; None where it is."""
    bound = bound_args(layer)
    if layer.target is aten.linear.default or (layer.target in CONV and not any(bound["padding"])):
        return None
    if layer.target in CONV:
        return f"{layer.name} pads with zeros"
    weight = constant(gm, bound["weight"])
    point = weight is not None and all(size == 1 for size in weight.shape[2:])
    if point and not any([*bound["padding"], *bound["output_padding"]]) and set(bound["stride"]) == {1}:
        return None
    return f"{layer.name} overlaps its input unevenly"


def readers_through_padding(value: fx.Node) -> list[fx.Node] | str:
    """The layers that read `value`, directly or after pads of zeros on their spatial axes; else what reads it."""
    found: list[fx.Node] = []
    for user in value.users:
        if user.target in OPS and user.args[0] is value and value not in user.args[1:]:
            found.append(user)
            continue
        if user.target is not aten.constant_pad_nd.default or bound_args(user)["value"] != 0:
            return f"{user.name} ({op_name(user.target)}) reads it"
        behind = readers_through_padding(user)
        if isinstance(behind, str):
            return behind
        if any(len(user.args[1]) > 2 * OPS[layer.target].spatial for layer in behind):  # type: ignore[index,arg-type]
            return f"{user.name} pads its channels"
        found += behind
    return found
