"""What `fxedge bench` recorded of a bundle's artifacts, as the report shows it.

Only times of the very artifacts of the bundle count: a record names them by their sha256. Models that were
measured beside them (`--against`) are shown too. The file is read for what is needed; the rest is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...ir.errors import InputError
from ...pipeline.manifest import Manifest
from .plots import Strips, latencies

SCHEMA_VERSION = 1
_LARGEST = 256 * 2**20
_INT8, _FLOAT = "int8", "float"

# A 99th percentile beyond so many medians is a stall of the machine: it is in the table, not in the drawing.
_STALL = 3

_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class MachineRead(_Read):
    cpu: str
    isa: str
    cores: int
    governor: str
    load: float | None
    system: str


class ResultRead(_Read):
    """One artifact in one runtime; seconds and bytes. `contestant` is int8, float, or somebody else's file."""

    bundle: str
    target: str
    contestant: str
    threads: int
    batch: int
    sha256: str
    seconds: tuple[_Seconds, ...] = Field(min_length=1)
    median: _Seconds
    p90: _Seconds
    p99: _Seconds
    samples_per_second: float
    cold_start: float
    load: float
    memory_peak: int | None
    joules: float | None = None
    no_energy: str | None = None

    @property
    def color(self) -> str:
        return self.contestant if self.contestant in (_INT8, _FLOAT) else "boundary"


class RatioRead(_Read):
    """How many times as long `above` took as `below`."""

    bundle: str
    target: str
    threads: int
    above: str
    below: str
    value: float
    low: float | None
    high: float | None


class _Versioned(_Read):
    schema_version: int


class BenchRead(_Versioned):
    taken: str
    machine: MachineRead
    results: tuple[ResultRead, ...]
    ratios: tuple[RatioRead, ...]


@dataclass(frozen=True, slots=True)
class Timing:
    """A row: the result, its drawing on the scale of its run, and float over int8 where the run has both."""

    result: ResultRead
    drawing: Markup
    ratio: RatioRead | None


@dataclass(frozen=True, slots=True)
class Run:
    """One record's results of one thread count and batch, drawn on one scale that ends at `longest` seconds."""

    taken: str
    machine: MachineRead
    threads: int
    batch: int
    longest: float
    timings: tuple[Timing, ...]


def read_benches(paths: Iterable[Path], manifest: Manifest) -> tuple[Run, ...]:
    """The runs in `paths` that measured the bundle of `manifest`.

    Raises:
        InputError: one is no record, or measured nothing of this bundle.
    """
    return tuple(run for path in paths for run in _runs(path, read_bench(path), manifest))


def read_bench(path: Path) -> BenchRead:
    """One record.

    Raises:
        InputError: it is none, or of another schema.
    """
    what = "a record that fxedge bench --json wrote"
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file; give {what}.")
    if path.stat().st_size > _LARGEST:
        raise InputError(f"{path} is larger than {_LARGEST} bytes, so it is not {what}.")
    raw = path.read_bytes()
    try:
        version = _Versioned.model_validate_json(raw).schema_version
        found = BenchRead.model_validate_json(raw) if version == SCHEMA_VERSION else None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path} is not {what}: {where}: {first['msg']}.") from error
    if found is None:
        raise InputError(f"{path} has schema {version}; this fxedge reads schema {SCHEMA_VERSION} of {what}.")
    return found


def _runs(path: Path, record: BenchRead, manifest: Manifest) -> list[Run]:
    own = {file.sha256 for file in manifest.files.values()}
    bundles = {result.bundle for result in record.results if result.sha256 in own}
    shown = [
        result
        for result in record.results
        if result.bundle in bundles and (result.sha256 in own or result.contestant not in (_INT8, _FLOAT))
    ]
    if not shown:
        raise InputError(f"{path} measured other artifacts than those of this bundle; run fxedge bench on it.")
    settings: dict[tuple[int, int], list[ResultRead]] = {}
    for result in shown:
        settings.setdefault((result.threads, result.batch), []).append(result)
    return [_run(record, results) for results in settings.values()]


def _run(record: BenchRead, results: Sequence[ResultRead]) -> Run:
    strips = Strips(300, 20)
    longest = 1.04 * max(min(result.p99, _STALL * result.median) for result in results) or 1.0
    timings = [
        Timing(
            result,
            latencies(strips, result.seconds, result.p99, longest, result.color),
            _ratio(record, result) if result.contestant == _INT8 else None,
        )
        for result in results
    ]
    return Run(record.taken, record.machine, results[0].threads, results[0].batch, longest, tuple(timings))


def _ratio(record: BenchRead, result: ResultRead) -> RatioRead | None:
    """Float over int8, of the same run."""
    wanted = (result.bundle, result.target, result.threads, _FLOAT, _INT8)
    for ratio in record.ratios:
        if (ratio.bundle, ratio.target, ratio.threads, ratio.above, ratio.below) == wanted:
            return ratio
    return None
