"""A static page with ONNX Runtime Web: no build step, no other server; the runtime comes from npm."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from .contents import (
    Built,
    Files,
    deploy_json,
    golden_files,
    identifier,
    licences,
    manifest_file,
    model_files,
    model_name,
    template,
    to_json,
    under,
)
from .source import Source

PAGE = ("index.html", "app.js", "preprocess.js", "style.css")
VERSION = "1.30.0"
_VENDORED = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
_NPM_SECONDS = 300


class _NotFetched(Exception):
    """Why npm did not give the runtime."""


def build(source: Source) -> Built:
    """The page, the model, and the runtime where npm gives it; else `npm install` is left to the user."""
    vendor: Files = {}
    notes: tuple[str, ...] = ()
    try:
        vendor = under("vendor", _fetch_runtime())
    except _NotFetched as error:
        notes = (f"ONNX Runtime Web is not in the package ({error}): run npm install in it before it is served.",)
    files = {
        **{name: template(f"web/{name}") for name in PAGE},
        **model_files(source),
        **golden_files(source),
        **manifest_file(source),
        **vendor,
        "deploy.json": deploy_json(source, "web", runtime_path=_runtime_path(bool(vendor))),
        "package.json": _package_json(source),
        "README.md": _readme(source, bool(vendor)),
        "LICENSES.md": licences(source, *(["Its licence lies beside it: `vendor/LICENSE`."] if vendor else [])),
    }
    return Built(files, notes)


def _runtime_path(vendored: bool) -> str:
    return "vendor/" if vendored else "node_modules/onnxruntime-web/dist/"


def _package_json(source: Source) -> bytes:
    name, runtime = identifier(model_name(source)), {source.runtime.requirement: VERSION}
    return to_json({"name": name, "version": "1.0.0", "private": True, "dependencies": runtime})


def _readme(source: Source, vendored: bool) -> bytes:
    where = "lies in `vendor/`" if vendored else "comes with `npm install`, into `node_modules/`"
    return template(
        "web/README.md",
        model=model_name(source),
        model_file=source.runtime.file,
        install="" if vendored else "npm install\n",
        runtime=f"ONNX Runtime Web {VERSION} {where}.",
    )


def _fetch_runtime() -> Files:
    """The runtime's files for WebAssembly out of npm's archive, each with the sha256 that it must have.

    Raises:
        _NotFetched: npm is missing or does not reach its registry.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise _NotFetched("npm is not installed")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--ignore-scripts", "--silent"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=_NPM_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise _NotFetched(f"npm took more than {_NPM_SECONDS} s") from error
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode != 0 or not archives:
            raise _NotFetched(f"npm pack ended with status {done.returncode}; is its registry in reach?")
        files = _unpack(archives[0])
    return files | {"LICENSE": template("licenses/onnxruntime.txt", version=VERSION)}


def _unpack(archive: Path) -> Files:
    files: Files = {}
    with tarfile.open(archive) as packed:
        for name, sha256 in _VENDORED.items():
            try:
                stream = packed.extractfile(f"package/dist/{name}")
            except KeyError:
                stream = None
            files[name] = stream.read() if stream is not None else b""
            if hashlib.sha256(files[name]).hexdigest() != sha256:
                raise _NotFetched(f"{name} of npm's onnxruntime-web {VERSION} is not the file that it should be")
    return files
