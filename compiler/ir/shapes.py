"""Shapes and dtypes of every value, recorded on the nodes.

`annotate` runs the graph once on example inputs and stores a meta tensor (shape and dtype, no data) in
`node.meta["val"]`, the key that torch.export uses. Passes drop or invalidate it, so planners annotate first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx


def annotate(gm: fx.GraphModule, example_inputs: Sequence[Tensor]) -> None:
    """Record the shape and dtype that every node gives for `example_inputs`; axis 0 shows the example's batch."""
    with torch.no_grad():
        _Recorder(gm).run(*example_inputs)


def tensor_meta(node: fx.Node) -> Tensor | None:
    """A meta tensor with the node's shape and dtype; None where it gives no tensor or was not annotated."""
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else None


class _Recorder(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        n.meta["val"] = _without_data(result)
        return result


def _without_data(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_like(value, device="meta")
    if isinstance(value, (tuple, list)):
        return tuple(_without_data(item) for item in value)
    return value
