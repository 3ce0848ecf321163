"""Which channels to split: a budget goes, split by split, to where it saves most for each channel added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .copies import Site
from .range_noise import RangeNoise
from .weight_noise import LeastErrorNoise, MinMaxNoise

Noise = MinMaxNoise | LeastErrorNoise | RangeNoise

# The next splits of a layer that are weighed together: where two channels are about equally large, the first split
# saves nothing, and only the second one shrinks the range.
_AHEAD = 8


@dataclass(frozen=True, slots=True)
class Proposal:
    """Channels to give one more part each, in order, and what that saves for each of them."""

    channels: tuple[int, ...]
    rate: float


@dataclass(slots=True)
class Candidate:
    """A site, the errors that a split makes smaller, and how much each counts.

    They are those of the quantized readers' weights, which are cut into parts; or, with `shares`, that of the
    value itself, which is divided.
    """

    site: Site
    noises: Sequence[Noise]
    factors: Sequence[float]
    shares: bool = False
    added: int = 0

    def copies(self) -> Tensor:
        """How often each channel is there: [channels]."""
        return self.noises[0].copies

    def propose(self, budget: int) -> Proposal:
        """The next splits, of at most `budget` channels; a rate of 0 if none saves anything."""
        noises = [noise.clone() for noise in self.noises if not isinstance(noise, LeastErrorNoise)]
        if len(noises) < len(self.noises):  # clipped for the least error: every split counts by itself
            step, saved = self._best_split(self.noises)
            return Proposal(step, saved / len(step)) if len(step) <= budget else Proposal((), 0.0)
        best, start = Proposal((), 0.0), self._total(noises)
        channels: tuple[int, ...] = ()
        while len(channels) < min(_AHEAD * self.site.groups, budget):
            step, _ = self._best_split(noises)
            channels += step
            _split(noises, step)
            rate = (start - self._total(noises)) / len(channels)
            if len(channels) <= budget and rate > best.rate:
                best = Proposal(channels, rate)
        return best

    def take(self, channels: Sequence[int]) -> None:
        _split(self.noises, channels)
        self.added += len(channels)

    def fill_up(self, multiple: int) -> None:
        """Split on until the channels are a multiple of `multiple`, if whole splits can make them one."""
        channels, groups = self.site.channels + self.added, self.site.groups
        more = next((n for n in range(multiple) if (channels + n * groups) % multiple == 0), 0)
        for _ in range(more):
            self.take(self._best_split(self.noises)[0])

    def _total(self, noises: Sequence[Noise]) -> float:
        return sum(factor * noise.total() for noise, factor in zip(noises, self.factors, strict=True))

    def _best_split(self, noises: Sequence[Noise]) -> tuple[tuple[int, ...], float]:
        """One channel of each group, and what one more part of them saves."""
        gains = sum(factor * noise.gains() for noise, factor in zip(noises, self.factors, strict=True))
        assert isinstance(gains, Tensor)
        saved, place = gains.view(self.site.groups, -1).max(1)
        first = torch.arange(self.site.groups) * (self.site.channels // self.site.groups)
        return tuple((place + first).tolist()), float(saved.sum())


def spend(candidates: Sequence[Candidate], budget: int) -> None:
    """Split channels, at most `budget` of them; of the two candidates of a site one at most."""
    left, out = budget, set[int]()
    proposals = [candidate.propose(left) for candidate in candidates]
    while candidates and (best := max(proposals, key=lambda proposal: proposal.rate)).rate > 0:
        place = proposals.index(best)
        candidates[place].take(best.channels)
        left -= len(best.channels)
        out |= {i for i, c in enumerate(candidates) if i != place and c.site is candidates[place].site}
        for index, candidate in enumerate(candidates):
            if index in out:
                proposals[index] = Proposal((), 0.0)
            elif index == place or len(proposals[index].channels) > left:
                proposals[index] = candidate.propose(left)


def _split(noises: Sequence[Noise], channels: Sequence[int]) -> None:
    for noise in noises:
        for channel in channels:
            noise.split(channel)
