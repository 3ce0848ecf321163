"""The `openvino` target: the ONNX emitter, OpenVINO's arithmetic, its loader."""

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
        if find_spec("openvino") is None:
            return "openvino is not installed; run: pip install 'fxedge[openvino]'"
        try:
            import_module("openvino")
        except ImportError as error:
            return f"openvino is damaged ({error}); run: pip install --force-reinstall openvino"
        return None

    def versions(self) -> dict[str, str]:
        return {"onnx": _version("onnx"), "openvino": _version("openvino"), "opset": str(OPSET)}

    def emit(self, program: Program, path: Path, expose: Sequence[str] = ()) -> None:
        path.write_bytes(emit.program_bytes(program, expose))

    def emit_float(self, gm: fx.GraphModule, path: Path) -> None:
        path.write_bytes(onnx_emit.float_bytes(gm, self.spec.name))

    def load(self, path: Path, threads: int = 1) -> loader.OpenvinoRunner:
        return loader.load(path, threads)

    def unfused(self, program: Program, path: Path) -> tuple[str, ...]:
        return inspect.unfused(program, path)


backend = OpenvinoBackend()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
