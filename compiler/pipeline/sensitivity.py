"""How much a model loses when only one layer is quantized, for every layer and several widths of its weights.

A layer here is what a target runs as one integer step that computes new numbers: a convolution or linear with its
activation, a product, an add. It is run with the target's own integer arithmetic: its inputs and its output on 8
bits, its weights on as many as asked for, on the target's grid; everything else is float. An op without weights
loses the same at every width.

Cost. The float graph is walked once for each batch. At each layer the walk holds the values that are still to be
read, and only what follows the layer is run again, so that memory is that of two runs and no value is computed
twice before its layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ...passes.clean_qdq import CleanQdq
from ...passes.insert_qdq import InsertQdq
from ..ir.constants import constant
from ..ir.errors import InputError
from ..ir.nodes import module_path, output_node, placeholders
from ..ir.ops import aten, op_name
from ..ir.passes import PassContext, flatten_tensors, run_passes
from ..ir.progress import Advance, Progress, Silent
from ..quant.calibrate import CalibrationStats
from ..quant.fusing import region_inputs
from ..quant.layer_options import BITS
from ..quant.plan import activation_inputs
from ..quant.program import IntegerStep, Program, build_program
from ..quant.qparams import dequantize
from ..quant.simulate import run_integer_step, run_node
from ..quant.target import TargetSpec
from .loss import Loss, OutputLoss
from .lower import FloatModel, copy_graph, plan_targets
from .options import CompileOptions


@dataclass(frozen=True, slots=True)
class LayerLoss:
    """One layer: its node, the module it comes from, its op, its number of weights, and the loss by width."""

    node: str
    module: str
    op: str
    weights: int
    losses: Mapping[int, Loss]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """`layers` with the most sensitive first, by the output's SQNR at the first of `bits`."""

    target: str
    samples: int
    bits: tuple[int, ...]
    layers: tuple[LayerLoss, ...]


