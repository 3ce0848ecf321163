"""`--max-drop`: treat the most sensitive layers better until the loss on held-out samples is within a bound.

Layers are ranked by what each of them loses alone (`sensitivity`). First the weights that have fewer than 8 bits
get 8, the most sensitive first; then layers are kept float. How many it takes is found by bisection: more of them
lose less, but for chance. Half of the calibration samples tune and rank, the other half judge.

The loss is the fall of top-1 accuracy in points where the samples have labels, else the share of top-1 predictions
that differ from the float model's, in points too; for a model that is no classifier the outputs' root mean square
error in percent of their root mean square.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..ir.errors import InputError, VerificationError
from ..ir.passes import evaluate, flatten_tensors
from ..ir.progress import Progress, Silent
from ..quant.calibrate import CalibrationStats
from ..quant.layer_options import LayerOptions
from ..quant.plan import Plan
from ..quant.program import Program
from ..quant.simulate import simulate
from ..quant.target import TargetSpec
from ..quant.walk import samples_within
from .calibration import collect_missing
from .check import is_class
from .data import Dataset
from .fitting import in_batches_of
from .holdout import few_samples, split_samples
from .loss import OutputLoss
from .lower import FloatModel, lower, plan_targets
from .options import CompileOptions
from .sensitivity import Sensitivity, measure_sensitivity

_HELD_OUT = 0.5
_RANKED_ON = 32

# Bytes of activations that one batch of the ranking may take.
_BUDGET = 2**28


@dataclass(frozen=True, slots=True)
class Relief:
    """Layers, by node name, that get weights of 8 bits, and layers that stay float."""

    wider: tuple[str, ...] = ()
    floats: tuple[str, ...] = ()

    def applied(self, options: CompileOptions) -> CompileOptions:
        """`options` with these layers as they should be, whatever they said of them."""
        chosen = {name: LayerOptions(weight_bits=8) for name in self.wider}
        chosen |= {name: LayerOptions(quantize=False) for name in self.floats}
        layers = {name: options.layers[name] for name in options.layers if name not in chosen}
        own = {name: relief.over(options.layers.get(name, LayerOptions())) for name, relief in chosen.items()}
        return dataclasses.replace(options, layers=layers | own)


@dataclass(frozen=True, slots=True)
class MaxDrop:
    """What was found: the layers, the held-out loss with them and without, what it counts, on how many samples."""

    relief: Relief
    drop: float
    without: float
    unit: str
    samples: int


Evaluate = Callable[[Relief], float]


def fewest_layers(
    wider: Sequence[str], floats: Sequence[str], evaluate: Evaluate, allowed: float
) -> Relief | None:
    """The shortest prefix of `wider`, then of `floats` with all of `wider`, that loses at most `allowed`.

    Bisection, so that `evaluate` is called about log2 of the number of layers; the prefix found is within the
    bound, and the one that is a layer shorter is not. None where not even all of them are enough.
    """

    def relief(count: int) -> Relief:
        return Relief(tuple(wider[:count]), tuple(floats[: max(0, count - len(wider))]))

    low, high = 0, len(wider) + len(floats)
    if evaluate(relief(0)) <= allowed:
        return relief(0)
    if evaluate(relief(high)) > allowed:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if evaluate(relief(middle)) <= allowed:
            high = middle
        else:
            low = middle
    return relief(high)


def within_drop(
    model: FloatModel,
    spec: TargetSpec,
    options: CompileOptions,
    data: Dataset,
    allowed: float,
    progress: Progress | None = None,
) -> MaxDrop:
    """The fewest layers of `model` to relieve on `spec` so that the held-out loss is at most `allowed`.

    `data` are the calibration samples, in batches that the model takes. Compile with `relief.applied(options)`:
    its plan has other groups, so calibrate again.

    Raises:
        InputError: `allowed` is negative or not a number, or there are too few samples.
        VerificationError: the loss is too large with every layer in float.
    """
    if not allowed >= 0 or math.isinf(allowed):
        raise InputError(f"--max-drop is {allowed}: give a number of points (or percent), 0 or more")
    trial = _Trial(model, spec, options, *split_samples(data, _HELD_OUT), progress or Silent())
    without = trial.drop(Relief())
    if without <= allowed:
        return MaxDrop(Relief(), without, without, trial.unit, trial.samples)
    wider, floats = trial.ranked()
    found = fewest_layers(wider, floats, trial.drop, allowed)
    if found is None:
        best = trial.drop(Relief(tuple(wider), tuple(floats)))
        raise VerificationError(
            f"{spec.name}: even with every layer in float the loss on {trial.samples} held-out samples is "
            f"{best:.2f} {trial.unit}, and --max-drop allows {allowed:g}: the passes of recipe "
            f"{options.recipe!r} on the float graph lose that much; --explain shows which."
        )
    return MaxDrop(found, trial.drop(found), without, trial.unit, trial.samples)


class _Trial:
    """Lowerings with some layers relieved, calibrated on `tuning` and judged on `judged`; each is done once."""

    def __init__(
        self,
        model: FloatModel,
        spec: TargetSpec,
        options: CompileOptions,
        tuning: Dataset,
        judged: Dataset,
        progress: Progress,
    ) -> None:
        self._model, self._spec, self._options = model, spec, options
        self._tuning, self._judged, self._progress = tuning, judged, progress
        self._stats = CalibrationStats("none yet", 0, {})
        self._drops: dict[Relief, float] = {}
        self.unit = "points"
        self.samples = 0

    def drop(self, relief: Relief) -> float:
        if relief not in self._drops:
            self._drops[relief] = self._judge(relief)
        return self._drops[relief]

    def ranked(self) -> tuple[list[str], list[str]]:
        """Layers with weights of fewer than 8 bits, and all layers, the most sensitive first each."""
        plan = plan_targets(self._model, [self._spec], self._options)[self._spec.name]
        limits = {name: op.weight.qmax for name, op in plan.ops.items() if op.weight is not None}
        narrow = {name: limit.bit_length() + 1 for name, limit in limits.items() if limit.bit_length() < 7}
        widths = sorted({8, *narrow.values()}, reverse=True)
        few = few_samples(self._tuning, _RANKED_ON)
        size = min(few.batch_size, samples_within(self._model.gm, _BUDGET))
        batches = (batch.inputs for batch in (few if _is_fixed(self._model) else in_batches_of(few, size)))
        found = measure_sensitivity(
            self._model,
            self._spec,
            self._ranges(plan),
            batches,
            self._options,
            bits=widths,
            samples=few.count,
            progress=self._progress,
        )
        return _by_loss(found, narrow), [layer.node for layer in found.layers]

    def _judge(self, relief: Relief) -> float:
        options = relief.applied(self._options)
        plan = plan_targets(self._model, [self._spec], options)[self._spec.name]
        lowered = lower(self._model, self._spec, plan, self._ranges(plan), options, self._progress)
        label = f"judge with {len(relief.wider)} layers at 8 bits, {len(relief.floats)} float"
        with torch.no_grad(), self._progress.track(label, self._judged.count) as advance:
            return self._count(lowered.program, advance)

    def _ranges(self, plan: Plan) -> CalibrationStats:
        """Statistics of the plan's groups; only those that no plan before had are collected."""
        self._stats = collect_missing(
            self._model,
            plan,
            self._stats,
            lambda: (batch.inputs for batch in self._tuning),
            self._options,
            self._tuning.count,
            self._progress,
        )
        return self._stats

    def _count(self, program: Program, advance: Callable[[int], None]) -> float:
        loss, done, right, float_right, labelled = OutputLoss(), 0, 0, 0, True
        for batch in self._judged:
            expected = evaluate(self._model.gm, batch.inputs)
            outputs = flatten_tensors(list(simulate(program, batch.inputs).outputs.values()))
            loss.add(outputs, expected)
            if batch.labels is None or not is_class(batch.labels) or expected[0].ndim != 2:
                labelled = False
            else:
                right += int((outputs[0].argmax(1) == batch.labels).sum())
                float_right += int((expected[0].argmax(1) == batch.labels).sum())
            done += len(batch.inputs[0])
            advance(done)
        self.samples, found = done, loss.result()
        if found.changed is None:
            self.unit = "% of the outputs' magnitude"
            return 100 * math.sqrt(found.noise)
        self.unit = "points of top-1 accuracy" if labelled else "points of top-1 agreement"
        return 100 * (float_right - right) / done if labelled else 100 * found.changed.value


def _by_loss(found: Sensitivity, narrow: Mapping[str, int]) -> list[str]:
    """The layers of `narrow` by their loss at their own width."""
    losses = {layer.node: layer.losses[narrow[layer.node]].sqnr for layer in found.layers if layer.node in narrow}
    return sorted(losses, key=losses.__getitem__)


def _is_fixed(model: FloatModel) -> bool:
    """Whether the model takes batches of one size only."""
    first = next(node for node in model.gm.graph.nodes if node.op == "placeholder")
    return isinstance(first.meta["val"].shape[0], int)
