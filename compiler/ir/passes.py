"""The pass contract and the runner that holds every pass to it.

A pass is a frozen dataclass: options are its fields. It declares the stage it requires and ensures and what it
does to the numbers, and its `run` rewrites the graph and returns what it changed and what it left alone.
Dead code, lint, recompilation, verification and the check of the `numerics` promise belong to the runner.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from .constants import constants, prune_constants, set_constant
from .errors import FxedgeError, PassError
from .nodes import placeholders
from .progress import Progress, Silent
from .shapes import annotate
from .stages import Stage, verify

if TYPE_CHECKING:  # the context carries values of the next room; ir itself never uses them
    from ..quant.channel_stats import ChannelStats
    from ..quant.target import TargetSpec

Numerics = Literal["exact", "close", "changes"]

# `close`: largest difference of any output, relative to that output's largest magnitude (float32 rounding
# of folded weights through some fifty layers stays below it; a wrong fold is off by far more).
CLOSE_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Skip:
    """A place that a pass looked at and left alone, and why."""

    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}"


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass did. `rolled_back` holds the reason if the runner undid it; `notes` say what must be known of a
    place that it changed (on what evidence, by how much)."""

    changes: int
    skipped: tuple[Skip, ...] = ()
    rolled_back: str | None = None
    notes: tuple[Skip, ...] = ()


@dataclass(slots=True)
class PassContext:
    """What a pass may read: the target (or none), example inputs, calibration samples, channel statistics.

    `example_inputs` are the tensors on which the runner checks each `numerics` promise; without them nothing
    is checked. `channel_stats` is the one thing that passes write: who scales or splits channels rewrites it.
    `batches` gives the calibration batches anew at each call (None: there are none, the data-free case).
    On a QUANTIZED graph `reference` is the float graph that it was made of, with the same node names, and `kept`
    names the nodes that the user wants in float.
    """

    target: TargetSpec | None = None
    example_inputs: tuple[Tensor, ...] = ()
    channel_stats: ChannelStats | None = None
    batches: Callable[[], Iterable[tuple[Tensor, ...]]] | None = None
    reference: fx.GraphModule | None = None
    kept: Collection[str] = ()
    seed: int = 0
    progress: Progress = field(default_factory=Silent)

    def sample_batches(self) -> Iterable[tuple[Tensor, ...]]:
        """The calibration batches; where there are none, the example inputs."""
        return self.batches() if self.batches is not None else [self.example_inputs] if self.example_inputs else []


class Pass(Protocol):
    """What a pass is. A node that it rewires keeps the shape in `meta["val"]`: a pass that gives a value another
    shape deletes that entry, and the runner computes what is missing and what depends on it."""

    name: ClassVar[str]
    requires: ClassVar[Stage]
    ensures: ClassVar[Stage]
    numerics: ClassVar[Numerics]

    def run(self, gm: fx.GraphModule, ctx: PassContext) -> PassResult: ...


@dataclass(slots=True)
class PassReport(Mapping[str, PassResult]):
    """Results by pass name, in the order in which the passes ran. `max_error` holds, for each pass that
    changed a graph with example inputs, the largest output difference relative to the output's magnitude."""

    results: dict[str, PassResult] = field(default_factory=dict)
    max_error: dict[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> PassResult:
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)


# The graph after a pass (not to be changed), the pass's name in the report, and the report so far.
After = Callable[[fx.GraphModule, str, PassReport], None]


