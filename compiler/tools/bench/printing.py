"""A benchmark as a table for people."""

from __future__ import annotations

from rich.console import Console

from ...pipeline.machine import MachineEntry
from ..tables import make_table, plural, print_table, size_text
from .figures import Ratio
from .record import BenchRecord, ResultEntry


def print_bench(console: Console, record: BenchRecord) -> None:
    """Machine, one table for each bundle, ratios with their intervals, and what was left out."""
    console.print(_machine_text(record.machine), soft_wrap=True)
    for bundle in dict.fromkeys(entry.bundle for entry in record.results):
        console.print()
        _print_bundle(console, bundle, [entry for entry in record.results if entry.bundle == bundle])
    console.print()
    for ratio in record.ratios:
        text = Ratio(ratio.value, ratio.low, ratio.high).format()
        console.print(
            f"{ratio.target}, {plural(ratio.threads, 'thread')}: {ratio.above} / {ratio.below} {text} "
            f"({plural(ratio.pairs, 'pair')}, 95 %)",
            soft_wrap=True,
        )
    for reason in sorted({entry.no_energy for entry in record.results if entry.no_energy is not None}):
        console.print(f"energy: not available ({reason})", soft_wrap=True)
    for skip in record.skipped:
        console.print(f"skipped {skip.target}: {skip.reason}", soft_wrap=True)


def _machine_text(machine: MachineEntry) -> str:
    load = "unknown" if machine.load is None else str(machine.load)
    return (
        f"{machine.cpu} ({machine.isa}), {plural(machine.cores, 'core')}, governor {machine.governor}, "
        f"load {load}, {machine.system}"
    )


def _print_bundle(console: Console, bundle: str, entries: list[ResultEntry]) -> None:
    console.print(f"{bundle}: {entries[0].model}, batch {entries[0].batch}", soft_wrap=True)
    energy = any(entry.joules is not None for entry in entries)
    columns = (
        "target",
        "threads",
        "artifact",
        "median",
        "p90",
        "p99 ms",
        "samples/s",
        "size",
        "memory MB",
        "load ms",
    )
    table = make_table(*columns, "cold start s", *(("mJ/sample",) if energy else ()))
    for entry in entries:
        joules = ("-" if entry.joules is None else f"{1e3 * entry.joules:.2f}",) if energy else ()
        table.add_row(*_cells(entry), *joules)
    print_table(console, table)
    for entry in entries:
        for step in entry.adapted:
            console.print(f"{entry.contestant} on {entry.target}: input {step}", soft_wrap=True)


def _cells(entry: ResultEntry) -> tuple[str, ...]:
    times = (f"{1e3 * seconds:.3f}" for seconds in (entry.median, entry.p90, entry.p99))
    return (
        entry.target,
        str(entry.threads),
        entry.contestant,
        *times,
        f"{entry.samples_per_second:.0f}",
        size_text(entry.size),
        _memory(entry),
        f"{1e3 * entry.load:.1f}",
        f"{entry.cold_start:.2f}",
    )


def _memory(entry: ResultEntry) -> str:
    """`412.1 (+80.2)`: the peak, and what of it came after the process was ready to load."""
    if entry.memory_peak is None:
        return "-"
    added = "" if entry.memory_before is None else f" (+{(entry.memory_peak - entry.memory_before) / 1e6:.1f})"
    return f"{entry.memory_peak / 1e6:.1f}{added}"
