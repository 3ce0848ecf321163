"""The plan: which ops run on integers, which values are quantized, and which values share parameters.

A plan is a value. It is made from the graph and the target's op rules, printed, tested, and then carried out by
`InsertQdq`. What stays float is in it with its reason.

Ops with weights and matmul are quantized wherever a rule allows it. Every other op follows its data: it runs on
integers only if its inputs are integers already, since converting for an add or a pool alone costs more than it
saves. A graph input counts as integers if an integer op reads it, directly or through such ops. A light layer
(`ir/light.py`) is like these, unless a layer that is not reads its result.

A concat from which only views and further concats lead to the graph's outputs stays float: as integers it would
put parts of unlike range (a detector's boxes and its class scores) on one scale, for a result that is float
anyway.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import fx

from ..ir.constants import constant
from ..ir.errors import InputError
from ..ir.gains import is_gain
from ..ir.light import is_light
from ..ir.nodes import describe
from ..ir.ops import OPS, VIEWS, aten, bound_args, constant_operands, op_name
from ..ir.passes import Skip
from ..ir.shapes import tensor_meta
from .fusing import fused_after, region_inputs
from .layer_options import NO_MATCH, LayerOptions, calls_matching, layer_options
from .qparams import QParams, QSpec
from .target import BiasKind, OpRule, TargetSpec
from .weight_range import WeightRange

_LEADS = frozenset(OPS) | {aten.matmul.default, aten.bmm.default, aten.mm.default}
_ANY_INPUT = frozenset({aten.cat.default})
_PIECES = frozenset({aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default})
_GAIN = "it gives each channel a scale of its own at an activation"
_ALONE = "it stands alone between float ops: to convert for it costs what its few products save"
_PADS = frozenset({aten.pad.default, aten.constant_pad_nd.default})


@dataclass(frozen=True, slots=True)
class IntegerOp:
    """One region: `node` and what is fused after it. `inputs` and `outputs` are value names; without outputs, its
    result stays float.
    `weight_range` says how the scales of the weight, if it has one, are chosen."""

    node: str
    fused: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight: QSpec | None = None
    weight_range: WeightRange = "minmax"


@dataclass(frozen=True, slots=True)
class Group:
    """Values that share one set of parameters. Only `observed` members need statistics: the rest hold the same
    numbers in other places. `fixed` parameters need none."""

    members: tuple[str, ...]
    observed: tuple[str, ...]
    spec: QSpec
    fixed: QParams | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What `plan_quantization` decided. `groups` are in graph order of their first member. `kept` names the nodes
    that shall be float, even between integers."""

    target: str
    bias: BiasKind
    ops: Mapping[str, IntegerOp]
    groups: tuple[Group, ...]
    floats: tuple[Skip, ...] = field(default=())
    kept: frozenset[str] = frozenset()

    def format(self) -> str:
        """The plan as text: one line for each integer op, each shared group and each op left float."""
        lines = [f"plan for {self.target}: {len(self.ops)} integer ops, {len(self.floats)} float"]
        for op in self.ops.values():
            fused = f" + {' + '.join(op.fused)}" if op.fused else ""
            flow = f"{', '.join(op.inputs)} -> {', '.join(op.outputs) or 'float'}"
            lines.append(f"  int8   {op.node}{fused}: {flow}{_weight_text(op)}")
        lines += [f"  shared {', '.join(group.members)}" for group in self.groups if len(group.members) > 1]
        lines += [f"  fixed  {group.members[0]}" for group in self.groups if group.fixed is not None]
        lines += [f"  float  {skip.node}: {skip.reason}" for skip in self.floats]
        return "\n".join(lines)


def _weight_text(op: IntegerOp) -> str:
    """What is not usual about an op's weight: ` (weight within ±7, range by mse)`."""
    said = []
    if op.weight is not None and op.weight.qmax < 127:
        said.append(f"weight within ±{op.weight.qmax}")
    if op.weight is not None and op.weight_range != "minmax":
        said.append(f"range by {op.weight_range}")
    return f" ({', '.join(said)})" if said else ""


