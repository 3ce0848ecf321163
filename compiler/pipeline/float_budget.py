"""Keep float what would ruin the outputs on integers and costs little in float: what makes `default` safe.

Where the noise of all rounded values together is more at the outputs than the recipe's goal, that of each alone
is measured (`value_noise.py`), and values are freed of rounding, the most noise first, until the rest is within
the goal or the budget is spent. Nets that quantize well are left alone.

A value is free of rounding if what makes it and what reads it run in float. That costs their multiplications, as
a share of the whole graph's, less what float saves: a hardswish, SiLU or GELU that no kernel takes in is a pass
over its values of its own, and on integers one with conversions or a table. So a layer of few products before one
costs nothing (mobilenet_v3_small: docs/runtimes.md, "The head in float").
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from ..ir.constants import constant
from ..ir.gains import breaks_scale
from ..ir.ops import CONV_TRANSPOSE, OPS
from ..ir.progress import Progress, Silent
from ..ir.shapes import tensor_meta
from ..quant.calibrate import CalibrationStats
from ..quant.plan import Group, Plan
from ..quant.qparams import QParams
from ..quant.target import TargetSpec
from ..quant.value_noise import noise_together, rounding_parameters, value_noise
from ..quant.walk import gradient_samples
from .calibration import collect_missing
from .lower import FloatModel, plan_targets
from .options import CompileOptions
from .recipes import make_recipe

_SAMPLES = 8
_LEAST_SHARES = (0.01, 0.001)  # of the noise left: what a value must bring to be worth a change
_ELEMENT = 8  # multiplications that one element costs at an op without weights, conversions included
_ACTIVATION = 32  # of these, what float saves for each element at an activation that no kernel takes in


@dataclass(frozen=True, slots=True)
class FloatBudget:
    """The nodes to keep float, why by node, the share of the multiplications that they cost (less what float saves
    at activations), and the noise over signal at the outputs that the values' rounding makes, before and after."""

    reasons: Mapping[str, str]
    share: float
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Relieved:
    """A target's plan and statistics with the budget spent; None where there was no need or no budget."""

    plan: Plan
    stats: CalibrationStats
    budget: FloatBudget | None = None

    def notes(self) -> tuple[str, ...]:
        """What must be said of it."""
        found = self.budget
        if found is None:
            return ()
        return (
            f"{len(found.reasons)} ops stay float, for {found.share:.1%} of the multiplications beyond what float "
            f"saves at activations: rounding values leaves the outputs {_decibel(found.after)} dB of signal over "
            f"noise so, {_decibel(found.before)} dB if they ran on integers; --float-budget says how much may be "
            "spent",
        )


def within_budget(
    model: FloatModel,
    spec: TargetSpec,
    plan: Plan,
    stats: CalibrationStats,
    options: CompileOptions,
    progress: Progress | None = None,
) -> Relieved:
    """`plan` with the float budget of the options or their recipe spent, and `stats` for all that it quantizes.

    Nothing is spent where a bound on the measured loss decides (`max_drop`), or without calibration samples.
    """
    recipe = make_recipe(options)
    budget = recipe.float_budget if options.float_budget is None else options.float_budget
    if not budget or options.max_drop is not None or model.batches is None:
        return Relieved(plan, stats)
    with (progress or Silent()).track("measure rounding noise", _SAMPLES) as advance:
        few = gradient_samples(model.gm, model.batches(), _SAMPLES)
        found = spend_float_budget(model.gm, plan, stats, few, budget, recipe.float_goal, advance)
    if not found.reasons:
        return Relieved(plan, stats)
    plan = plan_targets(model, [spec], options, found.reasons)[spec.name]
    return Relieved(plan, collect_missing(model, plan, stats, model.batches, options, progress=progress), found)


def spend_float_budget(
    gm: fx.GraphModule,
    plan: Plan,
    stats: CalibrationStats,
    batches: Iterable[Sequence[Tensor]],
    budget: float,
    goal: float,
    advance: Callable[[int], None] | None = None,
) -> FloatBudget:
    """What to keep float of `plan` for at most `budget` of the graph's multiplications, so that `goal` dB of
    signal over noise are left at the outputs, or as much as there can be.

    Spent on what brings the most noise and on what brings the most for its price, with and without what brings
    hardly any; what leaves the least noise counts, measured with all that is rounded then.
    """
    few, enough = list(batches), 10 ** (-goal / 10)
    parameters = rounding_parameters(gm, plan, stats)
    before = noise_together(gm, parameters, few)
    if before <= enough:
        return FloatBudget({}, 0.0, before, before)
    noise = value_noise(gm, plan, stats, few, advance=advance)
    total = sum(multiplications(gm, node) for node in gm.graph.nodes if node.target in OPS) or 1.0
    limits = budget * total, enough * sum(noise.values()) / before
    calls, costs = {group: _calls(plan, group) for group in plan.groups}, _costs(gm, plan)
    tried = [FloatBudget({}, 0.0, before, before)]
    for order, least in itertools.product((_by_ratio, _by_gain), _LEAST_SHARES):
        reasons, spent = _spend(noise, calls, costs, limits, order, least)
        after = noise_together(gm, _still_rounded(calls, parameters, reasons), few)
        tried.append(FloatBudget(reasons, spent / total, before, after))
    within = [found for found in tried if found.after <= enough]
    return min(within, key=lambda found: found.share) if within else min(tried, key=lambda found: found.after)


