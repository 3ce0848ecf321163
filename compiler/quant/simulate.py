"""Integer-exact simulation: run a program with the target's own arithmetic.

Integer values wait in the 8-bit types that they have; float steps run as plain aten ops in float32. A layer runs
on a few samples at a time, whose sums stay in the processor's cache. With `forced`, each integer value is
compared-then-replaced: it is computed from the runtime's own inputs, recorded, and the runtime's integers go on to
the next step, which is what the node-by-node check needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from ..ir.constants import constant
from .arithmetic import KernelCall
from .fusing import activations
from .program import DequantizeStep, FloatStep, IntegerStep, Program, QuantizeStep, Step
from .qparams import dequantize

_AT_A_TIME = 2**20  # elements that a layer reads or gives in one piece, roughly


@dataclass(frozen=True, slots=True)
class Simulation:
    """`outputs` by output name, quantized ones as int32; `integers` by value name (only those asked for)."""

    outputs: Mapping[str, Tensor]
    integers: Mapping[str, Tensor] = field(default_factory=dict)


def simulate(
    program: Program,
    inputs: Sequence[Tensor],
    *,
    keep: Sequence[str] = (),
    forced: Mapping[str, Tensor] | None = None,
) -> Simulation:
    """Run `program` on `inputs` (float, in placeholder order).

    `keep` names the integer values to return. `forced` replaces integer values after they are computed: the
    integers returned are the simulated ones, later steps read the forced ones.

    Raises:
        KeyError: `keep` or `forced` names what is not an integer value of the program.
    """
    wanted, forced = set(keep), forced or {}
    if unknown := sorted((wanted | forced.keys()) - program.integer_values().keys()):
        raise KeyError(f"not integer values of the program: {', '.join(unknown)}")
    values: dict[str, Any] = dict(zip(program.inputs, inputs, strict=True))
    values |= {name: value.to(torch.int32) for name, value in program.constants.items()}
    last_use = last_uses(program)
    kept: dict[str, Tensor] = {}
    with torch.no_grad():
        for position, step in enumerate(program.steps):
            result = run_step(program, step, values)
            if step.name in wanted:
                kept[step.name] = result.to(torch.int32)
            values[step.name] = forced[step.name].to(result.dtype) if step.name in forced else result
            for name in last_use.get(position, ()):
                values.pop(name, None)
        outputs = {name: _output(program, values, value) for name, value in program.outputs.items()}
    return Simulation(outputs, kept)


def run_integer_step(step: IntegerStep, inputs: Sequence[Tensor], attrs: Mapping[str, Any]) -> Tensor:
    """The integers that `step` gives for the integers `inputs`, in its output's own type; `attrs` are its
    arguments as numbers."""
    if step.weight is None:
        return _run_kernel(step, inputs, attrs)
    count = samples_at_a_time(step, inputs[0])
    parts = zip(*(value.split(count) for value in inputs), strict=True)
    results = [_run_kernel(step, part, attrs) for part in parts]
    return results[0] if len(results) == 1 else torch.cat(results)


def samples_at_a_time(step: IntegerStep, x: Tensor) -> int:
    """How many elements of axis 0 of its input `x` a layer takes at a time: so few that its sums stay in the
    processor's cache, where they are samples that have nothing to do with each other; else all."""
    assert step.weight is not None
    if x.ndim < step.weight.ndim or not x.numel():
        return max(1, len(x))
    channels = x.shape[1 if step.weight.ndim > 2 else -1]
    widest = x[0].numel() // channels * max(channels, step.weight.shape[0])
    return max(1, _AT_A_TIME // widest)


def _run_kernel(step: IntegerStep, inputs: Sequence[Tensor], attrs: Mapping[str, Any]) -> Tensor:
    weight = None if step.weight is None else step.weight.to(torch.int32)
    values = tuple(inputs) if weight is not None else tuple(value.to(torch.int32) for value in inputs)
    qparams = step.in_qparams, step.out_qparams
    result = step.rule.kernel(
        KernelCall(
            values, *qparams, step.clamp, attrs, weight, step.weight_qparams, step.bias, activations(step.fused)
        )
    )
    if step.channel_low is not None or step.channel_high is not None:
        result = result.clamp(step.channel_low, step.channel_high)
    return result.to(step.out_qparams.dtype)


def run_step(program: Program, step: Step, values: Mapping[str, Any]) -> Any:
    """What one step gives for `values` (by name): integers in their own type, or a float value."""
    match step:
        case IntegerStep():
            attrs = fx.map_arg(dict(step.attrs), lambda size: values[size.name])
            return run_integer_step(step, [values[name] for name in step.inputs], attrs)
        case QuantizeStep():
            return program.spec.quantize(values[step.source], step.qparams).to(step.qparams.dtype)
        case DequantizeStep():
            return dequantize(values[step.source], step.qparams)
        case FloatStep():
            return run_node(program.gm, step.node, values)


def run_node(gm: fx.GraphModule, node: fx.Node, values: Mapping[str, Any]) -> Any:
    """Run one call on `values` (by node name); constants come from the graph."""

    def value(argument: fx.Node) -> Any:
        if argument.name in values:
            return values[argument.name]
        found = constant(gm, argument)
        if found is None:
            raise KeyError(f"{node.name} reads {argument.name}, which no step before it gives")
        return found

    args, kwargs = fx.map_arg((node.args, node.kwargs), value)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _output(program: Program, values: Mapping[str, Any], name: str) -> Tensor:
    if name in values:
        return values[name].to(torch.int32) if name in program.integer_values() else values[name]
    node = next(node for node in program.gm.graph.nodes if node.name == name)
    found = constant(program.gm, node)
    assert found is not None
    return found


def last_uses(program: Program) -> dict[int, list[str]]:
    """Step position -> the values that no later step reads (outputs excepted)."""
    last: dict[str, int] = {}
    for position, step in enumerate(program.steps):
        for name in reads(step):
            last[name] = position
    outputs = set(program.outputs.values())
    by_position: dict[int, list[str]] = {}
    for name, position in last.items():
        if name not in outputs and name not in program.constants:
            by_position.setdefault(position, []).append(name)
    return by_position


def reads(step: Step) -> tuple[str, ...]:
    """The values that a step reads, by name."""
    match step:
        case IntegerStep():
            sizes: list[str] = []
            fx.map_arg(dict(step.attrs), lambda size: sizes.append(size.name))
            return (*step.inputs, *sizes)
        case QuantizeStep() | DequantizeStep():
            return (step.source,)
        case FloatStep():
            return tuple(node.name for node in step.node.all_input_nodes)
