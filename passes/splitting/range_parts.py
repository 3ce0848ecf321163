"""Cutting channels into parts that get scales of their own: what a cut leaves of the noise, and the best cut.

A scale that serves channels of reach r (the largest magnitude of a weight row, high - low of an activation) has
steps Δ = max r / steps, and rounding adds Δ²/12 to each of them. Counted is that noise relative to the power of a
channel, since after a nonlinear op it matters relative to its own size; it is 1 at most, where all of the channel
is rounded away. Parts are runs of the channels sorted by reach; dynamic programming finds the best runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

_DEAD = 1e-5  # of the largest reach: such a channel holds nothing to keep
_LEVELS = 32  # of the logarithm of the reach, at which cuts are tried


@dataclass(frozen=True, slots=True)
class Spread:
    """What one scale covers: how far each channel reaches above and below zero and its power, float64 [channels]
    each, and the number of steps of the scale."""

    high: Tensor
    low: Tensor
    power: Tensor
    steps: int

    def reach(self) -> Tensor:
        return self.high + self.low

    def run_noise(self, order: Tensor, start: int, ends: Tensor) -> Tensor:
        """Relative noise of the channels order[start:end] under one scale, for each of `ends`; a mean over all."""
        reach = self.reach()
        live = (reach > _DEAD * reach.max()) & (self.power > 0)
        places = order[start:]
        last = ends - start - 1
        joint = self.high[places].cummax(0).values[last] + self.low[places].cummax(0).values[last]
        noise = (joint / self.steps).square()[:, None] / 12 / self.power[places].clamp(min=1e-300)
        counted = (torch.arange(len(places)) <= last[:, None]) & live[places]
        return torch.where(counted, noise.clamp(max=1), 0.0).sum(1) / live.sum().clamp(min=1)


@dataclass(frozen=True, slots=True)
class Cut:
    """Channels of each part, in rising order in each, and the relative noise that is left."""

    parts: tuple[Tensor, ...]
    noise: float


def noise_of_one(spreads: Sequence[Spread]) -> float:
    """The relative noise under one scale for all channels, summed over `spreads`."""
    channels = len(spreads[0].power)
    ends = torch.tensor([channels])
    return sum(float(spread.run_noise(torch.arange(channels), 0, ends)) for spread in spreads)


def best_cuts(spreads: Sequence[Spread], most: int, multiple_of: int) -> list[Cut]:
    """The best cuts into 1, 2 … `most` parts (or fewer, where nothing differs), in this order; sizes are multiples
    of `multiple_of`, save that of the last."""
    best: dict[int, Cut] = {}
    for key in _keys(spreads):
        order = key.argsort(descending=True, stable=True)
        bounds = _bounds(key[order], multiple_of)
        for cut in _cuts_of(order, _costs(spreads, order, bounds), bounds, min(most, len(bounds) - 1)):
            known = best.setdefault(len(cut.parts), cut)
            best[len(cut.parts)] = min(known, cut, key=lambda item: item.noise)
    return [best[count] for count in sorted(best)]


def _keys(spreads: Sequence[Spread]) -> list[Tensor]:
    """What channels may be sorted by, [channels] each: the logarithm of each reach, and before them their mean."""
    reaches = [spread.reach() / spread.reach().max().clamp(min=1e-300) for spread in spreads]
    keys = [reach.clamp(min=_DEAD).log() for reach in reaches]
    return [torch.stack(keys).mean(0), *keys] if len(keys) > 1 else keys


def _bounds(falling: Tensor, multiple_of: int) -> Tensor:
    """Where to cut: at the first channels below evenly spaced levels of the sorted key."""
    levels = torch.linspace(float(falling[0]), float(falling[-1]), _LEVELS + 1, dtype=falling.dtype)[1:-1]
    places = torch.searchsorted(-falling, -levels)
    places = (places / multiple_of).round().long() * multiple_of
    inside = places[(places > 0) & (places < len(falling))]
    return torch.cat([torch.tensor([0]), inside.unique(), torch.tensor([len(falling)])])


def _costs(spreads: Sequence[Spread], order: Tensor, bounds: Tensor) -> Tensor:
    """The noise of the run from one bound to another, [bounds, bounds]; infinite where it is empty."""
    costs = torch.full((len(bounds), len(bounds)), math.inf, dtype=torch.float64)
    for index, start in enumerate(bounds[:-1].tolist()):
        noises = [spread.run_noise(order, start, bounds[index + 1 :]) for spread in spreads]
        costs[index, index + 1 :] = torch.stack(noises).sum(0)
    return costs


def _cuts_of(order: Tensor, costs: Tensor, bounds: Tensor, most: int) -> list[Cut]:
    cuts, best = [], costs[0]
    before = torch.zeros(0, len(bounds), dtype=torch.int64)  # where the last run starts, for each number of runs
    for count in range(1, most + 1):
        if count > 1:
            best, start = (best[:, None] + costs).min(0)
            before = torch.cat([before, start[None]])
        ends = [len(bounds) - 1]
        for starts in before.flip(0):
            ends.append(int(starts[ends[-1]]))
        edges = [0, *bounds[ends].flip(0).tolist()]
        parts = [order[a:b].sort().values for a, b in pairwise(edges)]
        cuts.append(Cut(tuple(parts), float(best[-1])))
    return cuts
