"""`fxedge bench BUNDLE…`: every artifact of bundles on this machine, int8 and float by turns."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np

from .... import __version__
from ....backends import registry
from ...ir.errors import BackendUnavailableError, InputError, VerificationError
from ...ir.progress import Progress
from ...pipeline.bundle import file_entry, read_bundle, read_golden_inputs
from ...pipeline.check import FLOAT, INT8
from ...pipeline.driver import usable_backends
from ...pipeline.machine import describe_machine
from ...pipeline.manifest import Manifest
from .energy import EnergyMeter, find_meter
from .figures import median, paired_ratio, percentile
from .measure import Contestant, Measured, measure
from .peers import fit_inputs, reader_of
from .record import BenchRecord, RatioEntry, ResultEntry, SettingsEntry, SkipEntry

# What every process of a benchmark has in it.
_LIBRARIES = ("torch", "numpy")


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """`targets` () for all of a bundle; `batch` None for one sample, or what the model is fixed to; at most `runs`
    rounds and about `seconds` seconds for each target and number of threads."""

    targets: tuple[str, ...] = ()
    threads: tuple[int, ...] = (1,)
    batch: int | None = None
    runs: int = 100
    seconds: float = 10.0
    against: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class _Bundle:
    """A bundle whose hashes were checked, and its inputs by name."""

    folder: Path
    manifest: Manifest
    inputs: dict[str, np.ndarray]
    batch: int


def bench_bundles(folders: Sequence[Path], options: BenchOptions, progress: Progress) -> BenchRecord:
    """Measure what `options` ask for; a runtime that is not here, or fails, is left out with its reason.

    Raises:
        BundleError: a bundle is damaged. BackendUnavailableError: no artifact can be measured here.
        InputError: no such target, a batch that the model does not take, or a peer that does not fit.
    """
    machine = describe_machine()
    with progress.track("check the bundles", len(folders)) as advance:
        bundles = []
        for done, folder in enumerate(folders):
            bundles.append(_open(folder, options))
            advance(done + 1)
    names = [name for bundle in bundles for name in bundle.manifest.targets]
    for path in options.against:
        reader_of(path, names[0])  # what no runtime reads is said before anything is measured
    meter = find_meter()
    results: list[ResultEntry] = []
    ratios: list[RatioEntry] = []
    skipped: list[SkipEntry] = []
    for bundle in bundles:
        for target in options.targets or bundle.manifest.targets:
            if (reason := _why_not(target)) is not None:
                skipped.append(SkipEntry(bundle=str(bundle.folder), target=target, reason=reason))
                continue
            for threads in options.threads:
                try:
                    entries = _bench_target(bundle, target, threads, options, meter, progress)
                except VerificationError as error:
                    skipped.append(SkipEntry(bundle=str(bundle.folder), target=target, reason=str(error)))
                    break
                results += entries
                ratios += _ratios(entries)
    if not results:
        raise BackendUnavailableError(f"No artifact can be measured here. {' '.join(s.reason for s in skipped)}")
    return BenchRecord(
        fxedge=__version__,
        taken=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine,
        libraries={name: metadata.version(name) for name in _LIBRARIES},
        settings=SettingsEntry(
            threads=options.threads, batch=results[0].batch, runs=options.runs, seconds=options.seconds
        ),
        results=tuple(results),
        ratios=tuple(ratios),
        skipped=tuple(skipped),
    )


def _open(folder: Path, options: BenchOptions) -> _Bundle:
    manifest = read_bundle(folder)
    if unknown := [name for name in options.targets if name not in manifest.targets]:
        raise InputError(f"{folder} has no target {unknown[0]!r}; it has {', '.join(manifest.targets)}.")
    golden = read_golden_inputs(folder, manifest)
    first = manifest.inputs[0]
    fixed = first.shape[0] if first.shape else None
    if fixed is not None and options.batch not in (None, fixed):
        raise InputError(f"The model of {folder} takes batches of {fixed}; leave --batch {options.batch} out.")
    batch = fixed or options.batch or 1
    inputs = {
        tensor.name: _in_batch(golden[tensor.name], batch) if tensor.shape[:1] == (None,) else golden[tensor.name]
        for tensor in manifest.inputs
    }
    return _Bundle(folder, manifest, inputs, batch)


def _in_batch(samples: np.ndarray, count: int) -> np.ndarray:
    """`count` samples, those there are over and over."""
    return samples[np.arange(count) % len(samples)]


def _why_not(target: str) -> str | None:
    backends, missing = usable_backends([target])
    if target in missing:
        return str(missing[target])
    if not backends[target].spec.own_runtime:
        return f"what runs {target} here only stands in for its runtime, so times would say nothing"
    return None


def _bench_target(
    bundle: _Bundle,
    target: str,
    threads: int,
    options: BenchOptions,
    meter: EnergyMeter | str,
    progress: Progress,
) -> list[ResultEntry]:
    contestants = [*_own(bundle, target), *_peers(bundle, target, options.against)]
    found = measure(
        contestants,
        threads=threads,
        runs=options.runs,
        seconds=options.seconds,
        meter=None if isinstance(meter, str) else meter,
        label=f"{bundle.folder.name} on {target}, {threads} thread(s)",
        progress=progress,
    )
    no_energy = meter if isinstance(meter, str) else None
    return [_entry(bundle, target, threads, one, found[one.name], no_energy) for one in contestants]


def _own(bundle: _Bundle, target: str) -> Iterator[Contestant]:
    entry = bundle.manifest.targets[target]
    inputs = list(bundle.inputs.values())
    for name, artifact in ((FLOAT, entry.float_artifact), (INT8, entry.artifact)):
        if artifact is not None:
            yield Contestant(name, target, bundle.folder / artifact, lambda facts: (inputs, ()))


def _peers(bundle: _Bundle, target: str, paths: Sequence[Path]) -> Iterator[Contestant]:
    files = [path.name for path in dict.fromkeys(paths)]
    for path in dict.fromkeys(paths):
        name = path.name if files.count(path.name) == 1 else str(path)
        fit = functools.partial(fit_inputs, path, bundle.inputs)
        yield Contestant(name, reader_of(path, target), path, fit, foreign=True)


def _entry(
    bundle: _Bundle, target: str, threads: int, one: Contestant, found: Measured, no_energy: str | None
) -> ResultEntry:
    seconds = tuple(round(value, 9) for value in found.seconds)
    middle, file = median(seconds), file_entry(one.path)
    before, peak = found.memory
    return ResultEntry(
        bundle=str(bundle.folder),
        model=bundle.manifest.model,
        target=target,
        contestant=one.name,
        threads=threads,
        batch=bundle.batch,
        artifact=str(one.path),
        sha256=file.sha256,
        size=file.size,
        versions=dict(registry.get(one.target).versions()),
        seconds=seconds,
        median=middle,
        p90=percentile(seconds, 0.9),
        p99=percentile(seconds, 0.99),
        samples_per_second=bundle.batch / middle,
        cold_start=found.cold_start,
        first_load=found.first_load,
        load=found.load,
        memory_before=before,
        memory_peak=peak,
        joules=None if found.joules is None else found.joules / bundle.batch,
        no_energy=no_energy,
        adapted=found.adapted,
    )


def _ratios(entries: Sequence[ResultEntry]) -> Iterator[RatioEntry]:
    """Every other contestant over int8."""
    by_name: Mapping[str, ResultEntry] = {entry.contestant: entry for entry in entries}
    int8 = by_name[INT8]
    for name, entry in by_name.items():
        if name == INT8:
            continue
        ratio = paired_ratio(entry.seconds, int8.seconds)
        yield RatioEntry(
            bundle=entry.bundle,
            target=entry.target,
            threads=entry.threads,
            above=name,
            below=INT8,
            value=ratio.value,
            low=ratio.low,
            high=ratio.high,
            pairs=len(int8.seconds),
        )
