from pathlib import Path

from fxedge.compiler.pipeline.memory import Memory, forget_peak, read_memory


def test_reads_what_linux_tells(tmp_path: Path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
    assert read_memory(status) == Memory(resident=1024 * 1024, peak=2048 * 1024)


def test_a_system_that_does_not_tell(tmp_path: Path):
    assert read_memory(tmp_path / "status") is None
    (tmp_path / "status").write_text("Name:\tkernel thread\n")
    assert read_memory(tmp_path / "status") is None
    forget_peak(tmp_path / "none" / "clear_refs")
