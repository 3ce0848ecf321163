"""Values that are hidden: what is said where they are as simulated, and where they are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fxedge.backends import registry
from fxedge.compiler.pipeline import hidden
from fxedge.compiler.pipeline.driver import CompileReport
from fxedge.compiler.pipeline.hidden import off_when_hidden
from fxedge.compiler.quant.program import Program
from fxedge.compiler.quant.simulate import simulate
from fxedge.compiler.quant.target import TargetSpec
from small_compile import small_images


@dataclass
class Fusing:
    """A backend and its runtime: the simulator, but where `fused` is hidden its integers are `off` too high."""

    program: Program
    fused: str
    off: int
    share: float
    spec: TargetSpec
    artifact: str = "model"
    shown: list[Sequence[str]] = field(default_factory=list)

    def emit(self, program: Program, path: Path, expose: Sequence[str] = ()) -> None:
        self.shown.append(expose)

    def run(self, key: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        tensors, shown = [torch.from_numpy(array) for array in inputs], self.shown[-1]
        forced = {}
        if self.fused not in shown:
            value = simulate(self.program, tensors, keep=[self.fused]).integers[self.fused].clone()
            value.view(-1)[: round(self.share * value.numel())] += self.off
            forced = {self.fused: value}
        found = simulate(self.program, tensors, keep=shown, forced=forced)
        return [value.numpy() for value in (*found.outputs.values(), *map(found.integers.__getitem__, shown))]

    def __call__(self, target: str, artifacts: Mapping[str, Path], threads: int) -> Fusing:
        return self

    def __enter__(self) -> Fusing:
        return self

    def __exit__(self, *details: object) -> None:
        pass


@pytest.fixture
def program(compiled: tuple[Path, CompileReport]) -> Program:
    return compiled[1].results["onnx"].lowered.program


@pytest.mark.parametrize(("off", "share", "found"), [(0, 0.0, False), (1, 0.002, False), (9, 1.0, True)])
def test_a_fusion_that_computes_otherwise_is_found(
    off: int, share: float, found: bool, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(program.integer_values())
    stand_in: Any = Fusing(program, names[1], off, share, program.spec)
    monkeypatch.setattr(hidden, "RemoteRuntime", stand_in)
    worst = off_when_hidden(stand_in, program, (small_images(4),))
    assert stand_in.shown == [names[::2], names[1::2]]
    assert (worst is not None) == found
    if worst is not None:
        assert worst.name == names[2]


def test_a_runtime_that_agrees(program: Program) -> None:
    assert off_when_hidden(registry.get("onnx"), program, (small_images(4),)) is None
