"""`fxedge bench --adb-binary PROGRAM`: a bundle's artifacts on an Android device, by its runtime's own program.

The program makes up its inputs, so that these are times and no results; it runs one artifact after the other, so
that there are no pairs and no ratio. Whatever happens, the folder on the device is removed at the end.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from .... import __version__
from ...ir.errors import BackendUnavailableError, InputError, VerificationError
from ...ir.progress import Progress
from ...pipeline.bundle import read_bundle
from ...pipeline.check import FLOAT, INT8
from ..tables import make_table, print_table, size_text
from .adb import Program, RemoteFigures, RemoteJob, plan_job, program_of

SCHEMA_VERSION = 1

# The longest that one command may take: a benchmark of many runs on a slow phone.
_TIMEOUT = 1800


@dataclass(frozen=True, slots=True)
class RemoteResult:
    """One artifact on the device."""

    bundle: str
    target: str
    contestant: str
    threads: int
    figures: RemoteFigures


def bench_remote(
    folders: Sequence[Path],
    targets: tuple[str, ...],
    *,
    threads: tuple[int, ...],
    runs: int,
    program: Path,
    serial: str | None,
    progress: Progress,
) -> list[RemoteResult]:
    """Run every artifact that `program` reads, of `targets` (default: all).

    Raises:
        BundleError: a bundle is damaged. InputError: the program is none, or reads none of the artifacts.
        BackendUnavailableError: there is no adb. VerificationError: a command failed; with what it said.
    """
    if not program.is_file():
        raise InputError(f"--adb-binary {program} does not exist or is no file.")
    known = program_of(program)
    tasks = [task for folder in folders for task in _tasks(folder, targets, known)]
    if not tasks:
        raise InputError(f"{program.name} runs {', '.join(known.suffixes)}; no artifact asked for is one.")
    found = []
    with progress.track("bench on the device", len(tasks) * len(threads)) as advance:
        for folder, target, contestant, artifact in tasks:
            for count in threads:
                place = f"fxedge-{uuid.uuid4().hex[:12]}"
                job = plan_job(program, artifact, folder=place, threads=count, runs=runs, serial=serial)
                figures = known.parse(_run_job(job))
                found.append(RemoteResult(str(folder), target, contestant, count, figures))
                advance(len(found))
    return found


def _tasks(folder: Path, targets: tuple[str, ...], program: Program) -> Iterator[tuple[Path, str, str, Path]]:
    manifest = read_bundle(folder)
    if unknown := [name for name in targets if name not in manifest.targets]:
        raise InputError(f"{folder} has no target {unknown[0]!r}; it has {', '.join(manifest.targets)}.")
    for target in targets or manifest.targets:
        entry = manifest.targets[target]
        for contestant, artifact in ((FLOAT, entry.float_artifact), (INT8, entry.artifact)):
            if artifact is not None and Path(artifact).suffix in program.suffixes:
                yield folder, target, contestant, folder / artifact


def _run_job(job: RemoteJob) -> str:
    """The output of the program, stdout and stderr together."""
    try:
        for command in job.push:
            _call(command)
        return _call(job.run)
    finally:
        _call(job.clean, check=False)


def _call(command: Sequence[str], *, check: bool = True) -> str:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise BackendUnavailableError(
            f"{command[0]} is not installed; install Android's platform tools (Debian: apt install adb)."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise VerificationError(f"{' '.join(command)} took longer than {_TIMEOUT} s.") from error
    output = done.stdout.decode(errors="replace")
    if check and done.returncode != 0:
        said = " | ".join(output.strip().splitlines()[-3:]) or "nothing"
        raise VerificationError(f"{' '.join(command)} ended with status {done.returncode}; it said: {said}")
    return output


def print_remote(console: Console, results: Sequence[RemoteResult]) -> None:
    table = make_table(
        "target", "threads", "artifact", "mean ms", "median", "p90", "p99", "load ms", "memory", "runs"
    )
    for result in results:
        figures = result.figures
        times = (figures.mean, figures.median, figures.p90, figures.p99, figures.load)
        memory = "-" if figures.memory is None else size_text(figures.memory)
        cells = ("-" if seconds is None else f"{1e3 * seconds:.3f}" for seconds in times)
        table.add_row(result.target, str(result.threads), result.contestant, *cells, memory, str(figures.runs))
    print_table(console, table)


def remote_json(results: Sequence[RemoteResult]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "fxedge": __version__,
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "results": [asdict(result) for result in results],
    }
