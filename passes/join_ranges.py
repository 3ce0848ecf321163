"""Branches that stay float become one chain again (stage QUANTIZED).

    cat(act(conv(x, w0)), act(conv(x, w1)))  becomes  act(conv(x, cat(w0, w1)))

`split-ranges` gives parts of a layer's channels scales of their own. Which of them stay float is known when the
plan is made, for each target; there branches only cost: x is read once for each of them, and kernels are narrow.
The result is the same but for the order in which a kernel adds, which is measured on the example inputs. A chain
of which anything is on integers stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from ..compiler.ir.constants import add_constant
from ..compiler.ir.nodes import describe, inherit, sole_user
from ..compiler.ir.ops import OPS, aten, bound_args
from ..compiler.ir.passes import CLOSE_TOLERANCE, Numerics, PassContext, PassResult, Skip, relative_error
from ..compiler.ir.qops import is_dequantize
from ..compiler.ir.stages import Stage
from ._layers import Layer, parameters
from ._rewrite import replace
from .splitting.order import channel_axis, keeps_channels

_OWN = ("input", "weight", "bias", "groups")  # what layers of one level may differ in

# What the branches do at one place: a node of each.
Level = Sequence[fx.Node]


@dataclass(frozen=True, slots=True)
class JoinRanges:
    """One chain for each concat of float chains that differ in nothing but the rows of their weights."""

    name: ClassVar[str] = "join-ranges"
    requires: ClassVar[Stage] = Stage.QUANTIZED
    ensures: ClassVar[Stage] = Stage.QUANTIZED
    numerics: ClassVar[Numerics] = "changes"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        matched = {node: _levels(gm, node) for node in gm.graph.nodes if node.target is aten.cat.default}
        joined = {cat: _join(gm, cat, levels) for cat, levels in matched.items() if levels}
        errors = _errors(gm, joined, ctx.example_inputs) if joined else {}
        skipped = []
        for cat, value in joined.items():
            if errors.get(cat, 0.0) <= CLOSE_TOLERANCE:
                replace(gm, cat, value)
            else:
                reason = f"one chain gives other values, by {errors[cat]:.3g} of their magnitude"
                skipped.append(Skip(describe(cat), reason))
        return PassResult(len(joined) - len(skipped), tuple(skipped))


def _errors(
    gm: fx.GraphModule, joined: Mapping[fx.Node, fx.Node], inputs: Sequence[Tensor]
) -> dict[fx.Node, float]:
    """How far each new value is from the concat on the example inputs. Outputs would not tell: a float result that
    moves by a rounding can move an integer behind it by one."""
    if not inputs:
        return {}
    watch = _Watch(gm, {*joined, *joined.values()})
    with torch.no_grad():
        watch.run(*inputs)
    return {cat: relative_error([watch.seen[value]], [watch.seen[cat]]) for cat, value in joined.items()}


class _Watch(fx.Interpreter):
    """Keeps what some nodes give."""

    def __init__(self, gm: fx.GraphModule, nodes: Collection[fx.Node]) -> None:
        super().__init__(gm)
        self._nodes, self.seen = nodes, dict[fx.Node, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self._nodes:
            self.seen[n] = result
        return result


def _levels(gm: fx.GraphModule, cat: fx.Node) -> list[Level]:
    """The chains that `cat` joins, from the layers that read one value to their ends; none where they differ."""
    tensors, axis = bound_args(cat).values()
    levels: list[Level] = []
    level = tensors
    while _alike(level):
        levels.insert(0, level)
        if level[0].target in OPS:
            layers = _layers(gm, level, axis)
            if not layers:
                return []
            if all(layer.groups == 1 for layer in layers) and len({_value(node.args[0]) for node in level}) == 1:
                return levels
            if not all(layer.weight.shape[1] == 1 and layer.groups == len(layer.weight) for layer in layers):
                return []
        elif not keeps_channels(gm, level[0], axis):
            return []
        level = [node.args[0] for node in level]
    return []


def _alike(level: Level) -> bool:
    """Whether the nodes do the same, have known shapes, and nothing outside of their chains reads them."""
    if not all(node.op == "call_function" and sole_user(node) and "val" in node.meta for node in level):
        return False
    return all(node.target is level[0].target and _settings(node) == _settings(level[0]) for node in level)


def _settings(node: fx.Node) -> object:
    if node.target in OPS:
        return {name: value for name, value in bound_args(node).items() if name not in _OWN}
    return node.args[1:], node.kwargs


def _layers(gm: fx.GraphModule, level: Level, axis: int) -> list[Layer]:
    """The layers, with channels on `axis`; none where a weight is no float constant of its own, or only some have
    a bias."""
    found = [parameters(gm, node) for node in level]
    layers = [layer for layer in found if isinstance(layer, Layer) and channel_axis(gm, layer.node) == axis]
    alike = len(layers) == len(level) and len({layer.bias is None for layer in layers}) == 1
    return layers if alike else []


def _value(source: fx.Node) -> object:
    """What `source` is: each reader of integers has a dequantize node of its own."""
    return (source.target, source.args) if is_dequantize(source) else source


def _join(gm: fx.GraphModule, cat: fx.Node, levels: Sequence[Level]) -> fx.Node:
    """The end of a chain that gives what `cat` gives, in front of it."""
    value, axis = levels[0][0].args[0], bound_args(cat)["dim"]
    for index, level in enumerate(levels):
        first = level[0]
        args = _joined(gm, cat, level, depthwise=index > 0) if first.target in OPS else first.args[1:]
        with gm.graph.inserting_before(cat):
            value = gm.graph.call_function(first.target, (value, *args), dict(first.kwargs))  # type: ignore[arg-type]
        inherit(value, first)
        value.meta["val"] = torch.cat([node.meta["val"] for node in level], axis)
    assert isinstance(value, fx.Node)
    return value


def _joined(gm: fx.GraphModule, cat: fx.Node, level: Level, depthwise: bool) -> list[object]:
    """The arguments of a layer that has the rows of all in `level`, save its input."""
    layers = [layer for node in level if isinstance(layer := parameters(gm, node), Layer)]
    bound, first = bound_args(level[0]), layers[0]
    rows = 0 if depthwise else first.info.out_axis
    name = f"{first.weight_name}_joined"
    bound["weight"] = add_constant(gm, name, torch.cat([layer.weight for layer in layers], rows), cat)
    if first.bias is not None:
        biases = [layer.bias for layer in layers if layer.bias is not None]
        bound["bias"] = add_constant(gm, f"{bound['bias'].target}_joined", torch.cat(biases), cat)
    if depthwise:
        bound["groups"] = sum(layer.groups for layer in layers)
    return list(bound.values())[1:]
