"""Calibration: run the float graph on sample batches and collect the range of every group of the plans.

An `fx.Interpreter` that touches nothing: one pass over the data serves every plan made of the same graph, one
collector for each group of values that share parameters, no activation kept after its batch. Memory beyond the
model's own is the collectors' (bounded, see `collectors`) and the activations of one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..ir.errors import CalibrationError
from ..ir.nodes import describe, input_name, placeholders
from ..ir.ops import aten
from ..ir.shapes import fits, tensor_meta, type_text
from .collectors import Collector, CollectorMethod, make_collector
from .plan import Group, Plan
from .qparams import QSpec
from .useful_range import EVERYTHING, Interval, useful_range

Progress = Callable[[int], None]
RangeKey = tuple[tuple[str, ...], QSpec]


@dataclass(frozen=True, slots=True)
class CalibrationStats:
    """Range (low, high) of each group, keyed by what was observed and the spec that it was chosen for."""

    method: str
    samples: int
    ranges: Mapping[RangeKey, tuple[float, float]]

    def range_of(self, group: Group) -> tuple[float, float]:
        """The range of a group without fixed parameters.

        Raises:
            CalibrationError: the statistics were collected for other plans.
        """
        found = self.ranges.get(range_key(group))
        if found is None:
            raise CalibrationError(f"No statistics of {', '.join(group.members)}; calibrate with this plan.")
        return found


def range_key(group: Group) -> RangeKey:
    return group.observed, group.spec


def calibrate(
    gm: fx.GraphModule,
    plans: Sequence[Plan],
    batches: Iterable[Sequence[Tensor]],
    method: CollectorMethod,
    progress: Progress | None = None,
) -> CalibrationStats:
    """Collect the ranges that `plans` need from `batches`, each the positional inputs of the graph.

    `progress` gets the number of samples done.

    Raises:
        CalibrationError: no data, a NaN or infinity (with the edge), inputs of the wrong number, shape or dtype,
            inputs that the model cannot run on, or a group that saw no data.
    """
    groups = [group for plan in plans for group in plan.groups if group.fixed is None]
    collectors = {range_key(group): make_collector(method) for group in groups}
    observer = _Observer(gm, collectors, useful_ranges(gm, groups))
    samples = 0
    with torch.no_grad():
        for batch in batches:
            _check_inputs(gm, batch, samples)
            _run(observer, batch, samples)
            samples += batch[0].shape[0]
            if progress is not None:
                progress(samples)
    if samples == 0:
        raise CalibrationError("The calibration data has no samples; give at least one (some hundred are usual).")
    return CalibrationStats(str(method), samples, _ranges(collectors))


def useful_ranges(gm: fx.GraphModule, groups: Sequence[Group]) -> dict[RangeKey, Interval]:
    """By what is observed; where plans differ in who reads it, what any of them needs."""
    found: dict[RangeKey, Interval] = {}
    for group in groups:
        low, high = useful_range(gm, group)
        before = found.get(range_key(group), (low, high))
        found[range_key(group)] = min(low, before[0]), max(high, before[1])
    return found


def _run(observer: _Observer, batch: Sequence[Tensor], samples: int) -> None:
    try:
        observer.run(*(_channels_last(tensor) for tensor in batch))
    except RuntimeError as error:
        given = ", ".join(type_text(tensor) for tensor in batch)
        raise CalibrationError(
            f"The model cannot run on the calibration batch after sample {samples} ({given}): {error}"
        ) from error


class _Observer(fx.Interpreter):
    def __init__(
        self,
        gm: fx.GraphModule,
        collectors: Mapping[RangeKey, Collector],
        useful: Mapping[RangeKey, Interval],
    ) -> None:
        super().__init__(gm)
        self.extra_traceback = False  # fx would add its own lines to every message
        self._collectors: dict[str, list[tuple[Collector, Interval]]] = {}
        for key, collector in collectors.items():
            for name in key[0]:
                self._collectors.setdefault(name, []).append((collector, useful[key]))
        self._constants_seen: set[str] = set()

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A view that was legal in the captured memory order may not be in that of `_channels_last`."""
        legal = aten.reshape.default if target is aten.view.default else target
        return super().call_function(legal, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name not in self._collectors or n.name in self._constants_seen:
            return result
        if n.op == "get_attr":
            self._constants_seen.add(n.name)
        try:
            for collector, useful in self._collectors[n.name]:
                collector.observe(result if useful == EVERYTHING else result.clamp(*useful))
        except CalibrationError as error:
            raise CalibrationError(f"Calibration of {describe(n)}: {error}") from error
        return result


def _check_inputs(gm: fx.GraphModule, batch: Sequence[Tensor], samples: int) -> None:
    expected = placeholders(gm)
    if len(batch) != len(expected):
        names = ", ".join(map(input_name, expected))
        raise CalibrationError(
            f"A calibration batch has {len(batch)} input(s) but the model takes {len(expected)}: {names}."
        )
    for node, tensor in zip(expected, batch, strict=True):
        meta = tensor_meta(node)
        if meta is None:
            continue
        if not fits(tensor, meta):
            raise CalibrationError(
                f"Input {input_name(node)} of the calibration batch after sample {samples} is "
                f"{type_text(tensor)}; the model was captured with {type_text(meta)}."
            )


def _channels_last(tensor: Tensor) -> Tensor:
    """Images in the memory order in which convolutions on a CPU run about twice as fast."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _ranges(collectors: Mapping[RangeKey, Collector]) -> dict[RangeKey, tuple[float, float]]:
    ranges = {}
    for (observed, spec), collector in collectors.items():
        if collector.seen == 0:
            raise CalibrationError(
                f"The edge {observed[0]} never saw data during calibration; check that the samples reach "
                "that part of the model."
            )
        ranges[observed, spec] = collector.range(spec)
    return ranges
