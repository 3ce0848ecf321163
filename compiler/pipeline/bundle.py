"""The bundle on disk: written as a whole or not at all, and read only after its hashes were checked."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from ..ir.errors import BundleError
from .manifest import SCHEMA_VERSION, FileEntry, Manifest
from .records import Record, read_record

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"  # packages have it, bundles have not
_LARGEST_MANIFEST = 16 * 2**20


@contextlib.contextmanager
def writing_bundle(
    out: Path, *, force: bool = False, what: str = "bundle", marks: tuple[str, ...] = (MANIFEST,)
) -> Iterator[Path]:
    """A temporary sibling of `out` to fill; it becomes `out` when the block ends without an error.

    A bundle already there is replaced only with `force`, and only after the new one is complete. For folders that
    are no bundles, `what` is the word for them and `marks` are the files by which one is known.

    Raises:
        BundleError: `out` is in the way, is not a bundle, its folder does not exist, or the disk is full.
    """
    _check_place(out, force, what, marks)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    except OSError as error:
        raise BundleError(f"Cannot write next to {out}: {error.strerror}.") from error
    try:
        yield folder
        _put_in_place(folder, out)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BundleError(
                f"The disk that holds {out.parent} is full; nothing was kept of the unfinished {what}. "
                "Free some space or choose another -o."
            ) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_place(out: Path, force: bool, what: str, marks: tuple[str, ...]) -> None:
    if not out.parent.is_dir():
        raise BundleError(f"The folder {out.parent} does not exist; create it or choose another -o.")
    if not out.exists():
        return
    if SUMS not in marks and (out / SUMS).is_file():
        raise BundleError(f"{out} is no {what} (it has {SUMS}, as packages do), so it stays; choose another -o.")
    empty = out.is_dir() and not any(out.iterdir())
    missing = [mark for mark in marks if not (out / mark).is_file()]
    if empty or (force and not missing):
        return
    if force:
        raise BundleError(f"{out} exists and is not a {what} (no {missing[0]}), so --force does not replace it.")
    raise BundleError(f"{out} exists already; choose another -o or give --force to replace the {what} there.")


def _put_in_place(folder: Path, out: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)  # mkdtemp made it private
    if not out.exists():
        folder.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
    out.rename(old / out.name)
    try:
        folder.rename(out)
    except BaseException:
        (old / out.name).rename(out)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def file_entry(path: Path) -> FileEntry:
    """Hash (streaming) and size of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return FileEntry(sha256=digest.hexdigest(), size=path.stat().st_size)


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Relative path -> entry of every file but the manifest, in name order."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: file_entry(path) for name, path in names.items() if name != MANIFEST}


def manifest_text(manifest: Manifest) -> str:
    """The manifest as indented JSON with sorted keys."""
    return json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")


def read_bundle(folder: Path) -> Manifest:
    """The manifest of a bundle whose every file has the size and hash that the manifest gives.

    Hashes show integrity, not authorship: they tell a damaged bundle, not a forged one.

    Raises:
        BundleError: no bundle, another schema, a path that leaves the folder, a file missing, added or changed.
    """
    manifest = _read_manifest(folder)
    for name, entry in manifest.files.items():
        _check_file(folder, name, entry)
    for name in list_files(folder):
        if name not in manifest.files:
            raise BundleError(f"{folder / name} is not in the manifest; remove it or compile the bundle again.")
    named = [target.artifact for target in manifest.targets.values()]
    named += [form for target in manifest.targets.values() for form in target.also]
    named += [target.float_artifact for target in manifest.targets.values() if target.float_artifact is not None]
    named += [target.golden for target in manifest.targets.values()] + [manifest.golden_inputs]
    for name in named:
        if name not in manifest.files:
            raise BundleError(f"The manifest of {folder} names {name!r} but gives no hash of it.")
    return manifest


def read_checked(folder: Path, manifest: Manifest, name: str) -> bytes:
    """The bytes of one file, and these very bytes have the hash: it may have changed since `read_bundle`.

    Raises:
        BundleError: they have another.
    """
    content = (folder / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest.files[name].sha256:
        raise BundleError(f"{folder / name} was changed: its sha256 is not the one in the manifest.")
    return content


def read_golden(folder: Path, manifest: Manifest, name: str, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """The tensors `wanted` of one of the golden files.

    Raises:
        BundleError: it was changed, is no safetensors file, or has not all of them.
    """
    try:
        found = load(read_checked(folder, manifest, name))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder / name} is no safetensors file ({error}); the bundle is damaged.") from error
    names = list(wanted)
    if absent := [tensor for tensor in names if tensor not in found]:
        raise BundleError(f"The golden files of {folder} have no tensor {absent[0]!r}; the bundle is damaged.")
    return {tensor: found[tensor] for tensor in names}


def read_golden_inputs(folder: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Those that the bundle was checked on, by name; raises as `read_golden`."""
    return read_golden(folder, manifest, manifest.golden_inputs, [tensor.name for tensor in manifest.inputs])


def one_sample(folder: Path, manifest: Manifest) -> list[np.ndarray]:
    """The first golden sample, in the order of the inputs; all of a batch whose size is fixed."""
    golden = read_golden_inputs(folder, manifest)
    varies = [tensor.shape[:1] == (None,) for tensor in manifest.inputs]
    return [array[:1] if free else array for array, free in zip(golden.values(), varies, strict=True)]


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"{folder} is not a bundle (no {MANIFEST}); give a folder that fxedge compile wrote.")
    return read_bundle_record(path, Manifest, "a valid manifest", SCHEMA_VERSION, _LARGEST_MANIFEST)


def read_bundle_record(path: Path, kind: type[Record], what: str, version: int, largest: int) -> Record:
    """A file of a bundle as `read_record` reads it; what is wrong with it is a BundleError."""
    remedy = "the bundle is damaged"
    return read_record(path, kind, what, version, error=BundleError, remedy=remedy, largest=largest)


def _check_file(folder: Path, name: str, entry: FileEntry) -> None:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or "\\" in name:
        raise BundleError(f"The manifest of {folder} names {name!r}, which lies outside the bundle.")
    path = folder / relative
    if path.is_symlink() or not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{path} is missing or is a link; the bundle is damaged.")
    if path.stat().st_size != entry.size:
        raise BundleError(f"{path} has {path.stat().st_size} bytes, not the {entry.size} of the manifest.")
    if file_entry(path).sha256 != entry.sha256:
        raise BundleError(f"{path} was changed: its sha256 is not the one in the manifest.")
