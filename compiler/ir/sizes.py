"""Static shapes of graph nodes, from the fake tensors that capture leaves in `node.meta["val"]`."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from .constants import constant
from .qops import is_dequantize, is_quantize

Size = int | str


class ShapeUnknown(Exception):
    """A node has no recorded shape; the message is a reason for a support check."""


def shape(node: object) -> tuple[Size, ...]:
    """The sizes of a tensor node: a number, or the symbol's text where it may change at run time.

    Raises:
        ShapeUnknown: no pass or capture recorded it.
    """
    return tuple(size if isinstance(size, int) else str(size) for size in fake(node).shape)


def dtype(node: object) -> torch.dtype:
    """The dtype of a tensor node; of a quantize node, its integer type."""
    if is_quantize(node):
        return node.args[-1]  # type: ignore[attr-defined]
    return torch.float32 if is_dequantize(node) else fake(node).dtype


def fake(node: object) -> Any:
    """What `node` evaluates to, as a fake tensor (or a list of them); quantize nodes keep their input's."""
    assert isinstance(node, fx.Node)
    source = node
    while "val" not in source.meta and (is_dequantize(source) or is_quantize(source)):
        assert isinstance(source.args[0], fx.Node)
        source = source.args[0]
    if source.op == "get_attr":
        module = source.graph.owning_module
        value = None if module is None else constant(module, source)
    else:
        value = source.meta.get("val")
    if value is None:
        raise ShapeUnknown(f"the shape of {source.name} is not known; capture the model with fxedge.capture")
    return value


def complete(gm: fx.GraphModule) -> None:
    """Record what calls without a fake tensor evaluate to, from those that have one; quantize nodes need none."""
    calls = [node for node in gm.graph.nodes if node.op == "call_function"]
    missing = [n for n in calls if "val" not in n.meta and not (is_quantize(n) or is_dequantize(n))]
    known = (node.meta.get("val") for node in gm.graph.nodes)
    mode = next((value.fake_mode for value in known if isinstance(value, FakeTensor)), None)
    if mode is None or not missing:
        return

    def value(argument: fx.Node) -> Any:
        found = fake(argument)
        real = isinstance(found, torch.Tensor) and not isinstance(found, FakeTensor)
        return mode.from_tensor(found, static_shapes=True) if real else found

    with torch.no_grad(), mode:
        for node in missing:
            args, kwargs = fx.map_arg((node.args, node.kwargs), value)
            node.meta["val"] = node.target(*args, **kwargs)
