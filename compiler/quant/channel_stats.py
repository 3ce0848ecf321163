"""Per-channel statistics: those that batch norms leave behind, and those measured on data.

`fold_batch_norm` leaves each batch norm's (mean, std) in `ChannelStats`, keyed by the name of the weight constant
that it was folded into: what that layer gives before its activation. Data-free passes read them, and every pass
that scales or splits channels rewrites them. `measure_channels` gives the same and the extremes of any value from
sample batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from ..ir.errors import CalibrationError
from ..ir.ops import aten


@dataclass(frozen=True, slots=True)
class ChannelStat:
    """Expected mean and standard deviation of each output channel, float32 [channels] each."""

    mean: Tensor
    std: Tensor


@dataclass(slots=True)
class ChannelStats:
    """Weight constant name -> statistics of that layer's output, before the activation."""

    by_weight: dict[str, ChannelStat] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one value's channels were over all samples and positions: float32 [channels] each.

    `std` is the population's (divided by `count`, the number of values of one channel).
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    count: int


def measure_channels(
    gm: fx.GraphModule,
    batches: Iterable[Sequence[Tensor]],
    names: Collection[str],
    axis: int | Mapping[str, int] = 1,
) -> dict[str, Measured]:
    """Statistics of the values of the nodes called `names`, for each index of their channel axis, over `batches`.

    `axis` is one for all or given by name; a negative one counts from the last. Every other axis, the batch among
    them, is summed over. One pass, sums in float64; nothing is kept of a batch.

    Raises:
        CalibrationError: there are no batches, or a value has a NaN or infinity.
        KeyError: no node of the graph has one of the names.
    """
    if unknown := sorted(set(names) - {node.name for node in gm.graph.nodes}):
        raise KeyError(f"not nodes of the graph: {', '.join(unknown)}")
    axes = dict(axis) if isinstance(axis, Mapping) else dict.fromkeys(names, axis)
    meter = _Meter(gm, {name: axes[name] for name in names})
    with torch.no_grad():
        for batch in batches:
            meter.run(*batch)
    if missing := [name for name in names if name not in meter.sums]:
        raise CalibrationError(f"No data to measure {', '.join(missing)} on; give at least one sample.")
    return {name: meter.sums[name].result() for name in names}


@dataclass(slots=True)
class _Sums:
    """Running mean and squared deviations, merged batch by batch (Chan, Golub and LeVeque, 1983)."""

    mean: Tensor
    squares: Tensor
    low: Tensor
    high: Tensor
    count: int

    @classmethod
    def of(cls, channels: Tensor) -> _Sums:
        """`channels` is [channels, values]."""
        values = channels.double()
        mean = values.mean(1)
        squares = (values - mean[:, None]).square().sum(1)
        return cls(mean, squares, values.amin(1), values.amax(1), values.shape[1])

    def merge(self, other: _Sums) -> _Sums:
        count = self.count + other.count
        step = other.mean - self.mean
        return _Sums(
            self.mean + step * (other.count / count),
            self.squares + other.squares + step.square() * (self.count * other.count / count),
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
            count,
        )

    def result(self) -> Measured:
        std = (self.squares / self.count).sqrt()
        return Measured(self.mean.float(), std.float(), self.low.float(), self.high.float(), self.count)


class _Meter(fx.Interpreter):
    def __init__(self, gm: fx.GraphModule, axes: Mapping[str, int]) -> None:
        super().__init__(gm)
        self.extra_traceback = False  # fx would add its own lines to every message
        self.sums: dict[str, _Sums] = {}
        self._axes = axes

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A view that was legal in the captured memory order may not be in the batch's."""
        legal = aten.reshape.default if target is aten.view.default else target
        return super().call_function(legal, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self._axes:
            sums = _Sums.of(result.transpose(0, self._axes[n.name]).flatten(1))
            if not bool(torch.isfinite(sums.mean).all()):
                raise CalibrationError(f"{n.name} has a NaN or an infinity on the sample batches.")
            known = self.sums.get(n.name)
            self.sums[n.name] = sums if known is None else known.merge(sums)
        return result
