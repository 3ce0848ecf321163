"""Outlier channel splitting: the few largest weights of a layer, on which its scale depends, are cut into parts.

An input channel that holds the largest weights of a layer is given to it m times, and its weights in m parts that
add up to them. The function stays what it was; the range of the weights, and with it the step of their integers,
shrinks. The parts are such that rounding them rounds the weight (`_split_parts.py`). Where the copies of a channel
come from is a matter of the graph (`_copies.py`): one more row of the layer before, or a slice and a concat.

One budget of channels, `ratio` of all input channels of the layers that can be split, goes channel by channel to
where it saves most: by how much the error of the weight at its number of bits shrinks (`_weight_noise.py`),
relative to the power of what the layer gives, times how much of the layer's noise arrives at the graph's outputs.
That factor and the power of each channel are measured on a few calibration samples; without any, all count the
same.

The promise is `close`, not exact: the parts add up to the weight exactly, but float32 sums them in another order.

Ritchie Zhao, Yuwei Hu, Jordan Dotzel, Christopher De Sa, Zhiru Zhang, *Improving Neural Network Quantization
without Retraining using Outlier Channel Splitting* (2019), §3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, fx

from ..compiler.ir.ops import OPS, aten
from ..compiler.ir.passes import Numerics, PassContext, PassResult, Skip
from ..compiler.ir.stages import Stage
from ..compiler.quant.channel_stats import measure_channels
from ..compiler.quant.layer_options import LayerOptions, calls_matching, layer_options
from ..compiler.quant.qparams import QSpec
from ..compiler.quant.weight_range import WeightRange, weight_reach
from ._copies import Arrangement, Site, channel_axis, copy_channels, find_sites, put_parameters, was_split
from ._layer_transfer import few_samples, output_noise
from ._layers import Layer, parameters
from ._split_budget import Candidate, spend
from ._split_parts import split_parts
from ._weight_noise import Rows, weight_noise

_WEIGHT = QSpec(-127, 127, torch.int8, symmetric=True, per_channel=True)
_USUAL = LayerOptions(quantize=True, weight_bits=8, per_tensor=False, weight_range="minmax")


@dataclass(frozen=True, slots=True)
class SplitOutliers:
    """Give the channels with the largest weights to their layer in several parts.

    `ratio` is the share of all input channels that may be added. `usual`, `layers` and `keep_float` say what bits
    and ranges the weights will have and which layers stay float, as in `plan_quantization`. A layer that was split
    gets more parts until it reads a multiple of `multiple_of` channels; the budget does not count these.

    Raises:
        ValueError: the ratio is negative or not finite, or the multiple not positive.
    """

    ratio: float = 0.02
    usual: LayerOptions = field(default_factory=LayerOptions)
    layers: Mapping[str, LayerOptions] = field(default_factory=dict)
    keep_float: tuple[str, ...] = ()
    multiple_of: int = 1

    name: ClassVar[str] = "split-outliers"
    requires: ClassVar[Stage] = Stage.FLOAT
    ensures: ClassVar[Stage] = Stage.FLOAT
    numerics: ClassVar[Numerics] = "close"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ratio) and self.ratio >= 0):
            raise ValueError(f"the ratio of channels to add must be 0 or more, got {self.ratio}")
        if self.multiple_of < 1:
            raise ValueError(f"channels cannot be a multiple of {self.multiple_of}")

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        sites, reasons = find_sites(gm)
        if was_split(gm):
            reasons |= _reasons(sites, "channels of this graph were split before")
            return PassResult(0, _skips(gm, reasons))
        formats = self._formats(gm)
        usable = []
        for site in sites:
            refusal = _refusal(site, formats, ctx)
            if refusal is None:
                usable.append(site)
            else:
                reasons |= dict.fromkeys(site.readers, refusal)
        candidates = _candidates(gm, usable, formats, ctx)
        budget = math.ceil(self.ratio * sum(site.channels for site in usable))
        spend(candidates, budget)
        chosen = [candidate for candidate in candidates if candidate.added]
        for candidate in chosen:
            candidate.fill_up(self.multiple_of)
            _rewrite(gm, candidate, formats, ctx)
        left = [candidate.site for candidate in candidates if not candidate.added]
        reasons |= _reasons(left, f"no split of it was worth a part of the budget of {budget} channels")
        return PassResult(sum(candidate.added for candidate in chosen), _skips(gm, reasons))

    def _formats(self, gm: fx.GraphModule) -> dict[fx.Node, _Format | None]:
        """The format of each layer's weight; None for one that stays float."""
        known = {glob: options for glob, options in self.layers.items() if calls_matching(gm, glob)}
        special, usual = layer_options(gm, known), self.usual.over(_USUAL)
        kept = {node for glob in self.keep_float for node in calls_matching(gm, glob)}
        found: dict[fx.Node, _Format | None] = {}
        for node in gm.graph.nodes:
            below = replace(usual, quantize=False) if node in kept else usual
            options = special.get(node, LayerOptions()).over(below)
            found[node] = _Format.of(node, options) if options.quantize else None
        return found


