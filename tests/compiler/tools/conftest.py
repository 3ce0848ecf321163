import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fxedge.compiler.tools.cli import run
from small_compile import write_net

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fxedge(capsys: pytest.CaptureFixture[str]) -> Command:
    """`fxedge("verify", path)`: exit status, stdout, stderr of one command in this process."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        return (status, *capsys.readouterr())

    return command


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of the small model's file, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_net(tmp_path)
    return "net.py"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model compiled for onnx; not to be changed."""
    folder = tmp_path_factory.mktemp("cli")
    path, out = write_net(folder), folder / "bundle"
    arguments = [f"{path}:make", "--calib", f"{path}:batches", "--target", "onnx", "--timed-runs", "0", "-q"]
    assert run(["compile", *arguments, "-o", str(out)]) == 0
    return out


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """`changed(bundle, edit)`: a copy, `edit` applied to its manifest and folder, its hashes made to fit."""

    def copy(bundle: Path, edit: Callable[[dict, Path], None] = lambda manifest, folder: None) -> Path:
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(bundle, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        edit(manifest, folder)
        for name, entry in manifest["files"].items():
            content = (folder / name).read_bytes()
            entry |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return copy
