"""Shapes as recorded on nodes."""

from __future__ import annotations

from typing import Any

from torch import fx

from ...compiler.ir.qops import is_dequantize, is_quantize
from ...compiler.ir.shapes import tensor_meta


def recorded_shape(node: object) -> tuple[Any, ...] | None:
    """The recorded shape of a value, looked up through quantize and dequantize nodes."""
    while is_dequantize(node) or is_quantize(node):
        node = node.args[0]  # type: ignore[attr-defined]
    value = tensor_meta(node) if isinstance(node, fx.Node) else None
    return None if value is None else tuple(value.shape)
