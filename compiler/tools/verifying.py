"""`fxedge verify`: the verdict on a bundle, and the exit status that belongs to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from ..ir.errors import BackendUnavailableError, BundleError, VerificationError
from ..pipeline.bundle import MANIFEST
from ..pipeline.verify import TargetVerdict, VerifyReport, verify_bundle
from .exits import CHECK_FAILED, DONE, PARTLY_DONE
from .progress import make_progress
from .tables import make_table, print_table


def run_verify(folder: Path, targets: tuple[str, ...], *, threads: int, quiet: bool) -> VerifyReport:
    """Check the bundle in `folder`.

    Raises:
        BundleError: there is no bundle. VerificationError: it is damaged. InputError: it has no such target.
        BackendUnavailableError: none of its runtimes is installed.
    """
    try:
        report = verify_bundle(folder, targets=targets, threads=threads, progress=make_progress(quiet=quiet))
    except BundleError as error:
        if (folder / MANIFEST).is_file():
            raise VerificationError(str(error)) from error
        raise
    if all(verdict.skipped for verdict in report.verdicts.values()):
        lines = " ".join(verdict.message for verdict in report.verdicts.values())
        raise BackendUnavailableError(f"No artifact of {folder} can be run here. {lines}")
    return report


def verdict_status(report: VerifyReport, *, named: bool) -> int:
    """Of the targets of a bundle, those that are not installed are skipped; of `named` ones they are missing."""
    if not report.passed:
        return CHECK_FAILED
    return PARTLY_DONE if named and any(v.skipped for v in report.verdicts.values()) else DONE


def print_verdicts(console: Console, folder: Path, report: VerifyReport) -> None:
    console.print(f"{folder}: {len(report.manifest.files)} files, all hashes as in the manifest", soft_wrap=True)
    table = make_table("target", "verdict", "")
    for name, verdict in report.verdicts.items():
        table.add_row(name, _word(verdict), verdict.message)
    print_table(console, table)


def _word(verdict: TargetVerdict) -> str:
    return "skipped" if verdict.skipped else "passed" if verdict.passed else "FAILED"


def verdicts_json(report: VerifyReport) -> dict[str, Any]:
    return {
        "passed": report.passed,
        "targets": {
            name: {"verdict": _word(verdict).lower(), "message": verdict.message}
            for name, verdict in report.verdicts.items()
        },
    }
