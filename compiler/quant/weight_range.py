"""How far the integers of a weight reach: to its largest element, or less far for a finer step.

`minmax` covers every element; an element beyond the reach of `mse` is clipped. That reach is the one, of a row of
candidates, whose rounding and clipping errors have the least sum of squares. At 8 bits the two are close; from 6
bits down clipping is usually worth it. (Sung, Shin, Hwang, *Resiliency of Deep Neural Networks under Quantization*
(2015); Banner, Nahshan, Soudry, *Post Training 4-bit Quantization* (2019).)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .qparams import QSpec

WeightRange = Literal["minmax", "mse"]

# Candidates of `mse`, as parts of the largest magnitude: 1, 0.98, 0.98², ... down to 0.05.
_SHRINK = 0.98
_CANDIDATES = 150


def weight_reach(weight: Tensor, spec: QSpec, out_axis: int, method: WeightRange = "minmax") -> Tensor:
    """The largest magnitude that the integers of `weight` stand for: [channels of `out_axis`] if `spec` is per
    channel, else [1]."""
    rows = weight_rows(weight, spec, out_axis)
    largest = rows.abs().amax(1)
    return largest if method == "minmax" else _least_error(rows, largest, spec)


def weight_rows(weight: Tensor, spec: QSpec, out_axis: int) -> Tensor:
    """The elements of `weight` that share a scale, as rows: [channels of `out_axis` or 1, elements]."""
    return weight.transpose(0, out_axis).flatten(1) if spec.per_channel else weight.reshape(1, -1)


def rounding_error(rows: Tensor, reach: Tensor, spec: QSpec) -> Tensor:
    """Sum of squared errors of each row [rows, n] on the symmetric grid of `spec` that ends at `reach` [rows]."""
    step = (reach / spec.qmax).clamp(min=torch.finfo(rows.dtype).tiny).unsqueeze(1)
    rounded = (rows / step).round_().clamp_(-spec.qmax, spec.qmax).mul_(step)
    return rounded.sub_(rows).square_().sum(1)


def _least_error(rows: Tensor, largest: Tensor, spec: QSpec) -> Tensor:
    reach, least = largest, rounding_error(rows, largest, spec)
    for power in range(1, _CANDIDATES):
        candidate = largest * _SHRINK**power
        error = rounding_error(rows, candidate, spec)
        reach = torch.where(error < least, candidate, reach)
        least = torch.minimum(least, error)
    return reach