def _costs(gm: fx.GraphModule, plan: Plan) -> dict[str, float]:
    """What each node costs more in float than on integers, in multiplications; below 0 where float saves."""
    fused = {name for op in plan.ops.values() for name in op.fused}
    costs = {node.name: multiplications(gm, node) for node in gm.graph.nodes}
    saves = [node.name for node in gm.graph.nodes if breaks_scale(node) and node.name not in fused]
    return costs | {name: costs[name] * (1 - _ACTIVATION / _ELEMENT) for name in saves}


def _still_rounded(
    calls: Mapping[Group, Sequence[str]], parameters: Mapping[str, QParams], reasons: Mapping[str, str]
) -> dict[str, QParams]:
    """Those of the values that an op reads or gives on integers; `calls` are all that do, by group."""
    kept = [group for group, names in calls.items() if not reasons.keys() >= set(names)]
    return {name: parameters[name] for group in kept for name in group.members if name in parameters}


def _by_ratio(gain: float, price: float) -> float:
    return gain / max(price, 1.0)


def _by_gain(gain: float, price: float) -> float:
    return gain


def _spend(
    by_group: Mapping[Group, float],
    calls: Mapping[Group, Sequence[str]],
    costs: Mapping[str, float],
    limits: tuple[float, float],
    order: Callable[[float, float], float],
    least: float,
) -> tuple[dict[str, str], float]:
    """Nodes with reasons and what they cost; values in descending `order`, each at least a share `least` of the
    noise left. `limits` are what may be spent and the noise that is good enough."""
    budget, enough = limits
    noise, left, spent, reasons = dict(by_group), sum(by_group.values()), 0.0, dict[str, str]()
    while left > enough:
        prices = {
            group: price
            for group, gain in noise.items()
            if gain >= least * left and spent + (price := _price(calls[group], costs, reasons)) <= budget
        }
        if not prices:
            break
        group = max(prices, key=lambda found: order(noise[found], prices[found]))
        gain = noise.pop(group)
        left, spent = max(left - gain, 0.0), spent + prices[group]
        text = f"kept float: rounding {group.members[0]} alone would leave the outputs {_decibel(gain)} dB"
        for name in calls[group]:
            reasons.setdefault(name, text)
    return reasons, spent


def _decibel(noise: float) -> str:
    """Signal over noise."""
    return f"{-10 * math.log10(max(noise, 1e-12)):.1f}"


def _price(calls: Sequence[str], costs: Mapping[str, float], paid: Mapping[str, str]) -> float:
    return max(sum(costs[name] for name in calls if name not in paid), 0.0)


def _calls(plan: Plan, group: Group) -> list[str]:
    """Every integer op that makes or reads one of the group's values, and the activations fused after it."""
    members = set(group.members)
    found = [op for op in plan.ops.values() if not members.isdisjoint((*op.inputs, *op.outputs))]
    return [name for op in found for name in (op.node, *op.fused)]


def multiplications(gm: fx.GraphModule, node: fx.Node) -> float:
    """What `node` costs for one sample: multiplications of a layer, some for each element of another op."""
    meta = tensor_meta(node)
    if node.op != "call_function" or meta is None:
        return 0.0
    info = OPS.get(node.target)  # type: ignore[call-overload]
    if info is None:
        return _ELEMENT * _elements(meta)
    weight = constant(gm, node.args[info.weight])
    source = tensor_meta(node.args[0]) if node.target in CONV_TRANSPOSE else meta  # type: ignore[arg-type]
    if weight is None or source is None:  # it is computed: no integer kernel
        return 0.0
    return _elements(source) / weight.shape[0] * weight.numel()


def _elements(meta: Tensor) -> float:
    """Elements of one sample."""
    return float(math.prod(size for size in meta.shape[1:] if isinstance(size, int)))
