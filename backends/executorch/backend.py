"""The `executorch` target: `.pte` programs for ExecuTorch with XNNPACK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import fx

from ...compiler.quant.program import Program
from ...compiler.quant.target import TargetSpec
from ..installed import installed_version, why_missing
from . import graph, inspect, loader, lower
from .rules import EXECUTORCH


@dataclass(frozen=True, slots=True)
class ExecutorchBackend:
    """`.pte`, run by ExecuTorch's XNNPACK delegate and portable kernels."""

    spec: TargetSpec = EXECUTORCH
    artifact: str = "model.pte"

    def missing(self) -> str | None:
        return why_missing("executorch", "'fxedge[executorch]'")

    def versions(self) -> dict[str, str]:
        return {"executorch": installed_version("executorch")}

    def emit(self, program: Program, path: Path, expose: Sequence[str] = ()) -> None:
        path.write_bytes(lower.pte_bytes(graph.program_graph(program, expose)))

    def emit_float(self, gm: fx.GraphModule, path: Path) -> None:
        path.write_bytes(lower.pte_bytes(graph.float_graph(gm)))

    def load(self, path: Path, threads: int = 1) -> loader.ExecutorchRunner:
        return loader.load(path, threads)

    def unfused(self, program: Program, path: Path) -> tuple[str, ...]:
        return inspect.unfused(program, path)

    def notes(self, path: Path) -> tuple[str, ...]:
        """How many delegates an artifact has, and what is in none of them."""
        return inspect.notes(path)


backend = ExecutorchBackend()
