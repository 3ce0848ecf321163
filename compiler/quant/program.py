"""A quantized graph as the steps that a runtime executes: which ops run on integers, which in float.

The graph's reference form `dequantize -> op [-> activation] -> quantize` is one `IntegerStep` where the target
has a rule for the op, fuses the activation and takes the parameters, and where nothing else reads the float value;
whatever else the graph says is done in float between explicit quantize and dequantize steps. Simulator and
emitters read the same program, so they cannot disagree on what is integer. A graph quantized by someone else goes
through the same matching.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from ..ir.clamps import is_clamp, tensor_bounds
from ..ir.constants import constant
from ..ir.nodes import flat_outputs, sole_user
from ..ir.ops import OPS, SIZE_ARITHMETIC, aten, bound_args, clamp_bounds, constant_operands
from ..ir.qops import is_dequantize, is_quantize
from .arithmetic import KernelCall
from .fusing import is_activation, region_inputs, region_rule, summed_layer
from .qnodes import read_qparams
from .qparams import QParams, QSpec, dequantize
from .target import OpRule, TargetSpec


@dataclass(frozen=True, slots=True)
class IntegerStep:
    """dequantize -> `anchor` -> `fused` -> quantize, run on integers by `rule.kernel`.

    `name` is the quantize node's; `inputs` name the integer values (or constants) read, in argument order, a
    residual that `fused` begins with after them.
    `attrs` are the anchor's other arguments by schema name (symbolic sizes as nodes); for one piece of a split,
    `index` says which. `weight` is int8 in the anchor's layout; `bias` is float32 [out], or int32 [out] of scale
    s_x·s_w where the target takes that and the graph has it. Results lie within `clamp`; where clamps by tensors
    say more, also within `channel_low` and `channel_high`, int32 that broadcast to the result.

    A layer that runs in float (`float_layers`) is described as one, too: its weight is then float.
    """

    name: str
    anchor: fx.Node
    fused: tuple[fx.Node, ...]
    inputs: tuple[str, ...]
    in_qparams: tuple[QParams, ...]
    out_qparams: QParams
    clamp: tuple[int, int]
    attrs: Mapping[str, Any]
    weight: Tensor | None
    weight_qparams: QParams | None
    bias: Tensor | None
    rule: OpRule
    channel_low: Tensor | None = None
    channel_high: Tensor | None = None

    @property
    def in_float(self) -> bool:
        """Whether its integers are real numbers."""
        return self.weight is not None and self.weight.is_floating_point()


@dataclass(frozen=True, slots=True)
class FloatStep:
    """An aten op on float values, named as its node."""

    name: str
    node: fx.Node


@dataclass(frozen=True, slots=True)
class QuantizeStep:
    """Float value `source` -> integers."""

    name: str
    source: str
    qparams: QParams


@dataclass(frozen=True, slots=True)
class DequantizeStep:
    """Integers of `source` -> float value."""

    name: str
    source: str
    qparams: QParams


_UNBOUNDED = 1e9  # a scale at which no result of a layer is out of range
_REAL = QParams((1.0,), (0,), -128, 127, torch.int8)  # of which integers and real numbers are the same
Step = IntegerStep | FloatStep | QuantizeStep | DequantizeStep


@dataclass(frozen=True, slots=True)
class Program:
    """Steps in execution order. `outputs` maps output names to value names; `constants` are the integer
    constants that steps read as activations (by the name of their get_attr node)."""

    gm: fx.GraphModule
    spec: TargetSpec
    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    outputs: Mapping[str, str]
    constants: Mapping[str, Tensor] = field(default_factory=dict)

    def integer_values(self) -> dict[str, QParams]:
        """Name -> parameters of every integer value computed, in order."""
        return {
            step.name: step.out_qparams if isinstance(step, IntegerStep) else step.qparams
            for step in self.steps
            if isinstance(step, (IntegerStep, QuantizeStep))
        }


def build_program(gm: fx.GraphModule, spec: TargetSpec, keep_float: Collection[str] = ()) -> Program:
    """The steps by which the target runs `gm` (stage QUANTIZED); nodes named in `keep_float` are never integer
    steps, even between dequantize and quantize."""
    found = ((node, _integer_step(gm, node, spec)) for node in gm.graph.nodes)
    matched = {node: step for node, step in found if step is not None and step.anchor.name not in keep_float}
    absorbed = _absorbed(matched.values())
    steps: list[Step] = []
    for node in gm.graph.nodes:
        if node.op != "call_function" or node in absorbed:
            continue
        if is_quantize(node):
            integer_step = matched.get(node)
            steps.append(integer_step or QuantizeStep(node.name, node.args[0].name, read_qparams(gm, node)))
        elif is_dequantize(node) and all(user in absorbed for user in node.users):
            continue
        elif is_dequantize(node) and is_quantize(node.args[0]):
            steps.append(DequantizeStep(node.name, node.args[0].name, read_qparams(gm, node)))
        else:
            steps.append(FloatStep(node.name, node))
    return Program(
        gm,
        spec,
        tuple(steps),
        tuple(node.name for node in gm.graph.nodes if node.op == "placeholder"),
        {name: node.name for name, node in flat_outputs(gm).items()},
        _integer_constants(gm, matched.values()),
    )


def layers(program: Program) -> list[IntegerStep]:
    """Every layer with weights that runs on integers, in order: steps, and what `float_result` finds."""
    found = (
        step if isinstance(step, IntegerStep) else float_result(program, step)
        for step in program.steps
        if isinstance(step, (IntegerStep, FloatStep))
    )
    return [step for step in found if step is not None and step.weight is not None]


def float_result(program: Program, step: FloatStep) -> IntegerStep | None:
    """The layer that the target runs on integers and gives in float (`TargetSpec.float_results`), as a step that
    rounds and clamps nothing; None where `step` is no such layer."""
    spec, node = program.spec, step.node
    rule = spec.ops.get(node.target) if node.target in OPS else None  # type: ignore[call-overload]
    if rule is None or not spec.float_results or rule.check(node) is not None:
        return None
    operands = _operands(program.gm, node, (), rule, spec)
    if operands is None or operands.weight is None:
        return None
    return _layer(step, operands, replace(operands.in_qparams[0], scale=(_UNBOUNDED,)), rule)


def _layer(step: FloatStep, operands: _Operands, out_qparams: QParams, rule: OpRule) -> IntegerStep:
    """`step` as one that fuses nothing and clamps nothing."""
    attrs = {key: value for key, value in bound_args(step.node).items() if not _reads_tensor(value)}
    return IntegerStep(
        step.name,
        step.node,
        (),
        operands.sources,
        operands.in_qparams,
        out_qparams,
        (out_qparams.qmin, out_qparams.qmax),
        attrs,
        operands.weight,
        operands.weight_qparams,
        operands.bias,
        rule,
    )


def float_layers(program: Program) -> dict[str, IntegerStep]:
    """The layers with constant weights that run in float on something that was rounded before, by name, in order.

    Each as a step whose integers are real numbers: a float weight, scales of 1 and zero points of 0. They are for
    tuning biases beside those of `layers`; no kernel runs them.
    """
    found: dict[str, IntegerStep] = {}
    rounded: set[str] = set()
    for step in program.steps:
        if not isinstance(step, FloatStep):
            rounded.add(step.name)
        elif any(node.name in rounded for node in step.node.all_input_nodes):
            rounded.add(step.name)
            layer = _float_layer(program, step)
            if layer is not None and layer.inputs[0] in rounded:
                found[step.name] = layer
    return found


def _float_layer(program: Program, step: FloatStep) -> IntegerStep | None:
    node, info = step.node, OPS.get(step.node.target)  # type: ignore[call-overload]
    if info is None or float_result(program, step) is not None:
        return None
    source, weight, bias = (list(bound_args(node).values())[index] for index in (0, info.weight, info.bias))
    values = constant(program.gm, weight), constant(program.gm, bias)
    if not isinstance(source, fx.Node) or values[0] is None or (bias is not None and values[1] is None):
        return None
    operands = _Operands((source.name,), (_REAL,), values[0], _REAL, values[1])
    return _layer(step, operands, _REAL, OpRule(_no_kernel))


def _no_kernel(call: KernelCall) -> Tensor:
    raise NotImplementedError("a layer that runs in float has no integer kernel")


def computed_by(program: Program, spec: TargetSpec) -> Program:
    """The same steps where the target computes by the kernels of `spec`, one of its `TargetSpec.kernels`."""
    steps = (
        replace(step, rule=spec.ops[step.anchor.target]) if isinstance(step, IntegerStep) else step  # type: ignore[index]
        for step in program.steps
    )
    return replace(program, spec=spec, steps=tuple(steps))


def _integer_step(gm: fx.GraphModule, quantize: fx.Node, spec: TargetSpec) -> IntegerStep | None:
    if not is_quantize(quantize) or not isinstance(quantize.args[0], fx.Node):
        return None
    anchor, fused, index = _find_anchor(quantize.args[0], spec)
    rule = spec.ops.get(anchor.target)  # type: ignore[call-overload]
    if rule is None or rule.check(anchor) is not None or not _read_as_integers(quantize.args[0], anchor):
        return None
    operands = _operands(gm, anchor, fused, rule, spec)
    if operands is None:
        return None
    out_qparams = read_qparams(gm, quantize)
    if not _takes(spec, rule, anchor, operands.in_qparams, out_qparams):
        return None
    attrs = {key: value for key, value in bound_args(anchor).items() if not _reads_tensor(value)}
    clamp = _clamp(fused, out_qparams, spec)
    return IntegerStep(
        quantize.name,
        anchor,
        fused,
        operands.sources,
        operands.in_qparams,
        out_qparams,
        clamp,
        attrs | ({} if index is None else {"index": index}),
        operands.weight,
        operands.weight_qparams,
        operands.bias,
        rule,
        *_channel_bounds((anchor, *fused), clamp, out_qparams, spec),
    )


def _find_anchor(last: fx.Node, spec: TargetSpec) -> tuple[fx.Node, tuple[fx.Node, ...], int | None]:
    """Walk back from the quantized value over activations that the op before them fuses."""
    fused: list[fx.Node] = []
    node = last
    if is_activation(node) and isinstance(node.args[0], fx.Node):
        rule = region_rule(node.args[0], spec)
        if rule is not None and node.target in rule.fuses and sole_user(node.args[0]) is node:
            fused.insert(0, node)
            node = node.args[0]
    while is_clamp(node) and not any(map(is_activation, fused)) and isinstance(node.args[0], fx.Node):
        producer = node.args[0]
        rule = _rule_before(producer, spec)
        if rule is None or node.target not in rule.fuses or sole_user(producer) is not node:
            break
        fused.insert(0, node)
        node = producer
    if (layer := summed_layer(node, spec)) is not None:
        return layer, (node, *fused), None
    if node.target is operator.getitem and isinstance(node.args[1], int):
        source = node.args[0]
        assert isinstance(source, fx.Node)
        return source, tuple(fused), node.args[1]
    return node, tuple(fused), None


def _rule_before(node: fx.Node, spec: TargetSpec) -> OpRule | None:
    """The rule of the op that a chain of clamps starts from."""
    while is_clamp(node) and isinstance(node.args[0], fx.Node):
        if node.target in spec.ops and is_dequantize(node.args[0]):
            break
        node = node.args[0]
    return region_rule(node, spec)


def _read_as_integers(value: fx.Node, anchor: fx.Node) -> bool:
    """Whether only quantize nodes read `value`, and the other pieces if it is one. Where the float value is needed
    too, the op runs once, in float."""
    values = [value]
    if anchor is not value and anchor in value.all_input_nodes and value.target is operator.getitem:
        values = list(anchor.users)
    return all(is_quantize(user) for node in values for user in node.users)


def _takes(spec: TargetSpec, rule: OpRule, anchor: fx.Node, inputs: tuple[QParams, ...], output: QParams) -> bool:
    """Whether the op's kernel takes these parameters; InsertQdq sees to it, a graph from elsewhere may not."""
    if rule.shared and any(qp != output for qp in inputs):
        return False
    if rule.fixed is not None and output != rule.fixed:
        return False
    if rule.takes is not None and not rule.takes(anchor, inputs, output):
        return False
    allowed = spec.activation
    return all(
        qp.dtype is allowed.dtype and not qp.per_channel and not (allowed.symmetric and qp.zero_point != (0,))
        for qp in (*inputs, output)
    )


