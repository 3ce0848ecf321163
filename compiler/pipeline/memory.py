"""The memory of this process as Linux tells it (proc(5): /proc/self/status, /proc/self/clear_refs)."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in RAM: now, and the most since the process started or `forget_peak`."""

    resident: int
    peak: int


def read_memory(status: Path = _STATUS) -> Memory | None:
    """VmRSS and VmHWM; None where the system has no such file."""
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    fields = dict(line.partition(":")[::2] for line in lines)
    try:
        resident, peak = (int(fields[name].removesuffix("kB")) for name in ("VmRSS", "VmHWM"))
    except (KeyError, ValueError):
        return None
    return Memory(1024 * resident, 1024 * peak)


def forget_peak(clear: Path = _CLEAR) -> None:
    """Let the peak start again from what is resident now; where that is not allowed it stays what it was."""
    with contextlib.suppress(OSError):
        clear.write_text(_RESET_PEAK)
