"""Figures from measured seconds: percentiles, and intervals of ratios that assume nothing of the noise's shape.

Two artifacts timed by turns in one run give pairs: both of a pair met the same moment of the machine. The median
of their ratios has an interval from order statistics (the sign test's): the number of ratios below the true median
is binomial(n, 1/2), so the k-th smallest and the k-th largest enclose it with a probability that is known whatever
the distribution (Thompson, *Annals of Mathematical Statistics* 7 (1936); Hollander and Wolfe, *Nonparametric
Statistical Methods*, §3.6). It takes rounds to be independent, which a load that lasts for several is not.

Two runs recorded at different times have no pairs: the ratio of their medians has a percentile bootstrap interval
(Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), §13.3), each run resampled by itself. It knows
the noise within the runs, not what changed between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_CONFIDENCE = 0.95
# One over the probability that either side of the interval may miss.
_TAIL = 40
_RESAMPLES = 2000
# Resamples held in memory at a time.
_CHUNK = 100


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio and its 95 % interval; no interval where there are too few runs for one."""

    value: float
    low: float | None
    high: float | None

    def format(self) -> str:
        """`1.92× [1.85, 2.01]`."""
        if self.low is None or self.high is None:
            return f"{self.value:.2f}× [too few runs for an interval]"
        return f"{self.value:.2f}× [{self.low:.2f}, {self.high:.2f}]"


def percentile(seconds: Sequence[float], share: float) -> float:
    """The smallest of `seconds` that at least `share` (of 1) of them do not exceed: a value that was measured."""
    ranked = sorted(seconds)
    return ranked[max(math.ceil(share * len(ranked)) - 1, 0)]


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the middle two."""
    return float(np.median(np.asarray(values, dtype=np.float64)))


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """Median of the ratios of pairs, with the interval from order statistics; six pairs are the fewest for one."""
    return Ratio(*median_interval([above / below for above, below in zip(numerator, denominator, strict=True)]))


def median_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The median and the interval from order statistics; None twice for fewer than six values."""
    ranked = sorted(values)
    rank = _sign_rank(len(ranked))
    if rank == 0:
        return median(ranked), None, None
    return median(ranked), ranked[rank - 1], ranked[-rank]


def _sign_rank(count: int) -> int:
    """The largest k with P(binomial(count, 1/2) < k) <= 2.5 %; 0 where there is none."""
    whole, ways, tail, rank = 2**count, 1, 1, 0  # integers, which neither round nor overflow
    while _TAIL * tail <= whole:
        ways = ways * (count - rank) // (rank + 1)  # to have one more of them below
        tail += ways
        rank += 1
    return rank


def unpaired_ratio(numerator: Sequence[float], denominator: Sequence[float], seed: int = 0) -> Ratio:
    """Ratio of the medians of two runs, with the bootstrap interval; needs two values in each."""
    value = median(numerator) / median(denominator)
    if min(len(numerator), len(denominator)) < 2:
        return Ratio(value, None, None)
    random = np.random.default_rng(seed)
    ratios = _resampled_medians(numerator, random) / _resampled_medians(denominator, random)
    low, high = np.quantile(ratios, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return Ratio(value, float(low), float(high))


def _resampled_medians(values: Sequence[float], random: np.random.Generator) -> np.ndarray:
    known = np.asarray(values, dtype=np.float64)
    chunks = [
        np.median(random.choice(known, size=(_CHUNK, len(known))), axis=1) for _ in range(_RESAMPLES // _CHUNK)
    ]
    return np.concatenate(chunks)
