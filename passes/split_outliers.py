"""Outlier channel splitting: the few largest weights of a layer, on which its scale depends, are cut into parts.

An input channel that holds the largest weights of a layer is given to it m times, and its weights in m parts that
add up to them. The function stays what it was; the range of the weights, and with it the step of their integers,
shrinks. The parts are such that rounding them rounds the weight (`splitting/parts.py`). Where the copies of a
channel come from is a matter of the graph (`splitting/copies.py`): one more row of the layer before, or a slice
and a concat.

A value is split likewise (`activations`): a channel that reaches farther than all others comes m times, as equal
shares, by dividing the rows of the layer before; the weights that read it are repeated. Only where what lies
between scales with the channel, and only where calibration samples show its range (`splitting/range_noise.py`).

One budget of channels, `ratio` of all input channels of the layers that can be split, goes channel by channel to
where it saves most: by how much the error of the weight at its number of bits shrinks
(`splitting/weight_noise.py`), relative to the power of what the layer gives, times how much of the layer's noise
arrives at the graph's outputs. That factor and the power of each channel are measured on a few calibration
samples; without any, all count the same.

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

from ..compiler.ir.ops import aten
from ..compiler.ir.passes import Numerics, PassContext, PassResult, Skip
from ..compiler.ir.stages import Stage
from ..compiler.quant.layer_options import LayerOptions, calls_matching, matching_options
from ..compiler.quant.weight_range import weight_reach
from ._layers import Layer
from .splitting.budget import Candidate, spend
from .splitting.candidates import WeightFormat, find_candidates, layer_of
from .splitting.copies import Arrangement, Site, copy_channels, find_sites, put_parameters, was_split
from .splitting.parts import split_parts
from .splitting.weight_noise import Rows, grid_reach

_USUAL = LayerOptions(quantize=True, weight_bits=8, per_tensor=False, weight_range="minmax")


@dataclass(frozen=True, slots=True)
class SplitOutliers:
    """Give the channels with the largest weights to their layer in several parts.

    `ratio` is the share of all input channels that may be added; 0 looks at none. `usual`, `layers` and
    `keep_float` say what bits and ranges the weights will have and which layers stay float, as in
    `plan_quantization`. A layer that was split gets more parts until it reads a multiple of `multiple_of`
    channels; the budget does not count these. `activations` lets values be split too, where calibration samples
    show what that saves.

    Raises:
        ValueError: the ratio is negative or not finite, or the multiple not positive.
    """

    ratio: float = 0.02
    usual: LayerOptions = field(default_factory=LayerOptions)
    layers: Mapping[str, LayerOptions] = field(default_factory=dict)
    keep_float: tuple[str, ...] = ()
    multiple_of: int = 1
    activations: bool = False

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
        if self.ratio == 0:
            return PassResult(0)
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
        candidates = find_candidates(gm, usable, formats, ctx, self.activations)
        budget = math.ceil(self.ratio * sum(site.channels for site in usable))
        spend(candidates, budget)
        chosen = [candidate for candidate in candidates if candidate.added]
        for candidate in chosen:
            candidate.fill_up(self.multiple_of)
            _rewrite(gm, candidate, formats, ctx)
        split = {node for candidate in chosen for node in candidate.site.readers}
        left = f"no split of it was worth a part of the budget of {budget} channels"
        reasons |= {node: left for site in usable for node in site.readers if node not in split}
        notes = tuple(note for candidate in chosen for note in _notes(candidate))
        return PassResult(sum(candidate.added for candidate in chosen), _skips(gm, reasons), notes=notes)

    def _formats(self, gm: fx.GraphModule) -> dict[fx.Node, WeightFormat | None]:
        """The format of each layer's weight; None for one that stays float."""
        special, usual = matching_options(gm, self.layers), self.usual.over(_USUAL)
        kept = {node for glob in self.keep_float for node in calls_matching(gm, glob)}
        found: dict[fx.Node, WeightFormat | None] = {}
        for node in gm.graph.nodes:
            below = replace(usual, quantize=False) if node in kept else usual
            options = special.get(node, LayerOptions()).over(below)
            found[node] = WeightFormat.of(node, options) if options.quantize else None
        return found


def _reasons(sites: Sequence[Site], reason: str) -> dict[fx.Node, str]:
    return {node: reason for site in sites for node in site.readers}


