"""What a `.pte` holds: its delegates' XNNPACK graphs, read back from the file."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from torch import fx

from ...compiler.ir.ops import CONV, CONV_TRANSPOSE, aten
from ...compiler.quant.program import FloatStep, IntegerStep, Program
from . import libraries
from .emit_steps import SPATIAL_MEANS, is_strided
from .lower import DELEGATION

_CONVS = ("XNNConv2d", "XNNDepthwiseConv2d")
# What an aten op becomes in a delegate.
_KINDS: Mapping[Any, tuple[str, ...]] = {
    **dict.fromkeys(CONV, _CONVS),
    **dict.fromkeys(CONV_TRANSPOSE, ("XNNConvTranspose2d",)),
    aten.linear.default: ("XNNFullyConnected",),
    aten.add.Tensor: ("XNNAdd",),
    aten.sub.Tensor: ("XNNSubtract",),
    aten.mul.Tensor: ("XNNMultiply",),
}


@dataclass(frozen=True, slots=True)
class XnnOp:
    """One node of a delegate's graph; `integer` says whether its result is."""

    kind: str
    integer: bool


def delegated(path: Path) -> list[XnnOp]:
    """Every XNNPACK node of an artifact, delegate by delegate."""
    with libraries.expected_warnings():
        return [op for payload in _payloads(path.read_bytes()) for op in _xnn_ops(_as_json(payload))]


def notes(path: Path) -> tuple[str, ...]:
    """What `lower` wrote into the program of how it was partitioned."""
    serialize = libraries.load("executorch.exir._serialize._program")
    with libraries.expected_warnings():
        plans = serialize.deserialize_pte_binary(path.read_bytes()).program.execution_plan
    plan = next(plan for plan in plans if plan.name == DELEGATION)
    return tuple(plan.values[index].val.string_val for index in plan.outputs)


def unfused(program: Program, path: Path) -> tuple[str, ...]:
    """Anchors of integer steps whose op is float in the artifact, or in no delegate."""
    found = delegated(path)
    missing: list[str] = []
    for kinds in dict.fromkeys(_KINDS.values()):
        steps = [step for step in program.steps if isinstance(step, IntegerStep)]
        planned = [step.anchor.name for step in steps if _integer_kinds(step.anchor) == kinds]
        floats = sum(isinstance(s, FloatStep) and _KINDS.get(s.node.target) == kinds for s in program.steps)
        ops = [op for op in found if op.kind in kinds]
        short = len(planned) - sum(op.integer for op in ops)
        if short > 0:
            missing += _named(planned, floats, ops)
    return tuple(missing)


def _named(planned: list[str], floats: int, ops: list[XnnOp]) -> list[str]:
    """Which of the planned ones: by position where the delegates hold nothing else, else all of them."""
    if not floats and len(ops) == len(planned):
        return [name for name, op in zip(planned, ops, strict=True) if not op.integer]
    return planned


def _integer_kinds(anchor: fx.Node) -> tuple[str, ...] | None:
    """What an integer step becomes, the forms that `emit_steps` gives it included."""
    if anchor.target in SPATIAL_MEANS:
        return _KINDS[aten.linear.default]
    if anchor.target is aten.hardsigmoid.default or (anchor.target is aten.slice.Tensor and is_strided(anchor)):
        return _CONVS
    if anchor.target is aten.silu.default:
        return _KINDS[aten.mul.Tensor]
    return _KINDS.get(anchor.target)


def _payloads(content: bytes) -> Iterator[bytes]:
    extract = libraries.load("executorch.exir._serialize._program")._extract_delegate_payload
    index = 0
    while (payload := extract(content, "XnnpackBackend", index)) is not None:
        yield payload
        index += 1


def _as_json(payload: bytes) -> dict[str, Any]:
    """The flatbuffer behind a payload's header."""
    graphs = libraries.load("executorch.backends.xnnpack.serialization.xnnpack_graph_serialize")
    flatbuffer = libraries.load("executorch.exir._serialize._flatbuffer")
    header = graphs.XNNHeader.from_bytes(payload[: graphs.XNNHeader.EXPECTED_LENGTH])
    start = header.flatbuffer_offset
    with tempfile.TemporaryDirectory() as folder:
        schema, data = Path(folder) / "schema.fbs", Path(folder) / "graph.bin"
        source = resources.files("executorch.backends.xnnpack.serialization").joinpath("schema.fbs")
        schema.write_bytes(source.read_bytes())
        data.write_bytes(payload[start : start + header.flatbuffer_size])
        flatbuffer._flatc_decompile(folder, str(schema), str(data), ["--raw-binary"])
        text = (Path(folder) / "graph.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(re.sub(r": (-?)inf\b", r": \1Infinity", text))
    return found


def _xnn_ops(graph: dict[str, Any]) -> Iterator[XnnOp]:
    integers = {
        value["xvalue_union"]["tensor_value"]["id_out"]
        for value in graph["xvalues"]
        if value["xvalue_union_type"] == "XNNQuantizedTensorValue"
    }
    for node in graph["xnodes"]:
        kind = node["xnode_union_type"]
        yield XnnOp(kind, node["xnode_union"].get("output_id") in integers)
