"""Graphs that come quantized: by torchao's PT2E flow, or by anything that writes the same quantize nodes.

Their parameters are kept: no pass runs but those that change no number, nothing is calibrated. What a target
cannot take is said for all nodes at once. Accuracy and latency are compared with the same graph without quantize
nodes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx

from ...passes.clean_qdq import CleanQdq
from ...passes.shift_activations import ShiftActivations
from ..ir.errors import InputError, UnsupportedOpsError, VerifierError
from ..ir.nodes import describe
from ..ir.ops import OPS, op_name
from ..ir.passes import PassContext, Skip, run_passes
from ..ir.qops import is_dequantize, is_quantize
from ..quant.calibrate import CalibrationStats
from ..quant.isa import choose_isa, isa_notes
from ..quant.plan import IntegerOp, Plan
from ..quant.program import FloatStep, IntegerStep, Program, build_program
from ..quant.qnodes import read_qparams
from ..quant.qparams import QParams, QSpec
from ..quant.saturation import prove_unsaturated
from ..quant.target import TargetSpec
from .lower import FloatModel, Lowered, copy_graph
from .options import CompileOptions

NOTE = "the graph came quantized: its parameters were kept, and no sample was used to choose any"

# In place of calibration statistics.
AS_IT_CAME = CalibrationStats("as it came", 0, {})

# Options that say how to quantize.
_HOW = (
    "keep_float",
    "layers",
    "max_drop",
    "calibration",
    "per_tensor_weights",
    "weight_bits",
    "weight_range",
    "split_ratio",
    "rounding",
    "float_budget",
    "explain",
)


def require_no_choices(options: CompileOptions) -> None:
    """Check that no option asks for what a graph that comes quantized has decided.

    Raises:
        InputError: names the options.
    """
    usual = CompileOptions()
    asked = [name for name in _HOW if getattr(options, name) != getattr(usual, name)]
    if asked:
        raise InputError(
            f"The graph is quantized already, so {', '.join(asked)} cannot be chosen; leave that out, or give the "
            "float model."
        )


def lower_quantized(model: FloatModel, spec: TargetSpec, options: CompileOptions) -> Lowered:
    """The program of one target from the model's own quantize nodes.

    Raises:
        UnsupportedOpsError: every quantize and dequantize node with parameters that the target does not take.
    """
    assert model.quantized is not None
    isa = choose_isa(spec, options.isa)
    gm = copy_graph(model.quantized)
    ctx = PassContext(target=spec, example_inputs=model.examples)
    report = run_passes(gm, [ShiftActivations(), CleanQdq()], ctx)
    if refused := list(_refused(gm, spec)):
        raise UnsupportedOpsError(spec.name, refused)
    program = build_program(gm, spec)
    proof = None if isa is None else prove_unsaturated(program, isa)
    return Lowered(_plan_of(program), program, report, proof, (NOTE, *isa_notes(spec, options.isa)))


def _refused(gm: fx.GraphModule, spec: TargetSpec) -> Iterator[tuple[str, str, str]]:
    for node in gm.graph.nodes:
        if not (is_quantize(node) or is_dequantize(node)):
            continue
        try:
            qp = read_qparams(gm, node)
        except VerifierError as error:
            yield describe(node), op_name(node.target), str(error)
            continue
        if (reason := _why_not(gm, node, qp, spec)) is not None:
            yield describe(node), op_name(node.target), reason


def _why_not(gm: fx.GraphModule, node: fx.Node, qp: QParams, spec: TargetSpec) -> str | None:
    """Why the target does not take a node's parameters. Activations are judged where the graph quantizes them;
    constants that are no weights are numbers to every target."""
    if is_quantize(node):
        return _activation_reason(qp, spec.activation)
    for user in node.users:
        info = OPS.get(user.target)  # type: ignore[call-overload]
        if info is not None and node is user.args[info.weight]:
            rule = spec.ops.get(user.target)  # type: ignore[call-overload]
            return _weight_reason(qp, (rule.weight if rule else None) or spec.weight, info.out_axis)
    return None


def _activation_reason(qp: QParams, allowed: QSpec) -> str | None:
    if qp.per_channel:
        return "its activations have a scale for each channel; the target takes one for all"
    if (qp.dtype, qp.qmin, qp.qmax) != (allowed.dtype, allowed.qmin, allowed.qmax):
        return f"its activations are {_text(qp)}; the target takes {_text(allowed)}"
    if allowed.symmetric and qp.zero_point != (0,):
        return f"its zero point is {qp.zero_point[0]}; the target takes 0"
    return None


def _weight_reason(qp: QParams, allowed: QSpec, out_axis: int) -> str | None:
    if qp.dtype is not allowed.dtype:
        return f"its weight is {_text(qp)}; the target takes {_text(allowed)}"
    if allowed.symmetric and any(qp.zero_point):
        return "its weight has a zero point; the target takes 0"
    if qp.axis is not None and qp.axis != out_axis:
        return f"its weight has a scale for each index of axis {qp.axis}; the target takes axis {out_axis}"
    if qp.axis is not None and not allowed.per_channel:
        return "its weight has a scale for each channel; the target takes one for all"
    return None


def _text(integers: QParams | QSpec) -> str:
    return f"{str(integers.dtype).removeprefix('torch.')} in [{integers.qmin}, {integers.qmax}]"


def _plan_of(program: Program) -> Plan:
    """What `program` does, as a plan: no groups, since nothing is left to choose."""
    ops = {
        step.anchor.name: IntegerOp(
            step.anchor.name, tuple(node.name for node in step.fused), step.inputs, (step.name,)
        )
        for step in program.steps
        if isinstance(step, IntegerStep)
    }
    floats = [
        Skip(describe(step.node), _why_float(step.node, program.spec))
        for step in program.steps
        if isinstance(step, FloatStep) and not is_dequantize(step.node) and _gives_tensor(step.node)
    ]
    return Plan(program.spec.name, program.spec.bias, ops, (), tuple(floats))


def _gives_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (torch.Tensor, tuple, list)) and node.target is not operator.getitem


def _why_float(node: fx.Node, spec: TargetSpec) -> str:
    rule = spec.ops.get(node.target)  # type: ignore[call-overload]
    if rule is None:
        return f"{spec.name} has no integer kernel for {op_name(node.target)}"
    if (reason := rule.check(node)) is not None:
        return reason
    if not all(is_quantize(user) for user in node.users):
        return "the graph does not quantize its result"
    if not all(is_dequantize(value) for value in node.all_input_nodes if value.op != "get_attr"):
        return "the graph does not quantize what it reads"
    return f"{spec.name}'s kernel does not take its parameters"
