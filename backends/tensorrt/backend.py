"""The `tensorrt` target: explicitly quantized ONNX, its rules proven, its numbers checked in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import fx

from ...compiler.quant.program import Program
from ...compiler.quant.target import TargetSpec
from ..base import Runner
from ..installed import installed_version
from ..onnx import backend as onnx_backend
from ..onnx import emit as onnx_emit
from ..onnx.writer import OPSET
from . import emit, loader, recipe
from .rules import TENSORRT


@dataclass(frozen=True, slots=True)
class TensorrtBackend:
    """ONNX for TensorRT's builder, which is not needed here."""

    spec: TargetSpec = TENSORRT
    artifact: str = "model.onnx"

    def missing(self) -> str | None:
        return onnx_backend.missing()

    def versions(self) -> dict[str, str]:
        """TensorRT's own version counts only where it is: no artifact depends on it."""
        return {
            "onnx": installed_version("onnx"),
            "onnxruntime": f"{installed_version('onnxruntime')}, optimizer off",
            "opset": str(OPSET),
            "engine": "none was built",
        }

    def emit(self, program: Program, path: Path, expose: Sequence[str] = ()) -> None:
        path.write_bytes(emit.program_bytes(program, expose))

    def emit_float(self, gm: fx.GraphModule, path: Path) -> None:
        path.write_bytes(onnx_emit.float_bytes(gm, self.spec.name))

    def companions(self, program: Program) -> Mapping[str, bytes]:
        return recipe.companions(program)

    def load(self, path: Path, threads: int = 1) -> Runner:
        return loader.load(path, threads)

    def unfused(self, program: Program, path: Path) -> tuple[str, ...]:
        """What TensorRT would leave in float is not known here; that it may fuse is proven when it is written."""
        return ()


backend = TensorrtBackend()