@dataclass(frozen=True, slots=True)
class _Format:
    """The integers of a weight and how its range is chosen."""

    spec: QSpec
    range: WeightRange

    @classmethod
    def of(cls, node: fx.Node, options: LayerOptions) -> _Format:
        spec = options.weight_spec(_WEIGHT)
        info = OPS.get(node.target)  # type: ignore[call-overload]
        if info is not None and info.out_axis != 0:
            spec = replace(spec, per_channel=False)
        return cls(spec, options.weight_range or "minmax")


def _reasons(sites: Sequence[Site], reason: str) -> dict[fx.Node, str]:
    return {node: reason for site in sites for node in site.readers}


def _skips(gm: fx.GraphModule, reasons: Mapping[fx.Node, str]) -> tuple[Skip, ...]:
    return tuple(Skip(node.name, reasons[node]) for node in gm.graph.nodes if node in reasons)


def _refusal(site: Site, formats: Mapping[fx.Node, _Format | None], ctx: PassContext) -> str | None:
    if all(formats[node] is None for node in site.readers):
        return "it stays float"
    moves = {aten.slice.Tensor, aten.cat.default}
    if site.producer is None and ctx.target is not None and not moves <= ctx.target.ops.keys():
        return f"copies of its channels need a concat, which {ctx.target.name} has no integer kernel for"
    return None


def _candidates(
    gm: fx.GraphModule, sites: Sequence[Site], formats: Mapping[fx.Node, _Format | None], ctx: PassContext
) -> list[Candidate]:
    """The sites with the error of each quantized reader's weight, and how much it counts."""
    samples = few_samples(gm, ctx)
    readers = [node for site in sites for node in site.readers if formats[node] is not None]
    powers = {} if samples is None else _powers(gm, samples, readers)
    noises, energies = {}, {}
    for node in readers:
        layer, form = _layer(gm, node), formats[node]
        assert form is not None
        rows = Rows.of(layer, form.spec, powers.get(node))
        noises[node] = weight_noise(rows, form.range, torch.ones_like(rows.power, dtype=torch.int64))
        energies[node] = float(rows.energy().sum())
    if samples is None:
        factors = {node: _ratio(1.0, energies[node]) for node in readers}
    else:
        arriving = _arriving(gm, samples, readers, formats, ctx)
        factors = {node: _ratio(arriving[node], noises[node].total()) for node in readers}
    sets = [[node for node in site.readers if node in noises] for site in sites]
    return [
        Candidate(site, [noises[node] for node in nodes], [factors[node] for node in nodes])
        for site, nodes in zip(sites, sets, strict=True)
    ]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 and math.isfinite(part) else 0.0


def _powers(gm: fx.GraphModule, samples: tuple[Tensor, ...], readers: Sequence[fx.Node]) -> dict[fx.Node, Tensor]:
    """The mean square of each input channel of each reader."""
    axes = {node: channel_axis(gm, node, node.args[0]) or 1 for node in readers}
    squares = {}
    for axis in set(axes.values()):
        names = {str(node.args[0]) for node in readers if axes[node] == axis}
        for name, stat in measure_channels(gm, [samples], names, axis).items():
            squares[name, axis] = stat.mean.double().square() + stat.std.double().square()
    return {node: squares[str(node.args[0]), axes[node]] for node in readers}


