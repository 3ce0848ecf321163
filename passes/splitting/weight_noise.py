"""What rounding a layer's weight costs, and what splitting an input channel saves.

With m quantization-aware parts of an input channel (`splitting/parts.py`) a weight w of it is rounded to the same
grid as before, but clipped at m times the reach c of that grid: the parts round to integers n₁ … n_m with n₁ + … +
n_m = rint(w / Δ), each at most q. So splitting leaves every error of rounding as it is and lets Δ = c / q shrink.

`minmax`: c is the largest part, the error of a row n·Δ²/12 (of zeros none, and never more than the row itself).
`mse`: c is the candidate with the least Σ (w - Δ·min(rint(|w| / Δ), m·q))², by row, as `weight_range.py` finds it.
Rows are the elements that share a scale: an output channel's, or the whole tensor. Errors of an input channel are
weighted by the mean square of what it carries, where that is known.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...compiler.quant.qparams import QSpec
from ...compiler.quant.weight_range import WeightRange
from .._layers import Layer

# Candidates of `mse`, as parts of a row's largest magnitude.
_SHRINK = 0.94
_CANDIDATES = 36
# The numbers that `LeastErrorNoise` may hold of one layer, twice; a larger layer is judged by every n-th row.
_MOST = 2**22


@dataclass(frozen=True, slots=True)
class Rows:
    """A weight as rows that share a scale: magnitudes [rows, inputs, elements], the input channel behind each
    column [rows, inputs], its mean square [inputs of the layer], and the largest integer."""

    sizes: Tensor
    channels: Tensor
    power: Tensor
    qmax: int

    @classmethod
    def of(cls, layer: Layer, spec: QSpec, power: Tensor | None = None) -> Rows:
        grouped = layer.by_input().abs().float()
        grouped = grouped.reshape(*grouped.shape[:3], -1)
        groups, outputs, inputs = grouped.shape[:3]
        channels = torch.arange(groups * inputs).view(groups, inputs)
        if spec.per_channel:
            sizes, channels = grouped.flatten(0, 1), channels.repeat_interleave(outputs, 0)
        else:
            sizes, channels = grouped.transpose(1, 2).reshape(1, groups * inputs, -1), channels.view(1, -1)
        known = torch.ones(groups * inputs) if power is None else power
        return cls(sizes, channels, known.double(), spec.qmax)

    def weights(self) -> Tensor:
        """How much the error of each column counts: [rows, inputs]."""
        return self.power[self.channels]

    def energy(self) -> Tensor:
        """The weighted sum of squares of each row."""
        return (self.sizes.square().sum(2) * self.weights()).sum(1)

    def total(self) -> float:
        return float(self.energy().sum())

    def sampled(self) -> Rows:
        """All rows, or every n-th one where they are too many to weigh against all candidates of `mse`."""
        nth = -(-self.channels.numel() * _CANDIDATES // _MOST)
        return replace(self, sizes=self.sizes[::nth], channels=self.channels[::nth])


class MinMaxNoise:
    """The error of a weight whose largest part is the end of its grid. `copies` [inputs] are the parts so far."""

    def __init__(self, rows: Rows, copies: Tensor) -> None:
        self.copies = copies.clone()
        self._rows = rows
        self._peaks = rows.sizes.amax(2).double()
        self._count = ((rows.sizes > 0).sum(2) * rows.weights()).sum(1)
        self._limit = rows.energy()

    def reach(self) -> Tensor:
        """The largest magnitude of each row [rows]."""
        return self._parts().amax(1)

    def total(self) -> float:
        return float(self._error(self.reach()).sum())

    def gains(self) -> Tensor:
        """By how much one more part of each input channel lowers the error: [inputs]."""
        parts = torch.nn.functional.pad(self._parts(), (0, 1))
        (first, second), place = parts.topk(2, dim=1).values.unbind(1), parts.argmax(1, keepdim=True)
        channel = self._rows.channels.gather(1, place).squeeze(1)
        own = self._peaks.gather(1, place).squeeze(1)
        after = torch.maximum(second, _part(own, self.copies[channel] + 1, self._rows.qmax))
        saved = (self._error(first) - self._error(after)).clamp(min=0)
        # of channels that save nothing, the one with the largest parts comes first
        small = 1e-12 * self._error(first)[:, None] * parts[:, :-1] / first[:, None].clamp(min=1e-30)
        gains = torch.zeros_like(self._rows.power).index_add_(0, channel, saved)
        return gains.index_add_(0, self._rows.channels.flatten(), small.flatten())

    def split(self, channel: int) -> None:
        self.copies[channel] += 1

    def clone(self) -> MinMaxNoise:
        twin = copy.copy(self)
        twin.copies = self.copies.clone()
        return twin

    def _parts(self) -> Tensor:
        return _part(self._peaks, self.copies[self._rows.channels], self._rows.qmax)

    def _error(self, reach: Tensor) -> Tensor:
        return torch.minimum(self._count * (reach / self._rows.qmax).square() / 12, self._limit)


class LeastErrorNoise:
    """The error of a weight clipped for the least error. `copies` [inputs] are the parts so far."""

    def __init__(self, rows: Rows, copies: Tensor) -> None:
        self.copies = copies.clone()
        self._rows = rows
        self._reaches = _candidates(rows)
        columns = torch.ones_like(rows.channels, dtype=torch.bool)
        parts = self.copies[rows.channels]
        self._now, self._then = self._table(columns, parts), self._table(columns, parts + 1)

    def total(self) -> float:
        return float(self._now.sum(1).amin(1).sum())

    def gains(self) -> Tensor:
        """By how much one more part of each input channel lowers the error: [inputs]."""
        summed = self._now.sum(1, keepdim=True)
        after = (summed - self._now + self._then).amin(2)
        saved = (summed.amin(2) - after).clamp(min=0)
        return torch.zeros_like(self._rows.power).index_add_(
            0, self._rows.channels.flatten(), saved.double().flatten()
        )

    def split(self, channel: int) -> None:
        self.copies[channel] += 1
        columns = self._rows.channels == channel
        self._now[columns] = self._then[columns]
        parts = self.copies[self._rows.channels]
        self._then[columns] = self._table(columns, parts + 1)[columns]

    def _table(self, columns: Tensor, parts: Tensor) -> Tensor:
        """Weighted error of each of `columns` at each candidate: [rows, inputs, candidates]."""
        table = torch.zeros(*columns.shape, _CANDIDATES)
        row, _ = torch.nonzero(columns, as_tuple=True)
        sizes, weights = self._rows.sizes[columns], self._rows.weights()[columns]
        most = (parts[columns] * self._rows.qmax).unsqueeze(1)
        for place in range(_CANDIDATES):
            step = (self._reaches[row, place] / self._rows.qmax).unsqueeze(1)
            table[..., place][columns] = (_clipped_error(sizes, step, most) * weights).float()
        return table


def weight_noise(rows: Rows, method: WeightRange) -> MinMaxNoise | LeastErrorNoise:
    """The error of the weight in `rows`, nothing split yet."""
    copies = torch.ones(len(rows.power), dtype=torch.int64)
    return MinMaxNoise(rows, copies) if method == "minmax" else LeastErrorNoise(rows, copies)


def grid_reach(rows: Rows, method: WeightRange, copies: Tensor) -> Tensor:
    """The end of the grid of each row [rows] of a weight with `copies` [inputs] parts of each input channel."""
    if method == "minmax":
        return MinMaxNoise(rows, copies).reach()
    reaches, weights = _candidates(rows), rows.weights()
    most = (copies[rows.channels] * rows.qmax).unsqueeze(2)
    errors = [
        (_clipped_error(rows.sizes, (reach / rows.qmax).view(-1, 1, 1), most) * weights).sum(1)
        for reach in reaches.unbind(1)
    ]
    best = torch.stack(errors, 1).argmin(1, keepdim=True)
    return reaches.gather(1, best).squeeze(1)


def _candidates(rows: Rows) -> Tensor:
    """Ends of a grid to choose from: [rows, candidates]."""
    largest = rows.sizes.amax((1, 2)).clamp(min=torch.finfo(torch.float32).tiny)
    return largest.unsqueeze(1) * _SHRINK ** torch.arange(_CANDIDATES)


def _clipped_error(sizes: Tensor, step: Tensor, most: Tensor) -> Tensor:
    """Squared errors, summed over the last axis, of rounding `sizes` to at most `most` steps."""
    return (torch.minimum(torch.round(sizes / step), most) * step - sizes).square().sum(-1)


def _part(size: Tensor, parts: Tensor, qmax: int) -> Tensor:
    """The largest part of |w| = `size`: |w| / m + Δ·(m - 1) / 2m, where it itself is the end q·Δ of the grid."""
    return size / parts / (1 - (parts - 1) / (2 * parts * qmax))