def plan_quantization(
    gm: fx.GraphModule,
    target: TargetSpec,
    *,
    keep_float: Sequence[str] = (),
    per_tensor_weights: bool = False,
    weight_bits: int = 8,
    weight_range: WeightRange = "minmax",
    layers: Mapping[str, LayerOptions] | None = None,
    relieved: Mapping[str, str] | None = None,
) -> Plan:
    """Decide what `target` runs on integers in `gm` (stage FLOAT, annotated with shapes).

    `keep_float` are globs over node names and module paths; a module stands for all that it contains.
    `per_tensor_weights`, `weight_bits` and `weight_range` are as in `LayerOptions`, for every weight; `layers` has
    the exceptions, by globs of the same kind. `relieved` are nodes that stay float, with the reason.

    Raises:
        InputError: a glob matches nothing, or there are no weights of so many bits.
    """
    usual = LayerOptions(weight_bits=weight_bits, per_tensor=per_tensor_weights, weight_range=weight_range)
    special = layer_options(gm, layers or {})
    kept = {node: f"kept float by {by!r}" for node, by in _kept(gm, keep_float, layers or {}).items()}
    kept |= {node: relieved[node.name] for node in gm.graph.nodes if relieved and node.name in relieved}
    candidates, reasons = _candidates(gm, target, kept)
    groups = _group(candidates, reasons, target)
    absorbed = {act for region in candidates.values() for act in region.fused}
    left = [node for node in gm.graph.nodes if node in reasons and node not in absorbed]
    floats = tuple(Skip(describe(node), reasons[node]) for node in left)
    chosen = {node: special.get(node, LayerOptions()).over(usual) for node in candidates}
    ops = {node.name: region.as_op(target, chosen[node]) for node, region in candidates.items()}
    return Plan(target.name, target.bias, ops, groups, floats, frozenset(node.name for node in kept))


def _kept(gm: fx.GraphModule, patterns: Sequence[str], layers: Mapping[str, LayerOptions]) -> dict[fx.Node, str]:
    """Node -> the first glob of `patterns` that matches it, or the last of `layers` that keeps it float."""
    kept: dict[fx.Node, str] = {}
    for pattern in patterns:
        found = calls_matching(gm, pattern)
        if not found:
            raise InputError(f"Nothing can be kept float by {pattern!r}: {NO_MATCH}")
        kept = dict.fromkeys(found, pattern) | kept
    for pattern, options in layers.items():
        found = calls_matching(gm, pattern) if options.quantize is not None else []
        if options.quantize:
            kept = {node: by for node, by in kept.items() if node not in found}
        else:
            kept |= dict.fromkeys(found, pattern)
    return kept


@dataclass(frozen=True, slots=True)
class _Region:
    node: fx.Node
    rule: OpRule
    fused: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]

    @property
    def leads(self) -> bool:
        return self.node.target in _LEADS

    def as_op(self, target: TargetSpec, options: LayerOptions) -> IntegerOp:
        weight = None
        info = OPS.get(self.node.target)  # type: ignore[call-overload]
        if info is not None:
            weight = options.weight_spec(self.rule.weight or target.weight)
            if info.out_axis != 0:
                weight = replace(weight, per_channel=False)
        return IntegerOp(
            self.node.name,
            tuple(node.name for node in self.fused),
            tuple(node.name for node in self.inputs),
            tuple(node.name for node in self.outputs),
            weight,
            options.weight_range or "minmax",
        )


def _candidates(
    gm: fx.GraphModule, target: TargetSpec, kept: Mapping[fx.Node, str]
) -> tuple[dict[fx.Node, _Region], dict[fx.Node, str]]:
    """The regions that run on integers, and of every other op the reason why it does not. A layer takes in only
    sums with what is integers anyway: those with float values are `apart`."""
    apart: set[fx.Node] = set()
    while True:
        candidates: dict[fx.Node, _Region] = {}
        reasons: dict[fx.Node, str] = {}
        for node in gm.graph.nodes:
            if node.op != "call_function" or node.target is operator.getitem or not _gives_tensor(node):
                continue
            match _candidate(gm, node, target, kept, apart):
                case str() as reason:
                    reasons[node] = reason
                case region:
                    candidates[node] = region
        _drop_until_stable(candidates, reasons)
        produced = _Flow.of(candidates.values()).produced
        floats = {
            region.fused[0]
            for region in candidates.values()
            for value in region.inputs[len(activation_inputs(region.node)) :]
            if value not in produced and value.op != "placeholder"
        }
        if not floats:
            break
        apart |= floats
    if target.float_results:
        _leave_float(candidates, reasons)
    return candidates, reasons


def _leave_float(candidates: dict[fx.Node, _Region], reasons: dict[fx.Node, str]) -> None:
    """What no region reads as integers is not quantized, nor what only moves on the way to such a result."""
    unread = list(candidates.values())
    while unread:
        read = {value for region in candidates.values() for value in region.inputs}
        unread = [r for r in candidates.values() if r.outputs and read.isdisjoint(r.outputs)]
        for region in unread:
            if region.rule.shared:
                _make_float(region, "no integer op reads its result", candidates, reasons)
            else:
                candidates[region.node] = replace(region, outputs=())


