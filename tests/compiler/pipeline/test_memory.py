import platform
import subprocess
import sys
from pathlib import Path

import pytest
from fxedge.compiler.pipeline.memory import Memory, forget_peak, read_memory

# What stays in RAM of 256 MiB that were written and freed.
AFTERWARDS = """
from fxedge.compiler.pipeline.memory import keep_freed_memory, read_memory
assert not {keep} or keep_freed_memory()
before = read_memory().resident
block = bytearray(b"1") * 2**28
del block
print(read_memory().resident - before)
"""


def test_reads_what_linux_tells(tmp_path: Path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
    assert read_memory(status) == Memory(resident=1024 * 1024, peak=2048 * 1024)


def test_a_system_that_does_not_tell(tmp_path: Path):
    assert read_memory(tmp_path / "status") is None
    (tmp_path / "status").write_text("Name:\tkernel thread\n")
    assert read_memory(tmp_path / "status") is None
    forget_peak(tmp_path / "none" / "clear_refs")


def _left(keep: bool) -> int:
    command = [sys.executable, "-c", AFTERWARDS.format(keep=keep)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_freed_memory_is_kept() -> None:
    assert _left(keep=False) < 2**24
    assert _left(keep=True) > 2**28 - 2**24
