"""Shapes and dtypes of every value, recorded on the nodes.

Capture leaves a fake tensor (shape and dtype, no data; symbolic sizes on the dynamic axes) on every node, in
`node.meta["val"]`, the key that torch.export uses. Nodes that passes make have none: `annotate` fills them in,
and recomputes what depends on them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from .constants import constant
from .nodes import placeholders
from .qops import is_dequantize, is_quantize


def annotate(gm: fx.GraphModule) -> None:
    """Fill in what is missing; a node whose inputs turn out to have another shape or dtype is recomputed.

    Raises:
        ValueError: a placeholder has no fake tensor: the graph did not come from `capture`.
    """
    inputs = [node.meta.get("val") for node in placeholders(gm)]
    for node, value in zip(placeholders(gm), inputs, strict=True):
        if not isinstance(value, FakeTensor):
            raise ValueError(f"the shape of input {node.name} is not known; capture the model with fxedge.capture")
    mode = inputs[0].fake_mode if inputs else FakeTensorMode()  # type: ignore[union-attr]
    changed: set[fx.Node] = set()
    # Without the Python dispatcher some C++ kernels (upsample, pad) read sizes, which fixes dynamic ones for good.
    with torch.no_grad(), mode, enable_python_dispatcher():
        for node in gm.graph.nodes:
            if node.op == "call_function" and ("val" not in node.meta or changed & set(node.all_input_nodes)):
                before, node.meta["val"] = node.meta.get("val"), _result(gm, node, mode)
                if before is None or not _same_type(before, node.meta["val"]):
                    changed.add(node)


def tensor_meta(node: fx.Node) -> Tensor | None:
    """A fake tensor with the node's shape and dtype; None where it gives no tensor or was not annotated."""
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else None


def recorded_shape(node: object) -> tuple[Any, ...] | None:
    """The recorded shape of a value, looked up through quantize and dequantize nodes."""
    while is_dequantize(node) or is_quantize(node):
        node = node.args[0]  # type: ignore[attr-defined]
    value = tensor_meta(node) if isinstance(node, fx.Node) else None
    return None if value is None else tuple(value.shape)


def fits(tensor: Tensor, recorded: Tensor) -> bool:
    """Whether `tensor` has the dtype and the sizes of a recorded value; an axis of symbolic size takes any.

    A symbolic size is never compared with a number: that would fix it to the number for good.
    """
    sizes = zip(tensor.shape, recorded.shape, strict=False)
    return (
        tensor.dtype == recorded.dtype
        and tensor.ndim == recorded.ndim
        and all(not isinstance(known, int) or size == known for size, known in sizes)
    )


def type_text(tensor: Tensor) -> str:
    """`float32 [any, 3, 8, 8]`: how messages say dtype and sizes."""
    sizes = ", ".join(str(size) if isinstance(size, int) else "any" for size in tensor.shape)
    return f"{str(tensor.dtype).removeprefix('torch.')} [{sizes}]"


def _result(gm: fx.GraphModule, node: fx.Node, mode: FakeTensorMode) -> Any:
    def value(argument: fx.Node) -> Any:
        if (tensor := constant(gm, argument)) is not None:
            return mode.from_tensor(tensor, static_shapes=True)
        return argument.meta["val"]

    args, kwargs = fx.map_arg((node.args, node.kwargs), value)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _same_type(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.shape == right.shape and left.dtype == right.dtype
    return False
