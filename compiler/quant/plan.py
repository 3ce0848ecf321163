"""The plan: which ops run on integers, which values are quantized, and which values share parameters.

A plan is a value. It is made from the graph and the target's op rules, printed, tested, and then carried out by
`InsertQdq`. What stays float is in it with its reason.

Ops with weights and matmul are quantized wherever a rule allows it. Every other op follows its data: it runs on
integers only if its inputs are integers already, since converting for an add or a pool alone costs more than it
saves. A graph input counts as integers if an integer op reads it, directly or through such ops.
"""

from __future__ import annotations

import fnmatch
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from ..ir.constants import constant
from ..ir.nodes import describe, module_path, sole_user
from ..ir.ops import OPS, aten, clamp_bounds, op_name
from ..ir.passes import Skip
from ..ir.shapes import tensor_meta
from .qparams import QParams, QSpec
from .target import BiasKind, OpRule, TargetSpec

_LEADS = frozenset(OPS) | {aten.matmul.default, aten.bmm.default}
_ANY_INPUT = frozenset({aten.cat.default})
_PIECES = frozenset({aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default})


@dataclass(frozen=True, slots=True)
class IntegerOp:
    """One region: `node` and the activations fused after it. `inputs` and `outputs` are value names."""

    node: str
    fused: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight: QSpec | None = None


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
    """What `plan_quantization` decided. `groups` are in graph order of their first member."""

    target: str
    bias: BiasKind
    ops: Mapping[str, IntegerOp]
    groups: tuple[Group, ...]
    floats: tuple[Skip, ...] = field(default=())

    def group_of(self, value: str) -> int | None:
        """Index of the group that `value` belongs to, or None if it stays float."""
        return next((index for index, group in enumerate(self.groups) if value in group.members), None)

    def format(self) -> str:
        """The plan as text: one line for each integer op, each shared group and each op left float."""
        lines = [f"plan for {self.target}: {len(self.ops)} integer ops, {len(self.floats)} float"]
        for op in self.ops.values():
            fused = f" + {' + '.join(op.fused)}" if op.fused else ""
            lines.append(f"  int8   {op.node}{fused}: {', '.join(op.inputs)} -> {', '.join(op.outputs)}")
        lines += [f"  shared {', '.join(group.members)}" for group in self.groups if len(group.members) > 1]
        lines += [f"  fixed  {group.members[0]}" for group in self.groups if group.fixed is not None]
        lines += [f"  float  {skip.node}: {skip.reason}" for skip in self.floats]
        return "\n".join(lines)


def plan_quantization(
    gm: fx.GraphModule, target: TargetSpec, *, keep_float: Sequence[str] = (), per_tensor_weights: bool = False
) -> Plan:
    """Decide what `target` runs on integers in `gm` (stage FLOAT, annotated with shapes).

    `keep_float` are globs over module paths and node names. `per_tensor_weights` gives each weight one scale.
    """
    candidates: dict[fx.Node, _Region] = {}
    reasons: dict[fx.Node, str] = {}
    for node in gm.graph.nodes:
        if node.op != "call_function" or node.target is operator.getitem or not _gives_tensor(node):
            continue
        match _candidate(gm, node, target, keep_float):
            case str() as reason:
                reasons[node] = reason
            case region:
                candidates[node] = region
    _drop_until_stable(gm, candidates, reasons)
    groups = _group(gm, candidates, reasons, target)
    absorbed = {act for region in candidates.values() for act in region.fused}
    floats = tuple(Skip(describe(n), r) for n, r in reasons.items() if n not in absorbed)
    ops = {node.name: region.as_op(target, per_tensor_weights) for node, region in candidates.items()}
    return Plan(target.name, target.bias, ops, groups, floats)


@dataclass(frozen=True, slots=True)
class _Region:
    node: fx.Node
    rule: OpRule
    fused: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]

    def as_op(self, target: TargetSpec, per_tensor: bool) -> IntegerOp:
        weight = None
        info = OPS.get(self.node.target)  # type: ignore[call-overload]
        if info is not None:
            weight = self.rule.weight or target.weight
            if weight.per_channel and (per_tensor or info.out_axis != 0):
                weight = QSpec(weight.qmin, weight.qmax, weight.dtype, weight.symmetric, False)
        return IntegerOp(
            self.node.name,
            tuple(node.name for node in self.fused),
            tuple(node.name for node in self.inputs),
            tuple(node.name for node in self.outputs),
            weight,
        )


