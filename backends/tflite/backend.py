"""The `tflite` target: flatbuffers for LiteRT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import fx

from ...compiler.quant.program import Program
from ...compiler.quant.target import TargetSpec
from ..installed import installed_version, why_missing
from . import emit, inspect, loader
from .rules import BUILTIN, TFLITE


@dataclass(frozen=True, slots=True)
class TfliteBackend:
    """TFLite flatbuffers, run by LiteRT's interpreter with the XNNPACK delegate."""

    spec: TargetSpec = TFLITE
    artifact: str = "model.tflite"

    def missing(self) -> str | None:
        return why_missing("ai-edge-litert", "'fxedge[tflite]'", "ai_edge_litert.interpreter")

    def versions(self) -> dict[str, str]:
        return {"ai-edge-litert": installed_version("ai-edge-litert"), "delegate": "XNNPACK"}

    def emit(self, program: Program, path: Path, expose: Sequence[str] = ()) -> None:
        path.write_bytes(emit.program_bytes(program, expose))

    def emit_float(self, gm: fx.GraphModule, path: Path) -> None:
        path.write_bytes(emit.float_bytes(gm))

    def load(self, path: Path, threads: int = 1) -> loader.TfliteRunner:
        return loader.load(path, threads)

    @property
    def selectable(self) -> tuple[str, ...]:
        return (BUILTIN,)

    def load_with(self, kernels: str, path: Path, threads: int = 1) -> loader.TfliteRunner:
        return loader.load(path, threads, delegate=kernels != BUILTIN)

    def unfused(self, program: Program, path: Path) -> tuple[str, ...]:
        return inspect.unfused(program, path)


backend = TfliteBackend()
