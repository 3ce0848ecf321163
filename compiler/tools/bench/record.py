"""What a benchmark leaves behind: one JSON file, schema 1, with every single time measured.

The schema's version rises where older records can no longer be read; a field that is added has a default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ...pipeline.machine import MachineEntry
from ...pipeline.records import Entry, read_record

SCHEMA_VERSION = 1
WHAT = "a record that fxedge bench --json wrote"

_MOST_RUNS = 100_000  # as many as --runs allows
_MOST_RESULTS = 10_000

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SettingsEntry(Entry):
    """At most `runs` rounds and about `seconds` seconds for each set of artifacts that was timed together."""

    threads: tuple[int, ...]
    batch: int
    runs: int
    seconds: float


class ResultEntry(Entry):
    """One artifact in one runtime. Times in seconds, memory in bytes.

    `contestant` is int8, float, or the file name of somebody else's model; `adapted` says what was done to the
    inputs for it. `cold_start`: from the start of the process to the first answer; `first_load`: of that, loading
    the model with the runtime's library; `load`: loading it again, the library being there. `memory_before`: of
    the process before it loaded anything; `memory_peak`: the most since. `joules`: of whole packages, a sample;
    where it is None, `no_energy` says why. `seconds` has each timed run, in the order of the rounds.
    """

    bundle: str
    model: str
    target: str
    contestant: str
    threads: int
    batch: int
    artifact: str
    sha256: str
    size: int
    versions: dict[str, str]
    seconds: tuple[Seconds, ...] = Field(min_length=1, max_length=_MOST_RUNS)
    median: Seconds
    p90: Seconds
    p99: Seconds
    samples_per_second: float
    cold_start: float
    first_load: float
    load: float
    memory_before: int | None
    memory_peak: int | None
    joules: float | None = None
    no_energy: str | None = None
    adapted: tuple[str, ...] = ()


class RatioEntry(Entry):
    """How many times as long `above` took as `below`, pair by pair: the median, its 95 % interval (None where
    there were too few pairs), and the number of pairs."""

    bundle: str
    target: str
    threads: int
    above: str
    below: str
    value: float
    low: float | None
    high: float | None
    pairs: int


class SkipEntry(Entry):
    bundle: str
    target: str
    reason: str


class BenchRecord(Entry):
    """The whole file. `taken` is in UTC, ISO 8601; `libraries` are those in every process, name to version."""

    schema_version: int = SCHEMA_VERSION
    fxedge: str
    taken: str
    machine: MachineEntry
    libraries: dict[str, str]
    settings: SettingsEntry
    results: tuple[ResultEntry, ...] = Field(max_length=_MOST_RESULTS)
    ratios: tuple[RatioEntry, ...] = Field(max_length=_MOST_RESULTS)
    skipped: tuple[SkipEntry, ...] = Field((), max_length=_MOST_RESULTS)


def read_bench(path: Path) -> BenchRecord:
    """The record at `path`; every time in it is finite and above 0.

    Raises:
        InputError: it is none, or of another schema.
    """
    return read_record(path, BenchRecord, WHAT, SCHEMA_VERSION)
