"""A backend that runs TorchScript under one of torch's quantized engines: `.pt` for torch itself, `.ptl` for its
lite interpreter, which runs the packed kernels of every engine."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import fx
from torch._ops import OpOverload

from ...compiler.quant.arithmetic import Kernel
from ...compiler.quant.program import Program
from ...compiler.quant.target import Pairing, TargetSpec, with_kernels
from . import archive, arithmetic, deprecated, loader
from .loader import TorchScriptRunner
from .lower import lower_float, lower_program
from .roads import Roads
from .rules import QUINT8, WEIGHT, ProductKernels, products, shared_rows


@dataclass(frozen=True, slots=True)
class TorchScriptBackend:
    """`engine` is what `torch.backends.quantized.engine` must be; `roads` says how convolutions are run."""

    spec: TargetSpec
    engine: str
    roads: Roads
    artifact: str = "model.pt"

    def missing(self) -> str | None:
        """None where this torch build has the engine."""
        engines = torch.backends.quantized.supported_engines
        if self.engine in engines:
            return None
        found = ", ".join(engines)
        return f"torch {torch.__version__} has no {self.engine} engine here, only {found}; use an x86-64 build"

    def versions(self) -> dict[str, str]:
        """torch, the engine and the instruction set that decide the numerics."""
        return {
            "torch": torch.__version__,
            "engine": self.engine,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        }

    def emit(self, program: Program, path: Path, expose: Sequence[str] = ()) -> None:
        """Write the int8 artifact; `expose` names integer values to add as outputs.

        Raises:
            UnsupportedOpsError: every step that cannot be lowered, with reasons.
        """
        with deprecated.engine(self.engine):
            module = lower_program(program, self.roads, expose)
            archive.write(deprecated.script(module, optimize_numerics=False), path)

    def emit_float(self, gm: fx.GraphModule, path: Path) -> None:
        """Write the float artifact of a FLOAT graph: frozen, with torch's own folding.

        Raises:
            UnsupportedOpsError: every op that TorchScript does not have.
        """
        module = lower_float(gm, self.roads, self.spec.name)
        archive.write(deprecated.script(module, optimize_numerics=True), path)

    def load(self, path: Path, threads: int = 1) -> TorchScriptRunner:
        """Load an artifact, `.pt` or `.ptl`; sets the quantized engine and the thread count of this process."""
        return loader.load(path, self.engine, threads)

    def unfused(self, program: Program, path: Path) -> tuple[str, ...]:
        """Nothing: the artifact is made of integer kernels directly, no optimizer decides."""
        return ()


# Where torch's own loops take vectors of AVX2.
_NARROW_VECTORS: dict[OpOverload, Kernel] = {
    torch.ops.aten.avg_pool2d.default: functools.partial(arithmetic.average_pool, lanes=8)
}


def engine_backend(
    engine: str,
    kernels: ProductKernels,
    roads: Roads,
    pairing: Pairing,
    isa: tuple[str, ...],
    notes: tuple[str, ...],
    without_vnni: Mapping[str, ProductKernels] | None = None,
) -> TorchScriptBackend:
    """The target of a quantized engine: its own convolutions and linear, every other op as all have it.

    `pairing` is how its kernels pair weights on x86 without VNNI, `isa` where its arithmetic is confirmed;
    `without_vnni` has what it takes there (`avx2`, `avx512`) where that is something else.
    """
    spec = TargetSpec(
        name=engine,
        activation=QUINT8,
        weight=WEIGHT,
        bias="float32",
        ops={**products(kernels, roads.transpose), **shared_rows()},
        quantize=arithmetic.quantize,
        isa=isa,
        notes=notes,
        saturation={"avx2": pairing, "vnni": None},
        also=("model.ptl",),
    )
    elsewhere = {name: kernels.by_op() for name, kernels in (without_vnni or {}).items()}
    elsewhere["avx2"] = {**elsewhere.get("avx2", {}), **_NARROW_VECTORS}
    spec = replace(spec, kernels={name: with_kernels(spec, others) for name, others in elsewhere.items()})
    return TorchScriptBackend(spec, engine, roads)
