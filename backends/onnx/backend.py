"""The `onnx` target: QDQ models for onnxruntime."""

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
from .rules import ONNX
from .writer import INT4_OPSET, OPSET


@dataclass(frozen=True, slots=True)
class OnnxBackend:
    """QDQ ONNX, run by onnxruntime on the CPU."""

    spec: TargetSpec = ONNX
    artifact: str = "model.onnx"

    def missing(self) -> str | None:
        if find_spec("onnxruntime") is None:
            return "onnxruntime is not installed; run: pip install onnxruntime"
        try:
            import_module("onnxruntime")
        except ImportError as error:
            return f"onnxruntime is damaged ({error}); run: pip install --force-reinstall onnxruntime"
        return None

    def versions(self) -> dict[str, str]:
        opset = f"{OPSET}, {INT4_OPSET} with weights of 4 bits"
        return {"onnx": _version("onnx"), "onnxruntime": _version("onnxruntime"), "opset": opset}

    def emit(self, program: Program, path: Path, expose: Sequence[str] = ()) -> None:
        path.write_bytes(emit.program_bytes(program, expose))

    def emit_float(self, gm: fx.GraphModule, path: Path) -> None:
        path.write_bytes(emit.float_bytes(gm))

    def load(self, path: Path, threads: int = 1) -> loader.OnnxRunner:
        return loader.load(path, threads)

    def unfused(self, program: Program, path: Path) -> tuple[str, ...]:
        return inspect.unfused(program, path)


backend = OnnxBackend()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
