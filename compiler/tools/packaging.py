"""`fxedge package`: a bundle's artifact as something that people install: an app's module, a page, a folder."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rich.console import Console

from ..ir.errors import BundleError, InputError
from ..pipeline.bundle import MANIFEST, SUMS, writing_bundle
from .package.contents import with_sums, write_files
from .package.runtimes import CARRIED
from .package.source import Source, open_source
from .progress import make_progress
from .tables import make_table, print_table, size_text


@dataclass(frozen=True, slots=True)
class Packaged:
    """A package that was written: its files and their sizes in bytes, and what has to be known of it."""

    kind: str
    folder: Path
    source: Source
    sizes: dict[str, int]
    notes: tuple[str, ...]


def run_package(
    bundle: Path,
    kind: str,
    *,
    target: str | None = None,
    labels: Path | None = None,
    output: Path | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Packaged:
    """Write a package of `kind` to `output` (default: BUNDLE-KIND in the working directory), whole or not at all.

    Raises:
        InputError: no such kind, no target that it can carry, labels that do not fit.
        BundleError: no bundle or a damaged one; `output` is in the way.
    """
    if kind not in CARRIED:
        raise InputError(f"Unknown kind of package {kind!r}; allowed: {', '.join(CARRIED)}.")
    out = output if output is not None else Path(f"{bundle.resolve().name}-{kind}")
    _keep_apart(bundle, out)
    with make_progress(quiet=quiet).track(f"package for {kind}"):
        source = open_source(bundle, kind, CARRIED[kind], target, labels)
        with writing_bundle(out, force=force, what="package", marks=(MANIFEST, SUMS)) as folder:
            built = importlib.import_module(f".package.{kind}", __package__).build(source)
            files = with_sums(built.files)
            write_files(folder, files)
    return Packaged(kind, out, source, {name: len(content) for name, content in files.items()}, built.notes)


def _keep_apart(bundle: Path, out: Path) -> None:
    """A package inside its bundle would damage it, and one around it would replace it."""
    inner, outer = bundle.resolve(), out.resolve()
    if outer.is_relative_to(inner) or inner.is_relative_to(outer):
        raise BundleError(f"The package {out} and the bundle {bundle} would lie in each other; choose another -o.")


def sizes_by_part(packaged: Packaged) -> dict[str, tuple[int, int]]:
    """Part of the package -> how many files it has, and their bytes together; largest parts first."""
    parts: dict[str, list[int]] = {}
    for name, size in packaged.sizes.items():
        parts.setdefault(_part(name, packaged.source.runtime.file), []).append(size)
    ordered = sorted(parts.items(), key=lambda item: -sum(item[1]))
    return {part: (len(sizes), sum(sizes)) for part, sizes in ordered}


def _part(name: str, model_file: str) -> str:
    path = PurePosixPath(name)
    if path.name == model_file:
        return "model"
    if "golden" in path.parts:
        return "golden vectors"
    if path.parts[0] == "vendor":
        return "runtime"
    if path.suffix == ".aar":
        return "library (.aar)"
    return "records" if path.suffix in (".md", ".txt", ".json") or name == SUMS else "program"


def print_packaged(console: Console, packaged: Packaged) -> None:
    """What was put where and how large it is."""
    runtime = packaged.source.runtime
    what = f"{runtime.target} for {runtime.title}"
    console.print(f"{packaged.folder}: {packaged.kind} package of {what}", soft_wrap=True)
    table = make_table("part", "files", "size")
    for part, (count, size) in sizes_by_part(packaged).items():
        table.add_row(part, str(count), size_text(size))
    table.add_row("total", str(len(packaged.sizes)), size_text(sum(packaged.sizes.values())))
    print_table(console, table)
    for note in packaged.notes:
        console.print(f"note  {note}", soft_wrap=True)


def packaged_json(packaged: Packaged) -> dict[str, Any]:
    return {
        "package": str(packaged.folder),
        "kind": packaged.kind,
        "target": packaged.source.runtime.target,
        "runtime": packaged.source.runtime.name,
        "sizes": {part: {"files": n, "bytes": size} for part, (n, size) in sizes_by_part(packaged).items()},
        "total": sum(packaged.sizes.values()),
        "files": packaged.sizes,
        "notes": list(packaged.notes),
    }
