"""What `fxedge bench` recorded of a bundle's artifacts, as the report shows it.

Only times of the very artifacts of the bundle count: a record names them by their sha256. Models that were
measured beside them (`--against`) are shown too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from ...ir.errors import InputError
from ...pipeline.machine import MachineEntry
from ...pipeline.manifest import Manifest
from ..bench.record import BenchRecord, RatioEntry, ResultEntry, read_bench
from .plots import Strips, latencies

_INT8, _FLOAT = "int8", "float"

# A 99th percentile beyond so many medians is a stall of the machine: it is in the table, not in the drawing.
_STALL = 3


@dataclass(frozen=True, slots=True)
class Timing:
    """A row: the result, its drawing on the scale of its run, and float over int8 where the run has both."""

    result: ResultEntry
    drawing: Markup
    ratio: RatioEntry | None

    @property
    def color(self) -> str:
        return _color(self.result)


@dataclass(frozen=True, slots=True)
class Run:
    """One record's results of one thread count and batch, drawn on one scale that ends at `longest` seconds."""

    taken: str
    machine: MachineEntry
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


def _runs(path: Path, record: BenchRecord, manifest: Manifest) -> list[Run]:
    own = {file.sha256 for file in manifest.files.values()}
    bundles = {result.bundle for result in record.results if result.sha256 in own}
    shown = [
        result
        for result in record.results
        if result.bundle in bundles and (result.sha256 in own or result.contestant not in (_INT8, _FLOAT))
    ]
    if not shown:
        raise InputError(f"{path} measured other artifacts than those of this bundle; run fxedge bench on it.")
    settings: dict[tuple[int, int], list[ResultEntry]] = {}
    for result in shown:
        settings.setdefault((result.threads, result.batch), []).append(result)
    return [_run(record, results) for results in settings.values()]


def _run(record: BenchRecord, results: Sequence[ResultEntry]) -> Run:
    strips = Strips(300, 20)
    longest = 1.04 * max(min(result.p99, _STALL * result.median) for result in results) or 1.0
    timings = [
        Timing(
            result,
            latencies(strips, result.seconds, result.p99, longest, _color(result)),
            _ratio(record, result) if result.contestant == _INT8 else None,
        )
        for result in results
    ]
    return Run(record.taken, record.machine, results[0].threads, results[0].batch, longest, tuple(timings))


def _ratio(record: BenchRecord, result: ResultEntry) -> RatioEntry | None:
    """Float over int8, of the same run."""
    wanted = (result.bundle, result.target, result.threads, _FLOAT, _INT8)
    for ratio in record.ratios:
        if (ratio.bundle, ratio.target, ratio.threads, ratio.above, ratio.below) == wanted:
            return ratio
    return None


def _color(result: ResultEntry) -> str:
    return result.contestant if result.contestant in (_INT8, _FLOAT) else "boundary"
