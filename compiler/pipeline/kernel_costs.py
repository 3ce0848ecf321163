"""What kernels cost on this machine: a table for each target, measured once, read by whoever predicts speed.

A chain of one kernel and a chain of several, run by turns, give two figures: the kernel's own seconds (the
difference, divided by what the longer chain has more), and, for kernels with weights, the rest, which is what an
empty chain would take: calling the runtime, and in an int8 artifact quantizing the input and dequantizing the
output. The differences are those of the shortest times: other work on the machine only ever adds to them (as the
documentation of Python's `timeit` argues). From these:

* `TargetTable.seconds(kind, form, work)`: one kernel; between the sizes measured on straight lines of log seconds
  over log work, outside of them along the line through the nearest two (an overhead and a cost for each unit);
* `TargetTable.call(form, elements)`: what the artifact takes besides its kernels;
* `TargetTable.boundary(elements)`: to dequantize and quantize again, as between an int8 and a float part of a net.

A table belongs to a processor and to versions of libraries, whose hash is in its file's name: after an update
there is none until the machine is calibrated again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ..ir.errors import InputError
from .machine import MachineEntry
from .records import Entry, read_record, write_json

SCHEMA_VERSION = 2
WHAT = "a table that fxedge bench --calibrate-machine wrote"

Form = Literal["float", "int8"]
Unit = Literal["macs", "elements"]


class KernelPoint(Entry):
    """One size. `work` in the unit of its kind, `elements` of its output (its input has as many); `seconds` of one
    kernel, at least 0, and `rest` those of a chain of none. `low` and `high` enclose (95 %) the median over the
    rounds of what one kernel took there, None where these were too few: far above `seconds`, others disturbed."""

    work: int
    elements: int
    seconds: float
    low: float | None
    high: float | None
    rest: float | None = None


class _Rest(NamedTuple):
    elements: int
    rest: float


class KernelCosts(Entry):
    """One kind of kernel in one form, sizes in rising order of work; without points `reason` says why."""

    kind: str
    form: Form
    unit: Unit
    points: tuple[KernelPoint, ...]
    reason: str | None = None


class TargetTable(Entry):
    """All kernels of one target with one number of threads. `versions` as a manifest has them."""

    target: str
    threads: int
    versions: dict[str, str]
    kernels: tuple[KernelCosts, ...]

    def costs(self, kind: str, form: Form) -> KernelCosts | None:
        """None where the kind was not measured."""
        return next((costs for costs in self.kernels if (costs.kind, costs.form) == (kind, form)), None)

    def seconds(self, kind: str, form: Form, work: float) -> float | None:
        """Of one kernel; None where the target has no such kernel, or it was not measured."""
        costs = self.costs(kind, form)
        return None if costs is None or not costs.points else interpolate(costs.points, work)

    def call(self, form: Form, elements: float) -> float:
        """Seconds of an artifact besides its kernels, with `elements` values in and as many out."""
        start, slope = robust_line([(p.elements, p.rest) for p in self._rests("float").values()])
        return start + slope * elements + (self.boundary(elements) if form == "int8" else 0.0)

    def boundary(self, elements: float) -> float:
        """Seconds to quantize `elements` values and to dequantize as many: by what chains of the same kernel and
        size differ, since the rests of unlike kernels differ by more than that; 0 where none was measured in both
        forms, or int8 was the faster."""
        floats, integers = self._rests("float"), self._rests("int8")
        both = [(integers[key], floats[key]) for key in integers if key in floats]
        start, slope = robust_line([(int8.elements, int8.rest - plain.rest) for int8, plain in both])
        return start + slope * elements

    def _rests(self, form: Form) -> dict[tuple[str, int], _Rest]:
        """By kind and work."""
        return {
            (costs.kind, point.work): _Rest(point.elements, point.rest)
            for costs in self.kernels
            if costs.form == form
            for point in costs.points
            if point.rest is not None
        }


class KernelTables(Entry):
    """The whole file. `taken`, in UTC, ISO 8601, and `machine` are those of the last calibration."""

    schema_version: int = SCHEMA_VERSION
    fxedge: str
    taken: str
    machine: MachineEntry
    tables: tuple[TargetTable, ...]


def interpolate(points: Sequence[KernelPoint], work: float) -> float:
    """Seconds at `work` from sizes in rising order: see the module. A kernel too fast to be measured has 0."""
    works = [float(point.work) for point in points]
    seconds = [point.seconds for point in points]
    if len(points) == 1:
        return seconds[0] * work / works[0]
    upper = min(max(int(np.searchsorted(works, work)), 1), len(works) - 1)
    (x0, x1), (y0, y1) = works[upper - 1 : upper + 1], seconds[upper - 1 : upper + 1]
    if x0 <= work <= x1 and y0 > 0 and y1 > 0:
        share = np.log(work / x0) / np.log(x1 / x0)
        return float(y0 * (y1 / y0) ** share)
    slope = max((y1 - y0) / (x1 - x0), 0.0)
    start = max(y0 - slope * x0, 0.0)
    return start + slope * work if start > 0 else y1 * work / x1


def robust_line(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Start and slope, both at least 0, that single bad points do not move: the median of the slopes of all pairs
    (Theil 1950, Sen, *JASA* 63 (1968)), and the median of what is left in the smaller half, where the error of the
    slope counts least."""
    if not pairs:
        return 0.0, 0.0
    x, y = np.asarray(pairs, dtype=np.float64).T
    first, second = np.triu_indices(len(x), 1)
    apart = x[first] != x[second]
    first, second = first[apart], second[apart]
    slope = float(np.median((y[second] - y[first]) / (x[second] - x[first]))) if len(first) else 0.0
    slope = max(slope, 0.0)
    small = x <= np.median(x)
    return max(float(np.median((y - slope * x)[small])), 0.0), slope


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The user's cache (XDG Base Directory Specification: a path that is not absolute is ignored)."""
    named = Path(environment.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "fxedge" / "kernels"


def table_path(folder: Path, target: str, machine: MachineEntry, versions: Mapping[str, str]) -> Path:
    """Where the table of a target for this processor and these versions lies."""
    facts = [
        SCHEMA_VERSION,
        machine.cpu,
        machine.architecture,
        machine.isa,
        machine.cores,
        sorted(versions.items()),
    ]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return folder / f"{target}-{key}.json"


def store_tables(folder: Path, tables: KernelTables) -> list[Path]:
    """Write one file for each target; their paths. Tables of other numbers of threads stay in it.

    Raises:
        OSError: the cache cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for target in dict.fromkeys(table.target for table in tables.tables):
        own = {table.threads: table for table in tables.tables if table.target == target}
        path = table_path(folder, target, tables.machine, next(iter(own.values())).versions)
        merged = {table.threads: table for table in _known(path) if table.target == target} | own
        update = {"tables": tuple(merged[threads] for threads in sorted(merged))}
        write_json(path, tables.model_copy(update=update).model_dump(mode="json"))
        paths.append(path)
    return paths


def _known(path: Path) -> tuple[TargetTable, ...]:
    """What an earlier calibration left; of a damaged file nothing, so that it is replaced."""
    if not path.exists():
        return ()
    try:
        return read_record(path, KernelTables, WHAT, SCHEMA_VERSION).tables
    except InputError:
        return ()


def find_table(
    folder: Path, target: str, machine: MachineEntry, versions: Mapping[str, str], threads: int
) -> TargetTable:
    """The table that the machine's calibration left.

    Raises:
        InputError: there is none for this processor, these versions and so many threads; says how to get it.
    """
    path = table_path(folder, target, machine, versions)
    if path.is_file():
        tables = read_record(path, KernelTables, WHAT, SCHEMA_VERSION).tables
        for table in tables:
            if (table.target, table.threads) == (target, threads):
                return table
    raise InputError(
        f"This machine has no kernel costs for {target} in its present version with {threads} thread(s); run "
        f"fxedge bench --calibrate-machine --target {target} --threads {threads}."
    )
