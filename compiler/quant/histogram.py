"""A streaming histogram of a fixed number of bins, whose counts are exact.

The bin width is a power of two and bin `k` holds `[k * width, (k + 1) * width)`, so zero is always an edge
and dividing a float32 by the width is exact. When the data outgrow the bins the width doubles: bins `2k` and
`2k + 1` become bin `k`, by adding integers. Nothing is interpolated, so the counts are those of a histogram
built with the final width, whatever the order and the batches in which the data came. (One exception, far
below any use: a negative value smaller than `width * 2**-126` counts as zero.)

Resolution: the bins span zero and the data, and more than half of them are in use, so that
`width <= span / (bins / 2 - 1)` (unless the span is below `bins * 2**-126`).

Memory: 8 bytes a bin, 16 KiB for 2048 bins, however many elements were seen. Counting needs three scratch
buffers of 128 KiB while it runs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DEFAULT_BINS = 2048

# Below this, 1 / width is no float32.
_SMALLEST_EXPONENT = -126

# Elements counted at once: scratch stays inside a core's cache, three times faster than whole tensors, and torch
# starts no threads for so few, whose meeting at every small step costs more than the step.
_CHUNK = 2**15


class Histogram:
    """Counts of finite float values in `bins` bins of width `2**exponent`, starting at bin `first`.

    `low` and `high` are the exact smallest and largest values seen; `low > high` before any.
    """

    def __init__(self, bins: int = DEFAULT_BINS) -> None:
        self.low = math.inf
        self.high = -math.inf
        self.exponent = _SMALLEST_EXPONENT
        self.first = 0
        self.counts = torch.zeros(bins, dtype=torch.int64)

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent)

    @property
    def used(self) -> int:
        """Bins from `first` to the one that holds the largest value or zero; the rest are empty."""
        return _bin_of(max(self.high, 0.0), self.exponent) - self.first + 1

    def edges(self) -> Tensor:
        """float64 [used + 1]: where each bin starts and the last one ends, within the observed values."""
        edges = (torch.arange(self.used + 1, dtype=torch.float64) + self.first) * self.width
        return edges.clamp(self.low, self.high)

    def add(self, values: Tensor, low: float, high: float) -> None:
        """Count `values` (float, one axis, not empty); `low` and `high` are their smallest and largest."""
        self._widen(low, high)
        inverse = math.ldexp(1.0, -self.exponent)
        for chunk in values.split(_CHUNK):
            position = chunk.float() * inverse
            if self.first < 0:
                position = position.floor_()
            index = position.to(torch.int32)
            if self.first < 0:
                index -= self.first
            self.counts += torch.bincount(index, minlength=len(self.counts))

    def _widen(self, low: float, high: float) -> None:
        """Make bins span zero and everything between `low` and `high`, as few merges as that takes."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        bins, start, end = len(self.counts), min(self.low, 0.0), max(self.high, 0.0)
        exponent = self.exponent
        if end > start:
            exponent = max(exponent, math.frexp((end - start) / bins)[1] - 1)
        while _bin_of(end, exponent) - _bin_of(start, exponent) >= bins:
            exponent += 1
        first = _bin_of(start, exponent)
        if (exponent, first) != (self.exponent, self.first):
            old = torch.arange(self.first, self.first + bins)
            # Slots past the last one in use may fall outside the new bins: they are empty.
            slots = ((old >> min(exponent - self.exponent, 62)) - first).clamp(max=bins - 1)
            self.counts = torch.zeros_like(self.counts).index_add_(0, slots, self.counts)
            self.exponent, self.first = exponent, first


def _bin_of(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))
