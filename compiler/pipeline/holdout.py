"""Parts of the calibration samples: one to tune on and one to judge on, or a few for a quick look.

To split them, the samples are cut into runs of 1 / share, and one of each run, drawn by the seed, is held out. So
both parts cover data that are sorted by class, nothing has to be counted first, and a stream can be split as well
as a file.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from fractions import Fraction

from ..ir.errors import InputError
from .data import Dataset


def split_samples(data: Dataset, share: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """(tuning, held-out): `share` of the samples of `data` are held out, the same ones at every call.

    Raises:
        InputError: `share` is not between 0 and 1, or one part would be empty; a stream of unknown length raises
            it when the empty part is read.
    """
    if not 0 < share < 1:
        raise InputError(f"the share of samples to hold out is {share}: it must lie between 0 and 1")
    held_out = _HeldOut(Fraction(share).limit_denominator(1000), seed)
    tuning = data.select(lambda at: not held_out(at), f"{data.name}, tuning part")
    judged = data.select(held_out, f"{data.name}, held-out part")
    if tuning.count == 0 or judged.count == 0:
        needed = math.ceil(max(1 / share, 1 / (1 - share)))
        raise InputError(
            f"{data.name} has {data.count} sample(s), too few to hold out {share:.0%} of them: "
            f"give at least {needed}"
        )
    return tuning, judged


def few_samples(data: Dataset, count: int) -> Dataset:
    """`count` samples spread evenly over `data`, or all if it has no more; of a stream of unknown length the first
    ones."""
    total = data.count
    if total is None:
        return data.select(lambda at: at < count, data.name)
    if total <= count:
        return data
    kept = frozenset(at * total // count for at in range(count))
    return data.select(kept.__contains__, data.name)


@dataclass(frozen=True, slots=True)
class _HeldOut:
    share: Fraction
    seed: int

    def __call__(self, position: int) -> bool:
        run = math.floor(position * self.share)
        start, stop = math.ceil(run / self.share), math.ceil((run + 1) / self.share)
        return position == start + random.Random(f"{self.seed} {run}").randrange(stop - start)