def measure_sensitivity(
    model: FloatModel,
    spec: TargetSpec,
    stats: CalibrationStats,
    batches: Iterable[tuple[Tensor, ...]],
    options: CompileOptions,
    *,
    bits: Sequence[int] = (8,),
    samples: int | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """The loss of each layer of `model` that `spec` runs on integers, over `batches` (of `samples` in all).

    `stats` are those of a plan of `spec` with `options`. Weights are rounded to nearest: what the recipe's passes
    on the quantized graph would repair is part of the loss.

    Raises:
        InputError: a width is not one of 2 to 8, or no layer runs on integers.
    """
    if not bits or not set(bits) <= set(BITS):
        given = ", ".join(map(str, bits)) or "none"
        raise InputError(f"The widths to measure are {given}; allowed: one or more of 2 to 8 bits.")
    widths = tuple(dict.fromkeys(bits))
    walk = _Walk(model.gm, {width: _program(model, spec, stats, options, width) for width in widths})
    if not walk.layers:
        raise InputError(f"No layer of the model runs on integers on {spec.name}: there is nothing to measure.")
    done = 0
    total = None if samples is None else samples * walk.variants
    with torch.no_grad(), (progress or Silent()).track("measure layers", total) as advance:
        for batch in batches:
            walk.run(batch, done * walk.variants, advance)
            done += len(batch[0])
    layers = [layer.result(walk.losses, widths) for layer in walk.layers]
    ranked = sorted(layers, key=lambda layer: layer.losses[widths[0]].sqnr)
    return Sensitivity(spec.name, done, widths, tuple(ranked))


def _program(
    model: FloatModel, spec: TargetSpec, stats: CalibrationStats, options: CompileOptions, bits: int
) -> Program:
    """The program with every weight on `bits` bits, whatever the options say of single layers."""
    layers = {glob: dataclasses.replace(chosen, weight_bits=None) for glob, chosen in options.layers.items()}
    options = dataclasses.replace(options, weight_bits=bits, layers=layers)
    plan = plan_targets(model, [spec], options)[spec.name]
    gm = copy_graph(model.gm)
    run_passes(gm, [InsertQdq(plan, stats), CleanQdq()], PassContext(target=spec))
    return build_program(gm, spec, plan.kept)


@dataclass(frozen=True, slots=True)
class _Layer:
    """`node` to `last` (its fused activation) of the float graph, and the integer step for each width."""

    node: fx.Node
    last: fx.Node
    steps: Mapping[int, IntegerStep]

    @property
    def variants(self) -> Mapping[int, IntegerStep]:
        """The steps that differ: without weights one of them stands for all."""
        first = next(iter(self.steps))
        return self.steps if self.steps[first].weight is not None else {first: self.steps[first]}

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """The activations that the step reads, in its order."""
        own = activation_inputs(self.node)
        residual = len(next(iter(self.steps.values())).inputs) > len(own)
        return region_inputs(own, tuple(self.node.users) if residual else (), self.node)

    def result(self, losses: Mapping[tuple[str, int], OutputLoss], widths: Sequence[int]) -> LayerLoss:
        measured = {bits: losses[self.node.name, bits].result() for bits in self.variants}
        weight = self.steps[widths[0]].weight
        return LayerLoss(
            self.node.name,
            module_path(self.node),
            op_name(self.node.target).partition(".")[0],
            0 if weight is None else weight.numel(),
            {bits: measured.get(bits, measured[widths[0]]) for bits in widths},
        )


class _Walk:
    """The float graph in order, with the layers that end at each of its nodes."""

    def __init__(self, gm: fx.GraphModule, programs: Mapping[int, Program]) -> None:
        self._gm = _reshaping(gm)
        self._spec = next(iter(programs.values())).spec
        self._order = [node for node in self._gm.graph.nodes if node.op == "call_function"]
        self.layers = _layers(self._gm, programs)
        self._ending = {layer.last: layer for layer in self.layers}
        self._last_use = self._last_uses()
        self.losses = {(layer.node.name, bits): OutputLoss() for layer in self.layers for bits in layer.variants}

    @property
    def variants(self) -> int:
        return len(self.losses)

    def run(self, batch: tuple[Tensor, ...], done: int, advance: Advance) -> None:
        """Walk over one batch; `done` units were done before it, one for each sample and variant."""
        names = [node.name for node in placeholders(self._gm)]
        start = dict(zip(names, map(_channels_last, batch), strict=True))
        expected = self._rest(-1, dict(start))
        values: dict[str, Any] = start
        for position, node in enumerate(self._order):
            values[node.name] = run_node(self._gm, node, values)
            layer = self._ending.get(node)
            for bits, step in (layer.variants if layer is not None else {}).items():
                assert layer is not None
                changed = values | {node.name: self._integer_result(layer, step, values)}
                self.losses[layer.node.name, bits].add(self._rest(position, changed), expected)
                done += len(batch[0])
                advance(done)
            self._drop(position, values)

    def _integer_result(self, layer: _Layer, step: IntegerStep, values: Mapping[str, Any]) -> Tensor:
        sources = [_value(self._gm, node, values) for node in layer.inputs]
        integers = [self._spec.quantize(x, qp) for x, qp in zip(sources, step.in_qparams, strict=True)]
        attrs = fx.map_arg(dict(step.attrs), lambda size: values[size.name])
        return dequantize(run_integer_step(step, integers, attrs), step.out_qparams)

    def _rest(self, position: int, values: dict[str, Any]) -> list[Tensor]:
        """The outputs, from the values that are known after the node at `position`."""
        self._drop(position, values)
        for at in range(position + 1, len(self._order)):
            node = self._order[at]
            values[node.name] = run_node(self._gm, node, values)
            self._drop(at, values)
        found = fx.map_arg(output_node(self._gm).args[0], lambda node: _value(self._gm, node, values))
        return flatten_tensors(found)

    def _drop(self, position: int, values: dict[str, Any]) -> None:
        for name in self._last_use.get(position, ()):
            values.pop(name, None)

    def _last_uses(self) -> dict[int, list[str]]:
        """Position -> the values that nothing later reads; a layer's inputs are read where it ends."""
        place = {node: position for position, node in enumerate(self._order)}
        last = {
            node: max((place.get(user, len(self._order)) for user in node.users), default=place.get(node, 0))
            for node in self._gm.graph.nodes
        }
        for layer in self.layers:
            for source in (*layer.node.all_input_nodes, *layer.inputs):
                last[source] = max(last[source], place[layer.last])
        found: dict[int, list[str]] = {}
        for node, position in last.items():
            found.setdefault(position, []).append(node.name)
        return found


def _layers(gm: fx.GraphModule, programs: Mapping[int, Program]) -> list[_Layer]:
    nodes = {node.name: node for node in gm.graph.nodes}
    steps: dict[str, dict[int, IntegerStep]] = {}
    for bits, program in programs.items():
        for step in program.steps:
            if isinstance(step, IntegerStep) and not step.rule.shared and "index" not in step.attrs:
                steps.setdefault(step.anchor.name, {})[bits] = step
    found = []
    for name, by_bits in steps.items():
        first = next(iter(by_bits.values()))
        last = first.fused[-1] if first.fused else first.anchor
        if len(by_bits) == len(programs):
            found.append(_Layer(nodes[name], nodes[last.name], by_bits))
    return found


def _reshaping(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy whose views are legal in every order of memory."""
    copied = copy_graph(gm)
    for node in copied.graph.nodes:
        if node.target is aten.view.default:
            node.target = aten.reshape.default
    return copied


def _value(gm: fx.GraphModule, node: fx.Node, values: Mapping[str, Any]) -> Any:
    if node.name in values:
        return values[node.name]
    found = constant(gm, node)
    assert found is not None
    return found


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
