"""The machine on which something was measured, as far as the system tells."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from ..quant.isa import CPUINFO, native_isa, read_cpuinfo
from .records import Entry

_GOVERNORS = Path("/sys/devices/system/cpu")
UNKNOWN = "not available"

# What must be equal for two runs to be of one machine in one state, and what each is called.
SAME_MACHINE: Mapping[str, str] = {
    "cpu": "processor",
    "architecture": "architecture",
    "isa": "instruction set",
    "cores": "cores",
    "governor": "frequency governor",
}


class MachineEntry(Entry):
    """`isa` as `--isa native` names it; `cores` that the process might use; `load` over the minute before."""

    cpu: str
    architecture: str
    isa: str
    cores: int
    governor: str
    load: float | None
    system: str
    python: str


def describe_machine(cpuinfo: Path = CPUINFO, governors: Path = _GOVERNORS) -> MachineEntry:
    """Look around; nothing is changed. The load is what the system had in the minute before."""
    model, _ = read_cpuinfo(cpuinfo)
    return MachineEntry(
        cpu=model or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        isa=native_isa(cpuinfo),
        cores=_cores(),
        governor=_governor(governors),
        load=_load(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _governor(folder: Path) -> str:
    """`performance`, or all where the cores have several; virtual machines mostly have none."""
    found = set()
    for path in sorted(folder.glob("cpu[0-9]*/cpufreq/scaling_governor")):
        try:
            found.add(path.read_text().strip())
        except OSError:
            continue
    return ", ".join(sorted(found)) or UNKNOWN


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None
