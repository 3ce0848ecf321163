"""Linears that add to a residual stream, a few channels of them far beyond the rest.

    norm(x + linear(u))  ->  norm(x + rows(u) / (1 / s)),  rows = linear with weight / s and bias / s

The stream cannot be scaled: it leads into a norm. So the linear's integers hold y / s, and float puts the factor
back in front of the sum, as a quotient: no target runs one on integers, which would undo what was gained.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from ..compiler.ir.constants import add_constant
from ..compiler.ir.nodes import inherit, sole_user
from ..compiler.ir.ops import aten
from ._layers import Layer, set_parameters


def residual_outputs(gm: fx.GraphModule) -> list[fx.Node]:
    """The linears that only a sum before a norm reads."""
    linears = gm.graph.find_nodes(op="call_function", target=aten.linear.default)
    return [node for node in linears if _is_summed_before_norm(node)]


def _is_summed_before_norm(node: fx.Node) -> bool:
    reader = sole_user(node)
    if reader is None or reader.target is not aten.add.Tensor:
        return False
    return any(user.target is aten.layer_norm.default for user in reader.users)


def output_logarithms(largest: Tensor, outliers: float) -> Tensor:
    """log s of each channel, 0 for all where none is `outliers` times as large as the median."""
    median = largest.median()
    if not float(largest.max()) > outliers * float(median):
        return torch.zeros_like(largest)
    return (largest.clamp(min=float(median) / outliers) / median).log()


def divide_back(gm: fx.GraphModule, layer: Layer, factors: Tensor) -> None:
    """Scale the rows by 1 / factors, and what they give back in float."""
    weight = layer.weight.double() / factors[:, None]
    set_parameters(gm, layer, weight, None if layer.bias is None else layer.bias.double() / factors)
    node = layer.node
    scale = add_constant(gm, f"{node.name}_smoothing", (1 / factors).float(), node)
    readers = list(node.users)
    with gm.graph.inserting_after(node):
        quotient = inherit(gm.graph.call_function(aten.div.Tensor, (node, scale)), node)
    quotient.meta["val"] = node.meta.get("val")
    for reader in readers:
        reader.replace_input_with(node, quotient)
