import os
from pathlib import Path

from fxedge.compiler.pipeline.machine import SAME_MACHINE, MachineEntry, describe_machine


def test_what_the_system_tells(tmp_path: Path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: Some CPU\nflags\t\t: avx2 avx512_vnni\n")
    for core, governor in ((0, "powersave"), (1, "performance"), (2, "powersave")):
        place = tmp_path / f"cpu{core}" / "cpufreq"
        place.mkdir(parents=True)
        (place / "scaling_governor").write_text(f"{governor}\n")
    found = describe_machine(cpuinfo, tmp_path)
    assert (found.cpu, found.governor) == ("Some CPU", "performance, powersave")
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.isa in ("vnni", "neon")


def test_a_silent_system(tmp_path: Path):
    found = describe_machine(tmp_path / "none", tmp_path)
    assert found.cpu != ""
    assert found.governor == "not available"


def test_what_must_be_equal_is_recorded():
    assert set(SAME_MACHINE) <= set(MachineEntry.model_fields)
