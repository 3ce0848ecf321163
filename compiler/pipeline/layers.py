"""`layers/<target>.json` of a bundle: what runs where, layer by layer, with errors, ranges and histograms.

It is what `fxedge report` draws and `fxedge diff` compares. Errors are as in `layer_errors`, on a few samples of
the data that the artifact was judged on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, fx

from ..ir.constants import constant
from ..ir.nodes import describe, module_path
from ..ir.ops import OPS, op_name
from ..ir.progress import Progress, Silent
from ..ir.shapes import recorded_shape
from ..quant.histogram import Histogram
from ..quant.plan import Plan
from ..quant.program import DequantizeStep, FloatStep, IntegerStep, Program, QuantizeStep, Step
from ..quant.qparams import QParams
from .bundle import read_bundle_record
from .float_budget import multiplications
from .layer_errors import LayerError, LayerErrors, parts_within_budget
from .loss import finite_or_none
from .records import Entry

SCHEMA_VERSION = 1
FOLDER = "layers"

_BINS = 64
_LARGEST = 64 * 2**20  # bytes

Kind = Literal["int8", "float", "quantize", "dequantize"]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class FiniteEntry(Entry):
    """Figures are drawn and computed with, so none is infinite or NaN."""

    model_config = ConfigDict(allow_inf_nan=False)


class HistogramEntry(FiniteEntry):
    """Counts of float values in bins of equal `width` that start at `start`; `low` and `high` are the extremes."""

    low: float
    high: float
    start: float
    width: float
    counts: tuple[Count, ...]


class ErrorEntry(FiniteEntry):
    """SQNR (dB; null where nothing differs) and cosine of the accumulated error and of the layer's own."""

    sqnr_db: float | None
    cosine: float | None
    own_sqnr_db: float | None
    own_cosine: float | None


class ValueEntry(FiniteEntry):
    """The integers of a node's result: parameters, the real numbers `low` to `high` that they cover, and, where
    the float graph has the value, its distribution and the errors."""

    scale: float
    zero_point: int
    low: float
    high: float
    histogram: HistogramEntry | None = None
    error: ErrorEntry | None = None


class WeightEntry(FiniteEntry):
    """A layer's weight: shape, bits, how many scales and their extremes, the distribution of the float weight and
    the SQNR (dB) of the integers that stand for it."""

    shape: tuple[int, ...]
    bits: int = Field(ge=2, le=8)
    scales: int
    scale_low: float
    scale_high: float
    histogram: HistogramEntry | None = None
    sqnr_db: float | None = None


class NodeEntry(FiniteEntry):
    """One step of the program: what it computes (`fused`: activations and additions in the same kernel), where it
    comes from, which steps or inputs it reads, and of a float op why it is one. `multiplications` are those of one
    sample, `shape` that of the result, null where it varies."""

    name: str
    node: str
    op: str
    module: str
    kind: Kind
    inputs: tuple[str, ...]
    fused: tuple[str, ...] = ()
    reason: str | None = None
    shape: tuple[int | None, ...] | None = None
    multiplications: float = 0.0
    value: ValueEntry | None = None
    weight: WeightEntry | None = None


class LayersEntry(Entry):
    """The whole file; `nodes` in the order of execution, errors measured on `samples` samples."""

    schema_version: int = SCHEMA_VERSION
    target: str
    samples: int
    inputs: tuple[str, ...]
    outputs: dict[str, str]
    nodes: tuple[NodeEntry, ...] = Field(max_length=100_000)


def describe_layers(
    gm: fx.GraphModule,
    program: Program,
    plan: Plan,
    batches: Iterable[tuple[Tensor, ...]],
    progress: Progress | None = None,
) -> LayersEntry:
    """What `program`, made of the float graph `gm` by `plan`, does on `batches`; a few samples are enough."""
    errors, histograms, samples = LayerErrors(gm, program), dict[str, Histogram](), 0
    with torch.no_grad(), (progress or Silent()).track("measure layers") as advance:
        for batch in batches:
            for part in parts_within_budget(gm, batch):
                for name, value in errors.add(part).items():
                    _count(histograms.setdefault(name, Histogram(_BINS)), value)
                samples += len(part[0])
                advance(samples)
    measured = {layer.value: layer for layer in errors.layers()}
    reasons = {skip.node: skip.reason for skip in plan.floats}
    nodes = tuple(_node(gm, program, step, measured, histograms, reasons) for step in program.steps)
    return LayersEntry(
        target=program.spec.name,
        samples=samples,
        inputs=program.inputs,
        outputs=dict(program.outputs),
        nodes=nodes,
    )


def write_layers(folder: Path, entry: LayersEntry) -> None:
    """Into the bundle at `folder`."""
    path = folder / FOLDER / f"{entry.target}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(entry.model_dump(mode="json"), separators=(",", ":")) + "\n", encoding="utf-8")


