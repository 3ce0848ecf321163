"""Instruction sets by name, and which one this machine has.

`vnni` is x86-64 with AVX512-VNNI: products of 8-bit integers are summed in 32 bits. `avx2` is x86-64 without it,
AVX2 and AVX-512 alike: two neighbouring products are summed in 16 bits, which saturates. AVX-VNNI alone counts as
`avx2`, since fbgemm has no kernels for it. `neon` is arm64.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from ..ir.errors import InputError
from .target import TargetSpec

# What `choose_isa` takes beside the names of instruction sets.
SAFE, NATIVE = "safe", "native"
NAMES = ("avx2", "vnni", "neon")

CPUINFO = Path("/proc/cpuinfo")
VNNI_FLAG = "avx512_vnni"


def require_isa(specs: Sequence[TargetSpec], choice: str, cpuinfo: Path = CPUINFO) -> None:
    """Check that every one of `specs` can take `choice`.

    Raises:
        InputError: some cannot; says what each of them knows.
    """
    refused: dict[str, InputError] = {}
    for spec in specs:
        try:
            choose_isa(spec, choice, cpuinfo)
        except InputError as error:
            refused[spec.name] = error
    if not refused:
        return
    if len(specs) == 1:
        raise next(iter(refused.values()))
    known = "; ".join(f"{spec.name}: {_allowed(spec, choice if spec.name in refused else None)}" for spec in specs)
    which, what = ", ".join(refused), _named(choice, cpuinfo)
    raise InputError(f"No instruction set {what} is known to the target(s) {which}; allowed: {known}.")


def choose_isa(spec: TargetSpec, choice: str, cpuinfo: Path = CPUINFO) -> str | None:
    """The instruction set that `choice` stands for on this target: its name, or `safe` (the one on which the most
    can go wrong), or `native` (this machine's). None where no choice concerns the target: its kernels are all the
    same, or run on no CPU.

    Raises:
        InputError: the target knows nothing of this instruction set.
    """
    if not spec.saturation and choice in (SAFE, NATIVE, *NAMES):
        return None
    if choice == SAFE:
        return next(iter(spec.saturation))
    name = native_isa(cpuinfo) if choice == NATIVE else choice
    if name not in spec.saturation:
        what, known = _named(choice, cpuinfo), _allowed(spec, choice)
        raise InputError(f"The {spec.name} target knows no instruction set {what}; allowed: {known}.")
    return name


def isa_notes(spec: TargetSpec, choice: str) -> tuple[str, ...]:
    """What must be said of an instruction set that was named for a target which it does not concern."""
    if spec.saturation or choice not in NAMES:
        return ()
    return (f"the instruction set {choice} changes nothing here: no kernel of this target sums in 16 bits",)


def _allowed(spec: TargetSpec, refused: str | None) -> str:
    return ", ".join(name for name in (SAFE, NATIVE, *(spec.saturation or NAMES)) if name != refused)


def _named(choice: str, cpuinfo: Path) -> str:
    return f"{native_isa(cpuinfo)!r} (this machine's)" if choice == NATIVE else f"{choice!r}"


def native_isa(cpuinfo: Path = CPUINFO) -> str:
    """The instruction set of this machine; an x86-64 counts as `avx2` where the system does not tell."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return "neon"
    return "vnni" if VNNI_FLAG in read_cpuinfo(cpuinfo)[1] else "avx2"


def native_kernels(cpuinfo: Path = CPUINFO) -> str:
    """The name that this machine's kernels have in `TargetSpec.kernels`: that of its instruction set, but `avx512`
    for AVX-512 without VNNI, whose vectors are twice as wide as those of AVX2."""
    isa = native_isa(cpuinfo)
    return "avx512" if isa == "avx2" and "avx512bw" in read_cpuinfo(cpuinfo)[1] else isa


def native_spec(spec: TargetSpec) -> TargetSpec:
    """The target with the kernels that its runtime has on this machine."""
    return spec.kernels.get(native_kernels(), spec)


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
