"""How much noise each quantized value brings to the outputs of a graph, all of them from one pass.

It is the error that the value's own parameters make on real samples, clipping included, carried to the outputs by
gradients (`output_noise.py`).

Errors of different values are taken as uncorrelated, so that their noises add up. That holds well enough to rank
values (mobilenet_v3_small, weights per tensor: 13.3 dB of signal over their sum, 11.7 measured with all rounded).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import torch
from torch import Tensor, fx

from ..ir.ops import aten
from .calibrate import CalibrationStats
from .output_noise import Tape
from .plan import Group, Plan, activation_inputs
from .qparams import QParams, choose_qparams, fake_quantize

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
    projections: int = 4,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Noise power at the outputs over the power of what varies there from sample to sample, by value that `plan`
    quantizes (see `rounded`: the rest hold the same numbers).

    Each output counts the same. `batches` are inputs of a few samples; where one has a single sample, the signal
    is what varies within its outputs.
    """
    parameters = rounding_parameters(gm, plan, stats)
    noise = dict.fromkeys(parameters, 0.0)
    generator, tape, samples = torch.Generator().manual_seed(seed), Tape(gm, parameters), 0
    for batch in batches:
        tape.record(batch)
        for _ in range(projections):
            for name, value, gradient in tape.gradients(generator):
                qp = parameters[name]
                noise[name] += tape.effect(name, gradient, fake_quantize(value, qp) - value)
        samples += len(batch[0])
        if advance is not None:
            advance(samples)
    return {name: total / (projections * max(samples, 1)) for name, total in noise.items()}


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
