"""Plan + statistics -> explicit quantize and dequantize nodes (stage FLOAT -> QUANTIZED).

Every quantized value gets one quantize node and one dequantize node for each reader; weights become int8 constants
behind a dequantize node, symmetric, per output channel where the plan says so; biases stay float32 or become
int32 constants of scale s_x·s_w, as the target wants them. Reference form of Jacob et al., *Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference* (2018), §2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from ..compiler.ir.constants import constant
from ..compiler.ir.ops import OPS, OpInfo
from ..compiler.ir.passes import Numerics, PassContext, PassResult
from ..compiler.ir.qops import is_dequantize, is_quantize
from ..compiler.ir.stages import Stage
from ..compiler.quant.calibrate import CalibrationStats
from ..compiler.quant.plan import IntegerOp, Plan, activation_inputs
from ..compiler.quant.qnodes import insert_constant_dequantize, insert_dequantize, insert_quantize
from ..compiler.quant.qparams import QParams, QSpec, choose_channel_qparams, choose_qparams, quantize

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
        produced = {name for op in self.plan.ops.values() for name in op.outputs}
        quantized = {
            name: insert_quantize(gm, nodes[name], qp)
            for name, qp in qparams.items()
            if nodes[name].op != "get_attr"
        }
        for op in self.plan.ops.values():
            self._quantize_operands(gm, op, nodes, quantized, qparams)
        for name in produced:
            _dequantize_other_readers(gm, nodes[name], quantized[name], qparams[name])
        return PassResult(len(self.plan.ops), self.plan.floats)

    def _qparams(self) -> dict[str, QParams]:
        """Value name -> parameters of its group."""
        found = {}
        for group in self.plan.groups:
            qp = group.fixed or choose_qparams(*self.stats.range_of(group), group.spec)
            found.update(dict.fromkeys(group.members, qp))
        return found

    def _quantize_operands(
        self,
        gm: fx.GraphModule,
        op: IntegerOp,
        nodes: dict[str, fx.Node],
        quantized: dict[str, fx.Node],
        qparams: dict[str, QParams],
    ) -> None:
        node = nodes[op.node]
        dequantized: dict[fx.Node, fx.Node] = {}
        for value in dict.fromkeys(activation_inputs(node)):
            qp = qparams[value.name]
            if value.op == "get_attr":
                dequantized[value] = _dequantized_constant(gm, value, qp, node)
            else:
                dequantized[value] = insert_dequantize(gm, quantized[value.name], qp, node)
        info = OPS.get(node.target)  # type: ignore[call-overload]
        if info is not None:
            assert op.weight is not None
            input_qp = qparams[op.inputs[0]]
            integer_bias = self.plan.bias == "int32"
            floor = _scale_floor(gm, node, info, input_qp) if integer_bias else None
            weight_qp = _quantize_weight(gm, node, info, op.weight, floor)
            if integer_bias:
                _quantize_bias(gm, node, info, input_qp, weight_qp)
        node.args = fx.map_arg(node.args, lambda arg: dequantized.get(arg, arg))


def _dequantized_constant(gm: fx.GraphModule, value: fx.Node, qp: QParams, before: fx.Node) -> fx.Node:
    tensor = constant(gm, value)
    assert tensor is not None
    return insert_constant_dequantize(gm, f"{value.target}_quantized", quantize(tensor, qp), qp, before)


def _quantize_weight(
    gm: fx.GraphModule, node: fx.Node, info: OpInfo, spec: QSpec, floor: Tensor | None
) -> QParams:
    source = node.args[info.weight]
    assert isinstance(source, fx.Node)
    weight = constant(gm, source)
    assert weight is not None
    qp = weight_qparams(weight, spec, info.out_axis, floor)
    name = f"{source.target}_quantized"
    node.update_arg(info.weight, insert_constant_dequantize(gm, name, quantize(weight, qp), qp, node))
    return qp


def weight_qparams(weight: Tensor, spec: QSpec, out_axis: int, floor: Tensor | None = None) -> QParams:
    """Symmetric min-max parameters of a weight, per channel of `out_axis` or per tensor, as `spec` says.

    `floor` [channels] is the smallest scale allowed for each channel.
    """
    axes = [axis for axis in range(weight.ndim) if axis != out_axis]
    largest = weight.abs().amax(axes)
    if floor is not None:
        largest = torch.maximum(largest, floor * spec.qmax)
    if spec.per_channel:
        return choose_channel_qparams(-largest, largest, spec, out_axis)
    return choose_qparams(-float(largest.max()), float(largest.max()), spec)


def _scale_floor(gm: fx.GraphModule, node: fx.Node, info: OpInfo, input_qp: QParams) -> Tensor | None:
    """The smallest weight scale of each channel at which its bias still fits an int32."""
    bias = constant(gm, node.args[info.bias]) if len(node.args) > info.bias else None
    return None if bias is None else bias.abs() / (input_qp.scale[0] * _LARGEST_BIAS)


def _quantize_bias(gm: fx.GraphModule, node: fx.Node, info: OpInfo, input_qp: QParams, weight_qp: QParams) -> None:
    source = node.args[info.bias] if len(node.args) > info.bias else None
    if source is None:
        return
    assert isinstance(source, fx.Node)
    bias = constant(gm, source)
    assert bias is not None
    scale = weight_qp.scale_tensor() * torch.tensor(input_qp.scale[0])
    axis = 0 if weight_qp.per_channel else None
    zeros = (0,) * scale.numel()
    qp = QParams(tuple(scale.tolist()), zeros, -(2**31), 2**31 - 1, torch.int32, axis)
    integers = torch.round(bias.double() / qp.scale_tensor().double()).to(torch.int64)
    stored = insert_constant_dequantize(gm, f"{source.target}_quantized", integers, qp, node)
    node.update_arg(info.bias, stored)


def _dequantize_other_readers(gm: fx.GraphModule, value: fx.Node, quantized: fx.Node, qp: QParams) -> None:
    """Readers of an integer op's result that stay float read its integers through a dequantize node."""
    for user in list(value.users):
        if user is quantized or is_quantize(user) or is_dequantize(user):
            continue
        user.replace_input_with(value, insert_dequantize(gm, quantized, qp, user))
