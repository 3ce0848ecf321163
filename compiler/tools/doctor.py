"""`fxedge doctor`: what is installed, what the processor can do, which targets can be used here.

Processor features come from /proc/cpuinfo (Linux); elsewhere only the machine's name is known. `vnni` is
AVX512-VNNI or AVX-VNNI: with it 8-bit products are summed in 32 bits, without it x86 kernels saturate 16-bit
pair sums.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console

from ...backends import registry
from ..quant.isa import CPUINFO, VNNI_FLAG, read_cpuinfo
from .tables import make_table, print_table

_LIBRARIES = ("fxedge", "torch", "numpy", "onnx", "onnxruntime", "safetensors", "pydantic")
_FEATURES = {
    "avx2": ("avx2",),
    "avx512": ("avx512bw",),
    "vnni": (VNNI_FLAG,),
    "amx-int8": ("amx_int8",),
    "dotprod": ("asimddp",),
    "i8mm": ("i8mm",),
}


@dataclass(frozen=True, slots=True)
class Findings:
    """`libraries` name -> version or None; `targets` name -> None where usable, else what to install."""

    python: str
    system: str
    processor: str
    features: tuple[str, ...]
    libraries: dict[str, str | None]
    engines: tuple[str, ...]
    targets: dict[str, str | None]

    def to_json(self) -> dict[str, Any]:
        return {
            "python": self.python,
            "system": self.system,
            "processor": self.processor,
            "features": list(self.features),
            "libraries": self.libraries,
            "torch_quantized_engines": list(self.engines),
            "targets": {name: {"usable": why is None, "missing": why} for name, why in self.targets.items()},
        }


def examine(cpuinfo: Path = CPUINFO) -> Findings:
    """Look around; nothing is changed."""
    import torch

    model, flags = read_cpuinfo(cpuinfo)
    return Findings(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=model or platform.processor() or platform.machine(),
        features=tuple(name for name, any_of in _FEATURES.items() if not flags.isdisjoint(any_of)),
        libraries={name: _version(name) for name in _LIBRARIES},
        engines=tuple(engine for engine in torch.backends.quantized.supported_engines if engine != "none"),
        targets={name: registry.get(name).missing() for name in registry.names()},
    )


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def print_findings(console: Console, found: Findings) -> None:
    facts = make_table("", "")
    facts.show_header = False
    facts.add_row("python", found.python)
    facts.add_row("system", found.system)
    facts.add_row("processor", found.processor)
    facts.add_row("features", ", ".join(found.features) or "none known")
    for name, version in found.libraries.items():
        facts.add_row(name, version or "not installed")
    facts.add_row("torch quantized engines", ", ".join(found.engines) or "none")
    print_table(console, facts)
    console.print()
    targets = make_table("target", "usable", "")
    for name, why in found.targets.items():
        targets.add_row(name, "yes" if why is None else "no", why or "")
    print_table(console, targets)
