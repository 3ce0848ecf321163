"""Constants of a graph: tensors reached through `get_attr` nodes, one node for each constant.

A constant lives as a buffer of the GraphModule under a dotted name (`features.0.weight`). Constants are never
written in place: a pass puts a new tensor under the name, so graphs that share tensors stay independent.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn


def constant(gm: fx.GraphModule, node: object) -> Tensor | None:
    """The tensor that a `get_attr` node stands for; None for anything else (a computed value, an absent bias)."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    return get_constant(gm, str(node.target))


def get_constant(gm: fx.GraphModule, name: str) -> Tensor | None:
    """The tensor under a dotted name, or None."""
    value: object = gm
    for part in name.split("."):
        value = getattr(value, part, None)
        if value is None:
            return None
    return value if isinstance(value, Tensor) else None


def set_constant(gm: fx.GraphModule, name: str, value: Tensor) -> None:
    """Put `value` under a dotted name; a tensor already there is replaced, not written to."""
    *path, leaf = name.split(".")
    owner: nn.Module = gm
    for part in path:
        child = owner._modules.get(part)
        if child is None:
            child = nn.Module()
            owner.add_module(part, child)
        owner = child
    owner._parameters.pop(leaf, None)
    owner._buffers.pop(leaf, None)
    owner.register_buffer(leaf, value.detach())


def add_constant(gm: fx.GraphModule, name: str, value: Tensor, before: fx.Node) -> fx.Node:
    """A new `get_attr` node in front of `before`; `name` gets a numbered suffix where it is taken."""
    unique, count = name, 0
    while get_constant(gm, unique) is not None:
        count += 1
        unique = f"{name}_{count}"
    set_constant(gm, unique, value)
    with gm.graph.inserting_before(before):
        return gm.graph.get_attr(unique)


def constant_nodes(gm: fx.GraphModule) -> list[fx.Node]:
    """Every `get_attr` node, in graph order."""
    return [node for node in gm.graph.nodes if node.op == "get_attr"]


def constants(gm: fx.GraphModule) -> dict[str, Tensor]:
    """Dotted name -> tensor for every constant that the graph reads."""
    found = {str(node.target): constant(gm, node) for node in constant_nodes(gm)}
    return {name: value for name, value in found.items() if value is not None}


def prune_constants(gm: fx.GraphModule) -> None:
    """Drop the tensors that no node reads."""
    used = {str(node.target) for node in constant_nodes(gm)}
    for prefix, module in list(gm.named_modules()):
        for leaf in list(module._buffers) + list(module._parameters):
            if (f"{prefix}.{leaf}" if prefix else leaf) not in used:
                module._buffers.pop(leaf, None)
                module._parameters.pop(leaf, None)


def first_not_finite(value: Tensor) -> tuple[int, ...] | None:
    """Index of the first NaN or infinity, or None."""
    if not value.is_floating_point() or bool(torch.isfinite(value).all()):
        return None
    return tuple(torch.nonzero(~torch.isfinite(value))[0].tolist())
