"""The memory of this process as Linux tells it (proc(5): /proc/self/status, /proc/self/clear_refs), and what its
allocator does with what is freed (mallopt(3))."""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"

# glibc's malloc.h: memory at the heap's end above the first goes back to the system when it is freed, and blocks
# above the second always do, with M_MMAP_THRESHOLD's own limit of 32 MiB until a program sets it.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 2**30


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


def keep_freed_memory() -> bool:
    """Let the C library keep freed blocks of up to 1 GiB for the next ones, in this process; whether it can.

    A network run on a batch frees and takes tensors of 100 MB and more by turns. glibc maps each anew, and the
    system zeroes it page by page: on a virtual machine that was a fifth of the time of a compilation. Results are
    the same to the bit. For processes of our own: it changes how every library in it allocates.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS have none; on Windows, there is no such handle
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _KEPT)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))
