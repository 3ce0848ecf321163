"""`fxedge bench`: which of its jobs the arguments ask for, and whether they go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ...ir.errors import InputError
from ...pipeline.kernel_costs import cache_folder, store_tables
from ...pipeline.records import require_place, write_json
from .. import exits, flags
from ..progress import make_progress
from ..tables import make_console, print_json
from .benching import BenchOptions, bench_bundles
from .calibrating import calibrate_machine, print_costs
from .comparing import compare_files, comparison_json, print_comparison
from .printing import print_bench
from .remote import bench_remote, print_remote, remote_json

STDOUT = Path("-")

# The jobs that a flag asks for, and what else each takes; without one of them bundles are measured here. All take
# --json and --quiet.
_JOBS: Mapping[str, tuple[str, ...]] = {
    "compare": ("bundles", "margin", "force"),
    "calibrate_machine": ("target", "threads", "runs"),
    "adb_binary": ("bundles", "target", "threads", "runs", "adb"),
}
_MEASURING = ("bundles", "target", "threads", "batch", "runs", "seconds", "against")


@dataclass(frozen=True, slots=True)
class Output:
    """Where the record goes: a file, `-` for stdout instead of the table, or nowhere."""

    json: Path | None
    quiet: bool

    def check(self) -> None:
        if self.json is not None and self.json != STDOUT:
            require_place(self.json)

    def give(self, value: Mapping[str, Any], print_table: Callable[[Console], None]) -> None:
        """Print the table and write the file, or print JSON."""
        if self.json == STDOUT:
            print_json(value)
            return
        print_table(make_console())
        if self.json is not None:
            write_json(self.json, value)


def check_flags(given: Mapping[str, Any]) -> None:
    """Whether the arguments of `fxedge bench` go together; those at their defaults do with everything.

    Raises:
        InputError: two jobs are asked for, or something that the job does not take.
    """
    chosen = [name for name, known in flags.BENCH.items() if given[name] not in (known.default, None, [])]
    job = next((name for name in _JOBS if name in chosen), None)
    takes = _MEASURING if job is None else (job, *_JOBS[job])
    extra = next((name for name in chosen if name not in takes), None)
    if extra is None:
        return
    flag = _spelled(extra)
    if job is not None:
        raise InputError(f"{_spelled(job)} does not go together with {flag}; leave one of them out.")
    owner = next(name for name, taken in _JOBS.items() if extra in taken)
    raise InputError(f"{flag} goes only together with {_spelled(owner)}; add that or leave {flag} out.")


def _spelled(name: str) -> str:
    return "BUNDLE" if name == "bundles" else f"--{name.replace('_', '-')}"


def run_bench(folders: tuple[Path, ...], options: BenchOptions, output: Output) -> int:
    """Measure bundles, print the table and write the record; the exit status.

    Raises:
        InputError: no bundle was given. Others as `bench_bundles`.
    """
    _check(folders, output)
    record = bench_bundles(folders, options, make_progress(quiet=output.quiet))
    output.give(record.model_dump(mode="json"), lambda console: print_bench(console, record))
    return exits.PARTLY_DONE if options.targets and record.skipped else exits.DONE


def run_remote(
    folders: tuple[Path, ...], options: BenchOptions, program: Path, serial: str | None, output: Output
) -> int:
    """The same on an Android device, by a program of the runtime's own.

    Raises:
        InputError: no bundle was given. Others as `bench_remote`.
    """
    _check(folders, output)
    found = bench_remote(
        folders,
        options.targets,
        threads=options.threads,
        runs=options.runs,
        program=program,
        serial=serial,
        progress=make_progress(quiet=output.quiet),
    )
    output.give(remote_json(found), lambda console: print_remote(console, found))
    return exits.DONE


def _check(folders: tuple[Path, ...], output: Output) -> None:
    """What is asked for is looked at before anything is measured."""
    if not folders:
        raise InputError("Nothing to measure: give folders that fxedge compile wrote.")
    output.check()


def run_calibration(targets: tuple[str, ...], threads: tuple[int, ...], runs: int, output: Output) -> int:
    """Measure kernels, print their costs, and keep them in the user's cache, one file for each target.

    Raises:
        InputError: as `calibrate_machine`, or the cache cannot be written; the costs are printed by then.
    """
    output.check()
    progress = make_progress(quiet=output.quiet)
    tables = calibrate_machine(targets, threads=threads, runs=runs, progress=progress)
    output.give(tables.model_dump(mode="json"), lambda console: print_costs(console, tables))
    folder = cache_folder()
    try:
        paths = store_tables(folder, tables)
    except OSError as error:
        raise InputError(
            f"The costs could not be kept in {folder}, where predictions look for them: {error.strerror}. Make it "
            "writable, or name another place by XDG_CACHE_HOME."
        ) from error
    for path in paths:
        exits.note(f"costs kept in {path}")
    return exits.DONE


def run_compare(files: tuple[Path, ...], *, margin: float, force: bool, output: Output) -> int:
    """Compare two records; a failed check where something became slower.

    Raises:
        InputError: not two files, the result would replace one of them, or as `compare_files`.
    """
    if len(files) != 2:
        raise InputError(f"--compare takes two records, OLD.json and NEW.json, not {len(files)}.")
    output.check()
    if output.json is not None and output.json.resolve() in [file.resolve() for file in files]:
        raise InputError(f"--json {output.json} is one of the two records; choose another place for the result.")
    found = compare_files(*files, margin=margin, force=force)
    output.give(comparison_json(found), lambda console: print_comparison(console, found))
    return exits.CHECK_FAILED if found.slower else exits.DONE
