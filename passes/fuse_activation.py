"""Bring each activation next to the op that computes its input, so that both are one quantization region.

Activations: relu, hardtanh (relu6), clamp, leaky_relu, hardswish, silu. Whether a runtime fuses the pair is its
own business (`OpRule.fuses`); this pass makes the graph such that it can.

    act(view(conv(x)))                    -> view(act(conv(x)))      views, and max pools if act never decreases
    act(cat(conv(x), add(y, z)))          -> cat(act(conv(x)), act(add(y, z)))
    relu(sigmoid(x)), relu(relu(x)), ...  -> without the activation that its input's range makes useless
    clamp(clamp(x))                       -> one clamp, where nothing else reads the inner one

An activation moves only if it arrives: every value on the way must have no other reader. Exact, but for the last
bits of a silu that moves: its kernel rounds by memory layout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..compiler.ir.clamps import tensor_bounds, unusable_bounds
from ..compiler.ir.nodes import describe, inherit, sole_user
from ..compiler.ir.ops import OPS, SAME_SIZE_VIEWS, aten, bound_args, clamp_bounds, op_name
from ..compiler.ir.passes import Numerics, PassContext, PassResult, Skip
from ..compiler.ir.stages import Stage
from ._rewrite import clamp_call, replace, stand_in

_PRODUCERS = frozenset({*OPS, aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.matmul.default})
_ACTIVATIONS = frozenset(
    {
        aten.relu.default,
        aten.hardtanh.default,
        aten.clamp.default,
        aten.leaky_relu.default,
        aten.hardswish.default,
        aten.silu.default,
    }
)
_MAX_POOLS = frozenset({aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default})
_BOUNDED = {
    aten.sigmoid.default: (0.0, 1.0),
    aten.softmax.int: (0.0, 1.0),
    aten.hardsigmoid.default: (0.0, 1.0),
    aten.tanh.default: (-1.0, 1.0),
    aten.abs.default: (0.0, math.inf),
}


@dataclass(frozen=True, slots=True)
class FuseActivation:
    """Move activations up to their conv, linear, add or product; drop those that change nothing."""

    name: ClassVar[str] = "fuse-activation"
    requires: ClassVar[Stage] = Stage.FLOAT
    ensures: ClassVar[Stage] = Stage.FLOAT
    numerics: ClassVar[Numerics] = "close"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        total = 0
        while True:
            changes, skipped = _sweep(gm)
            total += changes
            if not changes:
                return PassResult(total, tuple(skipped))


def _sweep(gm: fx.GraphModule) -> tuple[int, list[Skip]]:
    changes, skipped = 0, []
    for node in list(gm.graph.nodes):
        if node.target not in _ACTIVATIONS:
            continue
        if _simplify(gm, node):
            changes += 1
            continue
        producers = _arrive(node, node.args[0], node)
        if isinstance(producers, str):
            skipped.append(Skip(node.name, f"{describe(node)} stays where it is: {producers}"))
        elif producers != (node.args[0],):
            _move(gm, node, producers)
            changes += 1
    return changes, skipped


def _simplify(gm: fx.GraphModule, node: fx.Node) -> bool:
    """Drop an activation that leaves its input as it is; make two nested clamps one."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if _leaves_unchanged(node, source):
        replace(gm, node, source)
        return True
    inner, outer = clamp_bounds(source), clamp_bounds(node)
    if inner is None or outer is None or sole_user(source) is not node:
        return False
    low, high = (min(max(bound, outer[0]), outer[1]) for bound in inner)
    target, numbers = clamp_call(low, high)
    replace(gm, node, stand_in(gm, node, target, (source.args[0], *numbers)))
    gm.graph.erase_node(source)
    return True


def _leaves_unchanged(activation: fx.Node, value: fx.Node) -> bool:
    low, high = value_range(value)
    if activation.target is aten.leaky_relu.default:
        return low >= 0
    bounds = clamp_bounds(activation)
    return bounds is not None and bounds[0] <= low and high <= bounds[1]


def value_range(node: object) -> tuple[float, float]:
    """Bounds that the ops guarantee for a value, whatever the data; infinite where they guarantee none."""
    if not isinstance(node, fx.Node):
        return -math.inf, math.inf
    if (bounds := clamp_bounds(node)) is not None:
        return bounds
    if node.target is aten.clamp.Tensor:
        return _between_tensors(node)
    if node.target in _BOUNDED:
        return _BOUNDED[node.target]
    if node.target in SAME_SIZE_VIEWS or node.target in _MAX_POOLS:
        return value_range(node.args[0])
    if node.target is aten.cat.default:
        ranges = [value_range(part) for part in node.args[0]]  # type: ignore[union-attr]
        return min(low for low, _ in ranges), max(high for _, high in ranges)
    return -math.inf, math.inf


def _between_tensors(node: fx.Node) -> tuple[float, float]:
    """The range of a clamp by tensors: its input's, within the loosest of the bounds."""
    low, high = value_range(node.args[0])
    if unusable_bounds(node) is not None:
        return -math.inf, math.inf
    ends = torch.tensor([low, high])
    for bound, narrow in zip(tensor_bounds(node), (torch.maximum, torch.minimum), strict=True):
        if bound is not None:
            ends = narrow(ends, bound.flatten()[:, None])
    return float(ends[..., 0].min()), float(ends[..., 1].max())


def _arrive(activation: fx.Node, value: object, reader: fx.Node) -> tuple[fx.Node, ...] | str:
    """The values that `activation` can be applied to instead of `value`, or why it cannot get there."""
    assert isinstance(value, fx.Node)
    if _leaves_unchanged(activation, value):
        return ()
    passable = value.target in SAME_SIZE_VIEWS or (value.target in _MAX_POOLS and _never_decreases(activation))
    arrived = value.target in _PRODUCERS or None not in (clamp_bounds(value), clamp_bounds(activation))
    if not passable and not arrived and value.target is not aten.cat.default:
        what = "an input" if value.op == "placeholder" else op_name(value.target)
        return f"{value.name} is {what}, which activations do not fuse into"
    if sole_user(value) is not reader:
        return f"{value.name} has {len(value.users)} users"
    if arrived:
        return (value,)
    if passable:
        return _arrive(activation, value.args[0], value)
    found: dict[fx.Node, None] = {}
    for part in value.args[0]:  # type: ignore[union-attr]
        producers = _arrive(activation, part, value)
        if isinstance(producers, str):
            return producers
        found.update(dict.fromkeys(producers))
    return tuple(found)


def _never_decreases(activation: fx.Node) -> bool:
    if activation.target is aten.leaky_relu.default:
        return bool(bound_args(activation)["negative_slope"] >= 0)
    return clamp_bounds(activation) is not None


def _move(gm: fx.GraphModule, activation: fx.Node, producers: tuple[fx.Node, ...]) -> None:
    for producer in producers:
        readers = list(producer.users)
        with gm.graph.inserting_after(producer):
            args = (producer, *activation.args[1:])
            moved = inherit(gm.graph.call_function(activation.target, args), activation)  # type: ignore[arg-type]
        if "val" in producer.meta:
            moved.meta["val"] = producer.meta["val"]
        for reader in readers:
            reader.replace_input_with(producer, moved)
    source = activation.args[0]
    assert isinstance(source, fx.Node)
    replace(gm, activation, source)
