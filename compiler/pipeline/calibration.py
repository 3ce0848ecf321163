"""One calibration for all targets: ranges from a pass over the data, and where the method says so, a search."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from ..ir.progress import Progress, Silent
from ..quant.calibrate import CalibrationStats, calibrate, range_key
from ..quant.collectors import CollectorMethod
from ..quant.plan import Plan
from ..quant.range_search import search_ranges
from ..quant.walk import gradient_samples
from .lower import Batches, FloatModel
from .options import CompileOptions
from .recipes import make_recipe

_NOISE = CollectorMethod("noise")
_SEARCHED = 80  # samples
_JUDGES = 5  # one in so many of their batches, the last ones, only judges what was found on the others


def collect(
    model: FloatModel,
    plans: Mapping[str, Plan],
    batches: Iterable[Sequence[Tensor]],
    options: CompileOptions,
    samples: int | None = None,
    progress: Progress | None = None,
) -> CalibrationStats:
    """One pass over `batches` for all plans; the method `noise` then searches on the first samples."""
    method = options.calibration or make_recipe(options).calibration
    progress, wanted = progress or Silent(), list(plans.values())
    first = _First(batches, _SEARCHED if method == _NOISE else 0)
    with progress.track("calibrate", samples) as advance:
        stats = calibrate(model.gm, wanted, first, method, advance)
    if not first.kept or not stats.ranges:
        return stats
    few = list(gradient_samples(model.gm, first.kept, _SEARCHED))
    tuned = len(few) - len(few) // _JUDGES
    with progress.track("search ranges", sum(len(batch[0]) for batch in few[:tuned])) as advance:
        return search_ranges(model.gm, wanted, stats, few[:tuned], few[tuned:] or few, advance=advance)


class _First:
    """Hands batches on, and keeps those with the first `count` samples."""

    def __init__(self, batches: Iterable[Sequence[Tensor]], count: int) -> None:
        self.kept: list[Sequence[Tensor]] = []
        self._batches, self._left = batches, count

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        for batch in self._batches:
            if self._left > 0:
                self.kept.append(batch)
                self._left -= len(batch[0])
            yield batch


def collect_missing(
    model: FloatModel,
    plan: Plan,
    stats: CalibrationStats,
    batches: Batches,
    options: CompileOptions,
    samples: int | None = None,
    progress: Progress | None = None,
) -> CalibrationStats:
    """`stats` with the groups of `plan` that it does not have, which are collected."""
    missing = [g for g in plan.groups if g.fixed is None and range_key(g) not in stats.ranges]
    if not missing:
        return stats
    part = {plan.target: dataclasses.replace(plan, groups=tuple(missing))}
    new = collect(model, part, batches(), options, samples, progress)
    return dataclasses.replace(new, ranges={**stats.ranges, **new.ranges})
