"""Choose each integer weight so that its layer's output is right, not so that the weight itself is closest.

Layer after layer through the integer simulation of the target, on the integers that each layer really reads (all
earlier layers rounded already). Each convolution, transposed convolution and linear that runs on integers gets new
integers on the grid that it has (same scale, within its qmin and qmax); nothing else in the graph changes.

* `nearest`: what the weights are after InsertQdq.
* `gptq`: by the Hessian of the layer's output error, without training; see `rounding/gptq.py`.
* `adaround`: up or down, learned with the activation in view and the float net's own outputs as the aim, so that
  it also makes up for earlier errors; see `rounding/adaround.py`. Much slower.

A channel that its new integers do not serve better keeps the ones it had. A weight that several layers read is
left alone. Rounding may shift a layer's mean: correct biases after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx

from ..compiler.ir.constants import constant, set_constant
from ..compiler.ir.nodes import sole_user
from ..compiler.ir.ops import OPS
from ..compiler.ir.passes import Numerics, PassContext, PassResult, Skip
from ..compiler.ir.stages import Stage
from ..compiler.quant.program import IntegerStep, build_program, layers
from ..compiler.quant.qparams import QParams
from ..compiler.quant.walk import FloatWalk, take_batches, walk
from .rounding.adaround import Problem, learn_rounding
from .rounding.gptq import gram, round_by_hessian
from .rounding.layer_rows import LayerRows, by_group, from_groups, output_bounds

Method = Literal["nearest", "gptq", "adaround"]

_LEARNED = 2**13  # output positions of a layer that learning reads: they are all held in memory
_MEMORY = 5 * 2**29  # bytes that the values of all samples may take together, generously counted


@dataclass(frozen=True, slots=True)
class RoundWeights:
    """New integer weights by `method`, tuned on up to `samples` calibration samples and, of all of them together,
    at about `positions` output positions of each layer. Learning takes at most 8192 of those, and `iterations`."""

    method: Method = "gptq"
    samples: int = 128
    positions: int = 2**15
    iterations: int = 500

    name: ClassVar[str] = "round-weights"
    requires: ClassVar[Stage] = Stage.QUANTIZED
    ensures: ClassVar[Stage] = Stage.QUANTIZED
    numerics: ClassVar[Numerics] = "changes"

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        if self.method == "nearest":
            return PassResult(0)
        if (reason := _missing(ctx)) is not None:
            return PassResult(0, (Skip("all layers", reason),))
        assert ctx.target is not None
        assert ctx.reference is not None
        batches = list(take_batches(ctx, self.samples, _MEMORY))
        program = build_program(gm, ctx.target, ctx.kept)
        found = {step.anchor: _match(gm, ctx.reference, step) for step in layers(program)}
        reals = {node: real for node, real in found.items() if isinstance(real, Tensor)}
        floats, positions = None, self.positions
        if self.method == "adaround":
            floats = FloatWalk(ctx.reference, batches, [node.name for node in reals])
            positions = min(positions, _LEARNED)
        samples = sum(len(batch[0]) for batch in batches)
        rounding = _Rounding(self, floats, reals, max(1, positions // samples), ctx.seed)
        walk(program, batches, rounding.visit, ctx.progress)
        for node, weight in rounding.changed.items():
            set_constant(gm, _stored_name(node), weight)
        skipped = [result for result in found.values() if isinstance(result, Skip)]
        return PassResult(len(rounding.changed), tuple(skipped))


def _missing(ctx: PassContext) -> str | None:
    """Why nothing can be measured."""
    if ctx.target is None:
        return "no target is given, whose arithmetic the weights are for"
    if ctx.reference is None:
        return "the float graph is not known, whose outputs the weights should give"
    if ctx.batches is None:
        return "there are no calibration samples to measure outputs on"
    return None


def _match(gm: fx.GraphModule, reference: fx.GraphModule, step: IntegerStep) -> Tensor | Skip:
    """The layer's float weight, or why its integers stay."""
    node = step.anchor
    dequantized = _weight_argument(node)
    stored = dequantized.args[0]
    assert isinstance(stored, fx.Node)
    if sole_user(dequantized) is None or sole_user(stored) is None:
        return Skip(node.name, f"its weight {stored.target} is shared with another layer")
    layer = next((other for other in reference.graph.nodes if other.name == node.name), None)
    real = (
        None if layer is None or layer.target is not node.target else constant(reference, _weight_argument(layer))
    )
    if real is None or step.weight is None or real.shape != step.weight.shape:
        return Skip(node.name, "the float graph has no layer of this name and shape")
    return real


def _weight_argument(node: fx.Node) -> fx.Node:
    weight = node.args[OPS[node.target].weight]  # type: ignore[index]
    assert isinstance(weight, fx.Node)
    return weight


def _stored_name(node: fx.Node) -> str:
    stored = _weight_argument(node).args[0]
    assert isinstance(stored, fx.Node)
    return str(stored.target)


@dataclass(slots=True)
class _Rounding:
    """Visits the layers in order; `changed` holds the new integers by layer. Learning knows the float values."""

    options: RoundWeights
    floats: FloatWalk | None
    layers: dict[fx.Node, Tensor]
    positions: int
    seed: int
    changed: dict[fx.Node, Tensor] = field(default_factory=dict)
    seen: dict[fx.Node, IntegerStep] = field(default_factory=dict)

    def visit(self, step: IntegerStep, inputs: Sequence[Sequence[Tensor]]) -> IntegerStep:
        node = step.anchor
        if node not in self.layers:
            return step
        if node not in self.seen:  # else it is quantized twice, with other parameters
            rows = LayerRows(step, inputs[0], self.positions, self.seed)
            self.seen[node] = dataclasses.replace(step, weight=self._rounded(step, rows))
        weight = self.seen[node].weight
        assert weight is not None
        assert step.weight is not None
        if not torch.equal(weight, step.weight):
            self.changed[node] = weight
        return dataclasses.replace(step, weight=weight)

    def _rounded(self, step: IntegerStep, rows: LayerRows) -> Tensor:
        """Integers for the layer, in the weight's own shape and type."""
        qp = step.weight_qparams
        assert qp is not None
        assert step.weight is not None
        shape = [1] * step.weight.ndim
        if qp.axis is not None:
            shape[qp.axis] = -1
        real = by_group(step, self.layers[step.anchor].double() / qp.scale_tensor().double().reshape(shape))
        start = by_group(step, step.weight.double())
        if self.floats is None:
            found = round_by_hessian(gram(rows.integers()), real, start, qp.qmin, qp.qmax)
        else:
            found = self._learned(rows, self.floats.value(step.anchor.name), real, start, qp)
        return from_groups(step, found).to(step.weight.dtype)

    def _learned(
        self, rows: LayerRows, values: Sequence[Tensor], real: Tensor, start: Tensor, qp: QParams
    ) -> Tensor:
        integers, wanted = torch.cat(list(rows.integers()), 1), torch.cat(list(rows.wanted(values)), 1)
        problem = Problem(integers, wanted, *output_bounds(rows.step))
        generator = torch.Generator().manual_seed(self.seed)
        found = learn_rounding(problem, real, qp.qmin, qp.qmax, self.options.iterations, generator)
        better = problem.errors(found) < problem.errors(start.float())
        return torch.where(better[:, None], found.double(), start)
