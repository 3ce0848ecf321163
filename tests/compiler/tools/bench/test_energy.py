from pathlib import Path

from fxedge.compiler.tools.bench.energy import EnergyMeter, find_meter


def zone(folder: Path, name: str, called: str, energy: int, wrap: int = 999) -> Path:
    place = folder / name
    place.mkdir(parents=True)
    for file, value in (("name", called), ("energy_uj", energy), ("max_energy_range_uj", wrap)):
        (place / file).write_text(f"{value}\n")
    return place


def test_counts_packages_alone_and_their_wraps(tmp_path: Path):
    first = zone(tmp_path, "intel-rapl:0", "package-0", 900)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 100)
    zone(tmp_path, "intel-rapl:0:0", "core", 500)
    zone(tmp_path, "intel-rapl:2", "psys", 700)
    meter = find_meter(tmp_path)
    assert isinstance(meter, EnergyMeter)
    before = meter.read()
    assert before == {first: 900, second: 100}
    (first / "energy_uj").write_text("50\n")  # past 999
    (second / "energy_uj").write_text("130\n")
    assert meter.joules(before, meter.read()) == 180e-6


def test_no_powercap(tmp_path: Path):
    assert find_meter(tmp_path / "powercap") == f"this system has no {tmp_path}/powercap"


def test_no_package(tmp_path: Path):
    zone(tmp_path, "intel-rapl:0", "psys", 1)
    assert find_meter(tmp_path) == f"{tmp_path} has no processor package"


def test_a_counter_that_may_not_be_read(tmp_path: Path):
    place = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (place / "energy_uj").unlink()
    assert find_meter(tmp_path) == f"{place}/energy_uj: No such file or directory"
