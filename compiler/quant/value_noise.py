"""How much noise rounding quantized values brings to the outputs of a graph: all of them together, and each alone.

Both are measured, clipping included: the graph runs in float and with values rounded by their own parameters, and
what differs at the outputs is the noise. Of a value alone, what depends on it runs again.

Errors of different values are nearly uncorrelated, so that their noises add up where they are small:
mobilenet_v3_small has 13.4 dB of signal over their sum, and 13.4 with all of them rounded (avx2, fbgemm). In
YOLOX-Nano it is 6.1 and 9.3 dB, so the sum is for ranking. Carried to the outputs by gradients instead, an error
before a hardswish is up to 12 dB less than what is measured: it is as wide as what bends.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ..ir.ops import aten
from .calibrate import CalibrationStats
from .output_noise import output_parts, signal_power
from .plan import Group, Plan, activation_inputs
from .qparams import QParams, choose_qparams, fake_quantize
from .simulate import run_node

_AVERAGES = frozenset(
    {
        aten.avg_pool1d.default,
        aten.avg_pool2d.default,
        aten.avg_pool3d.default,
        aten.adaptive_avg_pool1d.default,
        aten.adaptive_avg_pool2d.default,
        aten.adaptive_avg_pool3d.default,
    }
)


def value_noise(
    gm: fx.GraphModule,
    plan: Plan,
    stats: CalibrationStats,
    batches: Iterable[Sequence[Tensor]],
    *,
    advance: Callable[[int], None] | None = None,
) -> dict[Group, float]:
    """Noise power at the outputs over the power of what varies there from sample to sample, for each group of
    values that `plan` quantizes: what rounding it alone makes.

    Each output counts the same. `batches` are inputs of a few samples, whose values are held one batch at a time;
    where one has a single sample, the signal is what varies within its outputs.
    """
    parameters = rounding_parameters(gm, plan, stats)
    members = {group: {name: parameters[name] for name in rounded(gm, group)} for group in plan.groups}
    noise, samples = dict.fromkeys(plan.groups, 0.0), 0
    for batch in batches:
        held = _Values(gm, batch)
        for group, rounding in members.items():
            noise[group] += noise_over_signal(held.parts(), held.parts(rounding))
        samples += len(batch[0])
        if advance is not None:
            advance(samples)
    return {group: total / max(samples, 1) for group, total in noise.items()}


def noise_together(
    gm: fx.GraphModule, parameters: Mapping[str, QParams], batches: Iterable[Sequence[Tensor]]
) -> float:
    """The same for all values of `parameters` rounded at once."""
    exact, rounding = RoundedGraph(gm, {}), RoundedGraph(gm, parameters)
    noise, samples = 0.0, 0
    for batch in batches:
        noise += noise_over_signal(exact.parts(batch), rounding.parts(batch))
        samples += len(batch[0])
    return noise / max(samples, 1)


def noise_over_signal(wanted: Sequence[Tensor], given: Sequence[Tensor]) -> float:
    """What `given` differs from `wanted` over what varies there, summed over the samples of a batch; the mean over
    all parts of the outputs. A part that never varies says nothing."""
    total = 0.0
    for exact, other in zip(wanted, given, strict=True):
        power = 0.0 if other is exact else signal_power(exact)
        if power:
            total += float((other - exact).double().square().sum()) / power
    return total / max(len(wanted), 1)


class RoundedGraph(fx.Interpreter):
    """Runs a graph with some of its values rounded."""

    def __init__(self, gm: fx.GraphModule, parameters: Mapping[str, QParams]) -> None:
        super().__init__(gm)
        self.extra_traceback = False
        self._parameters = parameters
        self._shown = frozenset(output_parts(gm))
        self._parts: list[Tensor] = []

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if (qp := self._parameters.get(n.name)) is not None:
            result = fake_quantize(result, qp)
        if n in self._shown and isinstance(result, Tensor) and result.is_floating_point():
            self._parts.append(result)
        return result

    def parts(self, batch: Sequence[Tensor]) -> list[Tensor]:
        """What the outputs are made of."""
        self._parts = []
        with torch.no_grad():
            self.run(*batch)
        return self._parts


class _Values:
    """All values of one batch in float, and what the outputs are made of once some are rounded."""

    def __init__(self, gm: fx.GraphModule, batch: Sequence[Tensor]) -> None:
        interpreter = fx.Interpreter(gm, garbage_collect_values=False)
        interpreter.extra_traceback = False
        with torch.no_grad():
            interpreter.run(*batch)
        self._gm = gm
        self._values = {node.name: value for node, value in interpreter.env.items()}
        self._nodes = [node for node in gm.graph.nodes if node.op != "output"]
        place = {node: index for index, node in enumerate(self._nodes)}
        self._last_read = {node: max((place.get(user, -1) for user in node.users), default=-1) for node in place}
        exact = {node.name: self._values[node.name] for node in output_parts(gm)}
        self._shown = [
            name for name, value in exact.items() if isinstance(value, Tensor) and value.is_floating_point()
        ]

    def parts(self, rounding: Mapping[str, QParams] | None = None) -> list[Tensor]:
        """What the outputs are made of with the values of `rounding` rounded; what does not depend on one is the
        float value itself."""
        changed = self._changed(rounding) if rounding else {}
        return [changed.get(name, self._values[name]) for name in self._shown]

    def _changed(self, rounding: Mapping[str, QParams]) -> dict[str, Any]:
        """What is not the float value any more, held until its last reader ran or, of an output, to the end."""
        changed: dict[fx.Node, Any] = {}
        shown: dict[str, Any] = {}
        with torch.no_grad():
            for index, node in enumerate(self._nodes):
                result = self._values[node.name]
                if not changed.keys().isdisjoint(node.all_input_nodes):
                    now = {source.name: changed[source] for source in node.all_input_nodes if source in changed}
                    result = run_node(self._gm, node, ChainMap(now, self._values))
                if (qp := rounding.get(node.name)) is not None:
                    result = fake_quantize(result, qp)
                if result is not self._values[node.name]:
                    changed[node] = result
                    if node.name in self._shown:
                        shown[node.name] = result
                for source in node.all_input_nodes:
                    if self._last_read[source] <= index:
                        changed.pop(source, None)
        return shown


def rounded(gm: fx.GraphModule, group: Group) -> list[str]:
    """The members that get new rounding errors: not those made of other members alone, by a view or a concat.
    Averages of members do."""
    nodes = {node.name: node for node in gm.graph.nodes if node.name in group.members}
    return [
        name
        for name, node in nodes.items()
        if node.target in _AVERAGES or (name in group.observed and not _is_made_of(node, nodes))
    ]


def _is_made_of(node: fx.Node, members: Collection[str]) -> bool:
    sources = activation_inputs(node)
    return bool(sources) and all(source.name in members for source in sources)


def rounding_parameters(gm: fx.GraphModule, plan: Plan, stats: CalibrationStats) -> dict[str, QParams]:
    """The parameters of every value of `plan` that gets new rounding errors, by name."""
    return {
        name: group.fixed or choose_qparams(*stats.range_of(group), group.spec)
        for group in plan.groups
        for name in rounded(gm, group)
    }
