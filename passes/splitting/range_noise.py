"""What rounding a value of one scale costs, and what dividing a channel into shares saves.

A channel given as m equal shares reaches an m-th as far, so the range of the whole value may shrink. All shares
are rounded alike, so their errors add up: with Δ the range, zero included, over 255 steps, the error of the
channel is m²·Δ²/12. That pays where a few channels reach farther than all others, which alone become more exact.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

_STEPS = 255


class RangeNoise:
    """The error of a value whose channels lie in [low, high] [channels], relative to its mean square `power`.
    `copies` [channels] are the shares so far."""

    def __init__(self, low: Tensor, high: Tensor, power: float) -> None:
        self.copies = torch.ones(len(low), dtype=torch.int64)
        self._low, self._high = low.double().clamp(max=0), high.double().clamp(min=0)
        self._power = power

    def total(self) -> float:
        high, low = (self._high / self.copies).amax(), (self._low / self.copies).amin()
        return float(self._error(high - low, self.copies.square().sum()))

    def gains(self) -> Tensor:
        """By how much one more share of each channel lowers the error: [channels]."""
        ends = [(values / self.copies, values / (self.copies + 1)) for values in (self._high, -self._low)]
        reach = sum(torch.maximum(_largest_of_others(now), then) for now, then in ends)
        shares = self.copies.square().sum() + 2 * self.copies + 1
        saved = (self.total() - self._error(torch.as_tensor(reach), shares)).clamp(min=0)
        # of channels that save nothing, the one that reaches farthest comes first
        farthest = torch.maximum(ends[0][0], ends[1][0])
        return saved + 1e-12 * self.total() * farthest / farthest.max().clamp(min=1e-30)

    def split(self, channel: int) -> None:
        self.copies[channel] += 1

    def clone(self) -> RangeNoise:
        twin = copy.copy(self)
        twin.copies = self.copies.clone()
        return twin

    def _error(self, reach: Tensor, shares: Tensor) -> Tensor:
        """The mean over the channels, whose numbers of shares squared add up to `shares`."""
        return (reach / _STEPS).square() / 12 * shares / len(self.copies) / max(self._power, 1e-30)


def _largest_of_others(values: Tensor) -> Tensor:
    """[channels] -> the largest of all other channels, 0 where there is none."""
    first, second = torch.nn.functional.pad(values, (0, 1)).topk(2).values
    others = first.expand_as(values).clone()
    others[values.argmax()] = second
    return others
