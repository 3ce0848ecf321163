"""A program or a float graph as an ONNX model, op by op.

An integer step becomes `DequantizeLinear -> op -> QuantizeLinear`, the form that onnxruntime fuses into its
integer kernels; every reader has a dequantize node of its own. A fused activation that the output's range gives
already leaves no trace; another one is an integer `Clip`, or `Max` and `Min` where each channel has its own bound,
after QuantizeLinear (in between it would break the fusion). `emit_integer` holds the few ops whose integer form
differs from the float one.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import onnx
import torch
from onnx import helper
from torch import Tensor, fx

from ...compiler.ir.clamps import is_clamp
from ...compiler.ir.constants import constant
from ...compiler.ir.errors import UnsupportedOpsError
from ...compiler.ir.nodes import flat_outputs, input_name, placeholders, sole_user
from ...compiler.ir.ops import OPS, VIEWS, bound_args
from ...compiler.ir.qops import is_dequantize, is_quantize
from ...compiler.ir.sizes import Size, complete, dtype, shape
from ...compiler.quant.kernels import bias_scale, integer_bias
from ...compiler.quant.program import (
    DequantizeStep,
    FloatStep,
    IntegerStep,
    Program,
    QuantizeStep,
)
from ...compiler.quant.qnodes import read_qparams
from ...compiler.quant.qparams import QParams
from . import emit_elementwise, emit_integer, emit_norms, emit_pools, emit_products, emit_views  # noqa: F401
from .table import Call, Value, lowerings
from .writer import DTYPES, Writer, model_bytes

TARGET = "onnx"


def program_bytes(
    program: Program, expose: Sequence[str] = (), emitter_type: type[Emitter] | None = None
) -> bytes:
    """The int8 model. `expose` names integer values that become further outputs; `emitter_type` writes the steps.

    Raises:
        UnsupportedOpsError: every node without a lowering, with reasons.
    """
    complete(program.gm)
    anchors = [step.anchor for step in program.steps if isinstance(step, IntegerStep)]
    floats = [step.node for step in program.steps if isinstance(step, FloatStep)]
    _refuse([*anchors, *floats], program.spec.name)
    emitter = (emitter_type or Emitter)(program.gm)
    emitter.program_steps(program)
    return emitter.finish(expose)


def float_bytes(gm: fx.GraphModule, target: str = TARGET) -> bytes:
    """The float model of a FLOAT graph; raises as `program_bytes`."""
    complete(gm)
    calls = [node for node in gm.graph.nodes if node.op == "call_function"]
    _refuse(calls, target)
    emitter = Emitter(gm)
    for node in calls:
        emitter.float_step(node)
    return emitter.finish(())


def _refuse(nodes: Sequence[fx.Node], target: str) -> None:
    plain = [node for node in nodes if not _is_plumbing(node)]
    if unsupported := lowerings.unsupported(plain):
        raise UnsupportedOpsError(target, unsupported)


def _is_plumbing(node: fx.Node) -> bool:
    """Nodes that the emitter writes itself: dequantized constants, and pieces of a split."""
    return is_dequantize(node) or _is_piece(node)


def _is_piece(node: fx.Node) -> bool:
    return node.target is operator.getitem


@dataclass(slots=True)
class Emitter:
    """Writes the steps of one graph in order; `values` maps fx node names to ONNX tensor names."""

    special: ClassVar[Mapping[Any, emit_integer.IntegerLowering]] = emit_integer.LOWERINGS

    gm: fx.GraphModule
    writer: Writer = field(default_factory=Writer)
    values: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, fx.Node] = field(default_factory=dict)
    batch: set[Size] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.nodes = {node.name: node for node in self.gm.graph.nodes}
        self.values = {node.name: input_name(node) for node in placeholders(self.gm)}
        sizes = [shape(node)[:1] for node in placeholders(self.gm)]
        self.batch = {size[0] for size in sizes if size and isinstance(size[0], str)}
        for name in {*flat_outputs(self.gm), *self.values.values()}:
            self.writer.unique(name)

    def program_steps(self, program: Program) -> None:
        """Every step, in order."""
        for step in program.steps:
            match step:
                case IntegerStep():
                    self.integer_step(step)
                case FloatStep():
                    self.float_step(step.node)
                case QuantizeStep():
                    self.quantize_step(step)
                case DequantizeStep():
                    pass  # written beside each reader

    def float_step(self, node: fx.Node) -> None:
        if is_dequantize(node):
            return
        if _is_piece(node):
            source, index = node.args
            self.values[node.name] = self.values[source.name][index]  # type: ignore[union-attr, index]
            return
        self.values[node.name] = self.lower(node, node.name, self._guarded_bias(node))

    def quantize_step(self, step: QuantizeStep) -> None:
        self.values[step.name] = self.quantize(self.read(step.source), step.qparams, step.name)

    def integer_step(self, step: IntegerStep) -> None:
        special = self.special.get(step.anchor.target)
        written = None if special is None else special(self, step)
        if written is None:
            floats = self.product(step)
            floats = self.fused(step, floats, [node for node in step.fused if not is_clamp(node)])
            written = self.quantize(floats, step.out_qparams, self.inner_name(step))
        self.values[step.name] = emit_integer.bound(self, step, written)

    def product(self, step: IntegerStep) -> str:
        """The op of `step` alone, on floats."""
        written: str = self.lower(step.anchor, step.anchor.name, self._integer_bias(step))
        return written

    def fused(self, step: IntegerStep, floats: str, nodes: Sequence[fx.Node]) -> str:
        """What the kernel of `step` does to its result `floats`, as float ops."""
        self.values[step.anchor.name] = floats
        for node in nodes:
            floats = self.values[node.name] = self.lower(node, node.name)
        return floats

    def lower(self, node: fx.Node, name: str, replaced: dict[str, Value] | None = None) -> Any:
        """Write one aten op on float values; the value's name or names."""
        self.writer.scope = name
        args = {key: fx.map_arg(value, self._argument) for key, value in bound_args(node).items()}
        return lowerings[node.target](self.writer, Call(node, name, args | (replaced or {})))

    def value(self, node: fx.Node) -> Any:
        """ONNX name of what `node` gives; constants and dequantize nodes are written here, when first read."""
        if is_dequantize(node):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            qp = read_qparams(self.gm, node)
            if (stored := constant(self.gm, source)) is not None and source.name not in self.values:
                self.values[source.name] = self._stored_integers(str(source.target), stored, qp)
            return self.dequantize(self.value(source), qp, node.name)
        if node.op == "get_attr" and node.name not in self.values:
            stored = constant(self.gm, node)
            assert stored is not None
            self.values[node.name] = self.writer.initializer(str(node.target), stored)
        return self.values[node.name]

    def read(self, name: str) -> Any:
        """ONNX name of the value that the fx node `name` gives."""
        return self.value(self.nodes[name])

    def product_operands(self, step: IntegerStep, source: str) -> list[str]:
        """Dequantized input, weight and bias of a product whose input integers are `source`."""
        name, args = step.anchor.name, bound_args(step.anchor)
        bias = self._integer_bias(step).get("bias")
        operands = [self.dequantize(source, step.in_qparams[0], f"{name}/dequantized"), self.value(args["weight"])]
        if step.bias is not None:
            operands.append(self.value(args["bias"]) if bias is None else bias.name)
        return operands

    def phase_operands(self, step: IntegerStep, weight: Tensor, phases: int) -> list[str]:
        """Operands of a product whose weight has `phases` output channels for each one of the step's."""
        assert step.weight_qparams is not None
        name, qp = step.anchor.name, step.weight_qparams
        if qp.per_channel:
            scales = tuple(scale for scale in qp.scale for _ in range(phases))
            qp = QParams(scales, (0,) * len(scales), qp.qmin, qp.qmax, qp.dtype, 0)
        source = self.dequantize(self.read(step.inputs[0]), step.in_qparams[0], f"{name}/dequantized")
        stored = self._stored_integers(f"{name}/weight", weight, qp)
        operands = [source, self.dequantize(stored, qp, f"{name}/weight_dequantized")]
        if step.bias is not None:
            bias = integer_bias(step.bias, step.in_qparams[0], step.weight_qparams)
            bias = bias.repeat_interleave(phases)
            operands.append(self._bias_value(name, bias, bias_scale(step.in_qparams[0], qp)))
        return operands

    def dequantize(self, source: str, qp: QParams, name: str) -> str:
        return self._linear("DequantizeLinear", source, qp, name)

    def quantize(self, source: str, qp: QParams, name: str) -> str:
        return self._linear("QuantizeLinear", source, qp, name)

    def inner_name(self, step: IntegerStep) -> str:
        """The name of a step's integers before its bounds, if it has any."""
        return f"{step.name}/unclamped" if emit_integer.is_bounded(step) else step.name

    def finish(self, expose: Sequence[str]) -> bytes:
        outputs = []
        for name, node in flat_outputs(self.gm).items():
            self.writer.nodes.append(helper.make_node("Identity", [self.value(node)], [name], name=name))
            outputs.append(self._info(name, node))
        outputs += [self._info(self.values[name], self.nodes[name]) for name in expose]
        inputs = [self._info(input_name(node), node) for node in placeholders(self.gm)]
        self.writer.drop_unused([output.name for output in outputs])
        return model_bytes(self.writer, inputs, outputs)

    def _argument(self, node: fx.Node) -> Any:
        return Value(self.value(node), node)

    def _integer_bias(self, step: IntegerStep) -> dict[str, Value]:
        """A float bias as the int32 bias that the kernel would make of it; others stay as the graph has them."""
        if step.bias is None or not step.bias.is_floating_point():
            return {}
        assert step.weight_qparams is not None
        node = step.anchor.args[OPS[step.anchor.target].bias]  # type: ignore[index]
        assert isinstance(node, fx.Node)
        stored = integer_bias(step.bias, step.in_qparams[0], step.weight_qparams)
        scales = bias_scale(step.in_qparams[0], step.weight_qparams)
        return {"bias": Value(self._bias_value(step.anchor.name, stored, scales), node)}

    def _guarded_bias(self, node: fx.Node) -> dict[str, Value]:
        """A float product between dequantize and quantize gets a bias that is not an initializer.

        onnxruntime would otherwise quantize its float weight to int8 per tensor on its own
        (WeightBiasQuantization). The bias stays exact: integers -1, 0, 1 whose scales are its absolute values.
        """
        info = OPS.get(node.target)  # type: ignore[call-overload]
        if info is None or not _lies_between_integers(node):
            return {}
        weight = constant(self.gm, node.args[info.weight])
        if weight is None:
            return {}
        args = bound_args(node)
        groups = args.get("groups", 1) if info.out_axis == 1 else 1
        bias = constant(self.gm, args["bias"])
        values = torch.zeros(weight.shape[info.out_axis] * groups) if bias is None else bias
        scales = torch.where(values == 0, torch.ones_like(values), values.abs())
        return {"bias": Value(self._bias_value(node.name, values.sign().to(torch.int32), scales), node)}

    def _bias_value(self, name: str, integers: Tensor, scales: Tensor) -> str:
        """An int32 bias behind a dequantize node."""
        scales = scales.expand(integers.shape)
        qp = QParams(tuple(scales.tolist()), (0,) * len(scales), -(2**31), 2**31 - 1, torch.int32, 0)
        stored = self.writer.initializer(f"{name}/bias", integers)
        return self.dequantize(stored, qp, f"{name}/bias_dequantized")

    def _stored_integers(self, name: str, integers: Tensor, qp: QParams) -> str:
        """A constant of parameters `qp`; int4 where their range is that small (and the integers keep to it)."""
        small = qp.dtype is torch.int8 and qp.qmin >= -8 and qp.qmax <= 7
        if small and bool(((integers >= -8) & (integers <= 7)).all()):
            return self.writer.nibbles(name, integers)
        return self.writer.initializer(name, integers.to(qp.dtype))

    def _linear(self, op_type: str, source: str, qp: QParams, name: str) -> str:
        scale, zero_point = qp.scale_tensor(), qp.zero_point_tensor().to(qp.dtype)
        if not qp.per_channel:
            scale, zero_point = scale[0], zero_point[0]
        operands = [source, self._parameter(scale, "scale"), self._parameter(zero_point, "zero_point")]
        return self.writer.op(op_type, operands, name, axis=qp.axis)

    def _parameter(self, value: Tensor, hint: str) -> str:
        return self.writer.vector(value, hint)

    def _info(self, name: str, node: fx.Node) -> onnx.ValueInfoProto:
        sizes = ["batch" if size in self.batch else size for size in shape(node)]
        return helper.make_tensor_value_info(name, DTYPES[dtype(node)], sizes)


def _lies_between_integers(node: fx.Node) -> bool:
    """Whether nothing but views and clamps stands between `node` and a dequantize before, a quantize after it."""
    source, reader = node.args[0], sole_user(node)
    while isinstance(source, fx.Node) and source.target in VIEWS:
        source = source.args[0]
    while reader is not None and (reader.target in VIEWS or is_clamp(reader)):
        reader = sole_user(reader)
    return is_dequantize(source) and is_quantize(reader)
