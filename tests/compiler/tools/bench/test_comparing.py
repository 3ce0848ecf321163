import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bench_records import MACHINE, record, result
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.pipeline.records import write_json
from fxedge.compiler.tools.bench.comparing import FASTER, SAME, SLOWER, compare, judge
from fxedge.compiler.tools.bench.figures import Ratio
from fxedge.compiler.tools.bench.record import BenchRecord


def noisy(middle: float) -> tuple[float, ...]:
    return tuple(middle * (1 + 0.01 * (index % 5 - 2)) for index in range(25))


def written(folder: Path, name: str, content: BenchRecord) -> Path:
    write_json(folder / name, content.model_dump(mode="json"))
    return folder / name


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.06, 1.2, SLOWER),
        (1.04, 1.2, SAME),
        (0.8, 0.9, FASTER),
        (0.8, 0.96, SAME),
        (0.8, 1.2, SAME),
        (None, None, SAME),
    ],
)
def test_a_verdict_needs_the_whole_interval_beyond_the_margin(low: float, high: float, verdict: str):
    assert judge(Ratio(1.1, low, high), 0.05) == verdict


def test_slower_faster_and_the_same():
    old = record(*(result(noisy(1e-3), target=target) for target in ("onnx", "x86", "tflite")))
    times = {"onnx": 2e-3, "x86": 0.5e-3, "tflite": 1.02e-3}
    new = record(*(result(noisy(middle), target=target) for target, middle in times.items()))
    found = compare(old, new)
    assert [change.verdict for change in found.changes] == [SLOWER, FASTER, SAME]
    assert [change.new.target for change in found.slower] == ["onnx"]
    assert found.changes[0].ratio.value == pytest.approx(2)
    assert compare(old, new, margin=0.0).changes[2].verdict == SLOWER


def test_what_is_in_one_run_alone():
    found = compare(record(result(), result(threads=2)), record(result(), result(contestant="float", batch=8)))
    assert found.gone == ("net on onnx: int8, 2 threads, batch 1",)
    assert found.added == ("net on onnx: float, 1 thread, batch 8",)


def test_bundles_of_one_model_are_told_apart_by_order():
    old = record(result(noisy(1e-3), bundle="a"), result(noisy(2e-3), bundle="b"))
    new = record(result(noisy(1e-3), bundle="c"), result(noisy(2e-3), bundle="d"))
    assert [change.verdict for change in compare(old, new).changes] == [SAME, SAME]


def test_versions_and_load_are_notes():
    busy = MACHINE.model_copy(update={"load": 9.0})
    found = compare(record(result()), record(result(versions={"onnxruntime": "2.0"}), machine=busy))
    assert found.notes == ("the new run met a load of 9.0 on 4 cores", "onnxruntime 1.0, now 2.0")


def test_versions_are_those_of_the_same_artifact():
    """Two runtimes may mean other things by a name: an ONNX file's opset depends on the target."""
    old = record(result(versions={"opset": "20"}), result(target="openvino", versions={"opset": "21"}))
    assert compare(old, record(result(versions={"opset": "20"}))).notes == ()


def test_nothing_in_common():
    with pytest.raises(InputError) as caught:
        compare(record(result()), record(result(model="other")))
    assert str(caught.value) == (
        "The two runs share no artifact: no model, target, threads and batch are in both."
    )


def test_other_machines_are_refused(fxedge: Callable, tmp_path: Path):
    other = MACHINE.model_copy(update={"cpu": "Another CPU", "cores": 8})
    old = written(tmp_path, "old.json", record(result()))
    new = written(tmp_path, "new.json", record(result(), machine=other))
    assert fxedge("bench", "--compare", old, new) == (
        2,
        "",
        "error: The two runs are of different machines (processor Some CPU, now Another CPU; cores 4, now 8), so "
        "their times do not say what changed; measure both on one machine, or give --force.\n",
    )
    status, out, err = fxedge("bench", "--compare", old, new, "--force")
    assert (status, err) == (0, "")
    assert out.endswith("note: processor Some CPU, now Another CPU\nnote: cores 4, now 8\n")


def test_the_command(fxedge: Callable, tmp_path: Path):
    old = written(tmp_path, "old.json", record(result()))
    new = written(tmp_path, "new.json", record(result((2e-3,) * 10)))
    assert fxedge("bench", "--compare", old, new) == (
        1,
        "model   target   threads   batch   artifact   old ms   new ms   new / old\n"
        "net     onnx     1         1       int8       1.000    2.000    2.00× [2.00, 2.00]   slower\n",
        "",
    )
    status, out, err = fxedge("bench", "--compare", old, old, "--json", "-")
    assert (status, err) == (0, "")
    assert json.loads(out)["changes"] == [
        {
            "model": "net",
            "target": "onnx",
            "contestant": "int8",
            "threads": 1,
            "batch": 1,
            "old_median": 1e-3,
            "new_median": 1e-3,
            "ratio": 1.0,
            "low": 1.0,
            "high": 1.0,
            "verdict": "same",
        }
    ]


@pytest.mark.parametrize(
    ("times", "wrong"),
    [
        ([0.0] * 9, "seconds.0: Input should be greater than 0"),
        ([1e-3, -1e-3], "seconds.1: Input should be greater than 0"),
        ([float("nan")], "seconds.0: Input should be a finite number"),
        ([1e-3] * 100_001, "seconds: Tuple should have at most 100000 items after validation, not 100001"),
    ],
)
def test_times_that_are_none(fxedge: Callable, tmp_path: Path, times: list[float], wrong: str):
    old, new = written(tmp_path, "old.json", record(result())), tmp_path / "new.json"
    raw = record(result()).model_dump(mode="json")
    raw["results"][0]["seconds"] = times
    new.write_text(json.dumps(raw))
    assert fxedge("bench", "--compare", old, new) == (
        2,
        "",
        f"error: {new} is not a record that fxedge bench --json wrote: results.0.{wrong}.\n",
    )


def test_not_two_records(fxedge: Callable, tmp_path: Path):
    old = written(tmp_path, "old.json", record(result()))
    assert fxedge("bench", "--compare", old) == (
        2,
        "",
        "error: --compare takes two records, OLD.json and NEW.json, not 1.\n",
    )
    (tmp_path / "other.json").write_text('{"schema_version": 7}')
    assert fxedge("bench", "--compare", old, tmp_path / "other.json") == (
        2,
        "",
        f"error: {tmp_path}/other.json has schema 7; this fxedge reads schema 1 of a record that fxedge bench "
        "--json wrote.\n",
    )
