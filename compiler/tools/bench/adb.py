"""Commands that run a runtime's own benchmark program on an Android device, and what its output says.

The program is the runtime's: TFLite's `benchmark_model`, onnxruntime's `onnxruntime_perf_test`, ExecuTorch's
`executor_runner`, as their projects build or publish them. Everything in here is a pure function; the formats are
those of the programs' sources and documentation (`tensorflow/lite/tools/benchmark`, `onnxruntime/test/perftest`,
`examples/portable/executor_runner`).
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...ir.errors import InputError, VerificationError
from .figures import median, percentile

# Where `adb shell` may write and run files without root.
_DEVICE_FOLDER = PurePosixPath("/data/local/tmp")


@dataclass(frozen=True, slots=True)
class RemoteFigures:
    """What a program printed, in seconds and bytes; None where it does not say. `memory` is what it takes for its
    own: the peak of the process, or how much it grew."""

    mean: float
    runs: int
    median: float | None = None
    p90: float | None = None
    p99: float | None = None
    load: float | None = None
    first_run: float | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """A benchmark program: the suffixes it reads, its arguments for model, threads and runs, its output."""

    suffixes: tuple[str, ...]
    arguments: Callable[[str, int, int], list[str]]
    parse: Callable[[str], RemoteFigures]


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """Commands for one artifact, to be run in order; `clean` also where one of them failed."""

    push: tuple[tuple[str, ...], ...]
    run: tuple[str, ...]
    clean: tuple[str, ...]


def plan_job(
    program: Path, artifact: Path, *, folder: str, threads: int, runs: int, serial: str | None, adb: str = "adb"
) -> RemoteJob:
    """Commands that put `program` and `artifact` into `folder` on the device, run them, and remove the folder.

    `folder` is a name below /data/local/tmp; `serial` chooses among several devices.

    Raises:
        InputError: the program is none that is known.
    """
    known = program_of(program)
    start = (adb, *(("-s", serial) if serial is not None else ()))
    place = _DEVICE_FOLDER / folder
    binary, model = place / program.name, place / f"model{artifact.suffix}"
    arguments = [str(binary), *known.arguments(str(model), threads, runs)]
    return RemoteJob(
        push=(
            _shell(start, "mkdir", "-p", str(place)),
            (*start, "push", str(program), str(binary)),
            (*start, "push", str(artifact), str(model)),
            _shell(start, "chmod", "755", str(binary)),
        ),
        run=_shell(start, *arguments),
        clean=_shell(start, "rm", "-rf", str(place)),
    )


def _shell(start: Sequence[str], *words: str) -> tuple[str, ...]:
    """`adb shell` joins its words by blanks and the device's shell splits them again: they are quoted."""
    return (*start, "shell", shlex.join(words))


def program_of(path: Path) -> Program:
    """What is known of a program, by its file name.

    Raises:
        InputError: nothing.
    """
    for name, program in PROGRAMS.items():
        if path.name.startswith(name):
            return program
    raise InputError(
        f"--adb-binary {path} is no program whose output is known; it must be called {', '.join(PROGRAMS)}."
    )


def _benchmark_model_arguments(model: str, threads: int, runs: int) -> list[str]:
    return [f"--graph={model}", f"--num_threads={threads}", f"--num_runs={runs}", "--warmup_runs=3"]


def parse_benchmark_model(output: str) -> RemoteFigures:
    """Microseconds. The last `count=` line has the timed runs (the one before it is the warm-up); newer versions
    print their median and p95 there as well.

    Raises:
        VerificationError: there are no timings in it.
    """
    found = _require(r"Inference timings in us: Init: ([\d.e+]+), First inference: ([\d.e+]+),", output)
    lines = [line for line in output.splitlines() if "count=" in line and "avg=" in line]
    if not lines:
        raise _no_figures(output)
    values = dict(re.findall(r"(\w+)=([\d.e+]+)", lines[-1]))
    footprint = re.search(r"(?:Memory|memory) footprint.*\(MB\).*overall=([\d.e+]+)", output)
    return RemoteFigures(
        mean=1e-6 * float(values["avg"]),
        runs=int(values["count"]),
        median=1e-6 * float(values["median"]) if "median" in values else None,
        load=1e-6 * float(found[1]),
        first_run=1e-6 * float(found[2]),
        memory=int(float(footprint[1]) * 2**20) if footprint else None,
    )


