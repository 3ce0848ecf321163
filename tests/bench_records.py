"""Records of benchmarks that never ran."""

from __future__ import annotations

from fxedge.compiler.pipeline.machine import MachineEntry
from fxedge.compiler.tools.bench.record import BenchRecord, ResultEntry, SettingsEntry

MACHINE = MachineEntry(
    cpu="Some CPU",
    architecture="x86_64",
    isa="vnni",
    cores=4,
    governor="performance",
    load=0.5,
    system="Linux 6",
    python="3.11.2",
)


def result(seconds: tuple[float, ...] = (1e-3,) * 10, **changed: object) -> ResultEntry:
    middle = sorted(seconds)[len(seconds) // 2]
    entry = ResultEntry(
        bundle="bundle",
        model="net",
        target="onnx",
        contestant="int8",
        threads=1,
        batch=1,
        artifact="bundle/onnx/model.onnx",
        sha256="0" * 64,
        size=1000,
        versions={"onnxruntime": "1.0"},
        seconds=seconds,
        median=middle,
        p90=middle,
        p99=middle,
        samples_per_second=1 / middle,
        cold_start=1.5,
        first_load=0.5,
        load=0.001,
        memory_before=200_000_000,
        memory_peak=250_000_000,
    )
    return entry.model_copy(update=changed)


def record(*results: ResultEntry, machine: MachineEntry = MACHINE, **changed: object) -> BenchRecord:
    found = BenchRecord(
        fxedge="0.1.0",
        taken="2026-01-01T00:00:00+00:00",
        machine=machine,
        libraries={"torch": "2.0"},
        settings=SettingsEntry(threads=(1,), batch=1, runs=10, seconds=1.0),
        results=results,
        ratios=(),
    )
    return found.model_copy(update=changed)
