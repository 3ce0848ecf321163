"""The quantize and dequantize ops of the graph: the ecosystem's standard `quantized_decomposed` library.

This module owns the import that registers them. `torch.ao.quantization` is used here and nowhere else, so that
a torch that moves the ops breaks one line.
"""

from __future__ import annotations

import torch
from torch import fx
from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers torch.ops.quantized_decomposed)

_library = torch.ops.quantized_decomposed

Q = _library.quantize_per_tensor.default
DQ = _library.dequantize_per_tensor.default
QC = _library.quantize_per_channel.default
DQC = _library.dequantize_per_channel.default

QUANTIZE = frozenset({Q, QC})
DEQUANTIZE = frozenset({DQ, DQC})


def is_quantize(node: object) -> bool:
    return isinstance(node, fx.Node) and node.target in QUANTIZE


def is_dequantize(node: object) -> bool:
    return isinstance(node, fx.Node) and node.target in DEQUANTIZE


def is_quantized(graph: fx.Graph | None) -> bool:
    """Whether the graph has quantize or dequantize nodes."""
    return graph is not None and any(is_quantize(node) or is_dequantize(node) for node in graph.nodes)
