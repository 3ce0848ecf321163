"""A graph under construction: values by name, constants and packed parameters as attributes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...compiler.ir.constants import constant
from ...compiler.quant.program import IntegerStep
from . import deprecated
from .roads import Roads


class Builder:
    """Adds calls to a new graph. `roads` says how convolutions are run; `values` maps the source graph's value
    names to the new nodes."""

    def __init__(self, source: fx.GraphModule, roads: Roads) -> None:
        self.roads = roads
        self.values: dict[str, fx.Node] = {}
        self._source = source
        self._source_nodes = {node.name: node for node in source.graph.nodes}
        self._root = nn.Module()
        self._graph = fx.Graph()
        self._attributes = 0

    def input(self, name: str) -> None:
        self.values[name] = self._graph.placeholder(f"input_{len(self.values)}")

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        return self._graph.call_function(target, tuple(map(_spell, args)), kwargs)

    def method(self, name: str, *args: Any) -> fx.Node:
        return self._graph.call_method(name, args)

    def attribute(self, value: Any) -> fx.Node:
        """A constant tensor or packed parameters."""
        name = f"constant_{self._attributes}"
        self._attributes += 1
        if isinstance(value, Tensor):
            self._root.register_buffer(name, value)
        else:
            setattr(self._root, name, value)
        return self._graph.get_attr(name)

    def value(self, name: str) -> fx.Node:
        """The node of a value of the source graph; its constants become attributes when first read."""
        if name not in self.values:
            found = constant(self._source, self._source_nodes[name])
            assert found is not None, f"{name} is read before it is computed"
            self.values[name] = self.attribute(found.detach())
        return self.values[name]

    def add_quantized_constants(self, steps: Sequence[IntegerStep], constants: Mapping[str, Tensor]) -> None:
        """The integer constants that steps read as activations."""
        for step in steps:
            for name, qp in zip(step.inputs, step.in_qparams, strict=True):
                if name in constants and name not in self.values:
                    self.values[name] = self.attribute(deprecated.quantized_tensor(constants[name], qp))

    def inputs(self, step: IntegerStep) -> tuple[fx.Node, ...]:
        return tuple(self.value(name) for name in step.inputs)

    def channels_last(self, x: fx.Node) -> fx.Node:
        """`x` [batch, channels, height, width] with channels innermost in memory; free where it is so already."""
        return self._graph.call_method("contiguous", (x,), {"memory_format": torch.channels_last})

    def finish(self, outputs: Sequence[fx.Node]) -> fx.GraphModule:
        """The module; its outputs are a tuple, or one tensor."""
        self._graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        return fx.GraphModule(self._root, self._graph)


def _spell(argument: Any) -> Any:
    """An argument as TorchScript can read it: torch.Size and immutable lists as lists."""
    if isinstance(argument, fx.Node) or not isinstance(argument, (list, tuple)):
        return argument
    return [_spell(item) for item in argument]


def is_infinite(value: Any) -> bool:
    return isinstance(value, float) and math.isinf(value)
