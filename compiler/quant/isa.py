"""Instruction sets by name, and which one this machine has.

`vnni` is x86-64 with AVX512-VNNI or AVX-VNNI: products of 8-bit integers are summed in 32 bits. `avx2` is x86-64
without it, AVX2 and AVX-512 alike: two neighbouring products are summed in 16 bits, which saturates. `neon` is
arm64.
"""

from __future__ import annotations

import platform
from pathlib import Path

from ..ir.errors import InputError
from .target import TargetSpec

# What `choose_isa` takes beside the names of instruction sets.
SAFE, NATIVE = "safe", "native"

CPUINFO = Path("/proc/cpuinfo")
VNNI_FLAGS = ("avx512_vnni", "avx_vnni")


def choose_isa(spec: TargetSpec, choice: str, cpuinfo: Path = CPUINFO) -> str | None:
    """The instruction set that `choice` stands for on this target: its name, or `safe` (the one on which the most
    can go wrong), or `native` (this machine's). None for `safe` where the target's kernels are all the same.

    Raises:
        InputError: the target knows nothing of this instruction set.
    """
    if choice == SAFE:
        return next(iter(spec.saturation), None)
    name = native_isa(cpuinfo) if choice == NATIVE else choice
    if name not in spec.saturation:
        known = ", ".join((SAFE, NATIVE, *spec.saturation))
        what = f"{name!r} (this machine's)" if choice == NATIVE else f"{name!r}"
        raise InputError(f"The {spec.name} target knows no instruction set {what}; allowed: {known}.")
    return name


def native_isa(cpuinfo: Path = CPUINFO) -> str:
    """The instruction set of this machine; an x86-64 counts as `avx2` where the system does not tell."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "neon"
    return "avx2" if read_cpuinfo(cpuinfo)[1].isdisjoint(VNNI_FLAGS) else "vnni"


def read_cpuinfo(path: Path) -> tuple[str, set[str]]:
    """Model name and feature flags of the first processor; empty where the file is missing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", set()
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields.get("model name", ""), set((fields.get("flags") or fields.get("Features") or "").split())
