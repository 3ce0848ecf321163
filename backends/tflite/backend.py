"""The `tflite` target: flatbuffers for LiteRT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from torch import fx

from ...compiler.quant.program import Program
from ...compiler.quant.target import TargetSpec
from . import emit, inspect, loader
from .rules import TFLITE


@dataclass(frozen=True, slots=True)
class TfliteBackend:
    """TFLite flatbuffers, run by LiteRT's interpreter with the XNNPACK delegate."""

    spec: TargetSpec = TFLITE
    artifact: str = "model.tflite"

    def missing(self) -> str | None:
        if find_spec("ai_edge_litert") is None:
            return "ai-edge-litert is not installed; run: pip install 'fxedge[tflite]'"
        try:
            import_module("ai_edge_litert.interpreter")
        except ImportError as error:
            return f"ai-edge-litert is damaged ({error}); run: pip install --force-reinstall ai-edge-litert"
        return None

    def versions(self) -> dict[str, str]:
        return {"ai-edge-litert": _version("ai-edge-litert"), "delegate": "XNNPACK"}

    def emit(self, program: Program, path: Path, expose: Sequence[str] = ()) -> None:
        path.write_bytes(emit.program_bytes(program, expose))

    def emit_float(self, gm: fx.GraphModule, path: Path) -> None:
        path.write_bytes(emit.float_bytes(gm))

    def load(self, path: Path, threads: int = 1) -> loader.TfliteRunner:
        return loader.load(path, threads)

    def unfused(self, program: Program, path: Path) -> tuple[str, ...]:
        return inspect.unfused(program, path)


backend = TfliteBackend()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
