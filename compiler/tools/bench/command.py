"""`fxedge bench`: which of its jobs the arguments ask for, and whether they go together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...ir.errors import BundleError, InputError, VerificationError
from ...pipeline.bundle import MANIFEST
from .. import exits
from ..progress import make_progress
from ..tables import make_console, print_json
from .benching import BenchOptions, bench_bundles
from .comparing import compare_files, comparison_json, print_comparison
from .printing import print_bench
from .record import require_place, write_record

STDOUT = Path("-")


@dataclass(frozen=True, slots=True)
class Output:
    """Where the record goes: a file, `-` for stdout instead of the table, or nowhere."""

    json: Path | None
    quiet: bool

    def check(self) -> None:
        if self.json is not None and self.json != STDOUT:
            require_place(self.json)


def run_bench(folders: tuple[Path, ...], options: BenchOptions, output: Output) -> int:
    """Measure bundles, print the table and write the record; the exit status.

    Raises:
        InputError: no bundle was given, or as `bench_bundles`. VerificationError: a bundle is damaged.
    """
    if not folders:
        raise InputError("Nothing to measure: give folders that fxedge compile wrote.")
    output.check()
    try:
        record = bench_bundles(folders, options, make_progress(quiet=output.quiet))
    except BundleError as error:
        if any((folder / MANIFEST).is_file() for folder in folders):
            raise VerificationError(str(error)) from error
        raise
    if output.json == STDOUT:
        print_json(record.model_dump(mode="json"))
    else:
        print_bench(make_console(), record)
    if output.json not in (None, STDOUT):
        assert output.json is not None
        write_record(output.json, record)
    return exits.PARTLY_DONE if options.targets and record.skipped else exits.DONE


def run_compare(files: tuple[Path, ...], *, margin: float, force: bool, output: Output) -> int:
    """Compare two records; a failed check where something became slower.

    Raises:
        InputError: not two files, or as `compare_files`.
    """
    if len(files) != 2:
        raise InputError(f"--compare takes two records, OLD.json and NEW.json, not {len(files)}.")
    if output.json not in (None, STDOUT):
        raise InputError("--compare writes no file; give --json - for JSON on stdout.")
    found = compare_files(*files, margin=margin, force=force)
    if output.json == STDOUT:
        print_json(comparison_json(found))
    else:
        print_comparison(make_console(), found)
    return exits.CHECK_FAILED if found.slower else exits.DONE
