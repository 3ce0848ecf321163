"""From a model to one program for each target: capture, float passes, plan, quantize nodes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from ...passes.clean_qdq import CleanQdq
from ...passes.insert_qdq import InsertQdq
from ...passes.strip_qdq import StripQdq
from ..ir.capture import Capturable, capture
from ..ir.nodes import describe
from ..ir.passes import After, PassContext, PassReport, Skip, run_passes
from ..ir.progress import Progress, Silent
from ..ir.qops import is_quantized
from ..ir.shapes import annotate
from ..quant.calibrate import CalibrationStats
from ..quant.channel_stats import ChannelStats
from ..quant.isa import choose_isa, isa_notes
from ..quant.plan import Plan, plan_quantization
from ..quant.program import IntegerStep, Program, build_program
from ..quant.saturation import SaturationProof, prove_unsaturated
from ..quant.target import TargetSpec
from .fitting import require_fit
from .options import CompileOptions
from .recipes import make_recipe

Batches = Callable[[], Iterable[tuple[Tensor, ...]]]

# What `prepare` calls the graph before the first pass.
CAPTURE = "capture"


@dataclass(frozen=True, slots=True)
class FloatModel:
    """A captured model after the float passes, annotated with shapes. `plain` is it before those that prepare it
    for integers, which can make it slower in float. `examples` are its example inputs, `batches` the calibration
    batches that its passes may read. `quantized` is the graph as it came, where it came quantized; `gm` is then
    what it stands for."""

    gm: fx.GraphModule
    plain: fx.GraphModule
    examples: tuple[Tensor, ...]
    passes: PassReport
    channel_stats: ChannelStats
    batches: Batches | None = None
    quantized: fx.GraphModule | None = None


@dataclass(frozen=True, slots=True)
class Lowered:
    """One target's plan, as its program carries it out, and program, what its passes did, whether 16-bit sums can
    saturate (None where the target's kernels have none), and what must be known of how it came about."""

    plan: Plan
    program: Program
    passes: PassReport
    saturation: SaturationProof | None = None
    notes: tuple[str, ...] = ()


def prepare(
    model: Capturable,
    examples: Sequence[Tensor],
    options: CompileOptions,
    source: str = "the example",
    batches: Batches | None = None,
    progress: Progress | None = None,
    after: After | None = None,
) -> FloatModel:
    """Capture `model` and run the recipe's float passes; `examples` are inputs of a few samples of `source`.

    A graph that comes quantized is kept beside the float one, which is made by taking its quantize nodes out.

    `batches` gives the calibration batches anew at each call, for the passes that measure. `after` is called with
    the captured graph (as `CAPTURE`) and after each pass.

    Raises:
        CaptureError, PassError: see there.
        InputError: no recipe has this name, or the examples do not fit an exported program.
    """
    recipe = make_recipe(options)
    gm = capture(model, examples, tracer=options.tracer, dynamic_axes=options.dynamic_axes)
    require_fit(gm, examples, source)
    stats = ChannelStats()
    ctx = PassContext(
        example_inputs=tuple(examples), channel_stats=stats, batches=batches, progress=progress or Silent()
    )
    if after is not None:
        after(gm, CAPTURE, PassReport())
    quantized = copy_graph(gm) if is_quantized(gm.graph) else None
    report = run_passes(gm, recipe.plain if quantized is None else [StripQdq()], ctx, after)
    plain = copy_graph(gm)
    if quantized is None:
        report = run_passes(gm, recipe.floats, ctx, after, report)
    annotate(gm)
    return FloatModel(gm, plain, tuple(examples), report, ctx.channel_stats or stats, batches, quantized)


def plan_targets(
    model: FloatModel,
    specs: Iterable[TargetSpec],
    options: CompileOptions,
    relieved: Mapping[str, str] | None = None,
) -> dict[str, Plan]:
    """One plan for each target, by target name; `relieved` as in `plan_quantization`."""
    return {
        spec.name: plan_quantization(
            model.gm,
            spec,
            keep_float=options.keep_float,
            per_tensor_weights=options.per_tensor_weights,
            weight_bits=options.weight_bits,
            weight_range=options.weight_range,
            layers=options.layers,
            relieved=relieved,
        )
        for spec in specs
    }


def lower(
    model: FloatModel,
    spec: TargetSpec,
    plan: Plan,
    stats: CalibrationStats,
    options: CompileOptions | None = None,
    progress: Progress | None = None,
    after: After | None = None,
) -> Lowered:
    """The program of one target, after the recipe's passes on its quantized graph; `model` is not changed.

    Raises:
        InputError: the target knows nothing of the instruction set asked for.
        PassError: see there.
    """
    options = options or CompileOptions()
    isa = choose_isa(spec, options.isa)
    gm = copy_graph(model.gm)
    ctx = PassContext(
        target=spec,
        example_inputs=model.examples,
        channel_stats=model.channel_stats,
        batches=model.batches,
        reference=model.gm,
        kept=plan.kept,
        progress=progress or Silent(),
    )
    recipe = make_recipe(options)
    report = run_passes(gm, [InsertQdq(plan, stats), CleanQdq(), *recipe.integers], ctx, after)
    program = build_program(gm, spec, plan.kept)
    proof = None if isa is None else prove_unsaturated(program, isa)
    return Lowered(_carried_out(plan, program), program, report, proof, isa_notes(spec, options.isa))


def _carried_out(plan: Plan, program: Program) -> Plan:
    """`plan` as `program` has it: ops whose kernels do not take the parameters that were chosen are float."""
    nodes = {node.name: node for node in program.gm.graph.nodes}
    integer = {step.anchor.name for step in program.steps if isinstance(step, IntegerStep)}
    refused = [op.node for op in plan.ops.values() if op.outputs and op.node not in integer]
    reason = f"{program.spec.name}'s kernel does not take its parameters"
    return dataclasses.replace(
        plan,
        ops={name: op for name, op in plan.ops.items() if op.node not in refused},
        floats=(*plan.floats, *(Skip(describe(nodes[name]), reason) for name in refused)),
    )


def copy_graph(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy with its own graph and the same tensors (passes never write tensors in place)."""
    memo = {id(buffer): buffer for buffer in gm.buffers()}
    return copy.deepcopy(gm, memo)
