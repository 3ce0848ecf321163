"""The `openvino` target: the ONNX emitter, OpenVINO's arithmetic, its loader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import fx

from ...compiler.quant.program import Program
from ...compiler.quant.target import TargetSpec
from ..installed import installed_version, why_missing
from ..onnx import emit as onnx_emit
from ..onnx.writer import OPSET
from . import emit, inspect, loader
from .rules import OPENVINO


@dataclass(frozen=True, slots=True)
class OpenvinoBackend:
    """QDQ ONNX, run by OpenVINO on the CPU."""

    spec: TargetSpec = OPENVINO
    artifact: str = "model.onnx"

    def missing(self) -> str | None:
        return why_missing("openvino", "'fxedge[openvino]'")

    def versions(self) -> dict[str, str]:
        return {"onnx": installed_version("onnx"), "openvino": installed_version("openvino"), "opset": str(OPSET)}

    def emit(self, program: Program, path: Path, expose: Sequence[str] = ()) -> None:
        path.write_bytes(emit.program_bytes(program, expose))

    def emit_float(self, gm: fx.GraphModule, path: Path) -> None:
        path.write_bytes(onnx_emit.float_bytes(gm, self.spec.name))

    def load(self, path: Path, threads: int = 1) -> loader.OpenvinoRunner:
        return loader.load(path, threads)

    def unfused(self, program: Program, path: Path) -> tuple[str, ...]:
        return inspect.unfused(program, path)


backend = OpenvinoBackend()
