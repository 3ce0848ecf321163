"""A program or a float graph as a TFLite model, op by op.

Integer steps become operators on int8 tensors, float steps the same operators on float tensors. Inputs and
outputs keep the model's own axis order. A fused activation that the output's range gives already leaves no trace;
where the operator's own ReLU or ReLU6 means the same integers it is used, else Maximum and Minimum follow.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from ...compiler.ir.constants import constant
from ...compiler.ir.errors import UnsupportedOpsError
from ...compiler.ir.nodes import flat_outputs, input_name, placeholders
from ...compiler.ir.ops import bound_args
from ...compiler.ir.qops import is_dequantize
from ...compiler.ir.sizes import complete, dtype, shape
from ...compiler.quant.program import DequantizeStep, FloatStep, IntegerStep, Program, QuantizeStep
from ...compiler.quant.qnodes import read_qparams
from ...compiler.quant.qparams import dequantize
from . import (  # noqa: F401
    emit_elementwise,
    emit_gathers,
    emit_norms,
    emit_pools,
    emit_products,
    emit_resize,
    emit_views,
    emit_volumes,
)
from .activations import bound, fused_code, is_bounded
from .table import Call, lowerings
from .values import Value, constant_value, dequantized, held, read, reshape
from .writer import Tensor, Writer

TARGET = "tflite"


def program_bytes(program: Program, expose: Sequence[str] = ()) -> bytes:
    """The int8 model. `expose` names integer values that become further outputs.

    Raises:
        UnsupportedOpsError: every node without a lowering, with reasons.
    """
    complete(program.gm)
    anchors = [step.anchor for step in program.steps if isinstance(step, IntegerStep)]
    floats = [step.node for step in program.steps if isinstance(step, FloatStep)]
    _refuse([*anchors, *floats])
    emitter = Emitter(program.gm)
    for name, stored in program.constants.items():
        emitter.constant_of(name, stored)
    for step in program.steps:
        match step:
            case IntegerStep():
                emitter.integer_step(step)
            case FloatStep():
                emitter.float_step(step.node)
            case QuantizeStep():
                emitter.quantize_step(step)
            case DequantizeStep():
                pass  # written beside each reader
    return emitter.finish(expose)


def float_bytes(gm: fx.GraphModule) -> bytes:
    """The float model of a FLOAT graph; raises as `program_bytes`."""
    complete(gm)
    calls = [node for node in gm.graph.nodes if node.op == "call_function"]
    _refuse(calls)
    emitter = Emitter(gm)
    for node in calls:
        emitter.float_step(node)
    return emitter.finish(())


def _refuse(nodes: Sequence[fx.Node]) -> None:
    plain = [node for node in dict.fromkeys(nodes) if not (is_dequantize(node) or _is_piece(node))]
    if unsupported := lowerings.unsupported(plain):
        raise UnsupportedOpsError(TARGET, unsupported)


def _is_piece(node: fx.Node) -> bool:
    return node.target is operator.getitem


@dataclass(slots=True)
class Emitter:
    """Writes the steps of one graph in order; `values` maps fx node names to what they give."""

    gm: fx.GraphModule
    writer: Writer = field(default_factory=Writer)
    values: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, fx.Node] = field(default_factory=dict)
    inputs: list[Tensor] = field(default_factory=list)
    pieces: dict[fx.Node, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = {node.name: node for node in self.gm.graph.nodes}
        for node in placeholders(self.gm):
            tensor = self.writer.tensor(input_name(node), shape(node), dtype(node))
            self.inputs.append(tensor)
            self.values[node.name] = held(tensor, shape(node))
        for name in flat_outputs(self.gm):
            self.writer.unique(name)

    def constant_of(self, name: str, stored: torch.Tensor) -> None:
        """An integer constant that steps read as an activation."""
        node = self.nodes[name]
        qparams = next(read_qparams(self.gm, user) for user in node.users if is_dequantize(user))
        self.values[name] = constant_value(stored.to(qparams.dtype), name, qparams)

    def float_step(self, node: fx.Node) -> None:
        if is_dequantize(node):
            return
        if _is_piece(node):
            source, index = node.args
            self.values[node.name] = self.values[source.name][index]  # type: ignore[union-attr, index]
            return
        self.values[node.name] = self._lower(Call(node, node.name, self._arguments(node, self.value)))

    def quantize_step(self, step: QuantizeStep) -> None:
        source = self.read(step.source)
        form = source.preferred()
        tensor = read(self.writer, source, form)
        made = self.writer.op("QUANTIZE", [tensor], tensor.shape, step.name, qparams=step.qparams)
        self.values[step.name] = held(made, source.sizes, form)

    def integer_step(self, step: IntegerStep) -> None:
        name = f"{step.name}/unclamped" if is_bounded(step) and fused_code(step) == 0 else step.name
        call = Call(step.anchor, name, self._integer_arguments(step), step.out_qparams, fused_code(step), step)
        if (index := step.attrs.get("index")) is not None and _is_split(step.anchor):
            self.values[step.name] = self._piece(call, index)
            return
        written = self._lower(call)
        assert isinstance(written, Value)
        self.values[step.name] = bound(self.writer, step, written) if name != step.name else written

    def value(self, node: fx.Node) -> Any:
        """What `node` gives; constants and dequantize nodes are written when first read."""
        if node.name in self.values:
            return self.values[node.name]
        if is_dequantize(node):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            stored = constant(self.gm, source)
            if stored is not None:
                return constant_value(dequantize(stored, read_qparams(self.gm, node)), node.name)
            self.values[node.name] = dequantized(self.writer, self.value(source), node.name)
            return self.values[node.name]
        stored = constant(self.gm, node)
        assert stored is not None, f"{node.name} is read before it is written"
        self.values[node.name] = constant_value(stored, str(node.target))
        return self.values[node.name]

    def read(self, name: str) -> Any:
        return self.value(self.nodes[name])

    def finish(self, expose: Sequence[str]) -> bytes:
        outputs: list[tuple[str, Tensor]] = []
        for name, node in flat_outputs(self.gm).items():
            outputs.append((name, self._output(name, self.value(node), outputs)))
        for name in expose:
            outputs.append((name, self._output(f"{name}/exposed", self.read(name), outputs)))
        return self.writer.model_bytes(self.inputs, outputs)

    def _output(self, name: str, value: Value, before: Sequence[tuple[str, Tensor]]) -> Tensor:
        """The tensor in torch's order; a copy where it is an input, a constant or another output already."""
        tensor = read(self.writer, value)
        taken = {other.index for _, other in before} | {other.index for other in self.inputs}
        if tensor.index not in taken and tensor.constant is None:
            return tensor
        if value.rank == 0 or sum(not isinstance(size, int) for size in value.sizes) > 1:
            zero = self.writer.number(0, value.dtype)
            return self.writer.op("ADD", [tensor, zero], tensor.shape, name, qparams=value.qparams)
        copied = reshape(self.writer, tensor, (*value.sizes, 1), f"{name}/copy")
        return reshape(self.writer, copied, value.sizes, name)

    def _lower(self, call: Call) -> Any:
        self.writer.scope = call.name
        return lowerings[call.node.target](self.writer, call)

    def _piece(self, call: Call, index: int) -> Value:
        """One piece of a split; all of them are written with the first."""
        if call.node not in self.pieces:
            self.pieces[call.node] = self._lower(replace(call, name=call.node.name))
        found: Value = self.pieces[call.node][index]
        return found

    def _arguments(self, node: fx.Node, value: Callable[[fx.Node], Any]) -> dict[str, Any]:
        return {key: fx.map_arg(argument, value) for key, argument in bound_args(node).items()}

    def _integer_arguments(self, step: IntegerStep) -> dict[str, Any]:
        """Activations as the integers behind their dequantize nodes."""

        def value(node: fx.Node) -> Any:
            if is_dequantize(node) and isinstance(node.args[0], fx.Node) and node.args[0].name in self.values:
                return self.values[node.args[0].name]
            return self.value(node)

        return self._arguments(step.anchor, value)


def _is_split(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (tuple, list))
