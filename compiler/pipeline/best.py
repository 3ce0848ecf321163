"""The `best` recipe: try what may help, on samples that nothing is tuned on, and keep what measurably does.

The calibration samples are split: three quarters tune, a quarter judges. Starting from `default`, one choice after
the other is tried on the first target, by the integer simulation of its program: how ranges are found, how weights
are rounded, whether channels with outliers are split. What has the highest SQNR at the outputs stays; something
that costs more must win by `_WORTH` dB. The whole set of samples then tunes what was chosen, for every target.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..ir.capture import Capturable
from ..ir.passes import evaluate, flatten_tensors
from ..ir.progress import Progress, Silent
from ..quant.collectors import CollectorMethod
from ..quant.simulate import simulate
from ..quant.target import TargetSpec
from .calibration import collect
from .data import Dataset
from .fitting import example_inputs
from .float_budget import within_budget
from .holdout import few_samples, split_samples
from .loss import Loss, OutputLoss
from .lower import lower, plan_targets, prepare
from .options import CompileOptions

_HELD_OUT = 0.25
_JUDGED = 32
_WORTH = 0.1  # dB
# Option, what is tried for it; the first is where the search starts.
_ALTERNATIVES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("calibration", tuple(CollectorMethod.parse(text) for text in ("noise", "mse", "percentile", "minmax"))),
    ("rounding", ("gptq", "adaround")),
    ("split_ratio", (0.0, 0.02)),
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One setting that was tried, its loss on the held-out samples, and whether it stays."""

    option: str
    value: str
    loss: Loss
    kept: bool


def choose_best(
    model: Capturable,
    spec: TargetSpec,
    data: Dataset,
    options: CompileOptions,
    progress: Progress | None = None,
) -> tuple[CompileOptions, tuple[Attempt, ...]]:
    """`options` with the alternatives that serve `spec` best, and everything that was tried.

    An option that the user set is not searched.

    Raises:
        InputError: too few samples to hold some out.
    """
    tuning, held_out = split_samples(data, _HELD_OUT)
    judge = _Judge(model, spec, tuning, few_samples(held_out, _JUDGED), progress or Silent())
    defaults, attempts = CompileOptions(), list[Attempt]()
    for option, values in _ALTERNATIVES:
        if getattr(options, option) != getattr(defaults, option):
            continue
        tried = [(dataclasses.replace(options, **{option: value}), value) for value in values]
        losses = [judge.loss(candidate) for candidate, _ in tried]
        chosen = _choose(losses)
        options = tried[chosen][0]
        attempts += [
            Attempt(option, str(value), loss, index == chosen)
            for index, ((_, value), loss) in enumerate(zip(tried, losses, strict=True))
        ]
    return options, tuple(attempts)


def _choose(losses: Sequence[Loss]) -> int:
    """The first, unless a later one is better by what is worth it."""
    best = 0
    for index, loss in enumerate(losses):
        if loss.sqnr > losses[best].sqnr + _WORTH:
            best = index
    return best


class _Judge:
    """Losses on the held-out samples, each setting measured once."""

    def __init__(
        self, model: Capturable, spec: TargetSpec, tuning: Dataset, judged: Dataset, progress: Progress
    ) -> None:
        self._model, self._spec, self._progress = model, spec, progress
        self._tuning, self._judged = tuning, judged
        self._known: dict[str, Loss] = {}

    def loss(self, options: CompileOptions) -> Loss:
        key = repr(options)
        if key not in self._known:
            self._known[key] = self._measure(options)
        return self._known[key]

    def _measure(self, options: CompileOptions) -> Loss:
        examples = example_inputs(self._tuning)
        floats = prepare(self._model, examples, options, self._tuning.name, self._batches, self._progress)
        plans = plan_targets(floats, [self._spec], options)
        stats = collect(floats, plans, self._batches(), options, self._tuning.count, self._progress)
        spent = within_budget(floats, self._spec, plans[self._spec.name], stats, options, self._progress)
        program = lower(floats, self._spec, spent.plan, spent.stats, options, self._progress).program
        loss = OutputLoss()
        with torch.no_grad(), self._progress.track("judge", self._judged.count) as advance:
            done = 0
            for batch in self._judged:
                outputs = flatten_tensors(list(simulate(program, batch.inputs).outputs.values()))
                loss.add(outputs, evaluate(floats.gm, batch.inputs))
                done += len(batch.inputs[0])
                advance(done)
        return loss.result()

    def _batches(self) -> Iterator[tuple[torch.Tensor, ...]]:
        return (batch.inputs for batch in self._tuning)