@dataclass(frozen=True, slots=True)
class _Operands:
    sources: tuple[str, ...]
    in_qparams: tuple[QParams, ...]
    weight: Tensor | None = None
    weight_qparams: QParams | None = None
    bias: Tensor | None = None


def _operands(
    gm: fx.GraphModule, anchor: fx.Node, fused: Sequence[fx.Node], rule: OpRule, spec: TargetSpec
) -> _Operands | None:
    """What an integer kernel would read; None if any operand is float or of a form that it does not take."""
    info = OPS.get(anchor.target)  # type: ignore[call-overload]
    positions = constant_operands(anchor.target)
    activations = [
        node for i, arg in enumerate(anchor.args) if i not in positions for node in _tensor_arguments(arg)
    ]
    activations = list(region_inputs(activations, fused, anchor))
    if not activations or not all(is_dequantize(node) for node in activations):
        return None
    sources = tuple(str(node.args[0]) for node in activations)
    in_qparams = tuple(read_qparams(gm, node) for node in activations)
    if info is None:
        return _Operands(sources, in_qparams)
    weight_node = anchor.args[info.weight]
    if not isinstance(weight_node, fx.Node) or not is_dequantize(weight_node):
        return None
    weight, qp = constant(gm, weight_node.args[0]), read_qparams(gm, weight_node)
    bias_node = anchor.args[info.bias] if len(anchor.args) > info.bias else None
    bias = _bias(gm, bias_node, spec, in_qparams[0], qp)
    if weight is None or not _takes_weight(rule.weight or spec.weight, qp, info.out_axis):
        return None
    if bias_node is not None and bias is None:
        return None
    return _Operands(sources, in_qparams, weight, qp, bias)