def run_passes(
    gm: fx.GraphModule,
    passes: Sequence[Pass],
    ctx: PassContext | None = None,
    after: After | None = None,
    before: PassReport | None = None,
) -> PassReport:
    """Run `passes` in order on `gm`, in place; verify before and after each. `after` looks on. The report goes on
    from `before`, that of passes that ran already.

    A pass that breaks its `numerics` promise on the example inputs is rolled back and reported, not raised.

    Raises:
        PassError: a pass raised, or left a graph that its stage's verifier refuses; names the pass and what
            ran before. `gm` is then as it was before that pass.
    """
    ctx = ctx or PassContext()
    report = PassReport() if before is None else PassReport(dict(before.results), dict(before.max_error))
    reference: list[Tensor] | None = None
    for item in passes:
        name = _unique_name(item.name, report)
        if ctx.example_inputs and item.numerics != "changes" and reference is None:
            reference = evaluate(gm, ctx.example_inputs)
        snapshot = _Snapshot(gm, ctx)
        result = _run_one(gm, item, ctx, report, snapshot)
        if result.changes and ctx.example_inputs and item.numerics != "changes":
            assert reference is not None
            outputs = evaluate(gm, ctx.example_inputs)
            error = relative_error(outputs, reference)
            report.max_error[name] = error
            if broken := _broken_promise(item.numerics, error):
                snapshot.restore(gm, ctx)
                result = PassResult(0, result.skipped, broken)
            else:
                reference = outputs
        elif result.changes:
            reference = None
        report.results[name] = result
        if after is not None:
            after(gm, name, report)
    return report


def _run_one(
    gm: fx.GraphModule, item: Pass, ctx: PassContext, report: PassReport, before: _Snapshot
) -> PassResult:
    ran = ", ".join(report.results) or "none"
    try:
        verify(gm, item.requires)
        result = item.run(gm, ctx)
        clean_up(gm)
        verify(gm, item.ensures)
        if result.changes and item.ensures is Stage.FLOAT:
            _complete_shapes(gm)
    except FxedgeError as error:
        before.restore(gm, ctx)
        raise PassError(f"Pass {item.name} failed (passes before it: {ran}): {error}") from error
    except Exception as error:
        before.restore(gm, ctx)
        kind = type(error).__name__
        raise PassError(f"Pass {item.name} failed with {kind} (passes before it: {ran}): {error}") from error
    return result


def clean_up(gm: fx.GraphModule) -> None:
    """Remove dead nodes and the constants that nothing reads, then recompile."""
    gm.graph.eliminate_dead_code()
    prune_constants(gm)
    gm.recompile()


def _complete_shapes(gm: fx.GraphModule) -> None:
    """Shapes of the nodes that a pass made; a graph that came without shapes stays without."""
    if all(isinstance(node.meta.get("val"), FakeTensor) for node in placeholders(gm)):
        annotate(gm)


def evaluate(gm: fx.GraphModule, inputs: Iterable[Tensor]) -> list[Tensor]:
    """The outputs of `gm`, flattened in order."""
    with torch.no_grad():
        return flatten_tensors(gm(*inputs))


def flatten_tensors(value: object) -> list[Tensor]:
    """Tensors in a nest of tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [tensor for item in items for tensor in flatten_tensors(item)]  # type: ignore[attr-defined]


def relative_error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest |actual - expected| of any output over that output's largest magnitude; inf if shapes differ."""
    worst = 0.0
    for a, e in zip(actual, expected, strict=True):
        if a.shape != e.shape:
            return float("inf")
        if a.numel():
            difference = (a.double() - e.double()).abs().max()
            scale = e.double().abs().max().clamp(min=1e-12)
            ratio = float(difference / scale)
            worst = max(worst, float("inf") if ratio != ratio else ratio)
    return worst


def _broken_promise(numerics: Numerics, error: float) -> str | None:
    allowed = 0.0 if numerics == "exact" else CLOSE_TOLERANCE
    if error <= allowed:
        return None
    return f"promised {numerics} but changed an output by {error:.3g} of its magnitude (allowed {allowed:g})"


def _unique_name(name: str, report: PassReport) -> str:
    if name not in report.results:
        return name
    count = sum(key == name or key.startswith(f"{name}#") for key in report.results)
    return f"{name}#{count + 1}"


class _Snapshot:
    """A graph and its constants, to go back to. Tensors are shared: passes never write them in place."""

    def __init__(self, gm: fx.GraphModule, ctx: PassContext) -> None:
        self.graph = fx.Graph()
        value = self.graph.graph_copy(gm.graph, {})
        self.graph.output(value)
        self.constants = constants(gm)
        self.channel_stats = copy.deepcopy(ctx.channel_stats)

    def restore(self, gm: fx.GraphModule, ctx: PassContext) -> None:
        gm.graph = self.graph
        for name, value in self.constants.items():
            set_constant(gm, name, value)
        prune_constants(gm)
        gm.recompile()
        ctx.channel_stats = self.channel_stats
