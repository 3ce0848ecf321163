"""`fxedge predict`: what a target will make of a model, before any calibration.

The program is the one that `compile` would build, with ranges from the example inputs alone, and without the
passes that tune weights: which ops run on integers does not depend on them. Speed is added up from the kernels'
costs on this machine (`kernel_costs`), one sample at a time: the float graph in float kernels against the
program's integer kernels, float ops, and conversions between the two. What runtimes do to kernels in a network
(fuse them, or take slow paths for odd shapes) the costs do not know; `measure` runs both artifacts instead.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, fx

from ...backends.base import Backend, Describes
from ..ir.nodes import flat_outputs, placeholders
from ..ir.passes import Skip
from ..quant.program import DequantizeStep, IntegerStep, Program, QuantizeStep
from .calibration import collect
from .check import FLOAT, INT8
from .fitting import one_sample
from .kernel_costs import Form, TargetTable
from .kernel_work import Shapes, Work, recorded_shapes, work_of
from .lower import FloatModel, lower, plan_targets
from .options import CompileOptions
from .recipes import FAST, MINMAX
from .runtime import RemoteRuntime

MARGIN = 0.02  # a ratio this near 1 is no verdict
_SECONDS = 5.0  # of measuring,
_FEWEST, _MOST = 6, 200  # and how many pairs of runs that may be
_NOTHING_KNOWN = "the kernel costs of this machine have no figure of any of its kernels"


@dataclass(frozen=True, slots=True)
class Contribution:
    """Seconds that the `count` kernels of one kind take in the float and in the int8 artifact."""

    kind: str
    count: int
    int8_seconds: float
    float_seconds: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Predicted seconds of one sample; `parts` add up to them, the dearest first. `unknown` kinds of kernels have
    no figure in the machine's table and are left out of both."""

    int8_seconds: float
    float_seconds: float
    parts: tuple[Contribution, ...]
    unknown: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """How many times faster int8 will be."""
        return self.float_seconds / self.int8_seconds

    @property
    def verdict(self) -> str:
        if self.ratio >= 1 + MARGIN:
            return "faster"
        return "slower" if self.ratio <= 1 - MARGIN else "about the same"

    def losses(self) -> list[Contribution]:
        """What int8 makes slower, the worst first."""
        worse = [part for part in self.parts if part.int8_seconds > part.float_seconds]
        return sorted(worse, key=lambda part: part.float_seconds - part.int8_seconds)


@dataclass(frozen=True, slots=True)
class Runs:
    """Seconds of each interleaved run of one sample, of the artifact emitted for the prediction and of float's."""

    int8: tuple[float, ...]
    float: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One target: ops on integers, ops in float with their reasons, conversions inside the network, and what its
    runtime's own compiler says (delegates and graph breaks). `speed` is None without a table, for `no_speed`;
    `runs` is None where they were not asked for or the target's own runtime cannot make them here."""

    target: str
    integers: int
    floats: tuple[Skip, ...]
    conversions: int
    notes: tuple[str, ...]
    speed: Speed | None
    no_speed: str | None = None
    runs: Runs | None = None


def predict(
    model: FloatModel,
    backend: Backend,
    options: CompileOptions,
    table: TargetTable | None,
    no_speed: str | None = None,
    measure: bool = False,
) -> Prediction:
    """What `backend` will make of `model`, prepared from its example inputs; with `measure` it is run as well, for
    some seconds on `options.threads`.

    Raises:
        UnsupportedOpsError: the target cannot take it; every node with its reason.
        VerificationError: its runtime fails.
    """
    program, floats = _program(model, backend, options)
    sample = one_sample(model.gm, model.examples)
    speed = None
    if table is not None:
        shapes = recorded_shapes(model.gm, sample)
        speed = predict_speed(model.gm, program, shapes, table)
        no_speed = _NOTHING_KNOWN if speed is None else None
    with tempfile.TemporaryDirectory() as folder:
        # The artifact is made even where its runtime has nothing to say: what cannot be emitted is told now.
        paths = {form: Path(folder) / f"{form}{Path(backend.artifact).suffix}" for form in (INT8, FLOAT)}
        backend.emit(program, paths[INT8])
        notes = backend.notes(paths[INT8]) if isinstance(backend, Describes) else ()
        runs = None
        if measure and backend.spec.own_runtime:
            backend.emit_float(model.plain, paths[FLOAT])
            runs = _measure(backend, paths, sample, options.threads)
    return Prediction(
        backend.spec.name,
        sum(isinstance(step, IntegerStep) for step in program.steps),
        floats,
        len(list(_conversions(program))),
        notes,
        speed,
        no_speed,
        runs,
    )


