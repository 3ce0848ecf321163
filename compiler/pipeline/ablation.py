"""What each pass of a compilation bought: the loss of the program as it would be if the passes ended there.

A `PassWatch` looks on while the passes run (`prepare(after=...)`, `lower(after=...)`). After each one that changed
the graph it plans, calibrates on the tuning samples and quantizes a copy, without further passes, and simulates it
on the samples to judge on, against the model as it was captured. A pass on the quantized graph is judged as it
stands. The same passes as in any compilation run, in the same order: the losses add up to the final one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

from ...passes.clean_qdq import CleanQdq
from ...passes.insert_qdq import InsertQdq
from ..ir.errors import FxedgeError
from ..ir.passes import After, PassContext, PassReport, evaluate, flatten_tensors, run_passes
from ..ir.progress import Progress, Silent
from ..quant.channel_stats import ChannelStats
from ..quant.plan import Plan
from ..quant.program import Program, build_program
from ..quant.simulate import simulate
from ..quant.target import TargetSpec
from .calibration import collect
from .data import Dataset
from .holdout import few_samples, split_samples
from .loss import Loss, OutputLoss
from .lower import CAPTURE, FloatModel, copy_graph, plan_targets
from .options import CompileOptions

_HELD_OUT = 0.25
_JUDGED = 32


@dataclass(frozen=True, slots=True)
class PassEffect:
    """The loss of the program after a pass (`CAPTURE`: before the first), and what the runner says of the pass.

    `loss` is None where there is no program: the graph at that point cannot be quantized. `max_error` is how far
    a pass that promises to preserve the function moved an output on the example inputs, relative to the output's
    magnitude (its certificate); `rolled_back` the reason if it broke the promise and was undone; `notes` what it
    says of what it changed.
    """

    name: str
    stage: Literal["float", "quantized"]
    changes: int
    loss: Loss | None
    max_error: float | None = None
    rolled_back: str | None = None
    notes: tuple[str, ...] = ()


def watch_compilation(
    specs: Sequence[TargetSpec],
    options: CompileOptions,
    data: Dataset,
    evaluation: Dataset | None,
    progress: Progress | None = None,
) -> PassWatch:
    """A watch that judges on samples of `evaluation`, or on some held out from `data`: its ranges do not come from
    those, but the passes of the compilation read all of `data`.

    Raises:
        InputError: there is no evaluation data, and `data` are too few to hold some out.
    """
    if evaluation is not None:
        return PassWatch(specs, options, data, few_samples(evaluation, _JUDGED), progress, unseen=True)
    tuning, judged = split_samples(data, _HELD_OUT)
    return PassWatch(specs, options, tuning, few_samples(judged, _JUDGED), progress)


class PassWatch:
    """Give `float_pass` to `prepare` and `quantized_pass(...)` to `lower`, then read `effects`.

    `tuning` calibrates what is judged on `judged`: give other samples than those, or the loss looks too small.
    `unseen` says that the passes do not read `judged` either.
    """

    def __init__(
        self,
        specs: Sequence[TargetSpec],
        options: CompileOptions,
        tuning: Dataset,
        judged: Dataset,
        progress: Progress | None = None,
        *,
        unseen: bool = False,
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._options, self._tuning, self.judged = options, tuning, judged
        self._progress, self.unseen = progress or Silent(), unseen
        self._captured: fx.GraphModule | None = None
        self._effects: dict[str, list[PassEffect]] = {spec.name: [] for spec in specs}

    def effects(self, target: str) -> tuple[PassEffect, ...]:
        """In the order in which the passes ran, `CAPTURE` first."""
        return tuple(self._effects[target])

    def float_pass(self, gm: fx.GraphModule, name: str, report: PassReport) -> None:
        """After a pass on the float graph."""
        if name == CAPTURE:
            self._captured = copy_graph(gm)
        changed = name == CAPTURE or report[name].changes > 0
        losses = self._float_losses(gm, name) if changed else {}
        for target, effects in self._effects.items():
            loss = losses.get(target) if changed else effects[-1].loss
            effects.append(_effect(name, "float", report, loss))

    def quantized_pass(self, spec: TargetSpec, plan: Plan) -> After:
        """What looks on while the passes of `plan` run on the quantized graph."""

        def after(gm: fx.GraphModule, name: str, report: PassReport) -> None:
            effects = self._effects[spec.name]
            loss = effects[-1].loss
            if report[name].changes and name != CleanQdq.name:
                loss = self._judge(build_program(copy_graph(gm), spec, plan.kept), name)
            effects.append(_effect(name, "quantized", report, loss))

        return after

    def _float_losses(self, gm: fx.GraphModule, name: str) -> dict[str, Loss | None]:
        model = FloatModel(copy_graph(gm), gm, (), PassReport(), ChannelStats())
        try:
            plans = plan_targets(model, self._specs.values(), self._options)
            batches = (batch.inputs for batch in self._tuning)
            stats = collect(model, plans, batches, self._options, self._tuning.count, self._progress)
        except FxedgeError:
            return dict.fromkeys(self._specs)
        losses: dict[str, Loss | None] = {}
        for target, plan in plans.items():
            quantized = copy_graph(model.gm)
            run_passes(quantized, [InsertQdq(plan, stats), CleanQdq()], PassContext(self._specs[target]))
            losses[target] = self._judge(build_program(quantized, self._specs[target], plan.kept), name)
        return losses

    def _judge(self, program: Program, name: str) -> Loss:
        assert self._captured is not None
        return program_loss(program, self._captured, self.judged, self._progress, f"after {name}")


def program_loss(
    program: Program, reference: fx.GraphModule, data: Dataset, progress: Progress, label: str
) -> Loss:
    """The loss of the simulated outputs of `program` against those of the float graph `reference`."""
    loss, done = OutputLoss(), 0
    with torch.no_grad(), progress.track(label, data.count) as advance:
        for batch in data:
            outputs = simulate(program, batch.inputs).outputs
            loss.add(flatten_tensors(list(outputs.values())), evaluate(reference, batch.inputs))
            done += len(batch.inputs[0])
            advance(done)
    return loss.result()


def _effect(name: str, stage: Literal["float", "quantized"], report: PassReport, loss: Loss | None) -> PassEffect:
    result = report.get(name)
    if result is None:
        return PassEffect(name, stage, 0, loss)
    error, notes = report.max_error.get(name), tuple(map(str, result.notes))
    return PassEffect(name, stage, result.changes, loss, error, result.rolled_back, notes)
