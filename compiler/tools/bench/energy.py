"""Energy as RAPL counts it: microjoules of whole processor packages, through Linux's powercap files.

The counters hold what the whole package took, other programs and idling included, and wrap around at
`max_energy_range_uj` (kernel documentation, "Power Capping Framework"). On many systems only root may read them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")

# Packages alone: intel-rapl:0 holds what its parts intel-rapl:0:0 (cores), :0:1 (memory) ... hold again.
_PACKAGE = re.compile(r"(intel|amd)-rapl:\d+")
# Microjoules in a joule.
_MICRO = 1e6


@dataclass(frozen=True, slots=True)
class EnergyMeter:
    """The counters of every package: where they lie, and where they wrap around (microjoules)."""

    wraps: Mapping[Path, int]

    def read(self) -> dict[Path, int]:
        return {zone: int((zone / "energy_uj").read_text()) for zone in self.wraps}

    def joules(self, before: Mapping[Path, int], after: Mapping[Path, int]) -> float:
        """What all packages took between two readings, at most one wrap apart."""
        return sum((after[zone] - before[zone]) % wrap for zone, wrap in self.wraps.items()) / _MICRO


def find_meter(powercap: Path = POWERCAP) -> EnergyMeter | str:
    """A meter that can be read, or the reason why there is none."""
    if not powercap.is_dir():
        return f"this system has no {powercap}"
    zones = sorted(path for path in powercap.iterdir() if _PACKAGE.fullmatch(path.name))
    packages = [zone for zone in zones if _name(zone).startswith("package")]
    if not packages:
        return f"{powercap} has no processor package"
    try:
        meter = EnergyMeter({zone: int((zone / "max_energy_range_uj").read_text()) + 1 for zone in packages})
        meter.read()
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return meter


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text().strip()
    except OSError:
        return ""
