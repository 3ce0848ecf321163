"""Each weight up or down, learned.

A weight is floor + h(v), h = clip(1.2·sigmoid(v) - 0.1, 0, 1). Adam fits v so that the layer's output for the
integers that it reads is that of the float layer for its float inputs (the paper's asymmetric form), both after
the activation; 1 - |2h - 1|^β, with β falling from 20 to 2, drives each h to 0 or 1 (equations 21 to 25). Errors
count in multiples of what rounding at random costs, so that one strength of that term does for all layers. Nagel
et al., *Up or Down? Adaptive Rounding for Post-Training Quantization* (2020), §3.

The layer is a matrix product over sampled rows, its gradient is written out, and an iteration reads only a few
hundred rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_STRETCH, _SHIFT = 1.2, 0.1
_WARM_UP = 0.2  # of the iterations: before that, nothing drives h to its ends
_BETAS = (20.0, 2.0)
_RATE = 1e-2
_ELEMENTS = 2**19  # of the rows read by one iteration


@dataclass(frozen=True, slots=True)
class Problem:
    """What one layer's integers should do; they multiply `rows` [groups, rows, fan-in].

    `wanted` [groups, rows, outputs] is what should come out. Outputs below `low` or above `high`, each
    [groups, 1, outputs], cannot be told apart: the activation's bounds, or those of the output's type.
    """

    rows: Tensor
    wanted: Tensor
    low: Tensor
    high: Tensor

    def errors(self, z: Tensor) -> Tensor:
        """Squared error of each output, summed over the rows: [groups, outputs], float64."""
        total = torch.zeros(z.shape[0], z.shape[2], dtype=torch.float64)
        for rows, wanted in zip(self.rows.split(1024, 1), self.wanted.split(1024, 1), strict=True):
            total += self._off(rows @ z, wanted).square().sum(1, dtype=torch.float64)
        return total

    def _off(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        return outputs.clamp(self.low, self.high) - wanted.clamp(self.low, self.high)

    def slope(self, z: Tensor, chosen: Tensor) -> Tensor:
        """Gradient of half the mean squared error over the rows `chosen`, for each weight. An output beyond a
        bound counts as long as its wanted value is not."""
        rows = self.rows[:, chosen]
        return rows.transpose(1, 2) @ self._off(rows @ z, self.wanted[:, chosen]) / len(chosen)


def learn_rounding(
    problem: Problem, real: Tensor, low: int, high: int, iterations: int, generator: torch.Generator
) -> Tensor:
    """Integers in [low, high] next to `real` weights [groups, fan-in, outputs] in units of the grid; float32."""
    floor = real.floor().clamp(low, high - 1).float()
    part = (real.float() - floor).clamp(0.01, 0.99)
    v = torch.logit((part + _SHIFT) / _STRETCH)
    groups, count, fan_in = problem.rows.shape
    size = min(count, max(32, _ELEMENTS // (groups * fan_in)))
    noise = problem.rows.square().sum(2).mean(1) / 12  # [groups]: of weights rounded at random
    gain = 2 * fan_in / noise.clamp(min=1e-6)[:, None, None]
    adam = _Adam(torch.zeros_like(v), torch.zeros_like(v))
    for iteration in range(iterations):
        sigmoid = v.sigmoid()
        h = (sigmoid * _STRETCH - _SHIFT).clamp_(0, 1)
        chosen = torch.randint(count, (size,), generator=generator)
        slope = problem.slope(floor + h, chosen) * gain + _drive(h, iteration / iterations)
        inside = (h > 0) & (h < 1)
        v -= adam.step(slope * sigmoid * (1 - sigmoid) * inside * _STRETCH)
    return floor + (v > 0)


def _drive(h: Tensor, progress: float) -> Tensor | float:
    """Gradient of 1 - |2h - 1|^β."""
    if progress < _WARM_UP:
        return 0.0
    annealed = (progress - _WARM_UP) / (1 - _WARM_UP)
    beta = _BETAS[1] + (_BETAS[0] - _BETAS[1]) * 0.5 * (1 + math.cos(annealed * math.pi))
    centered = 2 * h - 1
    return -2 * beta * centered.abs().pow(beta - 1) * centered.sign()


@dataclass(slots=True)
class _Adam:
    """Kingma and Ba (2015), algorithm 1."""

    mean: Tensor
    square: Tensor
    count: int = 0

    def step(self, slope: Tensor) -> Tensor:
        self.count += 1
        self.mean.lerp_(slope, 0.1)
        self.square.mul_(0.999).addcmul_(slope, slope, value=0.001)
        rate = _RATE / (1 - 0.9**self.count)
        return rate * self.mean / ((self.square / (1 - 0.999**self.count)).sqrt() + 1e-8)
