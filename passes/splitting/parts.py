"""Splitting numbers so that rounding the parts rounds the number.

    w  ->  w/m + Δ·(2k - m + 1)/(2m),  k = 0 … m - 1;  for m = 2: (w - Δ/2)/2 and (w + Δ/2)/2

By Hermite's identity Σ floor(x + k/m) = floor(m·x) the parts' integers add up to rint(w / Δ) (Zhao et al.,
*Improving Neural Network Quantization without Retraining using Outlier Channel Splitting* (2019), §3.3, for m =
2). A number below Δ/2 is cut into equal parts, all of which round to 0.

The float32 parts add up to w exactly: each is the difference of two remainders r and r' with r/2 ≤ r' ≤ 2r, which
float32 holds without rounding (Sterbenz's lemma).
"""

from __future__ import annotations

import torch
from torch import Tensor


def split_parts(value: Tensor, parts: int, step: Tensor) -> list[Tensor]:
    """`parts` float32 tensors that add up to the float32 numbers in `value`; `step` is Δ, broadcast against it."""
    whole = value.double()
    offset = torch.where(whole.abs() >= step / 2, whole.sign() * step / 2, torch.zeros_like(whole))
    found, rest = [], whole
    for k in range(1, parts):
        after = ((parts - k) / parts * (whole + k * offset)).float().double()
        found.append((rest - after).float())
        rest = after
    return [*found, rest.float()]