def read_layers(folder: Path, target: str) -> LayersEntry | None:
    """What the bundle at `folder`, whose hashes were checked, says of `target`; None where it says nothing.

    Raises:
        BundleError: it is no such file, or of another schema.
    """
    path = folder / FOLDER / f"{target}.json"
    if not path.is_file():
        return None
    return read_bundle_record(path, LayersEntry, "a description of layers", SCHEMA_VERSION, _LARGEST)


def _node(
    gm: fx.GraphModule,
    program: Program,
    step: Step,
    measured: dict[str, LayerError],
    histograms: dict[str, Histogram],
    reasons: dict[str, str],
) -> NodeEntry:
    nodes = {node.name: node for node in program.gm.graph.nodes}
    match step:
        case IntegerStep():
            node, kind, inputs = step.anchor, "int8", step.inputs
        case FloatStep():
            node, kind = step.node, "float"
            inputs = tuple(source.name for source in node.all_input_nodes if source.op != "get_attr")
        case QuantizeStep():
            node, kind, inputs = nodes[step.name], "quantize", (step.source,)
        case DequantizeStep():
            node, kind, inputs = nodes[step.name], "dequantize", (step.source,)
    qparams = program.integer_values().get(step.name)
    return NodeEntry(
        name=step.name,
        node=node.name,
        op=kind if isinstance(step, QuantizeStep | DequantizeStep) else _op(node),
        module=module_path(node),
        kind=kind,  # type: ignore[arg-type]
        inputs=inputs,
        fused=tuple(map(_op, step.fused)) if isinstance(step, IntegerStep) else (),
        reason=reasons.get(describe(node)) if isinstance(step, FloatStep) else None,
        shape=_shape(nodes[step.name]),
        multiplications=multiplications(gm, origin) if (origin := _origin(gm, node)) is not None else 0.0,
        value=None if qparams is None else _value(qparams, measured.get(step.name), histograms.get(step.name)),
        weight=_weight(gm, step, measured.get(step.name)) if isinstance(step, IntegerStep) else None,
    )


def _op(node: fx.Node) -> str:
    return op_name(node.target).partition(".")[0]


def _origin(gm: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The node of the float graph with the same name."""
    return next((one for one in gm.graph.nodes if one.name == node.name), None)


def _shape(node: fx.Node) -> tuple[int | None, ...] | None:
    shape = recorded_shape(node)
    return None if shape is None else tuple(size if isinstance(size, int) else None for size in shape)


def _value(qparams: QParams, error: LayerError | None, histogram: Histogram | None) -> ValueEntry:
    scale, zero_point = qparams.scale[0], qparams.zero_point[0]
    return ValueEntry(
        scale=scale,
        zero_point=zero_point,
        low=(qparams.qmin - zero_point) * scale,
        high=(qparams.qmax - zero_point) * scale,
        histogram=None if histogram is None else _histogram(histogram),
        error=None if error is None else _error(error),
    )


def _error(error: LayerError) -> ErrorEntry:
    return ErrorEntry(
        sqnr_db=finite_or_none(error.sqnr),
        cosine=finite_or_none(error.cosine, digits=6),
        own_sqnr_db=finite_or_none(error.own_sqnr),
        own_cosine=finite_or_none(error.own_cosine, digits=6),
    )


def _weight(gm: fx.GraphModule, step: IntegerStep, error: LayerError | None) -> WeightEntry | None:
    if step.weight is None or step.weight_qparams is None:
        return None
    qparams, histogram = step.weight_qparams, None
    origin, info = _origin(gm, step.anchor), OPS[step.anchor.target]  # type: ignore[index]
    if origin is not None and (weight := constant(gm, origin.args[info.weight])) is not None:
        _count(histogram := Histogram(_BINS), weight)
    return WeightEntry(
        shape=tuple(step.weight.shape),
        bits=(qparams.qmax - qparams.qmin).bit_length(),
        scales=len(qparams.scale),
        scale_low=min(qparams.scale),
        scale_high=max(qparams.scale),
        histogram=None if histogram is None else _histogram(histogram),
        sqnr_db=None if error is None else finite_or_none(error.weight_sqnr),
    )


def _count(histogram: Histogram, values: Tensor) -> None:
    flat = values.detach().float().flatten()
    flat = flat[torch.isfinite(flat)]
    if len(flat):
        histogram.add(flat, float(flat.min()), float(flat.max()))


def _histogram(histogram: Histogram) -> HistogramEntry | None:
    if histogram.low > histogram.high:
        return None
    return HistogramEntry(
        low=histogram.low,
        high=histogram.high,
        start=histogram.first * histogram.width,
        width=histogram.width,
        counts=tuple(histogram.counts[: histogram.used].tolist()),
    )