def _perf_test_arguments(model: str, threads: int, runs: int) -> list[str]:
    """-I makes up inputs by their shapes, -s prints percentiles, -o 99 is every optimization."""
    return ["-I", "-s", "-e", "cpu", "-m", "times", "-r", str(runs), "-x", str(threads), "-o", "99", model]


def parse_perf_test(output: str) -> RemoteFigures:
    """Seconds, but milliseconds for the mean and the first run.

    Raises:
        VerificationError: there are no timings in it.
    """
    first = _number(r"First inference time cost: ([\d.e+-]+) ms", output)
    peak = _number(r"Peak working set size: (\d+) bytes", output)
    return RemoteFigures(
        mean=1e-3 * float(_require(r"Average inference time cost: ([\d.e+-]+) ms", output)[1]),
        runs=int(_require(r"Total inference requests: (\d+)", output)[1]),
        median=_number(r"P50 Latency: ([\d.e+-]+) s", output),
        p90=_number(r"P90 Latency: ([\d.e+-]+) s", output),
        p99=_number(r"P99 Latency: ([\d.e+-]+) s", output),
        load=_number(r"Session creation time cost: ([\d.e+-]+) s", output),
        first_run=None if first is None else 1e-3 * first,
        memory=None if peak is None else int(peak),
    )


def _executor_runner_arguments(model: str, threads: int, runs: int) -> list[str]:
    """One execution more: the first one is not counted."""
    return [f"--model_path={model}", f"--num_executions={runs + 1}", f"--cpu_threads={threads}"]


def parse_executor_runner(output: str) -> RemoteFigures:
    """Milliseconds: each execution by itself where the version prints them (the first is then the first run, and
    not counted), else their sum alone.

    Raises:
        VerificationError: there are no timings in it.
    """
    total = _require(r"Model executed successfully (\d+) time\(s\) in ([\d.]+) ms", output)
    load = _number(r"Model loaded in ([\d.]+) ms", output)
    each = [1e-3 * float(value) for value in re.findall(r"Iteration \d+ of \d+: ([\d.]+) ms", output)]
    loaded = None if load is None else 1e-3 * load
    if len(each) < 2:
        return RemoteFigures(1e-3 * float(total[2]) / int(total[1]), int(total[1]), load=loaded)
    first, *timed = each
    return RemoteFigures(
        mean=math.fsum(timed) / len(timed),
        runs=len(timed),
        median=median(timed),
        p90=percentile(timed, 0.9),
        p99=percentile(timed, 0.99),
        load=loaded,
        first_run=first,
    )


def _number(pattern: str, output: str) -> float | None:
    found = re.search(pattern, output)
    return None if found is None else float(found[1])


def _require(pattern: str, output: str) -> re.Match[str]:
    found = re.search(pattern, output)
    if found is None:
        raise _no_figures(output)
    return found


def _no_figures(output: str) -> VerificationError:
    said = " | ".join(output.strip().splitlines()[-3:]) or "nothing"
    return VerificationError(f"The program on the device gave no timings; it said: {said}")


PROGRAMS: Mapping[str, Program] = {
    "benchmark_model": Program((".tflite",), _benchmark_model_arguments, parse_benchmark_model),
    "onnxruntime_perf_test": Program((".onnx", ".ort"), _perf_test_arguments, parse_perf_test),
    "executor_runner": Program((".pte",), _executor_runner_arguments, parse_executor_runner),
}
