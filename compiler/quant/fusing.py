"""What a kernel does at no cost to the result of its op: adds a residual, then clamps it or applies an activation.

Planner, program and simulator read the same rules: `conv -> add -> relu` is one region where the target's kernel
adds (`OpRule.adds`), `conv -> silu` one where it fuses that activation (`OpRule.fuses`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, fx

from ..ir.clamps import is_clamp
from ..ir.constants import constant
from ..ir.nodes import sole_user
from ..ir.ops import aten, bound_args
from ..ir.qops import is_dequantize, is_quantize
from ..ir.shapes import tensor_meta
from .target import OpRule, TargetSpec


def fused_after(node: fx.Node, spec: TargetSpec, kept: Collection[fx.Node]) -> tuple[fx.Node, ...]:
    """The nodes after `node` (of a FLOAT graph) that its kernel takes in; none of `kept`. A residual is taken in
    by the last layer that could, so that the other summand is a value of its own."""
    rule = spec.ops[node.target]  # type: ignore[index]
    fused: list[fx.Node] = []
    total = sole_user(node)
    if rule.adds and total is not None and total not in kept and _is_last_layer(node, total, spec):
        fused.append(total)
    while (user := sole_user(fused[-1] if fused else node)) is not None and user.target in rule.fuses:
        if user in kept or (is_activation(user) and any(is_clamp(before) for before in fused)):
            break
        if not is_clamp(user) and not is_activation(user):
            break
        fused.append(user)
        if is_activation(user):
            break
    return tuple(fused)


def is_activation(node: fx.Node) -> bool:
    """Whether `node` is an elementwise function of one tensor that is no clamp."""
    return node.target in ACTIVATIONS


def residual(layer: fx.Node, total: fx.Node) -> fx.Node | None:
    """What `total` adds to the result of `layer`; None unless it is a plain sum of two float tensors of one shape,
    the result read by nothing else."""
    if total.target is not aten.add.Tensor or sole_user(layer) is not total or bound_args(total)["alpha"] != 1:
        return None
    left, right = total.args[:2]
    other = right if left is layer else left
    if not isinstance(other, fx.Node) or other is layer or constant(layer.graph.owning_module, other) is not None:  # type: ignore[arg-type]
        return None
    mine, its = tensor_meta(layer), tensor_meta(_origin(other))
    if mine is None or its is None or mine.ndim != its.ndim or its.dtype is not torch.float32:
        return None
    same = all(str(a) == str(b) for a, b in zip(mine.shape, its.shape, strict=True))
    return other if same else None


def region_inputs(inputs: Sequence[fx.Node], fused: Sequence[fx.Node], layer: fx.Node) -> tuple[fx.Node, ...]:
    """The activations that a region reads: `inputs` of its op, and the residual if it has one."""
    other = residual(layer, fused[0]) if fused else None
    return (*inputs, other) if other is not None else tuple(inputs)


def activations(fused: Sequence[fx.Node]) -> tuple[Callable[[Tensor], Tensor], ...]:
    """The activations among the nodes of a region, as functions."""
    return tuple(_function(node) for node in fused if is_activation(node))


def region_rule(last: fx.Node, spec: TargetSpec) -> OpRule | None:
    """The rule of the op whose region ends in `last`, as far as clamps and a residual go."""
    product = summed_layer(last, spec)
    return spec.ops.get((last if product is None else product).target)  # type: ignore[call-overload]


def summed_layer(total: fx.Node, spec: TargetSpec) -> fx.Node | None:
    """The layer into whose kernel `total` (of a QUANTIZED graph) goes: its result stays float, the other summand
    was integers."""
    if total.target is not aten.add.Tensor:
        return None
    for layer in total.args[:2]:
        rule = spec.ops.get(layer.target) if isinstance(layer, fx.Node) else None  # type: ignore[call-overload]
        if rule is not None and rule.adds and residual(layer, total) is not None:  # type: ignore[arg-type]
            return layer  # type: ignore[return-value]
    return None


def _is_last_layer(node: fx.Node, total: fx.Node, spec: TargetSpec) -> bool:
    other = residual(node, total)
    if other is None:
        return False
    rule = spec.ops.get(other.target)  # type: ignore[call-overload]
    rival = rule is not None and rule.adds and sole_user(other) is total
    return not rival or other < node


def _origin(node: fx.Node) -> fx.Node:
    """The value behind quantize and dequantize nodes, which have no shape of their own yet."""
    while (is_dequantize(node) or is_quantize(node)) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _function(node: fx.Node) -> Callable[[Tensor], Tensor]:
    return lambda x: node.target(x, *node.args[1:], **node.kwargs)  # type: ignore[operator]


ACTIVATIONS = frozenset(
    {
        aten.sigmoid.default,
        aten.tanh.default,
        aten.silu.default,
        aten.gelu.default,
        aten.hardswish.default,
        aten.hardsigmoid.default,
        aten.leaky_relu.default,
    }
)
