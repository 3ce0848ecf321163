"""Per-channel statistics of what a layer gives before its activation.

`fold_batch_norm` leaves each batch norm's (mean, std) here, keyed by the name of the weight constant that it was
folded into; data-free passes read them, and every pass that scales or splits channels rewrites them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ChannelStat:
    """Expected mean and standard deviation of each output channel, float32 [channels] each."""

    mean: Tensor
    std: Tensor


@dataclass(slots=True)
class ChannelStats:
    """Weight constant name -> statistics of that layer's output, before the activation."""

    by_weight: dict[str, ChannelStat] = field(default_factory=dict)
