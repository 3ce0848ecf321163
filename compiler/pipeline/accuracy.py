"""Top-1 accuracy and agreement, with confidence intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `total`, and the 95 % interval (Wilson, *JASA* 22 (1927): holds near 0 and 1 too)."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        return self.hits / self.total

    @property
    def interval(self) -> tuple[float, float]:
        n, p = self.total, self.value
        center = p + _Z95**2 / (2 * n)
        spread = _Z95 * math.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n * n))
        denominator = 1 + _Z95**2 / n
        return (center - spread) / denominator, (center + spread) / denominator

    def format(self) -> str:
        """`79.0 % [75.2, 82.3]`."""
        low, high = self.interval
        return f"{100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def difference_interval(old: Share, new: Share) -> tuple[float, float]:
    """The 95 % interval of `new` - `old`, of independent samples, from the two Wilson intervals (Newcombe,
    *Statistics in Medicine* 17 (1998), method 10)."""
    (old_low, old_high), (new_low, new_high) = old.interval, new.interval
    change = new.value - old.value
    below = math.hypot(new.value - new_low, old_high - old.value)
    above = math.hypot(new_high - new.value, old.value - old_low)
    return change - below, change + above


def top1(logits: np.ndarray) -> np.ndarray:
    """Index of the largest logit of each row; ties go to the lowest index. [n, classes] -> [n]."""
    return logits.argmax(axis=1)


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> Share:
    """How many of `predicted` [n] equal `labels` [n]."""
    return Share(int((predicted == labels).sum()), len(labels))
