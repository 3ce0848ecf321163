"""`fxedge report`: a bundle as one HTML file, which `fxedge compile` puts into the bundles that it writes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ...ir.errors import BackendUnavailableError, InputError
from ...ir.progress import Progress
from ...pipeline.bundle import read_bundle
from ...pipeline.manifest import Manifest
from ...pipeline.records import write_whole

REPORT = "report.html"
_LIBRARIES = ("jinja2", "matplotlib")


def why_no_report() -> str | None:
    """None where the libraries that draw reports are installed, else what to install."""
    absent = [name for name in _LIBRARIES if find_spec(name) is None]
    if not absent:
        return None
    return f"{' and '.join(absent)} not installed; run: pip install 'fxedge[report]'"


def run_report(
    bundle: Path, out: Path, benches: Sequence[Path], *, force: bool, progress: Progress
) -> tuple[Manifest, int]:
    """Write the report about `bundle` to `out`, as a whole or not at all; its manifest and the report's bytes.

    Raises:
        BackendUnavailableError: a library is missing. BundleError: there is no bundle, or it is damaged.
        InputError: `out` is no place for it, or a bench record is not one of this bundle.
    """
    if (reason := why_no_report()) is not None:
        raise BackendUnavailableError(f"No report can be drawn: {reason}")
    _check_place(out, bundle, force)
    from .latency import read_benches
    from .page import make_page

    manifest = read_bundle(bundle)
    text = make_page(bundle, manifest, read_benches(benches, manifest), progress)
    write_whole(out, text)
    return manifest, out.stat().st_size


def add_report(folder: Path, manifest: Manifest, progress: Progress) -> None:
    """Put the report into the bundle that is being written at `folder`: the same bytes for the same bundle."""
    from .page import make_page

    (folder / REPORT).write_text(make_page(folder, manifest, progress=progress), encoding="utf-8")


def _check_place(out: Path, bundle: Path, force: bool) -> None:
    if out.is_dir():
        raise InputError(f"{out} is a folder; give the name of a file with -o.")
    if not out.parent.is_dir():
        raise InputError(f"The folder {out.parent} does not exist; create it or choose another -o.")
    if bundle.is_dir() and out.resolve().is_relative_to(bundle.resolve()):
        raise InputError(
            f"{out} lies in the bundle, whose files may not change (fxedge verify checks them); choose another -o."
        )
    if out.exists() and not force:
        raise InputError(f"{out} exists already; choose another -o or give --force to replace it.")
