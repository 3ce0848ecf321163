"""How much of an error in a layer's output the activation after it lets through."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from ..compiler.ir.channelwise import ELEMENTWISE
from ..compiler.ir.clamps import is_clamp, tensor_bounds
from ..compiler.ir.nodes import sole_user
from ..compiler.ir.ops import aten

Activation = Callable[[Tensor], Tensor]


class Slopes:
    """Slopes of the activations in a FLOAT graph, by the name of the node before them.

    Where something else than one elementwise activation reads a value, all of an error gets through: no slope.
    """

    def __init__(self, gm: fx.GraphModule) -> None:
        self._nodes = {node.name: node for node in gm.graph.nodes}

    def activation(self, name: str) -> Activation | None:
        """The activations behind the node as one function; None where there is no slope."""
        return _activation(self._nodes[name])

    def squared(self, name: str, value: Tensor) -> Tensor | None:
        """The squared slope at each element of `value`, float32 of its shape; None where it is 1 everywhere."""
        activation = self.activation(name)
        if activation is None:
            return None
        with torch.enable_grad():
            x = value.detach().requires_grad_()
            (slope,) = torch.autograd.grad(activation(x).sum(), x)
        return slope.square()


def _activation(node: fx.Node) -> Activation | None:
    """The activations behind `node` as one function; None where another op reads it too or none follows."""
    user = sole_user(node)
    if user is None or not (user.target in ELEMENTWISE or is_clamp(user)):
        return None
    assert isinstance(user.target, OpOverload)
    by_channel = user.target is aten.clamp.Tensor
    target, rest = user.target, tensor_bounds(user) if by_channel else user.args[1:]
    behind = _activation(user)
    return lambda x: target(x, *rest) if behind is None else behind(target(x, *rest))
