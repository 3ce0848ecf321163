import json
from collections.abc import Callable
from pathlib import Path

import pytest
from device_outputs import PERF_TEST

FAKE_ADB = """#!/bin/sh
echo "$*" >> {log}
case "$*" in
  *" -I "*) {run} ;;
esac
"""


@pytest.fixture
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """`adb("cat file")` puts an `adb` on the path that does this for the program; returns its log."""

    def install(run: str) -> Path:
        place, log = tmp_path / "bin", tmp_path / "log"
        place.mkdir()
        (place / "adb").write_text(FAKE_ADB.format(log=log, run=run))
        (place / "adb").chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
        return log

    return install


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "onnxruntime_perf_test"
    path.touch()
    return path


def test_both_artifacts_by_the_runtimes_program(
    fxedge: Callable, bundle: Path, adb: Callable, program: Path, tmp_path: Path
):
    (tmp_path / "output").write_text(PERF_TEST)
    log = adb(f"cat {tmp_path}/output")
    path = tmp_path / "run.json"
    given = ("--adb-binary", program, "--adb", "A1", "--runs", 9, "--json", path)
    assert fxedge("bench", bundle, *given) == (
        0,
        "target   threads   artifact   mean ms   median   p90      p99      load ms   memory      runs\n"
        "onnx     1         float      19.918    19.905   20.025   20.270   50.838    109.53 MB   100\n"
        "onnx     1         int8       19.918    19.905   20.025   20.270   50.838    109.53 MB   100\n",
        "",
    )
    assert [entry["contestant"] for entry in json.loads(path.read_text())["results"]] == ["float", "int8"]
    said = [line.split()[2] for line in log.read_text().splitlines()]
    assert said == ["shell", "push", "push", "shell", "shell", "shell"] * 2
    assert all(line.startswith("-s A1 ") for line in log.read_text().splitlines())


def test_a_device_that_fails_is_left_clean(fxedge: Callable, bundle: Path, adb: Callable, program: Path):
    log = adb("echo cannot execute; exit 126")
    status, out, err = fxedge("bench", bundle, "--adb-binary", program, "--runs", 9)
    assert (status, out) == (1, "")
    assert err.startswith("error: adb shell /data/local/tmp/fxedge-")
    assert err.endswith("ended with status 126; it said: cannot execute\n")
    assert log.read_text().splitlines()[-1].startswith("shell rm -rf /data/local/tmp/fxedge-")


def test_wrong_input(
    fxedge: Callable, bundle: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = tmp_path / "benchmark_model"
    assert fxedge("bench", bundle, "--adb-binary", other)[2] == (
        f"error: --adb-binary {other} does not exist or is no file.\n"
    )
    other.touch()
    assert fxedge("bench", bundle, "--adb-binary", other)[2] == (
        "error: benchmark_model runs .tflite; no artifact asked for is one.\n"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fxedge("bench", bundle, "--adb-binary", program) == (
        2,
        "",
        "error: adb is not installed; install Android's platform tools (Debian: apt install adb).\n",
    )