def _takes_weight(allowed: QSpec, qp: QParams, out_axis: int) -> bool:
    symmetric = not allowed.symmetric or not any(qp.zero_point)
    axis = qp.axis is None or (allowed.per_channel and qp.axis == out_axis)
    return qp.dtype is allowed.dtype and symmetric and axis


def _bias(
    gm: fx.GraphModule, node: object, spec: TargetSpec, in_qparams: QParams, weight_qparams: QParams
) -> Tensor | None:
    """The int32 integers behind a dequantize node where the target takes them as they are, else float32."""
    if not isinstance(node, fx.Node) or not is_dequantize(node):
        return constant(gm, node)
    integers, qp = constant(gm, node.args[0]), read_qparams(gm, node)
    if integers is None:
        return None
    product = weight_qparams.scale_tensor() * in_qparams.scale_tensor()
    same_scale = torch.equal(product.expand(len(integers)), qp.scale_tensor().expand(len(integers)))
    if spec.bias == "int32" and integers.dtype is torch.int32 and same_scale and not any(qp.zero_point):
        return integers
    return dequantize(integers, qp)


def _tensor_arguments(arg: object) -> Iterator[fx.Node]:
    if isinstance(arg, (list, tuple)):
        for item in arg:
            yield from _tensor_arguments(item)
    elif isinstance(arg, fx.Node) and not _is_size(arg):
        yield arg


