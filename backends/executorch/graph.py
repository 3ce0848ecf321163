"""A program or a float graph as the flat aten graph that ExecuTorch's XNNPACK partitioner takes.

An integer step becomes `dequantize -> op [-> relu or hardtanh] -> quantize`; every reader has a dequantize node of
its own, because a shared one would tie ops together that the partitioner takes one by one. Weights stand behind a
dequantize node, biases are float32 constants (XNNPACK's serializer makes int32 of them, see `arithmetic`). A bound
that the output's integers give already leaves no trace. `emit_steps` and `float_forms` hold the ops whose form
differs from aten's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...compiler.ir.constants import constant, set_constant
from ...compiler.ir.nodes import flat_outputs, input_name, placeholders
from ...compiler.ir.ops import OPS, aten
from ...compiler.ir.qops import DQ, DQC, Q, is_dequantize
from ...compiler.quant.program import DequantizeStep, FloatStep, IntegerStep, Program, QuantizeStep
from ...compiler.quant.qnodes import read_qparams
from ...compiler.quant.qparams import QParams, dequantize
from . import emit_steps, float_forms
from .arithmetic import float_bias


def program_graph(program: Program, expose: Sequence[str] = ()) -> fx.GraphModule:
    """The int8 graph; `expose` names integer values that become further outputs."""
    builder = Builder(program.gm)
    for step in program.steps:
        match step:
            case IntegerStep():
                builder.integer_step(step)
            case FloatStep():
                builder.float_step(step.node)
            case QuantizeStep():
                source = builder.read(builder.nodes[step.source])
                builder.values[step.name] = builder.quantize(source, step.qparams)
            case DequantizeStep():
                pass  # written beside each reader
    return builder.finish(expose)


def float_graph(gm: fx.GraphModule) -> fx.GraphModule:
    """A FLOAT graph with flat outputs."""
    builder = Builder(gm)
    for node in gm.graph.nodes:
        if node.op == "call_function":
            builder.float_step(node)
    return builder.finish(())


@dataclass(slots=True)
class Builder:
    """Writes the steps of `gm` into `made`, in order; `values` maps names of nodes of `gm` to new nodes."""

    gm: fx.GraphModule
    made: fx.GraphModule = field(default_factory=lambda: fx.GraphModule(nn.Module(), fx.Graph()))
    values: dict[str, fx.Node] = field(default_factory=dict)
    nodes: dict[str, fx.Node] = field(default_factory=dict)
    _constants: int = 0

    def __post_init__(self) -> None:
        self.nodes = {node.name: node for node in self.gm.graph.nodes}
        for node in placeholders(self.gm):
            self.values[node.name] = self.made.graph.placeholder(input_name(node))
            self.values[node.name].meta["val"] = node.meta["val"]

    def call(self, op: Any, *args: Any) -> fx.Node:
        return self.made.graph.call_function(op, args)

    def store(self, value: Tensor) -> fx.Node:
        """A new constant."""
        name = f"constant_{self._constants}"
        self._constants += 1
        set_constant(self.made, name, value)
        return self.made.graph.get_attr(name)

    def read(self, node: fx.Node) -> fx.Node:
        """What stands for `node` here: its value, or a new constant or dequantize node for this reader."""
        if node.name in self.values:
            return self.values[node.name]
        if (stored := constant(self.gm, node)) is not None:
            return self.store(stored)
        assert is_dequantize(node), node
        source, qp = node.args[0], read_qparams(self.gm, node)
        assert isinstance(source, fx.Node)
        if (stored := constant(self.gm, source)) is not None:
            return self.store(dequantize(stored, qp))
        return self.dequantize(self.values[source.name], qp)

    def float_step(self, node: fx.Node) -> None:
        if is_dequantize(node):
            return
        written = float_forms.float_call(self, node)
        if written is None:
            args, kwargs = fx.map_arg((node.args, node.kwargs), self.read)
            call = self.made.graph.call_function(node.target, args, kwargs)  # type: ignore[arg-type]
            written = emit_steps.normal_form(call)
        self.values[node.name] = written

    def integer_step(self, step: IntegerStep) -> None:
        self.values[step.name] = emit_steps.integer_call(self, step)

    def operand(self, step: IntegerStep, index: int = 0) -> fx.Node:
        """Input `index` of a step behind a dequantize node of its own."""
        name, qp = step.inputs[index], step.in_qparams[index]
        stored = None if name in self.values else constant(self.gm, self.nodes[name])
        return self.dequantize(self.values[name] if stored is None else self.store(stored.to(qp.dtype)), qp)

    def anchor_call(self, step: IntegerStep) -> fx.Node:
        """The aten op of `step` on its dequantized operands."""
        anchor = step.anchor
        found = iter(range(len(step.inputs)))
        info = OPS.get(anchor.target)  # type: ignore[call-overload]
        args = list(anchor.args)
        if info is not None:
            args[info.weight] = self._weight(step)
            if len(args) > info.bias:
                args[info.bias] = self._bias(step)

        def map_one(node: fx.Node) -> fx.Node:
            if node.graph is self.made.graph:
                return node
            return self.operand(step, next(found)) if is_dequantize(node) else self.read(node)

        mapped, kwargs = fx.map_arg((tuple(args), anchor.kwargs), map_one)
        call = self.made.graph.call_function(anchor.target, mapped, kwargs)  # type: ignore[arg-type]
        return emit_steps.normal_form(call)

    def _weight(self, step: IntegerStep) -> fx.Node:
        assert step.weight is not None
        assert step.weight_qparams is not None
        qp = step.weight_qparams
        stored = self.store(step.weight.to(torch.int8))
        if not qp.per_channel:
            return self.dequantize(stored, qp)
        parameters = self.store(qp.scale_tensor()), self.store(qp.zero_point_tensor())
        # the whole range, whatever the weight's own: -8 to 7 would be taken for int4
        return self.call(DQC, stored, *parameters, qp.axis, -127, 127, torch.int8)

    def _bias(self, step: IntegerStep) -> fx.Node | None:
        return None if step.bias is None else self.store(float_bias(step))

    def quantize(self, source: fx.Node, qp: QParams) -> fx.Node:
        return self.call(Q, source, *_per_tensor(qp))

    def dequantize(self, source: fx.Node, qp: QParams) -> fx.Node:
        return self.call(DQ, source, *_per_tensor(qp))

    def finish(self, expose: Sequence[str]) -> fx.GraphModule:
        outputs: list[fx.Node] = []
        for node in flat_outputs(self.gm).values():
            value = self.read(node)
            if value.op != "call_function" or value in outputs:  # an input, a constant, the same value twice
                value = self.call(aten.clone.default, value)
            outputs.append(value)
        for name in expose:
            outputs.append(self.values[name])
        self.made.graph.output(tuple(outputs))
        self.made.graph.eliminate_dead_code()
        self.made.graph.lint()
        self.made.recompile()
        return self.made


def _per_tensor(qp: QParams) -> tuple[float, int, int, int, torch.dtype]:
    return qp.scale[0], qp.zero_point[0], qp.qmin, qp.qmax, qp.dtype
