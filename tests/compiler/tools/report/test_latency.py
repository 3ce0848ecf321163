"""Records of fxedge bench, as the report reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.pipeline.bundle import read_bundle
from fxedge.compiler.tools.report.latency import read_benches
from fxedge.compiler.tools.report.svg import drawing
from report_parts import make_record, make_result, write_bench


def test_results_by_threads_with_the_ratio_of_the_run(explained: Path, tmp_path: Path) -> None:
    record = make_record(explained)
    record["results"] += [result | {"threads": 2} for result in record["results"][:2]]
    path = write_bench(tmp_path / "bench.json", record)
    with drawing():
        runs = read_benches([path], read_bundle(explained))
    assert [(run.threads, run.batch, len(run.timings)) for run in runs] == [(1, 1, 4), (2, 1, 2)]
    told = [(timing.result.contestant, timing.ratio and timing.ratio.value) for timing in runs[0].timings]
    assert told == [("int8", 2.0), ("float", None)] * 2
    assert runs[1].timings[0].ratio is None, "the ratio of one thread is not that of two"
    assert runs[0].longest == pytest.approx(1.04 * 2.6e-3)


def test_a_stall_does_not_flatten_the_drawing(explained: Path, tmp_path: Path) -> None:
    record = make_record(explained)
    record["results"][0]["p99"] = 5.0
    path = write_bench(tmp_path / "bench.json", record)
    runs = read_benches([path], read_bundle(explained))
    assert runs[0].longest == pytest.approx(1.04 * 3 * 1.15e-3)


def test_models_measured_beside_it_are_shown(explained: Path, tmp_path: Path) -> None:
    record = make_record(explained)
    record["results"].append(make_result("onnx", "theirs.onnx", "0", 1.5))
    record["results"].append(make_result("onnx", "int8", "0", 1.5) | {"bundle": "another"})
    runs = read_benches([write_bench(tmp_path / "bench.json", record)], read_bundle(explained))
    assert [timing.result.contestant for timing in runs[0].timings] == [*["int8", "float"] * 2, "theirs.onnx"]


def test_another_bundle_is_refused(explained: Path, tmp_path: Path) -> None:
    record = make_record(explained)
    record["results"] = [result | {"sha256": "0"} for result in record["results"]]
    path = write_bench(tmp_path / "bench.json", record)
    with pytest.raises(InputError) as caught:
        read_benches([path], read_bundle(explained))
    assert str(caught.value) == (
        f"{path} measured other artifacts than those of this bundle; run fxedge bench on it."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "{path} has schema None; this fxedge reads schema 1 of {what}."),
        ('{"schema_version": 1}', "{path} is not {what}: fxedge: Field required."),
    ],
)
def test_what_is_no_record(explained: Path, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_benches([path], read_bundle(explained))
    assert str(caught.value) == message.format(path=path, what="a record that fxedge bench --json wrote")


def test_no_file(explained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_benches([tmp_path / "no.json"], read_bundle(explained))
    assert str(caught.value) == (
        f"{tmp_path}/no.json does not exist or is no file; give a record that fxedge bench --json wrote."
    )


@pytest.mark.parametrize("time", [-1.0, 0.0, float("inf"), float("nan")])
def test_times_that_are_none(explained: Path, tmp_path: Path, time: float) -> None:
    record = make_record(explained)
    record["results"][0]["seconds"][1] = time
    path = write_bench(tmp_path / "bench.json", record)
    with pytest.raises(InputError) as caught:
        read_benches([path], read_bundle(explained))
    wrong = "Input should be greater than 0" if time <= 0 else "Input should be a finite number"
    what = "a record that fxedge bench --json wrote"
    assert str(caught.value) == f"{path} is not {what}: results.0.seconds.1: {wrong}."
