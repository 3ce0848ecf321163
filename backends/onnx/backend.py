"""The `onnx` target: QDQ models for onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import fx

from ...compiler.quant.program import Program
from ...compiler.quant.target import TargetSpec
from ..installed import installed_version, why_missing
from . import emit, inspect, loader
from .rules import ONNX
from .writer import INT4_OPSET, OPSET


@dataclass(frozen=True, slots=True)
class OnnxBackend:
    """QDQ ONNX, run by onnxruntime on the CPU."""

    spec: TargetSpec = ONNX
    artifact: str = "model.onnx"

    def missing(self) -> str | None:
        return why_missing("onnxruntime", "onnxruntime")

    def versions(self) -> dict[str, str]:
        opset = f"{OPSET}, {INT4_OPSET} with weights of 4 bits"
        return {"onnx": installed_version("onnx"), "onnxruntime": installed_version("onnxruntime"), "opset": opset}

    def emit(self, program: Program, path: Path, expose: Sequence[str] = ()) -> None:
        path.write_bytes(emit.program_bytes(program, expose))

    def emit_float(self, gm: fx.GraphModule, path: Path) -> None:
        path.write_bytes(emit.float_bytes(gm))

    def load(self, path: Path, threads: int = 1) -> loader.OnnxRunner:
        return loader.load(path, threads)

    def unfused(self, program: Program, path: Path) -> tuple[str, ...]:
        return inspect.unfused(program, path)


backend = OnnxBackend()
