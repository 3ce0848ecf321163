"""High-bias absorption: what a channel always exceeds moves past its activation, into the next layer's bias.

    layer 2(relu(W₁x + b₁))  =  layer 2(relu(W₁x + b₁ - c) + c)  where W₁x + b₁ >= c >= 0
    b₁ becomes b₁ - c, b₂ becomes b₂ + W₂·c

Equalization leaves channels whose bias is large against their spread; absorbing it gives the activation's range
back to the others. Through a clamp by numbers a channel is taken only if it stays below the upper bound, too; the
bounds of a clamp with one maximum for each channel move along. c is the lowest value of the channel minus the
clamp's lower bound. The lowest value is the smaller of

    mean - `deviations` · std       from batch norm statistics, and measured where there are calibration batches
    mean - `margin` · (mean - low)  of what the calibration batches show
    low                             on the example inputs

and the highest value mirrors it; so on these samples the function stays what it was, up to rounding, and inputs
may go beyond them by the margin. Layers that pad with zeros cannot take a constant.

In no recipe: behind `EqualizeLayers`, whose factors follow the ranges of activations as well, it gained nothing.
(MobileNetV2 (TF), weights per tensor, to nearest, 120 images: 11 channels move, SQNR 10.16 dB with and without.)

Nagel et al., *Data-Free Quantization* (2019), §4.1.3, with 3 deviations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor, fx

from ..compiler.ir.constants import add_constant, constant
from ..compiler.ir.nodes import describe, sole_user
from ..compiler.ir.ops import OPS, aten, bound_args, clamp_bounds, op_name
from ..compiler.ir.passes import Numerics, PassContext, PassResult, Skip
from ..compiler.ir.stages import Stage
from ..compiler.quant.channel_stats import ChannelStat, Measured, measure_channels
from ._layers import Layer, parameters, set_parameters, share_channels, uneven_border

_NEGLIGIBLE = 1e-3  # of a channel's spread: not worth a change


@dataclass(frozen=True, slots=True)
class AbsorbBias:
    """layer -> relu or clamp -> layer: the part of the first bias that never matters goes into the second.

    `changes` counts channels.
    """

    name: ClassVar[str] = "absorb-bias"
    requires: ClassVar[Stage] = Stage.FLOAT
    ensures: ClassVar[Stage] = Stage.FLOAT
    numerics: ClassVar[Numerics] = "close"

    deviations: float = 3.0
    margin: float = 2.0

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult:
        sites = [site for node in gm.graph.nodes if (site := _site(gm, node)) is not None]
        measured = _measure(gm, sites, ctx)
        changes, skipped = 0, []
        for site in sites:
            reach = self._reach(site, measured.get(site.layer.node.name), ctx)
            absorbed = None if reach is None else _absorbable(site, *reach)
            if absorbed is None:
                reason = "neither batch norm statistics nor calibration batches say where its channels lie"
            elif not bool(absorbed.any()):
                continue
            else:
                match _match(gm, site):
                    case Layer() as reader:
                        _absorb(gm, site, reader, absorbed, ctx)
                        changes += int((absorbed > 0).sum())
                        continue
                    case text:
                        reason = f"keeps the bias of {int((absorbed > 0).sum())} channel(s): {text}"
            skipped.append(Skip(site.layer.node.name, f"{describe(site.layer.node)} {reason}"))
        return PassResult(changes, tuple(skipped))

    def _reach(self, site: Site, measured: Measured | None, ctx: PassContext) -> tuple[Tensor, Tensor] | None:
        """Lowest and highest value of each channel before its activation, float64; None if nothing is known."""
        stat = None if ctx.channel_stats is None else ctx.channel_stats.by_weight.get(site.layer.weight_name)
        sampled = measured if ctx.batches is not None else None
        lows = [] if measured is None else [measured.low]
        highs = [] if measured is None else [measured.high]
        for known in (stat, sampled):
            if known is not None:
                lows.append(known.mean - self.deviations * known.std)
                highs.append(known.mean + self.deviations * known.std)
        if sampled is not None:
            lows.append(sampled.mean - self.margin * (sampled.mean - sampled.low))
            highs.append(sampled.mean + self.margin * (sampled.high - sampled.mean))
        if stat is None and sampled is None:
            return None
        return torch.stack(lows).amin(0).double(), torch.stack(highs).amax(0).double()


@dataclass(frozen=True, slots=True)
class Site:
    """A layer that one clamp alone reads, and the clamp's bounds.

    `value` is what that gives; behind a second clamp, by one maximum for each channel (`caps`), what this gives.
    """

    layer: Layer
    bounds: tuple[float, float]
    value: fx.Node
    caps: Tensor | None


def _site(gm: fx.GraphModule, node: fx.Node) -> Site | None:
    """The layer with its clamps; None for anything else, or a clamp without a lower bound."""
    if node.target not in OPS or not isinstance(layer := parameters(gm, node), Layer):
        return None
    clamp = sole_user(node)
    bounds = None if clamp is None else clamp_bounds(clamp)
    if clamp is None or bounds is None or bounds[0] == -torch.inf:
        return None
    capped = sole_user(clamp)
    if capped is None or capped.target is not aten.clamp.Tensor or bound_args(capped)["min"] is not None:
        return Site(layer, bounds, clamp, None)
    caps = constant(gm, bound_args(capped)["max"])
    if caps is None or caps.numel() != len(layer.output_ranges()):
        return Site(layer, bounds, clamp, None)
    return Site(layer, bounds, capped, caps)


def _measure(gm: fx.GraphModule, sites: list[Site], ctx: PassContext) -> Mapping[str, Measured]:
    """What the layers give on the calibration batches and the example inputs."""
    batches: Iterable[tuple[Tensor, ...]] = () if ctx.batches is None else ctx.batches()
    examples = [ctx.example_inputs] if ctx.example_inputs else []
    if not sites or (ctx.batches is None and not examples):
        return {}
    axes = {site.layer.node.name: -1 - site.layer.info.spatial for site in sites}
    return measure_channels(gm, chain(batches, examples), axes, axes)


def _absorbable(site: Site, low: Tensor, high: Tensor) -> Tensor:
    """c for each channel, float64; 0 where the channel comes near a bound."""
    above = low - site.bounds[0]
    if site.caps is not None:
        above = above.minimum(site.caps.double().flatten() - site.bounds[0])
    fits = (above > _NEGLIGIBLE * (high - low)) & (high <= site.bounds[1])
    return torch.where(fits, above, 0.0).clamp(min=0)


def _match(gm: fx.GraphModule, site: Site) -> Layer | str:
    """The layer that can take the constants, or why there is none."""
    reader = sole_user(site.value)
    if reader is None:
        return f"{site.value.name} has {len(site.value.users)} users"
    if reader.target not in OPS or reader.args[0] is not site.value:
        return f"{reader.name} ({op_name(reader.target)}) reads it, not a conv or linear"
    if reason := uneven_border(gm, reader):
        return reason
    layer = parameters(gm, reader)
    if isinstance(layer, Layer) and not share_channels(site.layer, layer):
        return f"{reader.name} has its channels on another axis"
    return layer


def _absorb(gm: fx.GraphModule, site: Site, reader: Layer, absorbed: Tensor, ctx: PassContext) -> None:
    layer = parameters(gm, site.layer.node)  # its bias may have taken constants since
    assert isinstance(layer, Layer)
    set_parameters(gm, layer, layer.weight, layer.bias_or_zeros() - absorbed)
    set_parameters(gm, reader, reader.weight, reader.bias_or_zeros() + reader.response(absorbed))
    if site.caps is not None:
        lowered = (site.caps.double() - absorbed.view(site.caps.shape)).to(site.caps.dtype)
        name = f"{bound_args(site.value)['max'].target}_lowered"
        site.value.args = (site.value.args[0], None, add_constant(gm, name, lowered, site.value))
    if ctx.channel_stats is not None and (stat := ctx.channel_stats.by_weight.get(layer.weight_name)) is not None:
        moved = ChannelStat((stat.mean.double() - absorbed).float(), stat.std)
        ctx.channel_stats.by_weight[layer.weight_name] = moved
