"""Clamps that keep one bound for all channels while the channels are scaled.

A channel that reaches its bound can only be scaled together with the others that do: they share a common factor
s, and the bound becomes bound / s. A channel that stays away from its bound, at most at `reach`, may have a factor
of its own, as long as reach / s_c stays within the new bound: s_c >= s · reach / bound. That such a channel stays
away is known only from evidence: batch norm statistics, or calibration samples. A clamp that no channel reaches
becomes a relu (or nothing, without a lower bound).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ...compiler.ir.nodes import describe
from ...compiler.ir.ops import OPS, aten, bound_args, clamp_bounds
from ...compiler.ir.passes import Skip
from ...compiler.quant.channel_stats import ChannelStats
from .._rewrite import replace, stand_in
from .classes import Classes
from .maps import ChannelMap, ClampChannels

_DEVIATIONS = 6.0  # a channel is taken to stay within so many standard deviations of its mean
_MARGIN = 1.25  # … or within this multiple of what samples show


@dataclass(frozen=True, slots=True)
class Reach:
    """Lowest and highest value that each channel of a clamp's input is taken to have, [channels], and why."""

    low: Tensor
    high: Tensor
    evidence: str


@dataclass(frozen=True, slots=True)
class PinnedClamp:
    """`floors` [channels]: logarithm of a channel's smallest factor relative to the common one; NaN where the
    channel reaches its bound. `common` is the class that those have; None if there are none."""

    clamp: ClampChannels
    bounds: tuple[float, float]
    floors: Tensor
    common: int | None
    evidence: str

    @property
    def free_channels(self) -> int:
        return int(self.floors.isfinite().sum() + self.floors.isneginf().sum())

    def note(self) -> Skip:
        node, count = self.clamp.node, self.floors.numel()
        bounds = " and ".join(f"{bound:g}" for bound in self.bounds if math.isfinite(bound) and bound != 0)
        if self.common is None:
            return Skip(
                node.name, f"{describe(node)} lost its bound {bounds}: no channel reaches it ({self.evidence})"
            )
        reason = f"{self.free_channels} of {count} channels never reach the bound {bounds} ({self.evidence})"
        return Skip(node.name, f"{describe(node)} keeps one bound: {reason} and are scaled apart from the others")


@dataclass(frozen=True, slots=True)
class Groups:
    """Classes with one factor: `index` [classes] numbers them; `common` and `floor` [classes] bound a class from
    below, relative to another one (-inf: not at all); `fixed` [classes] keep the factor 1."""

    index: Tensor
    common: Tensor
    floor: Tensor
    fixed: Tensor

    @classmethod
    def of(cls, channels: ChannelMap, pinned: Sequence[PinnedClamp]) -> Groups:
        classes = Classes()
        ids = classes.fresh(channels.count)
        for item in pinned:
            if item.common is not None:
                classes.join(_classes(item.clamp)[item.floors.isnan()], torch.tensor(item.common))
        roots = classes.roots(ids)
        fixed = torch.zeros(channels.count, dtype=torch.bool)
        fixed[roots[~channels.free]] = True
        floor = torch.full((channels.count,), -math.inf, dtype=torch.float64)
        common = torch.zeros(channels.count, dtype=torch.int64)
        for item in pinned:
            own = ~item.floors.isnan()
            if item.common is not None:
                floor[_classes(item.clamp)[own]] = item.floors[own]
                common[_classes(item.clamp)[own]] = item.common
        return cls(roots, common, floor, fixed[roots])

    def within(self, logs: Tensor) -> Tensor:
        """`logs` [classes] where they keep every floor."""
        return torch.maximum(logs, logs[self.common] + self.floor)


def pin(channels: ChannelMap, reaches: Mapping[fx.Node, Reach]) -> list[PinnedClamp]:
    """Every clamp by numbers; one of unknown reach is taken to be reached by all channels."""
    clamps = [(clamp, bounds) for clamp in channels.clamps if (bounds := _bounds(clamp.node)) is not None]
    seen = torch.zeros(channels.count)
    for clamp, _ in clamps:
        seen[_classes(clamp).unique()] += 1
    own = channels.free & (seen == 1)
    return [_pin(clamp, bounds, own, reaches.get(clamp.node)) for clamp, bounds in clamps]


