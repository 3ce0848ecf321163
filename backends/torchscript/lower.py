"""Program -> TorchScript: integer steps by their lowerings, float steps as plain aten calls, one frozen module.

Input and output are float32 as in the graph; outputs are flattened, exposed integers follow them. `view`
becomes `reshape`, because quantized convolutions leave their results channels last. Float ops whose inputs
are all constants are computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from ...compiler.ir.constants import constant
from ...compiler.ir.errors import UnsupportedOpsError
from ...compiler.ir.nodes import flat_outputs, placeholders
from ...compiler.ir.ops import PYTHON_OPS, op_name
from ...compiler.quant.program import DequantizeStep, FloatStep, IntegerStep, Program, QuantizeStep, Step
from ...compiler.quant.qparams import QParams
from ...compiler.quant.simulate import run_node
from . import deprecated
from .builder import Builder, is_infinite
from .lowering import activation_refusal, lower_integer, refusal
from .roads import Roads

aten = torch.ops.aten


def lower_program(program: Program, roads: Roads, expose: Sequence[str]) -> fx.GraphModule:
    """The module that computes `program`; `expose` adds integer values as outputs.

    Raises:
        UnsupportedOpsError: all steps that torch's quantized kernels or TorchScript cannot take.
    """
    _refuse(program.spec.name, program.steps)
    builder = Builder(program.gm, roads)
    for name in program.inputs:
        builder.input(name)
    integer_steps = [step for step in program.steps if isinstance(step, IntegerStep)]
    builder.add_quantized_constants(integer_steps, program.constants)
    for step in program.steps:
        _add(builder, program.gm, step)
    outputs = [builder.value(name) for name in program.outputs.values()]
    return builder.finish([*outputs, *(builder.method("int_repr", builder.value(name)) for name in expose)])


def lower_float(gm: fx.GraphModule, roads: Roads, target: str) -> fx.GraphModule:
    """The module that computes a FLOAT graph.

    Raises:
        UnsupportedOpsError: all ops that TorchScript does not have.
    """
    steps = [FloatStep(node.name, node) for node in gm.graph.nodes if node.op == "call_function"]
    _refuse(target, steps)
    builder = Builder(gm, roads)
    for node in placeholders(gm):
        builder.input(node.name)
    for step in steps:
        _add(builder, gm, step)
    return builder.finish([builder.value(node.name) for node in flat_outputs(gm).values()])


def _refuse(target: str, steps: Sequence[Step]) -> None:
    reasons = []
    for step in steps:
        match step:
            case IntegerStep():
                name, op, reason = step.anchor.name, op_name(step.anchor.target), refusal(step)
            case QuantizeStep():
                name, op, reason = step.name, "quantize", activation_refusal(step.qparams)
            case FloatStep():
                name, op, reason = step.name, op_name(step.node.target), _float_refusal(step.node)
            case DequantizeStep():
                continue
        if reason is not None:
            reasons.append((name, op, reason))
    if reasons:
        raise UnsupportedOpsError(target, reasons)


def _float_refusal(node: fx.Node) -> str | None:
    target = node.target
    if (
        target in PYTHON_OPS
        or (isinstance(target, OpOverload) and target.namespace == "aten")
        or _is_constant(node)
    ):
        return None
    return "TorchScript has no such op"


def _is_constant(node: fx.Node) -> bool:
    """Whether every input is a constant of the graph: such a node is computed when the artifact is built."""
    inputs = node.all_input_nodes
    return bool(inputs) and all(value.op == "get_attr" for value in inputs)


def _add(builder: Builder, gm: fx.GraphModule, step: Step) -> None:
    match step:
        case IntegerStep():
            builder.values[step.name] = lower_integer(builder, step)
        case QuantizeStep():
            builder.values[step.name] = _quantize(builder, step.source, step.qparams)
        case DequantizeStep():
            builder.values[step.name] = builder.call(torch.dequantize, builder.value(step.source))
        case FloatStep():
            builder.values[step.name] = _float(builder, gm, step.node)


def _quantize(builder: Builder, source: str, qp: QParams) -> fx.Node:
    x = builder.value(source)
    return builder.call(torch.quantize_per_tensor, x, qp.scale[0], qp.zero_point[0], deprecated.QUINT8)


def _float(builder: Builder, gm: fx.GraphModule, node: fx.Node) -> fx.Node:
    if _is_constant(node) and isinstance(result := _computed(gm, node), Tensor):
        return builder.attribute(result)

    def argument(value: Any) -> Any:
        if isinstance(value, fx.Node):
            return builder.value(value.name)
        if isinstance(value, (list, tuple)):
            return [argument(item) for item in value]
        return builder.call(float, str(value)) if is_infinite(value) else value

    args = [argument(value) for value in node.args]
    kwargs = {key: argument(value) for key, value in node.kwargs.items()}
    if node.target is aten.sym_size.int:
        return builder.method("size", *args)
    if node.target is aten.view.default:
        return builder.call(torch.reshape, *args)
    target = node.target.overloadpacket if isinstance(node.target, OpOverload) else node.target
    return builder.call(target, *args, **kwargs)  # type: ignore[arg-type]


def _computed(gm: fx.GraphModule, node: fx.Node) -> Any:
    values = {value.name: constant(gm, value) for value in node.all_input_nodes}
    with torch.no_grad():
        return run_node(gm, node, values)