def _is_size(node: fx.Node) -> bool:
    """Whether a node is a symbolic size, not a tensor: part of a shape argument."""
    return node.target is aten.sym_size.int or node.target in SIZE_ARITHMETIC


def _reads_tensor(value: object) -> bool:
    return any(True for _ in _tensor_arguments(value))


def _clamp(fused: tuple[fx.Node, ...], qp: QParams, spec: TargetSpec) -> tuple[int, int]:
    low, high = qp.qmin, qp.qmax
    for bounds in filter(None, map(clamp_bounds, fused)):
        integers = spec.quantize(torch.tensor(bounds, dtype=torch.float32), qp).tolist()
        low, high = min(max(low, integers[0]), qp.qmax), max(min(high, integers[1]), qp.qmin)
    return low, high


def _channel_bounds(
    region: tuple[fx.Node, ...], clamp: tuple[int, int], qp: QParams, spec: TargetSpec
) -> tuple[Tensor | None, Tensor | None]:
    """What the clamps of a region, one of them by tensors, leave one after the other, where `clamp` is wider."""
    if not any(node.target is aten.clamp.Tensor for node in region):
        return None, None
    low, high = torch.tensor(qp.qmin, dtype=torch.int32), torch.tensor(qp.qmax, dtype=torch.int32)
    for node in region:
        given = tensor_bounds(node) if node.target is aten.clamp.Tensor else clamp_bounds(node)
        for bound, narrow in zip(given or (), (torch.maximum, torch.minimum), strict=False):
            if bound is not None:
                integers = spec.quantize(torch.as_tensor(bound, dtype=torch.float32), qp)
                low, high = narrow(low, integers), narrow(high, integers)
    return (low if bool((low > clamp[0]).any()) else None, high if bool((high < clamp[1]).any()) else None)


def _absorbed(steps: Collection[IntegerStep]) -> set[fx.Node]:
    """Nodes that integer steps stand for; an anchor counts only if all its readers are in integer steps (another
    piece of its split, or another quantize node that reads it, may not be)."""
    inside: set[fx.Node] = set()
    quantizers = {step.name for step in steps}
    for step in steps:
        inside.update(step.fused)
        inside.add(step.anchor)
    pieces = {user for node in inside for user in node.users if user.target is operator.getitem}
    for piece in pieces:
        if all(user in inside or user.name in quantizers for user in piece.users):
            inside.add(piece)
    changed = True
    while changed:
        leaking = {
            node
            for node in inside
            if any(user not in inside and user.name not in quantizers for user in node.users)
        }
        changed = bool(leaking)
        inside -= leaking
    return inside


def _integer_constants(gm: fx.GraphModule, steps: Collection[IntegerStep]) -> dict[str, Tensor]:
    wanted = {name for step in steps for name in step.inputs}
    found = {}
    for node in gm.graph.nodes:
        if node.op == "get_attr" and node.name in wanted:
            value = constant(gm, node)
            assert value is not None
            found[node.name] = value
    return found
