"""Reading and writing quantize/dequantize nodes: `QParams` on one side, fx nodes on the other."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from ..ir.constants import add_constant, constant
from ..ir.nodes import inherit
from ..ir.qops import DQ, DQC, Q
from .qparams import QParams


def read_qparams(gm: fx.GraphModule, node: fx.Node) -> QParams:
    """The parameters of a quantize or dequantize node, per tensor or per channel.

    Raises:
        ValueError: a scale is not positive and finite, or a per-channel scale is not a constant.
    """
    if node.target in (Q, DQ):
        _, scale, zero_point, qmin, qmax, dtype = node.args[:6]
        return QParams((scale,), (zero_point,), qmin, qmax, dtype)
    _, scales, zero_points, axis, qmin, qmax, dtype = node.args[:7]
    scale_values, zero_values = constant(gm, scales), constant(gm, zero_points)
    if scale_values is None:
        raise ValueError(f"the scales of {node.name} are computed, not constant")
    if zero_values is None:
        zero_values = torch.zeros_like(scale_values, dtype=torch.int64)
    return QParams(
        tuple(scale_values.tolist()), tuple(int(z) for z in zero_values.tolist()), qmin, qmax, dtype, axis
    )


def insert_quantize(gm: fx.GraphModule, producer: fx.Node, qp: QParams) -> fx.Node:
    """quantize_per_tensor right after `producer`; no reader is changed."""
    with gm.graph.inserting_after(producer):
        node = gm.graph.call_function(Q, (producer, *_per_tensor(qp)))
    return inherit(node, producer)


def insert_dequantize(gm: fx.GraphModule, quantized: fx.Node, qp: QParams, before: fx.Node) -> fx.Node:
    """dequantize_per_tensor of `quantized` in front of `before`."""
    with gm.graph.inserting_before(before):
        node = gm.graph.call_function(DQ, (quantized, *_per_tensor(qp)))
    return inherit(node, before)


def insert_constant_dequantize(
    gm: fx.GraphModule, name: str, integers: Tensor, qp: QParams, before: fx.Node
) -> fx.Node:
    """An integer constant and its dequantize node, per tensor or per channel as `qp` says.

    The constant is stored in `qp.dtype` under `name`; per-channel scales go beside it as `<name>_scale`.
    """
    stored = add_constant(gm, name, integers.to(qp.dtype), before)
    if not qp.per_channel:
        return insert_dequantize(gm, stored, qp, before)
    scales = add_constant(gm, f"{name}_scale", qp.scale_tensor(), before)
    zeros = add_constant(gm, f"{name}_zero_point", qp.zero_point_tensor(), before)
    with gm.graph.inserting_before(before):
        node = gm.graph.call_function(DQC, (stored, scales, zeros, qp.axis, qp.qmin, qp.qmax, qp.dtype))
    return inherit(node, before)


def _per_tensor(qp: QParams) -> tuple[float, int, int, int, torch.dtype]:
    return qp.scale[0], qp.zero_point[0], qp.qmin, qp.qmax, qp.dtype
