"""What rounding a value of one scale costs, and what dividing a channel into shares saves.

A channel given as m equal shares reaches an m-th as far, so the range of the whole value may shrink. The error is
Δ²/12 with Δ the range, zero included, over 255 steps.
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
        return float(self._error(self._high / self.copies, self._low / self.copies))

    def gains(self) -> Tensor:
        """By how much one more share of each channel lowers the error: [channels]."""
        ends = [(values / self.copies, values / (self.copies + 1)) for values in (self._high, -self._low)]
        reaches = [torch.maximum(_largest_of_others(now), then) for now, then in ends]
        saved = self.total() - self._error(reaches[0].unsqueeze(0), -reaches[1].unsqueeze(0))
        # of channels that save nothing, the one that reaches farthest comes first
        farthest = torch.maximum(ends[0][0], ends[1][0])
        return saved.clamp(min=0) + 1e-12 * self.total() * farthest / farthest.max().clamp(min=1e-30)

    def split(self, channel: int) -> None:
        self.copies[channel] += 1

    def clone(self) -> RangeNoise:
        twin = copy.copy(self)
        twin.copies = self.copies.clone()
        return twin

    def _error(self, high: Tensor, low: Tensor) -> Tensor:
        """For ends [..., channels]; the largest of the first axis counts."""
        step = (high.amax(0) - low.amin(0)) / _STEPS
        return step.square() / 12 / max(self._power, 1e-30)


def _largest_of_others(values: Tensor) -> Tensor:
    """[channels] -> the largest of all other channels, 0 where there is none."""
    first, second = torch.nn.functional.pad(values, (0, 1)).topk(2).values
    others = first.expand_as(values).clone()
    others[values.argmax()] = second
    return others
