import itertools
from pathlib import Path

import pytest
from bench_records import MACHINE
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.pipeline.kernel_costs import (
    KernelCosts,
    KernelPoint,
    KernelTables,
    TargetTable,
    cache_folder,
    find_table,
    interpolate,
    robust_line,
    store_tables,
    table_path,
)
from hypothesis import given
from hypothesis import strategies as st

VERSIONS = {"onnxruntime": "1.0"}


def point(work: int, seconds: float, elements: int = 100, rest: float | None = None) -> KernelPoint:
    return KernelPoint(work=work, elements=elements, seconds=seconds, low=None, high=None, rest=rest)


def costs(form: str, *points: KernelPoint, kind: str = "conv1x1", reason: str | None = None) -> KernelCosts:
    return KernelCosts(kind=kind, form=form, unit="macs", points=points, reason=reason)  # type: ignore[arg-type]


def table(*kernels: KernelCosts, target: str = "onnx", threads: int = 1) -> TargetTable:
    return TargetTable(target=target, threads=threads, versions=VERSIONS, kernels=kernels)


def tables(*found: TargetTable) -> KernelTables:
    return KernelTables(fxedge="0.1.0", taken="2026-01-01T00:00:00+00:00", machine=MACHINE, tables=found)


rising = st.lists(
    st.tuples(st.integers(1, 10**9), st.floats(1e-7, 1)), min_size=1, max_size=5, unique_by=lambda p: p[0]
)


@given(rising)
def test_the_sizes_measured_are_met(pairs: list[tuple[int, float]]):
    points = [point(work, seconds) for work, seconds in sorted(pairs)]
    for one in points:
        assert interpolate(points, one.work) == pytest.approx(one.seconds)


@given(rising, st.floats(1e-3, 1e12))
def test_never_negative_and_between_neighbours_between_their_seconds(pairs: list[tuple[int, float]], work: float):
    points = [point(size, seconds) for size, seconds in sorted(pairs)]
    found = interpolate(points, work)
    assert found >= 0
    for left, right in itertools.pairwise(points):
        if left.work <= work <= right.work:
            low, high = sorted((left.seconds, right.seconds))
            assert low * (1 - 1e-9) <= found <= high * (1 + 1e-9)


def test_outside_of_the_sizes_an_overhead_and_a_cost_for_each_unit():
    points = [point(100, 3e-6), point(200, 5e-6), point(400, 9e-6)]  # 1 us and 20 ns a unit
    assert interpolate(points, 0) == pytest.approx(1e-6)
    assert interpolate(points, 50) == pytest.approx(2e-6)
    assert interpolate(points, 1000) == pytest.approx(21e-6)
    assert interpolate([point(100, 3e-6)], 200) == pytest.approx(6e-6)


def test_a_kernel_too_fast_to_be_measured():
    assert interpolate([point(100, 0.0), point(200, 0.0)], 150) == 0
    assert interpolate([point(100, 0.0), point(200, 2e-6)], 150) == pytest.approx(1.5e-6)


@given(st.floats(0, 1e-3), st.floats(0, 1e-6), st.floats(0, 1))
def test_a_line_is_found_beside_one_bad_point(start: float, slope: float, bad: float):
    pairs = [(float(x), start + slope * x) for x in (1, 10, 100, 1000, 10_000, 20_000)] + [(50.0, bad)]
    found = robust_line(pairs)
    assert found[1] == pytest.approx(slope, rel=1e-6, abs=1e-12)
    assert found[0] == pytest.approx(start, rel=1e-6, abs=1e-12)


def test_calls_and_boundaries():
    floats = costs("float", point(1, 1e-6, 100, 10e-6), point(2, 1e-6, 1100, 20e-6))
    integers = costs("int8", point(1, 1e-6, 100, 12e-6), point(2, 1e-6, 1100, 32e-6))
    anchored = costs("int8", point(1, 1e-6, 100), kind="add")
    found = table(floats, integers, anchored)
    assert found.call("float", 600) == pytest.approx(15e-6)
    assert found.call("int8", 600) == pytest.approx(22e-6)
    assert found.boundary(600) == pytest.approx(7e-6)
    assert table().call("float", 600) == 0


