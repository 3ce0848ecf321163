"""Plan + statistics -> explicit quantize and dequantize nodes (stage FLOAT -> QUANTIZED).

Every quantized value gets one quantize node and one dequantize node for each reader. Weights become int8 constants
behind a dequantize node, symmetric, per output channel and on the grid of fewer bits where the plan says so.
Biases stay float32 or become int32 constants of scale s_x·s_w, as the target wants them. A constant that several
ops read as the same integers is stored once. Reference form of Jacob et al., *Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference* (2018), §2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, fx

from ..compiler.ir.constants import constant
from ..compiler.ir.nodes import inherit
from ..compiler.ir.ops import OPS, OpInfo
from ..compiler.ir.passes import Numerics, PassContext, PassResult
from ..compiler.ir.stages import Stage
from ..compiler.quant.calibrate import CalibrationStats
from ..compiler.quant.plan import IntegerOp, Plan, activation_inputs
from ..compiler.quant.qnodes import insert_constant_dequantize, insert_dequantize, insert_quantize
from ..compiler.quant.qparams import (
    SMALLEST_SCALE,
    QParams,
    QSpec,
    choose_channel_qparams,
    choose_qparams,
    quantize,
)
from ..compiler.quant.target import BiasKind
from ..compiler.quant.weight_range import WeightRange, weight_reach

# A bias integer stays below this, half of int32, so that the accumulator has room for the sum.
_LARGEST_BIAS = 2**30


@dataclass(frozen=True, slots=True)
class InsertQdq:
    """Carry out `plan` with the ranges of `stats`."""

    plan: Plan
    stats: CalibrationStats

    name: ClassVar[str] = "insert-qdq"
    requires: ClassVar[Stage] = Stage.FLOAT
    ensures: ClassVar[Stage] = Stage.QUANTIZED
    numerics: ClassVar[Numerics] = "changes"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        nodes = {node.name: node for node in gm.graph.nodes}
        qparams = self._qparams()
        quantized = {
            name: insert_quantize(gm, nodes[name], qp)
            for name, qp in qparams.items()
            if nodes[name].op != "get_attr"
        }
        insertion = _Insertion(gm, self.plan.bias, qparams, quantized)
        for op in self.plan.ops.values():
            insertion.quantize_operands(nodes[op.node], op)
            if len(op.inputs) > len(activation_inputs(nodes[op.node])):
                insertion.dequantize_residual(nodes[op.fused[0]], nodes[op.inputs[-1]])
        for op in self.plan.ops.values():
            for name in op.outputs:
                insertion.dequantize_other_readers(nodes[name])
        return PassResult(len(self.plan.ops), self.plan.floats)

    def _qparams(self) -> dict[str, QParams]:
        """Value name -> parameters of its group."""
        found = {}
        for group in self.plan.groups:
            qp = group.fixed or choose_qparams(*self.stats.range_of(group), group.spec)
            found.update(dict.fromkeys(group.members, qp))
        return found


@dataclass(slots=True)
class _Insertion:
    """The work on one graph: parameters and quantize nodes by value name, and the constants stored so far."""

    gm: fx.GraphModule
    bias: BiasKind
    qparams: dict[str, QParams]
    quantized: dict[str, fx.Node]
    stored: dict[tuple[fx.Node, QParams], fx.Node] = field(default_factory=dict)

    def quantize_operands(self, node: fx.Node, op: IntegerOp) -> None:
        dequantized: dict[fx.Node, fx.Node] = {}
        for value in dict.fromkeys(activation_inputs(node)):
            qp = self.qparams[value.name]
            if value.op == "get_attr":
                dequantized[value] = self._dequantized_constant(value, qp, node)
            else:
                dequantized[value] = insert_dequantize(self.gm, self.quantized[value.name], qp, node)
        info = OPS.get(node.target)  # type: ignore[call-overload]
        if info is not None:
            self._quantize_parameters(node, info, op, self.qparams[op.inputs[0]].scale[0])
        node.args = fx.map_arg(node.args, lambda arg: dequantized.get(arg, arg))

    def dequantize_residual(self, total: fx.Node, value: fx.Node) -> None:
        """A sum that a layer's kernel takes in reads the other summand's integers."""
        qp = self.qparams[value.name]
        total.replace_input_with(value, insert_dequantize(self.gm, self.quantized[value.name], qp, total))

    def _quantize_parameters(self, node: fx.Node, info: OpInfo, op: IntegerOp, input_scale: float) -> None:
        """Weight and, where the target wants it in int32, bias of `node`."""
        source = node.args[info.weight]
        bias_source = node.args[info.bias] if self.bias == "int32" and len(node.args) > info.bias else None
        weight, bias = constant(self.gm, source), constant(self.gm, bias_source)
        assert isinstance(source, fx.Node)
        assert weight is not None
        assert op.weight is not None
        qp = weight_qparams(weight, op.weight, info.out_axis, input_scale, bias, op.weight_range)
        node.update_arg(info.weight, self._dequantized_constant(source, qp, node))
        if isinstance(bias_source, fx.Node):
            bias_qp = bias_qparams(qp, input_scale)
            node.update_arg(info.bias, self._dequantized_constant(bias_source, bias_qp, node))

    def _dequantized_constant(self, source: fx.Node, qp: QParams, before: fx.Node) -> fx.Node:
        known = self.stored.get((source, qp))
        if known is not None:
            with self.gm.graph.inserting_before(before):
                return inherit(self.gm.graph.call_function(known.target, known.args), before)  # type: ignore[arg-type]
        value = constant(self.gm, source)
        assert value is not None
        name = f"{source.target}_quantized"
        node = insert_constant_dequantize(self.gm, name, quantize(value, qp), qp, before)
        self.stored[source, qp] = node
        return node

    def dequantize_other_readers(self, value: fx.Node) -> None:
        """Readers of an integer op's result that stay float read its integers through a dequantize node."""
        quantized = self.quantized[value.name]
        for user in list(value.users):
            if user is not quantized:
                qp = self.qparams[value.name]
                user.replace_input_with(value, insert_dequantize(self.gm, quantized, qp, user))


def weight_qparams(
    weight: Tensor,
    spec: QSpec,
    out_axis: int,
    input_scale: float,
    bias: Tensor | None = None,
    weight_range: WeightRange = "minmax",
) -> QParams:
    """Symmetric parameters of a weight, per channel of `out_axis` or per tensor, as `spec` says; `weight_range`
    finds how far they reach.

    A weight too small for the product s_x·s_w to be a normal float32 counts as zero. With `bias` (float [out], to
    become int32 of that scale) s_w is at least so large that the bias fits.
    """
    largest = weight_reach(weight, spec, out_axis, weight_range)
    largest = torch.where(largest * input_scale > SMALLEST_SCALE * spec.qmax, largest, 0.0)
    if bias is not None:
        reach = bias.abs() if spec.per_channel else bias.abs().amax().reshape(1)
        largest = torch.maximum(largest, reach / (input_scale * _LARGEST_BIAS) * spec.qmax)
    if spec.per_channel:
        return choose_channel_qparams(-largest, largest, spec, out_axis)
    return choose_qparams(-largest.item(), largest.item(), spec)


def bias_qparams(weight_qp: QParams, input_scale: float) -> QParams:
    """int32 with zero point 0 and scale f32(s_x·s_w), per channel or per tensor as the weight."""
    scale = weight_qp.scale_tensor() * torch.tensor(input_scale)
    axis = 0 if weight_qp.per_channel else None
    return QParams(tuple(scale.tolist()), (0,) * scale.numel(), -(2**31), 2**31 - 1, torch.int32, axis)
