"""From a model to one program for each target: capture, float passes, plan, one calibration, quantize nodes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from ...passes.clean_qdq import CleanQdq
from ...passes.insert_qdq import InsertQdq
from ..ir.capture import Capturable, capture
from ..ir.errors import InputError
from ..ir.passes import PassContext, PassReport, run_passes
from ..ir.progress import Progress, Silent
from ..ir.shapes import annotate
from ..quant.calibrate import CalibrationStats, calibrate
from ..quant.channel_stats import ChannelStats
from ..quant.plan import Plan, plan_quantization
from ..quant.program import Program, build_program
from ..quant.target import TargetSpec
from .fitting import require_fit
from .options import CompileOptions
from .recipes import RECIPES


@dataclass(frozen=True, slots=True)
class FloatModel:
    """A captured model after the float passes, annotated with shapes. `examples` are its example inputs."""

    gm: fx.GraphModule
    examples: tuple[Tensor, ...]
    passes: PassReport
    channel_stats: ChannelStats


@dataclass(frozen=True, slots=True)
class Lowered:
    """One target's plan and program, and what its passes did."""

    plan: Plan
    program: Program
    passes: PassReport


def prepare(
    model: Capturable, examples: Sequence[Tensor], options: CompileOptions, source: str = "the example"
) -> FloatModel:
    """Capture `model` and run the recipe's float passes; `examples` are inputs of a few samples of `source`.

    Raises:
        CaptureError, PassError: see there.
        InputError: no recipe has this name, or the examples do not fit an exported program.
    """
    if options.recipe not in RECIPES:
        raise InputError(f"Unknown recipe {options.recipe!r}; allowed: {', '.join(RECIPES)}.")
    gm = capture(model, examples, tracer=options.tracer, dynamic_axes=options.dynamic_axes)
    require_fit(gm, examples, source)
    stats = ChannelStats()
    ctx = PassContext(example_inputs=tuple(examples), channel_stats=stats)
    report = run_passes(gm, RECIPES[options.recipe], ctx)
    annotate(gm)
    return FloatModel(gm, tuple(examples), report, ctx.channel_stats or stats)


def plan_targets(model: FloatModel, specs: Iterable[TargetSpec], options: CompileOptions) -> dict[str, Plan]:
    """One plan for each target, by target name."""
    return {
        spec.name: plan_quantization(
            model.gm, spec, keep_float=options.keep_float, per_tensor_weights=options.per_tensor_weights
        )
        for spec in specs
    }


def collect(
    model: FloatModel,
    plans: Mapping[str, Plan],
    batches: Iterable[Sequence[Tensor]],
    options: CompileOptions,
    samples: int | None = None,
    progress: Progress | None = None,
) -> CalibrationStats:
    """One pass over `batches` for all plans."""
    with (progress or Silent()).track("calibrate", samples) as advance:
        return calibrate(model.gm, list(plans.values()), batches, options.calibration, advance)


def lower(model: FloatModel, spec: TargetSpec, plan: Plan, stats: CalibrationStats) -> Lowered:
    """The program of one target; `model` is not changed."""
    gm = copy_graph(model.gm)
    ctx = PassContext(target=spec, example_inputs=model.examples)
    report = run_passes(gm, [InsertQdq(plan, stats), CleanQdq()], ctx)
    return Lowered(plan, build_program(gm, spec, plan.kept), report)


def copy_graph(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy with its own graph and the same tensors (passes never write tensors in place)."""
    memo = {id(buffer): buffer for buffer in gm.buffers()}
    return copy.deepcopy(gm, memo)
