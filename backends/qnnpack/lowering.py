"""How qnnpack runs the ops that torch's other engines run otherwise."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

import torch
from torch import fx
from torch._ops import OpOverload

from ...compiler.ir.shapes import recorded_shape
from ...compiler.quant.program import IntegerStep
from ..torchscript.builder import Builder
from ..torchscript.lowering import activated, bounded, clamped, scalars
from .rules import runs_of
from .windows import PoolRuns, Run

aten = torch.ops.aten
quantized = torch.ops.quantized


def _add(b: Builder, step: IntegerStep) -> fx.Node:
    """QNNPACK's add takes no broadcasting, and does not say so."""
    operands = b.inputs(step)
    if not _same_shapes(step):
        both = b.call(aten.broadcast_tensors, list(operands))
        operands = tuple(b.call(operator.getitem, both, index) for index in (0, 1))
    return bounded(b, step, activated(b, step, "add", *operands))


def _same_shapes(step: IntegerStep) -> bool:
    shapes = [recorded_shape(node) for node in step.anchor.args[:2]]
    return None not in shapes and tuple(map(str, shapes[0] or ())) == tuple(map(str, shapes[1] or ()))


def _leaky_relu(b: Builder, step: IntegerStep) -> fx.Node:
    """What is above zero plus what is below, by two clamps, another scale and a sum."""
    (x,), qp = b.inputs(step), step.in_qparams[0]
    least = (qp.qmin - qp.zero_point[0]) * qp.scale[0]
    above, below = b.call(torch.relu, x), clamped(b, step, x, least, 0.0)
    sloped = b.call(quantized.mul_scalar, below, step.attrs["negative_slope"])
    return bounded(b, step, b.call(quantized.add, above, sloped, *scalars(step.out_qparams)), relu_done=False)


def _average_pool(b: Builder, step: IntegerStep) -> fx.Node:
    """One pool, or one for each pair of runs."""
    x = b.channels_last(*b.inputs(step))
    runs = runs_of(step.anchor)
    assert not isinstance(runs, str), runs
    if runs is None:
        target = step.anchor.target
        assert isinstance(target, OpOverload)
        return b.call(target.overloadpacket, x, *step.attrs.values())
    if any(runs.padding):
        x = _with_zeros(b, step, x, runs)
    return _joined(b, step, [_joined(b, step, _row_of_parts(b, x, run, runs), 3) for run in runs.rows], 2)


def _row_of_parts(b: Builder, x: fx.Node, row: Run, runs: PoolRuns) -> list[fx.Node]:
    rows = b.call(aten.slice, x, 2, row.start, row.stop)
    return [_part(b, b.call(aten.slice, rows, 3, run.start, run.stop), row, run) for run in runs.columns]


def _part(b: Builder, x: fx.Node, row: Run, column: Run) -> fx.Node:
    """A plain pool; QNNPACK takes none of one element."""
    if row.length == column.length == 1:
        every = b.call(aten.slice, x, 2, 0, row.stop, row.stride)
        return b.call(aten.slice, every, 3, 0, column.stop, column.stride)
    kernel, stride = [row.length, column.length], [row.stride, column.stride]
    return b.call(aten.avg_pool2d, b.channels_last(x), kernel, stride, [0, 0], False, True)


def _with_zeros(b: Builder, step: IntegerStep, x: fx.Node, runs: PoolRuns) -> fx.Node:
    height, width = runs.padding
    pads, zero_point = [width, width, height, height], step.in_qparams[0].zero_point[0]
    padded = b.call(aten.constant_pad_nd, b.call(torch.int_repr, x), pads, zero_point)
    return b.call(aten._make_per_tensor_quantized_tensor, padded, *scalars(step.in_qparams[0]))


def _joined(b: Builder, step: IntegerStep, parts: list[fx.Node], axis: int) -> fx.Node:
    return parts[0] if len(parts) == 1 else b.call(quantized.cat, parts, axis, *scalars(step.out_qparams))


LOWERINGS: Mapping[OpOverload, Callable[[Builder, IntegerStep], fx.Node]] = {
    aten.add.Tensor: _add,
    aten.leaky_relu.default: _leaky_relu,
    aten.avg_pool2d.default: _average_pool,
    aten.adaptive_avg_pool2d.default: _average_pool,
}