def _arriving(
    gm: fx.GraphModule,
    samples: tuple[Tensor, ...],
    readers: Sequence[fx.Node],
    formats: Mapping[fx.Node, _Format | None],
    ctx: PassContext,
) -> dict[fx.Node, float]:
    """The relative power at the outputs of rounding each reader's weight to nearest."""
    rounded = {}
    for node in readers:
        layer, form = _layer(gm, node), formats[node]
        assert form is not None
        step = weight_reach(layer.weight, form.spec, layer.info.out_axis, form.range) / form.spec.qmax
        shape = [-1 if axis == layer.info.out_axis else 1 for axis in range(layer.weight.ndim)]
        grid = step.clamp(min=torch.finfo(torch.float32).tiny).view(shape if form.spec.per_channel else [])
        integers = torch.round(layer.weight / grid).clamp(form.spec.qmin, form.spec.qmax)
        rounded[layer.weight_name] = integers * grid
    noise = output_noise(gm, samples, rounded, ctx)
    return {node: noise[_layer(gm, node).weight_name] for node in readers}


def _layer(gm: fx.GraphModule, node: fx.Node) -> Layer:
    layer = parameters(gm, node)
    assert isinstance(layer, Layer)
    return layer


def _rewrite(
    gm: fx.GraphModule, candidate: Candidate, formats: Mapping[fx.Node, _Format | None], ctx: PassContext
) -> None:
    order = Arrangement.of(candidate.copies(), candidate.site.groups)
    for node in candidate.site.readers:
        layer = _layer(gm, node)
        put_parameters(gm, layer, _in_parts(layer, formats[node], candidate.copies(), order), None, ctx)
    copy_channels(gm, candidate.site, order, ctx)


def _in_parts(layer: Layer, form: _Format | None, copies: Tensor, order: Arrangement) -> Tensor:
    """The layer's weight over the channels of `order`."""
    if form is None:
        return _widened(layer, torch.zeros(()), copies, order)
    reach = weight_noise(Rows.of(layer, form.spec), form.range, copies).reach()
    wide = _widened(layer, _grid(layer, form, reach), copies, order)
    if form.range == "minmax":
        return wide
    # How far a clipped grid reaches follows from the parts, which follow from the grid: a second time settles it.
    reach = weight_reach(wide, form.spec, layer.info.out_axis, form.range)
    return _widened(layer, _grid(layer, form, reach), copies, order)


def _grid(layer: Layer, form: _Format, reach: Tensor) -> Tensor:
    """The step of each element, against `Layer.by_input`."""
    step = reach.double() / form.spec.qmax
    return layer.per_output(step) if form.spec.per_channel else step.squeeze(0)


def _widened(layer: Layer, step: Tensor, copies: Tensor, order: Arrangement) -> Tensor:
    by_input = layer.by_input()
    groups, _, inputs = by_input.shape[:3]
    places = order.source.view(groups, -1)
    wide = torch.stack([by_input[g].index_select(1, places[g] - g * inputs) for g in range(groups)])
    for channel in torch.nonzero(copies > 1).flatten().tolist():
        group, column = divmod(channel, inputs)
        parts = split_parts(by_input[group, :, column], int(copies[channel]), _of_group(step, group))
        for place in torch.nonzero(places[group] == channel).flatten().tolist():
            wide[group, :, place] = parts[int(order.part.view(groups, -1)[group, place])].double()
    if layer.info.out_axis != 0:
        wide = wide.transpose(1, 2)
    return wide.reshape(-1, *wide.shape[2:]).to(layer.weight.dtype)


def _of_group(step: Tensor, group: int) -> Tensor:
    """The step [outputs of a group, kernel...] or [] of the columns of one group."""
    return step if step.ndim == 0 else step[group].squeeze(1)
