"""The contract of a backend: a target's facts, an emitter, and a loader of what it emitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from torch import fx

from ..compiler.quant.program import Program
from ..compiler.quant.target import TargetSpec


class Runner(Protocol):
    """An artifact loaded in its runtime, optimizer on."""

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs flattened in order; integer values that were exposed follow them, as integers."""
        ...


@dataclass(frozen=True, slots=True)
class InputFact:
    """One input as an artifact states it: `shape` has None where a size may vary, `dtype` is numpy's name.
    `scale` and `zero_point` where it takes integers that stand for numbers."""

    name: str
    shape: Sequence[int | None]
    dtype: str
    scale: float | None = None
    zero_point: int = 0


@runtime_checkable
class TellsInputs(Protocol):
    """A runner that knows what its artifact takes, in the order in which `run` takes it."""

    def input_facts(self) -> tuple[InputFact, ...]: ...


class Backend(Protocol):
    """One runtime. Everything that the pipeline knows of it comes through here."""

    @property
    def spec(self) -> TargetSpec: ...

    @property
    def artifact(self) -> str:
        """File name of the artifact in the bundle (`model.onnx`)."""
        ...

    def missing(self) -> str | None:
        """None where the runtime can run here, else what is missing and what to install."""
        ...

    def versions(self) -> dict[str, str]:
        """Library -> version (and process-wide settings that decide the numerics) for the manifest."""
        ...

    def emit(self, program: Program, path: Path, expose: Sequence[str] = ()) -> None:
        """Write the int8 artifact, where it has several forms that of the suffix. `expose` names integer values to
        add as outputs, for the parity check.

        Raises:
            UnsupportedOpsError: every node that cannot be lowered, with reasons.
        """
        ...

    def emit_float(self, gm: fx.GraphModule, path: Path) -> None:
        """Write the same runtime's float artifact of a FLOAT graph."""
        ...

    def load(self, path: Path, threads: int = 1) -> Runner:
        """Load an artifact in this process, with the runtime's optimizer on."""
        ...

    def unfused(self, program: Program, path: Path) -> tuple[str, ...]:
        """Ops planned as int8 that the runtime's own optimizer left in float; empty when all are fused."""
        ...


@runtime_checkable
class HasCompanions(Protocol):
    """A backend whose artifact needs more files beside it to be of use (a script that builds an engine)."""

    def companions(self, program: Program) -> Mapping[str, bytes]:
        """File name -> content of what goes beside the artifact in the bundle."""
        ...


@runtime_checkable
class HasKernels(Protocol):
    """A backend whose runtime can be told here to compute by other kernels, `selectable` by name: some of its
    target's `TargetSpec.kernels`."""

    @property
    def selectable(self) -> tuple[str, ...]: ...

    def load_with(self, kernels: str, path: Path, threads: int = 1) -> Runner:
        """As `load`, with the kernels of that name."""
        ...


@runtime_checkable
class Describes(Protocol):
    """A backend that has more to say of an artifact: what its runtime's own compiler made of it, and why."""

    def notes(self, path: Path) -> tuple[str, ...]: ...