def _candidate(
    gm: fx.GraphModule,
    node: fx.Node,
    target: TargetSpec,
    kept: Mapping[fx.Node, str],
    apart: Collection[fx.Node],
) -> _Region | str:
    """The region that `node` starts, or the reason why it stays float; `kept` has those that shall, `apart` those
    that no region takes in."""
    rule = target.ops.get(node.target)  # type: ignore[call-overload]
    if rule is None:
        return f"{target.name} has no integer kernel for {op_name(node.target)}"
    if node in kept:
        return kept[node]
    if is_gain(node):
        return _GAIN
    if (reason := rule.check(node) or _parameter_reason(gm, node, rule, target)) is not None:
        return reason
    inputs = activation_inputs(node)
    for value in inputs:
        stored = constant(gm, value)
        meta = tensor_meta(value) if stored is None else stored
        if meta is not None and meta.dtype is not torch.float32:
            return f"its input {value.name} is {str(meta.dtype).removeprefix('torch.')}, not float32"
    if not inputs:
        return "it has no tensor input"
    if node.target in _PIECES:
        return _Region(node, rule, (), inputs, tuple(node.users))
    fused = fused_after(node, target, {*kept, *apart})
    return _Region(node, rule, fused, region_inputs(inputs, fused, node), (fused[-1] if fused else node,))


def _parameter_reason(gm: fx.GraphModule, node: fx.Node, rule: OpRule, target: TargetSpec) -> str | None:
    """Why weight and bias of `node`, if it has any, have no integer form."""
    info = OPS.get(node.target)  # type: ignore[call-overload]
    if info is None:
        return None
    weight = constant(gm, node.args[info.weight])
    bias = node.args[info.bias] if len(node.args) > info.bias else None
    if weight is None:
        return "its weight is computed, not constant"
    if bias is not None and constant(gm, bias) is None:
        return "its bias is computed, not constant"
    levels = (rule.weight or target.weight).qmax * (target.activation.qmax - target.activation.qmin)
    return "its sums may overflow int32" if _largest_sum(weight, info.out_axis) * levels > 2**30 else None


def _largest_sum(weight: torch.Tensor, out_axis: int) -> float:
    """The most that an output channel's weights add up to, in units of its largest one. Half of int32 is room for
    it, the other half for the bias."""
    channels = weight.abs().transpose(0, out_axis).flatten(1)
    if channels.shape[1] < 2**15:  # fits whatever they are: 2**15 * 127 * 255 < 2**30
        return float(channels.shape[1])
    return float((channels.sum(1) / channels.amax(1).clamp(min=torch.finfo(weight.dtype).tiny)).max())


def activation_inputs(node: fx.Node) -> tuple[fx.Node, ...]:
    """The tensor arguments of a call in order (a list argument's members too), constant operands excepted: weight,
    bias, the bounds of a clamp."""
    skipped = constant_operands(node.target)
    found: list[fx.Node] = []
    for position, argument in enumerate(node.args):
        if position in skipped:
            continue
        members = argument if isinstance(argument, (list, tuple)) else [argument]
        found += [item for item in members if isinstance(item, fx.Node) and _gives_tensor(item)]
    return tuple(found)


def _gives_tensor(node: fx.Node) -> bool:
    if node.op == "get_attr":
        return True
    value = node.meta.get("val")
    return value is None or isinstance(value, (torch.Tensor, tuple, list))


def _drop_until_stable(candidates: dict[fx.Node, _Region], reasons: dict[fx.Node, str]) -> None:
    """Ops that only follow their data leave the plan when that data turns out float; repeat until none does."""
    for act in {act for region in candidates.values() for act in region.fused}:
        candidates.pop(act, None)  # an activation inside a region is not a region of its own
    changed = True
    while changed:
        flow = _Flow.of(candidates.values())
        dropped = {
            region: reason
            for region in candidates.values()
            if (reason := _why_not_follow(region, flow)) is not None
        }
        for region, reason in dropped.items():
            _make_float(region, reason, candidates, reasons)
        changed = bool(dropped)


def _make_float(
    region: _Region, reason: str, candidates: dict[fx.Node, _Region], reasons: dict[fx.Node, str]
) -> None:
    del candidates[region.node]
    reasons[region.node] = reason
    for act in region.fused:
        reasons.setdefault(act, "its inputs are float")


@dataclass(frozen=True, slots=True)
class _Flow:
    """Values that regions give; those among them that come from an op that leads; values that such an op reads,
    directly or through ops that follow."""

    produced: set[fx.Node]
    from_lead: set[fx.Node]
    to_lead: set[fx.Node]

    @classmethod
    def of(cls, regions: Iterable[_Region]) -> _Flow:
        """`regions` are in graph order."""
        ordered = list(regions)
        flow = cls({value for region in ordered for value in region.outputs}, set(), set())
        for region in ordered:
            if region.leads or not flow.from_lead.isdisjoint(region.inputs):
                flow.from_lead.update(region.outputs)
        for region in reversed(ordered):
            if region.leads or not flow.to_lead.isdisjoint(region.outputs):
                flow.to_lead.update(region.inputs)
        return flow