def _pin(clamp: ClampChannels, bounds: tuple[float, float], own: Tensor, reach: Reach | None) -> PinnedClamp:
    ids = _classes(clamp)
    floors = torch.full(ids.shape, math.nan, dtype=torch.float64)
    if reach is None:
        return PinnedClamp(clamp, bounds, floors, int(ids[0]), "nothing is known of them")
    needed = torch.zeros(ids.shape, dtype=torch.float64)
    for side, bound in ((reach.low, bounds[0]), (reach.high, bounds[1])):
        if bound != 0 and math.isfinite(bound):
            needed = torch.maximum(needed, side.double() / bound)
    away = needed < 1
    if bool(away.all()):
        return PinnedClamp(clamp, bounds, torch.full_like(floors, -math.inf), None, reach.evidence)
    away &= own[ids]
    floors[away] = needed[away].log()
    return PinnedClamp(clamp, bounds, floors, int(ids[~away][0]), reach.evidence)


def _classes(clamp: ClampChannels) -> Tensor:
    return clamp.ids.flatten()


def _bounds(node: fx.Node) -> tuple[float, float] | None:
    """(low, high) of a clamp by numbers."""
    return (0.0, 6.0) if node.target is aten.relu6.default else clamp_bounds(node)


def with_pinned(channels: ChannelMap, pinned: Sequence[PinnedClamp]) -> ChannelMap:
    """The map with one class for each pinned clamp, for `rescale`; those that go are not in it."""
    pins = {item.clamp.node: item for item in pinned}
    clamps = []
    for clamp in channels.clamps:
        item = pins.get(clamp.node)
        if item is None:
            clamps.append(clamp)
        elif item.common is not None:
            clamps.append(dataclasses.replace(clamp, ids=torch.tensor(item.common)))
    return dataclasses.replace(channels, clamps=tuple(clamps))


def drop_unreached(gm: fx.GraphModule, pinned: Iterable[PinnedClamp]) -> int:
    """Clamps that no channel reaches become relu, or their input; how many there were."""
    unreached = [item for item in pinned if item.common is None]
    for item in unreached:
        node = item.clamp.node
        source = node.args[0]
        assert isinstance(source, fx.Node)
        replace(gm, node, stand_in(gm, node, aten.relu.default, (source,)) if item.bounds[0] == 0 else source)
    return len(unreached)


# --- evidence -------------------------------------------------------------------------------------------------


def reaches_of_samples(
    gm: fx.GraphModule, channels: ChannelMap, batches: Iterable[Sequence[Tensor]]
) -> dict[fx.Node, Reach]:
    """What the inputs of all clamps hold on the samples of `batches`, and a margin."""
    watch = _Watch(gm, channels)
    samples = 0
    with torch.no_grad():
        for batch in batches:
            watch.run(*batch)
            samples += batch[0].shape[0]
    evidence = f"{samples} samples and a quarter more"
    return {node: Reach(low * _MARGIN, high * _MARGIN, evidence) for node, (low, high) in watch.seen.items()}


class _Watch(fx.Interpreter):
    def __init__(self, gm: fx.GraphModule, channels: ChannelMap) -> None:
        super().__init__(gm)
        self._axes = {
            clamp.node: channels.ids[clamp.node][0] for clamp in channels.clamps if clamp.node in channels.ids
        }
        self.seen: dict[fx.Node, tuple[Tensor, Tensor]] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n in self._axes:
            value = self.env[n.args[0]]  # type: ignore[index]
            axes = [axis for axis in range(value.ndim) if axis != self._axes[n]]
            low, high = value.amin(axes), value.amax(axes)
            if n in self.seen:
                low, high = torch.minimum(low, self.seen[n][0]), torch.maximum(high, self.seen[n][1])
            self.seen[n] = low, high
        return super().run_node(n)


def reaches_of_norms(channels: ChannelMap, stats: ChannelStats) -> dict[fx.Node, Reach]:
    """What batch norms say of the clamps that read a layer directly."""
    found: dict[fx.Node, Reach] = {}
    for clamp in channels.clamps:
        layer = clamp.node.args[0]
        if not isinstance(layer, fx.Node) or layer.target not in OPS:
            continue
        stat = stats.by_weight.get(str(bound_args(layer)["weight"].target))
        if stat is not None and stat.mean.numel() == clamp.ids.numel():
            width = _DEVIATIONS * stat.std
            evidence = f"{_DEVIATIONS:g} standard deviations of its batch norm"
            found[clamp.node] = Reach(stat.mean - width, stat.mean + width, evidence)
    return found