def _candidate(gm: fx.GraphModule, node: fx.Node, target: TargetSpec, keep_float: Sequence[str]) -> _Region | str:
    """The region that `node` starts, or the reason why it stays float."""
    rule = target.ops.get(node.target)  # type: ignore[call-overload]
    if rule is None:
        return f"{target.name} has no integer kernel for {op_name(node.target)}"
    for pattern in keep_float:
        if fnmatch.fnmatch(module_path(node), pattern) or fnmatch.fnmatch(node.name, pattern):
            return f"kept float by {pattern!r}"
    if (reason := rule.check(node)) is not None:
        return reason
    info = OPS.get(node.target)  # type: ignore[call-overload]
    if info is not None and constant(gm, node.args[info.weight]) is None:
        return "its weight is computed, not constant"
    inputs = activation_inputs(node)
    for value in inputs:
        meta = tensor_meta(value)
        if meta is not None and meta.dtype is not torch.float32:
            return f"its input {value.name} is {str(meta.dtype).removeprefix('torch.')}, not float32"
    if not inputs:
        return "it has no tensor input"
    if node.target in _PIECES:
        return _Region(node, rule, (), inputs, tuple(node.users))
    fused = _fused_after(node, rule)
    return _Region(node, rule, fused, inputs, (fused[-1] if fused else node,))


def activation_inputs(node: fx.Node) -> tuple[fx.Node, ...]:
    """The tensor arguments of a call, weight and bias excepted, in order (a list argument's members too)."""
    info = OPS.get(node.target)  # type: ignore[call-overload]
    skipped = {info.weight, info.bias} if info is not None else set()
    found: list[fx.Node] = []
    for position, argument in enumerate(node.args):
        if position in skipped:
            continue
        members = argument if isinstance(argument, (list, tuple)) else [argument]
        found += [item for item in members if isinstance(item, fx.Node) and _gives_tensor(item)]
    return tuple(found)


def _fused_after(node: fx.Node, rule: OpRule) -> tuple[fx.Node, ...]:
    fused: list[fx.Node] = []
    last = node
    while (user := sole_user(last)) is not None and user.target in rule.fuses and clamp_bounds(user):
        fused.append(user)
        last = user
    return tuple(fused)


def _gives_tensor(node: fx.Node) -> bool:
    if node.op == "get_attr":
        return True
    value = node.meta.get("val")
    return value is None or isinstance(value, (torch.Tensor, tuple, list))


def _drop_until_stable(
    gm: fx.GraphModule, candidates: dict[fx.Node, _Region], reasons: dict[fx.Node, str]
) -> None:
    """Ops that only follow their data leave the plan when that data turns out float; repeat until none does."""
    changed = True
    while changed:
        _remove_fused(candidates)
        produced = {value for region in candidates.values() for value in region.outputs}
        read = {value for region in candidates.values() for value in region.inputs}
        dropped = {
            node: reason
            for node, region in candidates.items()
            if (reason := _why_not_follow(gm, region, produced, read)) is not None
        }
        for node, reason in dropped.items():
            del candidates[node]
            reasons[node] = reason
        changed = bool(dropped)


def _remove_fused(candidates: dict[fx.Node, _Region]) -> None:
    """An activation inside a region is not a region of its own."""
    for act in {act for region in candidates.values() for act in region.fused}:
        candidates.pop(act, None)


def _why_not_follow(gm: fx.GraphModule, region: _Region, produced: set[fx.Node], read: set[fx.Node]) -> str | None:
    if region.node.target in _LEADS:
        return None
    variable = [value for value in region.inputs if value.op != "get_attr"]
    enough = any if region.node.target in _ANY_INPUT else all
    if not variable or not enough(v in produced or v.op == "placeholder" for v in variable):
        return "its inputs are float"
    from_graph_input = all(value.op == "placeholder" for value in variable)
    if from_graph_input and not any(value in read for value in region.outputs):
        return "it reads a graph input and no integer op reads its result"
    return None


def _group(
    gm: fx.GraphModule, candidates: dict[fx.Node, _Region], reasons: dict[fx.Node, str], target: TargetSpec
) -> tuple[Group, ...]:
    """Values joined by ops that demand equal parameters; such an op goes float where it would join a fixed value
    with another one."""
    while True:
        groups = _Union(_values(candidates))
        for region in candidates.values():
            if region.rule.shared:
                groups.join([*region.inputs, *region.outputs])
        clash = _fixed_clash(candidates, groups)
        if clash is None:
            break
        del candidates[clash]
        reasons[clash] = "its values must share parameters, but one of them has fixed ones"
        _drop_until_stable(gm, candidates, reasons)
    derived = {v for region in candidates.values() if region.rule.shared for v in region.outputs}
    fixed = _fixed_values(candidates)
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
    graph_order = next(iter(found)).graph.nodes if found else []
    return [node for node in graph_order if node in found]


def _fixed_values(candidates: Mapping[fx.Node, _Region]) -> dict[fx.Node, QParams]:
    return {
        value: region.rule.fixed
        for region in candidates.values()
        if region.rule.fixed is not None
        for value in region.outputs
    }


def _fixed_clash(candidates: Mapping[fx.Node, _Region], groups: _Union) -> fx.Node | None:
    fixed = _fixed_values(candidates)
    derived = {v for region in candidates.values() if region.rule.shared for v in region.outputs}
    for members in groups.members():
        roots = {fixed.get(value) for value in members if value not in derived}
        if len(roots) > 1 and roots != {None}:
            for node, region in candidates.items():
                if region.rule.shared and len(region.inputs) > 1 and region.inputs[0] in members:
                    return node
    return None


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