def test_a_boundary_is_what_chains_of_the_same_kernel_differ_by():
    """The rests of unlike kernels are further apart than those of float and int8: a line for each form by itself
    found 9 us between them in LiteRT, where int8 calls take no longer."""
    rests = {("conv1x1", 1): 10e-6, ("conv1x1", 9): 14e-6, ("linear", 1): 40e-6, ("linear", 9): 25e-6}
    kernels = [
        costs(form, *(point(work, 0.0, 100 * work, rests[kind, work] + more) for work in (1, 9)), kind=kind)
        for form, more in (("float", 0.0), ("int8", 2e-6))
        for kind in ("conv1x1", "linear")
    ]
    only_int8 = costs("int8", point(1, 0.0, 100, 900e-6), kind="softmax")
    found = table(*kernels, only_int8)
    assert found.boundary(500) == pytest.approx(2e-6)
    assert found.call("int8", 500) == pytest.approx(found.call("float", 500) + 2e-6)


def test_what_was_not_measured():
    found = table(costs("float", point(1, 1e-6)), costs("int8", reason="no kernel"))
    assert found.seconds("conv1x1", "float", 2) == pytest.approx(2e-6)
    assert found.seconds("conv1x1", "int8", 2) is None
    assert found.seconds("conv9x9", "float", 2) is None


def test_the_users_cache(tmp_path: Path):
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "fxedge" / "kernels"
    assert cache_folder({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache" / "fxedge" / "kernels"
    assert cache_folder({}) == Path.home() / ".cache" / "fxedge" / "kernels"


def test_stored_by_target_and_found_again(tmp_path: Path):
    folder = tmp_path / "cache"
    one, two, other = table(), table(threads=2), table(target="x86")
    paths = store_tables(folder, tables(one, other, two))
    assert sorted(path.name.partition("-")[0] for path in paths) == ["onnx", "x86"]
    assert find_table(folder, "onnx", MACHINE, VERSIONS, 2) == two
    assert find_table(folder, "x86", MACHINE, VERSIONS, 1) == other


def test_tables_of_other_numbers_of_threads_stay(tmp_path: Path):
    old, one, two = table(costs("float", point(1, 9e-6))), table(costs("float", point(1, 1e-6))), table(threads=2)
    store_tables(tmp_path, tables(old))
    store_tables(tmp_path, tables(two))
    (path,) = store_tables(tmp_path, tables(one))
    assert find_table(tmp_path, "onnx", MACHINE, VERSIONS, 1) == one
    assert find_table(tmp_path, "onnx", MACHINE, VERSIONS, 2) == two
    path.write_text("{")
    store_tables(tmp_path, tables(two))
    assert find_table(tmp_path, "onnx", MACHINE, VERSIONS, 2) == two


def test_another_processor_or_version_has_no_table(tmp_path: Path):
    store_tables(tmp_path, tables(table()))
    idle = MACHINE.model_copy(update={"load": 0.0, "governor": "powersave"})
    assert find_table(tmp_path, "onnx", idle, VERSIONS, 1) == table()
    for machine, versions, threads in (
        (MACHINE.model_copy(update={"cpu": "Another CPU"}), VERSIONS, 1),
        (MACHINE, {"onnxruntime": "2.0"}, 1),
        (MACHINE, VERSIONS, 4),
    ):
        with pytest.raises(InputError) as caught:
            find_table(tmp_path, "onnx", machine, versions, threads)
        assert str(caught.value) == (
            f"This machine has no kernel costs for onnx in its present version with {threads} thread(s); run "
            f"fxedge bench --calibrate-machine --target onnx --threads {threads}."
        )


def test_a_damaged_table_is_said(tmp_path: Path):
    (path := table_path(tmp_path, "onnx", MACHINE, VERSIONS)).write_text("{")
    with pytest.raises(
        InputError, match=r"is not valid JSON .*; give a table that fxedge bench --calibrate-machine"
    ):
        find_table(tmp_path, "onnx", MACHINE, VERSIONS, 1)
    assert path.exists()