def _program(model: FloatModel, backend: Backend, options: CompileOptions) -> tuple[Program, tuple[Skip, ...]]:
    spec = backend.spec
    plain = dataclasses.replace(options, recipe=FAST, calibration=MINMAX)
    plan = plan_targets(model, [spec], plain)[spec.name]
    stats = collect(model, {spec.name: plan}, [model.examples], plain)
    lowered = lower(model, spec, plan, stats, plain)
    return lowered.program, lowered.plan.floats


def _measure(backend: Backend, paths: Mapping[str, Path], sample: Sequence[Tensor], threads: int) -> Runs:
    """As many pairs of runs as fit into `_SECONDS`, between `_FEWEST` and `_MOST`; the first `_FEWEST` only tell
    how long one takes."""
    inputs = [tensor.numpy() for tensor in sample]
    with RemoteRuntime(backend.spec.name, paths, threads) as runtime:
        first = runtime.time(list(paths), inputs, repeats=_FEWEST)
        pair = sum(min(seconds) for seconds in first.values())
        count = min(max(int(_SECONDS / max(pair, 1e-9)), _FEWEST), _MOST)
        seconds = runtime.time(list(paths), inputs, repeats=count)
    return Runs(tuple(seconds[INT8]), tuple(seconds[FLOAT]))


def _conversions(program: Program) -> Iterator[QuantizeStep | DequantizeStep]:
    """Steps between integers and float inside the network: not at its inputs and outputs."""
    outputs = set(program.outputs.values())
    for step in program.steps:
        match step:
            case QuantizeStep() if step.source not in program.inputs:
                yield step
            case DequantizeStep() if step.name not in outputs:
                yield step


def predict_speed(gm: fx.GraphModule, program: Program, shapes: Shapes, table: TargetTable) -> Speed | None:
    """The costs of `program`, made of the float graph `gm`, whose values have `shapes`; None where the table has
    no figure of any of its kernels."""
    steps = [step for step in program.steps if isinstance(step, IntegerStep)]
    integers = {node.name for step in steps for node in (step.anchor, *step.fused)}
    known = {node.name for node in program.gm.graph.nodes}
    parts: dict[str, list[float]] = {}
    counts: Counter[str] = Counter()
    unknown: set[str] = set()
    for node in gm.graph.nodes:
        work = work_of(gm, node, shapes) if node.op == "call_function" else None
        if work is None:
            continue
        on_integers = node.name in integers or node.name not in known
        floats, int8 = _cost(table, work, "float"), _cost(table, work, "int8" if on_integers else "float")
        if floats is None or int8 is None:
            unknown.add(work.kind)
            continue
        counts[work.kind] += 1
        part = parts.setdefault(work.kind, [0.0, 0.0])
        part[0] += int8
        part[1] += floats
    if not counts:
        return None
    ends, between = _ends(gm, shapes), [table.boundary(count) / 2 for count in _converted(program, shapes)]
    found = [Contribution(kind, counts[kind], *part) for kind, part in parts.items()]
    found.append(Contribution("call", 1, table.call("int8", ends), table.call("float", ends)))
    found.append(Contribution("conversions", len(between), sum(between), 0.0))
    found.sort(key=lambda part: -max(part.float_seconds, part.int8_seconds))
    return Speed(
        sum(p.int8_seconds for p in found),
        sum(p.float_seconds for p in found),
        tuple(found),
        tuple(sorted(unknown)),
    )


def _cost(table: TargetTable, work: Work, form: Form) -> float | None:
    return table.seconds(work.kind, form, work.amount)


def _ends(gm: fx.GraphModule, shapes: Shapes) -> float:
    """Elements that go into the network or come out of it, on average."""
    names = [node.name for node in (*placeholders(gm), *flat_outputs(gm).values())]
    return sum(math.prod(shapes[name]) for name in names if name in shapes) / 2


def _converted(program: Program, shapes: Shapes) -> Iterator[float]:
    """Elements of each conversion inside the network."""
    sources = {step.name: step.source for step in program.steps if isinstance(step, QuantizeStep)}
    sources |= {step.name: step.anchor.name for step in program.steps if isinstance(step, IntegerStep)}
    for step in _conversions(program):
        name = sources.get(step.source, step.source)
        yield float(math.prod(shapes[name])) if name in shapes else 0.0
