from pathlib import Path

import pytest
from device_outputs import BENCHMARK_MODEL, EXECUTOR_RUNNER, NEWER_BENCHMARK_MODEL, PERF_TEST
from fxedge.compiler.ir.errors import InputError, VerificationError
from fxedge.compiler.tools.bench.adb import (
    RemoteFigures,
    parse_benchmark_model,
    parse_executor_runner,
    parse_perf_test,
    plan_job,
)


def test_benchmark_model():
    assert parse_benchmark_model(BENCHMARK_MODEL) == RemoteFigures(
        mean=pytest.approx(2.95034),
        runs=50,
        load=pytest.approx(0.017187),
        first_run=pytest.approx(3.512391),
        memory=int(46.0859 * 2**20),
    )


def test_a_newer_benchmark_model_tells_its_median():
    found = parse_benchmark_model(NEWER_BENCHMARK_MODEL)
    assert (found.runs, found.median, found.mean) == (25, pytest.approx(0.141253), pytest.approx(0.145528))
    assert found.memory is None


def test_perf_test():
    assert parse_perf_test(PERF_TEST) == RemoteFigures(
        mean=pytest.approx(0.019918),
        runs=100,
        median=0.0199047,
        p90=0.0200251,
        p99=0.0202704,
        load=0.0508382,
        first_run=pytest.approx(0.020),
        memory=109531136,
    )


def test_executor_runner_leaves_the_first_execution_out():
    assert parse_executor_runner(EXECUTOR_RUNNER) == RemoteFigures(
        mean=pytest.approx(0.005),
        runs=3,
        median=pytest.approx(0.005),
        p90=pytest.approx(0.006),
        p99=pytest.approx(0.006),
        load=pytest.approx(0.0015),
        first_run=pytest.approx(0.009),
    )


def test_an_older_executor_runner_tells_the_sum_alone():
    found = parse_executor_runner("... Model executed successfully 10 time(s) in 4.250000 ms.\n")
    assert found == RemoteFigures(mean=pytest.approx(0.000425), runs=10)


@pytest.mark.parametrize("parse", [parse_benchmark_model, parse_perf_test, parse_executor_runner])
def test_an_output_without_timings(parse):
    with pytest.raises(VerificationError) as caught:
        parse("Loaded\nSegmentation fault\n")
    assert str(caught.value) == ("The program on the device gave no timings; it said: Loaded | Segmentation fault")


def test_commands():
    job = plan_job(
        Path("bin/benchmark_model_plus_flex"),
        Path("b/tflite/model.tflite"),
        folder="f",
        threads=2,
        runs=9,
        serial="A1",
    )
    start, place = ("adb", "-s", "A1"), "/data/local/tmp/f"
    assert job.push == (
        (*start, "shell", f"mkdir -p {place}"),
        (*start, "push", "bin/benchmark_model_plus_flex", f"{place}/benchmark_model_plus_flex"),
        (*start, "push", "b/tflite/model.tflite", f"{place}/model.tflite"),
        (*start, "shell", f"chmod 755 {place}/benchmark_model_plus_flex"),
    )
    assert job.run == (
        *start,
        "shell",
        f"{place}/benchmark_model_plus_flex --graph={place}/model.tflite --num_threads=2 --num_runs=9 "
        "--warmup_runs=3",
    )
    assert job.clean == (*start, "shell", f"rm -rf {place}")


@pytest.mark.parametrize(
    ("program", "artifact", "arguments"),
    [
        ("onnxruntime_perf_test", "m.onnx", "-I -s -e cpu -m times -r 9 -x 2 -o 99 /data/local/tmp/f/model.onnx"),
        (
            "executor_runner",
            "m.pte",
            "--model_path=/data/local/tmp/f/model.pte --num_executions=10 --cpu_threads=2",
        ),
    ],
)
def test_arguments_of_other_programs(program: str, artifact: str, arguments: str):
    job = plan_job(Path(program), Path(artifact), folder="f", threads=2, runs=9, serial=None)
    assert job.run == ("adb", "shell", f"/data/local/tmp/f/{program} {arguments}")


def test_a_name_that_the_devices_shell_would_read_is_quoted():
    job = plan_job(Path("benchmark_model;reboot"), Path("m.tflite"), folder="f", threads=1, runs=1, serial=None)
    assert job.push[-1] == ("adb", "shell", "chmod 755 '/data/local/tmp/f/benchmark_model;reboot'")


def test_a_program_of_unknown_output():
    with pytest.raises(InputError) as caught:
        plan_job(Path("bin/snpe-net-run"), Path("m.onnx"), folder="f", threads=1, runs=1, serial=None)
    assert str(caught.value) == (
        "--adb-binary bin/snpe-net-run is no program whose output is known; it must be called benchmark_model, "
        "onnxruntime_perf_test, executor_runner."
    )
