"""Reading and writing quantize/dequantize nodes: `QParams` on one side, fx nodes on the other."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from ..ir.constants import add_constant, constant
from ..ir.errors import VerifierError
from ..ir.nodes import describe, inherit, placeholders
from ..ir.ops import bound_args
from ..ir.qops import DQ, DQC, Q
from .qparams import QParams


def read_qparams(gm: fx.GraphModule, node: fx.Node) -> QParams:
    """The parameters of a quantize or dequantize node, per tensor or per channel (absent zero points are zeros).

    Raises:
        VerifierError: they are not valid `QParams`, or computed instead of constant.
    """
    args = bound_args(node)
    try:
        if node.target in (Q, DQ):
            scales, zero_points, axis = [args["scale"]], [args["zero_point"]], None
        else:
            scales, axis = _constant_list(gm, args["scales"]), args["axis"]
            given = args["zero_points"]
            zero_points = [0] * len(scales) if given is None else _constant_list(gm, given)
        integers = tuple(int(zero_point) for zero_point in zero_points)
        return QParams(tuple(scales), integers, args["quant_min"], args["quant_max"], args["dtype"], axis)
    except ValueError as error:
        raise VerifierError(f"{describe(node)} cannot be read: {error}") from error


def _constant_list(gm: fx.GraphModule, node: object) -> list[float]:
    value = constant(gm, node)
    if value is None:
        raise ValueError(f"{node} is computed, not constant")
    return value.tolist()


def insert_quantize(gm: fx.GraphModule, producer: fx.Node, qp: QParams) -> fx.Node:
    """quantize_per_tensor right after `producer` (after the last input, if it is one); no reader is changed."""
    place = placeholders(gm)[-1] if producer.op == "placeholder" else producer
    with gm.graph.inserting_after(place):
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
