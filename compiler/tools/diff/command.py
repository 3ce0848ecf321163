"""`fxedge diff`: compare, print in the form asked for, and the exit status that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..exits import CHECK_FAILED, DONE
from ..progress import make_progress
from ..tables import make_console, print_json
from .compare import diff_bundles
from .limits import Limits, broken_limits
from .show import diff_json, markdown, print_diff

Form = Literal["table", "markdown", "json"]


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for; no `targets` are all that both bundles have."""

    old: Path
    new: Path
    targets: tuple[str, ...]
    limits: Limits
    runs: int
    threads: int
    form: Form
    quiet: bool


def run_diff(request: Request) -> int:
    """Print the diff; the exit status says whether a limit is broken.

    Raises:
        BundleError, InputError: as `diff_bundles`.
    """
    diff = diff_bundles(
        request.old,
        request.new,
        targets=request.targets,
        runs=request.runs,
        threads=request.threads,
        progress=make_progress(quiet=request.quiet),
    )
    broken = broken_limits(diff, request.limits)
    match request.form:
        case "json":
            print_json(diff_json(diff, broken))
        case "markdown":
            print(markdown(diff, broken))
        case "table":
            print_diff(make_console(), diff, broken)
    return CHECK_FAILED if broken else DONE
