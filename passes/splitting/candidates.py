"""What can be split, what that would save, and how much it counts: from the weights and a few samples, if any.

The error of each quantized reader's weight counts by how much of it arrives at the graph's outputs; the errors of
rounding weight and input add up in what the layer gives, so the input's counts the same relative to its power.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from ...compiler.ir.ops import OPS
from ...compiler.ir.passes import PassContext
from ...compiler.quant.channel_stats import Measured, measure_channels
from ...compiler.quant.layer_options import LayerOptions
from ...compiler.quant.qparams import QSpec
from ...compiler.quant.weight_range import WeightRange, weight_reach
from .._layers import Layer, parameters
from .budget import Candidate
from .copies import Site, channel_axis
from .layer_transfer import few_samples, output_noise
from .range_noise import RangeNoise
from .weight_noise import Rows, weight_noise

_WEIGHT = QSpec(-127, 127, torch.int8, symmetric=True, per_channel=True)


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """The integers of a weight and how its range is chosen."""

    spec: QSpec
    range: WeightRange

    @classmethod
    def of(cls, node: fx.Node, options: LayerOptions) -> WeightFormat:
        """As the plan decides for the int8 targets."""
        spec = options.weight_spec(_WEIGHT)
        info = OPS.get(node.target)  # type: ignore[call-overload]
        if info is not None and info.out_axis != 0:
            spec = replace(spec, per_channel=False)
        return cls(spec, options.weight_range or "minmax")


def layer_of(gm: fx.GraphModule, node: fx.Node) -> Layer:
    """The parameters of a reader."""
    layer = parameters(gm, node)
    assert isinstance(layer, Layer)
    return layer


def find_candidates(
    gm: fx.GraphModule,
    sites: Sequence[Site],
    formats: Mapping[fx.Node, WeightFormat | None],
    ctx: PassContext,
    activations: bool,
) -> list[Candidate]:
    """One candidate for the weights of each site's quantized readers; with `activations` and samples, one more for
    the values of each site that takes shares."""
    forms = {node: form for site in sites for node in site.readers if (form := formats[node]) is not None}
    samples = few_samples(gm, ctx)
    measured = {} if samples is None else _measured(gm, samples, list(forms))
    rows = {node: _rows(layer_of(gm, node), form, measured.get(node)) for node, form in forms.items()}
    noises = {node: weight_noise(rows[node], form.range) for node, form in forms.items()}
    transfer = dict.fromkeys(forms, 1.0)
    if samples is not None:
        arriving = _arriving(gm, samples, forms, ctx)
        transfer = {
            node: _ratio(arriving[node], _ratio(noises[node].total(), rows[node].total())) for node in forms
        }
    found = []
    for site in sites:
        nodes = [node for node in site.readers if node in forms]
        factors = [_ratio(transfer[node], rows[node].total()) for node in nodes]
        found.append(Candidate(site, [noises[node] for node in nodes], factors))
        if activations and site.scalable and measured:
            stat = measured[nodes[0]]
            value = RangeNoise(stat.low, stat.high, float(_mean_square(stat).mean()))
            found.append(Candidate(site, [value], [sum(transfer[node] for node in nodes)], shares=True))
    return found


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 and math.isfinite(part) else 0.0


def _measured(
    gm: fx.GraphModule, samples: tuple[Tensor, ...], readers: Sequence[fx.Node]
) -> dict[fx.Node, Measured]:
    """What the input channels of each reader carry."""
    axes = {node: channel_axis(gm, node, node.args[0]) or 1 for node in readers}
    found: dict[tuple[str, int], Measured] = {}
    for axis in set(axes.values()):
        names = {str(node.args[0]) for node in readers if axes[node] == axis}
        found |= {(name, axis): stat for name, stat in measure_channels(gm, [samples], names, axis).items()}
    return {node: found[str(node.args[0]), axes[node]] for node in readers}


def _rows(layer: Layer, form: WeightFormat, stat: Measured | None) -> Rows:
    rows = Rows.of(layer, form.spec, None if stat is None else _mean_square(stat))
    return rows if form.range == "minmax" else rows.sampled()


def _mean_square(stat: Measured) -> Tensor:
    return stat.mean.double().square() + stat.std.double().square()


def _arriving(
    gm: fx.GraphModule, samples: tuple[Tensor, ...], forms: Mapping[fx.Node, WeightFormat], ctx: PassContext
) -> dict[fx.Node, float]:
    """The relative power at the outputs of rounding each reader's weight to nearest."""
    rounded = {}
    for node, form in forms.items():
        layer = layer_of(gm, node)
        step = weight_reach(layer.weight, form.spec, layer.info.out_axis, form.range) / form.spec.qmax
        shape = [-1 if axis == layer.info.out_axis else 1 for axis in range(layer.weight.ndim)]
        grid = step.clamp(min=torch.finfo(torch.float32).tiny).view(shape if form.spec.per_channel else [])
        integers = torch.round(layer.weight / grid).clamp(form.spec.qmin, form.spec.qmax)
        rounded[layer.weight_name] = integers * grid
    noise = output_noise(gm, samples, rounded, ctx)
    return {node: noise[layer_of(gm, node).weight_name] for node in forms}
