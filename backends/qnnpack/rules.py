"""Which aten ops run on integers under qnnpack: the shared rows of torch's engines, with QNNPACK's own kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from ...compiler.ir.ops import bound_args
from ...compiler.ir.shapes import recorded_shape
from ...compiler.quant.qparams import QParams
from ...compiler.quant.target import OpRule
from ..torchscript.rules import ProductKernels, products, shared_rows
from ..torchscript.transposed import TransposeRoad
from . import arithmetic
from .windows import MOST_PARTS, PoolRuns, adaptive_runs, is_plain, pair, pool_runs

aten = torch.ops.aten

_THREE_AXES = frozenset({aten.conv3d.default, aten.conv_transpose3d.input})
_KERNELS = {
    aten.hardswish.default: arithmetic.hardswish,
    aten.hardsigmoid.default: arithmetic.hardsigmoid,
    aten.sigmoid.default: arithmetic.sigmoid,
    aten.tanh.default: arithmetic.tanh,
}


def rows() -> dict[OpOverload, OpRule]:
    """Every rule; all of them are exact."""
    kernels = ProductKernels(arithmetic.layers.conv, arithmetic.layers.conv_transpose, arithmetic.layers.linear)
    weighted = products(kernels, lambda shape: TransposeRoad.PLAIN)
    shared = shared_rows()
    own = {op: replace(shared[op], kernel=kernel, tolerance=0) for op, kernel in _KERNELS.items()}
    return {
        **{op: rule for op, rule in weighted.items() if op not in _THREE_AXES},
        **shared,
        **own,
        aten.add.Tensor: replace(shared[aten.add.Tensor], kernel=arithmetic.add, tolerance=0, takes=_takes_sum),
        aten.leaky_relu.default: OpRule(arithmetic.leaky_relu, check=_rising, takes=_takes_slope),
        aten.avg_pool2d.default: _pool(shared[aten.avg_pool2d.default], arithmetic.average_pool),
        aten.adaptive_avg_pool2d.default: _pool(
            shared[aten.adaptive_avg_pool2d.default], arithmetic.adaptive_average_pool
        ),
    }


def runs_of(node: fx.Node) -> PoolRuns | str | None:
    """The plain pools that an average pool is cut into, or why it cannot be; None where one kernel does it all."""
    attrs = bound_args(node)
    adaptive = node.target is aten.adaptive_avg_pool2d.default
    if pair(attrs["output_size"]) == (1, 1) if adaptive else is_plain(attrs):
        return None
    shape = recorded_shape(node.args[0])
    if shape is None or not all(isinstance(size, int) for size in shape[2:]):
        return "its windows depend on sizes that are not known"
    size = (shape[2], shape[3])
    found = adaptive_runs(pair(attrs["output_size"]), size) if adaptive else pool_runs(attrs, size)
    if found.parts > MOST_PARTS:
        return f"its windows differ so much that it would take {found.parts} pools"
    return found


def _pool(shared: OpRule, kernel: Any) -> OpRule:
    def check(node: fx.Node) -> str | None:
        reason = shared.check(node)
        if reason is not None:
            return reason
        found = runs_of(node)
        return found if isinstance(found, str) else None

    return replace(shared, kernel=kernel, check=check)


def _takes_sum(node: fx.Node, inputs: tuple[QParams, ...], output: QParams) -> bool:
    return arithmetic.addable(tuple(qp.scale[0] for qp in inputs), output.scale[0])


def _rising(node: fx.Node) -> str | None:
    return None if bound_args(node)["negative_slope"] > 0 else "its slope is not positive"


def _takes_slope(node: fx.Node, inputs: tuple[QParams, ...], output: QParams) -> bool:
    below = arithmetic.negative_scale(inputs[0], bound_args(node)["negative_slope"])
    return arithmetic.addable((inputs[0].scale[0], below), output.scale[0])
