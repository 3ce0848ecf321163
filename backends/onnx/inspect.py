"""What onnxruntime's own optimizer made of an artifact."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from ...compiler.quant.program import FloatStep, IntegerStep, Program
from .loader import load

# Float products, as onnxruntime names them after its fusions; its integer ones are called otherwise.
_FLOAT_PRODUCTS = frozenset(
    {"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulIntegerToFloat"}
)


def optimized_graph(path: Path) -> onnx.GraphProto:
    """The graph that onnxruntime runs for the artifact at `path` on this machine, optimizer on."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimized.onnx"
        load(path, optimized=target)
        return onnx.load(target).graph


def unfused(program: Program, path: Path) -> tuple[str, ...]:
    """Names of convolutions, linears and matrix products planned as int8 that run in float."""
    return leftover(program, optimized_graph(path).node)


def leftover(program: Program, nodes: Sequence[onnx.NodeProto]) -> tuple[str, ...]:
    """Names of float products among `nodes` that the program plans as integer steps."""
    floats = {step.name for step in program.steps if isinstance(step, FloatStep)}
    planned = {step.anchor.name for step in program.steps if isinstance(step, IntegerStep)} - floats
    names = (_origin(node.name) for node in nodes if node.op_type in _FLOAT_PRODUCTS)
    return tuple(name for name in names if name in planned)


def _origin(name: str) -> str:
    """The name that a node had before onnxruntime's passes appended to it."""
    return re.sub(r"(_token_\d+|_nchwc|_nhwc)+$", "", name)
