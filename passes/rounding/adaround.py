"""Each weight up or down, learned.

A weight is floor + h(v), h = clip(1.2·sigmoid(v) - 0.1, 0, 1). Adam fits v so that the layer's output for the
integers that it reads is that of the float layer for its float inputs (the paper's asymmetric form), both after
the activation; 1 - |2h - 1|^β, with β falling from 20 to 2, drives each h to 0 or 1 (equations 21 to 25). Errors
count in multiples of what rounding at random costs, so that one strength of that term does for all layers. Nagel
et al., *Up or Down? Adaptive Rounding for Post-Training Quantization* (2020), §3.

The layer is a matrix product over sampled rows, its gradient is written out, and an iteration reads only the next
few hundred rows of an order drawn once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_STRETCH, _SHIFT = 1.2, 0.1
_WARM_UP = 0.2  # of the iterations: before that, nothing drives h to its ends
_BETAS = (20.0, 2.0)
_RATE = 2e-2
_ELEMENTS = 2**19  # of the rows that one iteration reads,
_FEWEST, _MOST = 32, 512  # and how many rows those may be


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
        """`outputs` is overwritten."""
        return torch.clamp(outputs, self.low, self.high, out=outputs).sub_(wanted.clamp(self.low, self.high))

    def shuffled(self, generator: torch.Generator) -> Problem:
        """The same rows in random order."""
        order = torch.randperm(self.rows.shape[1], generator=generator)
        return Problem(self.rows[:, order], self.wanted[:, order], self.low, self.high)

    def slope(self, z: Tensor, start: int, count: int) -> Tensor:
        """Gradient of half the mean squared error over `count` rows from `start` on, for each weight. An output
        beyond a bound counts as long as its wanted value is not."""
        rows, wanted = self.rows.narrow(1, start, count), self.wanted.narrow(1, start, count)
        return (rows.transpose(1, 2) @ self._off(rows @ z, wanted)).div_(count)


def learn_rounding(
    problem: Problem, real: Tensor, low: int, high: int, iterations: int, generator: torch.Generator
) -> Tensor:
    """Integers in [low, high] next to `real` weights [groups, fan-in, outputs] in units of the grid; float32."""
    floor = real.floor().clamp(low, high - 1).float()
    part = (real.float() - floor).clamp(0.01, 0.99)
    v = torch.logit((part + _SHIFT) / _STRETCH)
    groups, count, fan_in = problem.rows.shape
    size = min(count, max(_FEWEST, min(_MOST, _ELEMENTS // (groups * fan_in))))
    # [groups]: what rounding weights at random costs a row
    noise = torch.linalg.vector_norm(problem.rows, dim=(1, 2)).square() / (12 * count)
    gain = 2 * fan_in / noise.clamp(min=1e-6)[:, None, None]
    problem, adam = problem.shuffled(generator), _Adam(torch.zeros_like(v), torch.zeros_like(v))
    for iteration in range(iterations):
        sigmoid = v.sigmoid()
        h = (sigmoid * _STRETCH).sub_(_SHIFT)
        inside = (h > 0) & (h < 1)
        h.clamp_(0, 1)
        start = min(iteration * size % count, count - size)
        slope = problem.slope(floor + h, start, size).mul_(gain)
        _add_drive(slope, h, iteration / iterations)
        slope.mul_(sigmoid).mul_(sigmoid.neg_().add_(1)).mul_(inside).mul_(_STRETCH)
        adam.step(v, slope)
    return floor + (v > 0)


def _add_drive(slope: Tensor, h: Tensor, progress: float) -> None:
    """Add the gradient of 1 - |2h - 1|^β; `h` is overwritten."""
    if progress < _WARM_UP:
        return
    annealed = (progress - _WARM_UP) / (1 - _WARM_UP)
    beta = _BETAS[1] + (_BETAS[0] - _BETAS[1]) * 0.5 * (1 + math.cos(annealed * math.pi))
    centered = h.mul_(2).sub_(1)
    slope.addcmul_(centered.abs().pow_(beta - 1), centered.sign(), value=-2 * beta)


@dataclass(slots=True)
class _Adam:
    """Kingma and Ba (2015), algorithm 1."""

    mean: Tensor
    square: Tensor
    count: int = 0

    def step(self, v: Tensor, slope: Tensor) -> None:
        """Move `v` against `slope`."""
        self.count += 1
        self.mean.lerp_(slope, 0.1)
        self.square.mul_(0.999).addcmul_(slope, slope, value=0.001)
        size = (self.square / (1 - 0.999**self.count)).sqrt_().add_(1e-8)
        v.addcdiv_(self.mean, size, value=-_RATE / (1 - 0.9**self.count))