def _why_not_follow(region: _Region, flow: _Flow) -> str | None:
    variable = [value for value in region.inputs if value.op != "get_attr"]
    integers = [value in flow.produced or value.op == "placeholder" for value in variable]
    if region.leads:
        alone = not any(integers) and flow.to_lead.isdisjoint(region.outputs)
        return _ALONE if alone and is_light(region.node) else None
    enough = any if region.node.target in _ANY_INPUT else all
    if not variable or not enough(integers):
        return "its inputs are float"
    if flow.from_lead.isdisjoint(variable) and flow.to_lead.isdisjoint(region.outputs):
        return "it reads a graph input and no integer op reads its result"
    if region.node.target is aten.cat.default and all(_only_shown(value) for value in region.outputs):
        return "it joins results of the graph: each part keeps parameters of its own"
    return None


def _only_shown(value: fx.Node) -> bool:
    """Whether nothing but the graph's outputs reads `value`, directly or through views and concats."""
    return all(
        user.op == "output" or ((user.target in VIEWS or user.target is aten.cat.default) and _only_shown(user))
        for user in value.users
    )


def _group(
    candidates: dict[fx.Node, _Region], reasons: dict[fx.Node, str], target: TargetSpec
) -> tuple[Group, ...]:
    """Values joined by ops that demand equal parameters; such an op goes float where it would join a fixed value
    with another one."""
    while isinstance(groups := _join_shared(candidates), _Region):
        reason = "its values must share parameters, but one of them has fixed ones"
        _make_float(groups, reason, candidates, reasons)
        _drop_until_stable(candidates, reasons)
    fixed, derived = _fixed_values(candidates), _derived_values(candidates, groups)
    return tuple(
        Group(
            tuple(value.name for value in members),
            tuple(value.name for value in members if value not in derived),
            target.activation,
            next((fixed[value] for value in members if value in fixed), None),
        )
        for members in groups.members()
    )


def _values(candidates: Mapping[fx.Node, _Region]) -> list[fx.Node]:
    found = {v for region in candidates.values() for v in (*region.inputs, *region.outputs)}
    return [node for node in next(iter(found)).graph.nodes if node in found] if found else []


def _fixed_values(candidates: Mapping[fx.Node, _Region]) -> dict[fx.Node, QParams]:
    return {
        value: region.rule.fixed
        for region in candidates.values()
        if region.rule.fixed is not None
        for value in region.outputs
    }


def _derived_values(candidates: Mapping[fx.Node, _Region], groups: _Union) -> set[fx.Node]:
    """Values whose numbers are all in the other members of their group."""
    shared = [r for r in candidates.values() if r.rule.shared or _is_one_group(r, [*r.inputs, *r.outputs], groups)]
    return {value for region in shared if not _adds_number(region.node) for value in region.outputs}


def _is_one_group(region: _Region, values: Sequence[fx.Node], groups: _Union) -> bool:
    """Whether the region is a concat and `values`, some of its own, share parameters."""
    return region.node.target is aten.cat.default and len({groups.find(value) for value in values}) == 1


def _adds_number(node: fx.Node) -> bool:
    """Whether a pad puts in a number of its own (zero is in every range; an infinity stands for its end)."""
    value = bound_args(node).get("value") if node.target in _PADS else None
    return isinstance(value, (int, float)) and value != 0 and math.isfinite(value)


def _join_shared(candidates: Mapping[fx.Node, _Region]) -> _Union | _Region:
    """The groups, or the first region that would join a fixed value with one of other parameters."""
    groups, fixed = _Union(_values(candidates)), _fixed_values(candidates)
    for region in candidates.values():
        # a concat of pieces of one value needs no parameters of its own
        if region.rule.shared or _is_one_group(region, region.inputs, groups):
            if len({fixed.get(groups.find(value)) for value in region.inputs}) > 1:
                return region
            groups.join([*region.inputs, *region.outputs])
    return groups


class _Union:
    """Disjoint sets of values, listed in the order in which values were given."""

    def __init__(self, values: Iterable[fx.Node]) -> None:
        self._parent = {value: value for value in values}

    def find(self, value: fx.Node) -> fx.Node:
        while self._parent[value] is not value:
            value = self._parent[value]
        return value

    def join(self, values: Sequence[fx.Node]) -> None:
        first = self.find(values[0])
        for value in values[1:]:
            self._parent[self.find(value)] = first

    def members(self) -> list[list[fx.Node]]:
        sets: dict[fx.Node, list[fx.Node]] = {}
        for value in self._parent:
            sets.setdefault(self.find(value), []).append(value)
        return list(sets.values())
