"""How far one tensor, or a model's outputs, are from the float ones: SQNR, cosine, changed predictions.

SQNR is 10 · log10(signal / noise) in dB, signal the sum of squares of the float values and noise that of the
differences, both over all samples. 20 dB more is a tenth of the error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .accuracy import Share


@dataclass(frozen=True, slots=True)
class Loss:
    """Of a model's outputs against the float model's: SQNR in dB (infinite where nothing differs), and how many
    top-1 predictions changed (None where the first output is not [batch, classes])."""

    sqnr: float
    changed: Share | None

    @property
    def agreement(self) -> Share | None:
        """How many top-1 predictions did not change."""
        if self.changed is None:
            return None
        return Share(self.changed.total - self.changed.hits, self.changed.total)

    @property
    def noise(self) -> float:
        """Noise over signal: the mean squared error relative to the outputs' mean square."""
        return 10 ** (-self.sqnr / 10)


@dataclass(slots=True)
class ErrorSums:
    """Sums over one value's elements, from which SQNR and cosine follow. Equal infinities do not differ."""

    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    power: float = 0.0

    def add(self, actual: Tensor, expected: Tensor) -> None:
        """Tensors of the same shape, of any dtype."""
        left, right = actual.double(), expected.double()
        off = torch.where(left == right, 0.0, left - right)
        finite = torch.isfinite(left) & torch.isfinite(right)
        left, right = torch.where(finite, left, 0.0), torch.where(finite, right, 0.0)
        self.signal += float((right * right).sum())
        self.noise += float((off * off).nan_to_num(nan=math.inf, posinf=math.inf).sum())
        self.product += float((left * right).sum())
        self.power += float((left * left).sum())

    @property
    def sqnr(self) -> float:
        """dB; infinite where nothing differs, minus infinite where the float value is zero everywhere."""
        return sqnr_of(self.noise / self.signal) if self.signal else (-math.inf if self.noise else math.inf)

    @property
    def cosine(self) -> float | None:
        """Of the angle between the two; None where one of them is zero everywhere."""
        length = math.sqrt(self.signal) * math.sqrt(self.power)
        return self.product / length if length else None


@dataclass(slots=True)
class OutputLoss:
    """The loss of a model's outputs, added up over batches."""

    _sums: list[ErrorSums] = field(default_factory=list)
    _changed: int = 0
    _total: int = 0
    _classifies: bool = True

    def add(self, actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        """One batch: all outputs in order, as the model and as the float model gives them."""
        if not self._sums:
            self._sums = [ErrorSums() for _ in expected]
        for sums, left, right in zip(self._sums, actual, expected, strict=True):
            sums.add(left, right)
        self._classifies = self._classifies and expected[0].ndim == 2 and expected[0].shape[1] > 1
        if self._classifies:
            self._changed += int((actual[0].argmax(1) != expected[0].argmax(1)).sum())
            self._total += len(expected[0])

    def result(self) -> Loss:
        """What was added so far. With several outputs their relative errors count the same."""
        relative = [10 ** (-sums.sqnr / 10) for sums in self._sums]
        changed = Share(self._changed, self._total) if self._classifies and self._total else None
        return Loss(sqnr_of(sum(relative) / len(relative)), changed)


def sqnr_of(noise: float) -> float:
    """dB of a noise relative to the signal."""
    if math.isinf(noise):
        return -math.inf
    return -10 * math.log10(noise) if noise else math.inf


def finite_or_none(value: float | None, digits: int = 3) -> float | None:
    """A figure as JSON takes it, to so many decimals: an infinite one is null."""
    return None if value is None or not math.isfinite(value) else round(value, digits)