def _skips(gm: fx.GraphModule, reasons: Mapping[fx.Node, str]) -> tuple[Skip, ...]:
    return tuple(Skip(node.name, reasons[node]) for node in gm.graph.nodes if node in reasons)


def _refusal(site: Site, formats: Mapping[fx.Node, WeightFormat | None], ctx: PassContext) -> str | None:
    if all(formats[node] is None for node in site.readers):
        return "it stays float"
    moves = {aten.slice.Tensor, aten.cat.default}
    if site.producer is None and ctx.target is not None and not moves <= ctx.target.ops.keys():
        return f"copies of its channels need a concat, which {ctx.target.name} has no integer kernel for"
    return None


def _notes(candidate: Candidate) -> list[Skip]:
    """What was done for each reader of a site."""
    places = torch.nonzero(candidate.copies() > 1).flatten().tolist()
    what = "come in shares" if candidate.shares else "have their weights in parts"
    text = f"input channels {', '.join(map(str, places))} {what}: {candidate.added} channels more"
    return [Skip(node.name, text) for node in candidate.site.readers]


def _rewrite(
    gm: fx.GraphModule, candidate: Candidate, formats: Mapping[fx.Node, WeightFormat | None], ctx: PassContext
) -> None:
    copies = candidate.copies()
    order = Arrangement.of(copies, candidate.site.groups)
    for node in candidate.site.readers:
        layer = layer_of(gm, node)
        if candidate.shares:
            wide = _as_weight(layer, _repeated(layer, order))
        else:
            wide = _in_parts(layer, formats[node], copies, order)
        put_parameters(gm, layer, wide, None, ctx)
    shares = 1 / copies[order.source] if candidate.shares else None
    copy_channels(gm, candidate.site, order, ctx, shares)


def _in_parts(layer: Layer, form: WeightFormat | None, copies: Tensor, order: Arrangement) -> Tensor:
    """The layer's weight over the channels of `order`."""
    if form is None:
        return _divided(layer, torch.zeros(()), copies, order)
    reach = grid_reach(Rows.of(layer, form.spec), form.range, copies)
    wide = _divided(layer, _grid(layer, form, reach), copies, order)
    if form.range == "minmax":
        return wide
    # How far a clipped grid reaches follows from the parts, which follow from the grid: a second time settles it.
    reach = weight_reach(wide, form.spec, layer.info.out_axis, form.range)
    return _divided(layer, _grid(layer, form, reach), copies, order)


def _grid(layer: Layer, form: WeightFormat, reach: Tensor) -> Tensor:
    """The step of each element, against `Layer.by_input`."""
    step = reach.double() / form.spec.qmax
    return layer.per_output(step) if form.spec.per_channel else step.squeeze(0)


def _repeated(layer: Layer, order: Arrangement) -> Tensor:
    """The weight with the columns of `order`, whole, as `Layer.by_input` has it."""
    by_input = layer.by_input()
    groups, _, inputs = by_input.shape[:3]
    places = order.source.view(groups, -1)
    return torch.stack([by_input[g].index_select(1, places[g] - g * inputs) for g in range(groups)])


def _divided(layer: Layer, step: Tensor, copies: Tensor, order: Arrangement) -> Tensor:
    """The weight with the columns of `order` in parts of integers `step` apart."""
    by_input, wide = layer.by_input(), _repeated(layer, order)
    places, part = order.source.view(layer.groups, -1), order.part.view(layer.groups, -1)
    for channel in torch.nonzero(copies > 1).flatten().tolist():
        group, column = divmod(channel, by_input.shape[2])
        parts = split_parts(by_input[group, :, column], int(copies[channel]), _of_group(step, group))
        for place in torch.nonzero(places[group] == channel).flatten().tolist():
            wide[group, :, place] = parts[int(part[group, place])].double()
    return _as_weight(layer, wide)


def _as_weight(layer: Layer, by_input: Tensor) -> Tensor:
    """`Layer.by_input` in the layer's own order of axes."""
    ordered = by_input if layer.info.out_axis == 0 else by_input.transpose(1, 2)
    return ordered.reshape(-1, *ordered.shape[2:]).to(layer.weight.dtype)


def _of_group(step: Tensor, group: int) -> Tensor:
    """The step [outputs of a group, kernel...] or [] of the columns of one group."""
    return step if step.ndim == 0 else step[group].squeeze(1)
