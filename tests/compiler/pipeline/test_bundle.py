import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fxedge.compiler.ir.errors import BundleError
from fxedge.compiler.pipeline.bundle import file_entry, list_files, read_bundle, writing_bundle
from fxedge.compiler.pipeline.driver import CompileReport
from small_compile import leftovers


def refusal(out: Path, *, force: bool = False) -> str:
    with pytest.raises(BundleError) as caught, writing_bundle(out, force=force):
        pytest.fail("the block ran")
    return str(caught.value)


def old_bundle(out: Path) -> Path:
    out.mkdir()
    (out / "manifest.json").write_text("{}")
    return out


def test_a_bundle_appears_whole(tmp_path: Path):
    out = tmp_path / "b"
    with writing_bundle(out) as folder:
        (folder / "x").write_text("1")
        assert not out.exists()
    assert (out / "x").read_text() == "1"
    assert leftovers(tmp_path) == []


def test_it_gets_the_usual_permissions(tmp_path: Path):
    mask = os.umask(0o022)
    try:
        with writing_bundle(tmp_path / "b"):
            pass
    finally:
        os.umask(mask)
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o755


def test_an_empty_folder_is_taken(tmp_path: Path):
    (tmp_path / "b").mkdir()
    with writing_bundle(tmp_path / "b") as folder:
        (folder / "x").touch()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["x"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing(tmp_path: Path, error: BaseException):
    def half_a_bundle() -> None:
        with writing_bundle(tmp_path / "b") as folder:
            (folder / "x").touch()
            raise error

    with pytest.raises(type(error)):
        half_a_bundle()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_under_force_keeps_the_old_bundle(tmp_path: Path):
    out = old_bundle(tmp_path / "b")
    with pytest.raises(ValueError, match="no"), writing_bundle(out, force=True):
        raise ValueError("no")
    assert (out / "manifest.json").read_text() == "{}"
    assert leftovers(tmp_path) == []


def test_force_replaces_a_bundle(tmp_path: Path):
    out = old_bundle(tmp_path / "b")
    with writing_bundle(out, force=True) as folder:
        (folder / "x").touch()
    assert [path.name for path in out.iterdir()] == ["x"]
    assert leftovers(tmp_path) == []


def test_if_the_last_step_fails_the_old_bundle_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = old_bundle(tmp_path / "b")
    rename, calls = Path.rename, []

    def second_fails(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(OSError, match="Input/output error"), writing_bundle(out, force=True):
        pass
    assert (out / "manifest.json").read_text() == "{}"
    assert leftovers(tmp_path) == []


def test_what_is_in_the_way(tmp_path: Path):
    out = old_bundle(tmp_path / "b")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    assert refusal(out) == f"{out} exists already; choose another -o or give --force to replace the bundle there."
    assert refusal(other, force=True) == (
        f"{other} exists and is not a bundle (no manifest.json), so --force does not replace it."
    )
    assert refusal(tmp_path / "no" / "b") == (
        f"The folder {tmp_path / 'no'} does not exist; create it or choose another -o."
    )
    assert leftovers(tmp_path) == []


def test_a_package_is_no_bundle(tmp_path: Path):
    out = old_bundle(tmp_path / "package")
    (out / "SHA256SUMS").write_text("kept")
    for force in (False, True):
        assert refusal(out, force=force) == (
            f"{out} is no bundle (it has SHA256SUMS, as packages do), so it stays; choose another -o."
        )
    assert (out / "SHA256SUMS").read_text() == "kept"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(tmp_path: Path, number: int):
    with pytest.raises(BundleError) as caught, writing_bundle(tmp_path / "b"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == (
        f"The disk that holds {tmp_path} is full; nothing was kept of the unfinished bundle. "
        "Free some space or choose another -o."
    )
    assert list(tmp_path.iterdir()) == []


def test_hashes_are_those_of_the_content(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"abc")
    assert list(list_files(tmp_path)) == ["a/x"]
    entry = file_entry(tmp_path / "a" / "x")
    assert (entry.size, entry.sha256[:16]) == (3, "ba7816bf8f01cfea")


@pytest.fixture
def copied(compiled: tuple[Path, CompileReport], tmp_path: Path) -> Path:
    """A bundle of its own to tamper with."""
    return Path(shutil.copytree(compiled[0], tmp_path / "bundle"))


def damage(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    return str(caught.value)


def edit_manifest(folder: Path, change: Callable[[dict], object]) -> Path:
    path = folder / "manifest.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    return path


def test_a_good_bundle_reads(copied: Path):
    assert list(read_bundle(copied).targets) == ["onnx"]


def test_a_changed_byte(copied: Path):
    model = copied / "onnx" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    assert damage(copied) == f"{model} was changed: its sha256 is not the one in the manifest."


def test_a_file_of_another_size(copied: Path):
    model = copied / "onnx" / "model.onnx"
    size = model.stat().st_size
    model.write_bytes(model.read_bytes() + b"x")
    assert damage(copied) == f"{model} has {size + 1} bytes, not the {size} of the manifest."


def test_a_missing_file(copied: Path):
    (copied / "onnx" / "model.onnx").unlink()
    assert damage(copied) == f"{copied / 'onnx' / 'model.onnx'} is missing or is a link; the bundle is damaged."


def test_an_added_file(copied: Path):
    (copied / "onnx" / "extra.bin").touch()
    assert damage(copied) == (
        f"{copied / 'onnx' / 'extra.bin'} is not in the manifest; remove it or compile the bundle again."
    )


def test_a_link_in_place_of_a_file(copied: Path, tmp_path: Path):
    model = copied / "onnx" / "model.onnx"
    model.rename(tmp_path / "elsewhere")
    model.symlink_to(tmp_path / "elsewhere")
    assert damage(copied) == f"{model} is missing or is a link; the bundle is damaged."


def test_a_linked_folder(copied: Path, tmp_path: Path):
    (copied / "onnx").rename(tmp_path / "elsewhere")
    (copied / "onnx").symlink_to(tmp_path / "elsewhere")
    assert damage(copied) == (
        f"{copied / 'onnx' / 'float_model.onnx'} is missing or is a link; the bundle is damaged."
    )


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "onnx/../../x", "..\\x"])
def test_a_path_that_leaves_the_bundle(copied: Path, name: str):
    edit_manifest(copied, lambda raw: raw["files"].update({name: {"sha256": "0", "size": 1}}))
    assert damage(copied) == f"The manifest of {copied} names {name!r}, which lies outside the bundle."


def test_an_artifact_without_a_hash(copied: Path):
    edit_manifest(copied, lambda raw: raw["targets"]["onnx"].update(artifact="../../model.onnx"))
    assert damage(copied) == f"The manifest of {copied} names '../../model.onnx' but gives no hash of it."


def test_another_schema(copied: Path):
    path = edit_manifest(copied, lambda raw: raw.update(schema_version=2))
    assert damage(copied) == f"{path} has schema 2; this fxedge reads schema 1 of a valid manifest."


def test_a_manifest_with_another_type_in_it(copied: Path):
    path = edit_manifest(copied, lambda raw: raw["targets"]["onnx"].update(integer_ops="many"))
    assert damage(copied) == (
        f"{path} is not a valid manifest: targets.onnx.integer_ops: Input should be a valid integer, unable to "
        "parse string as an integer."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total": 0, "hits": 0}, ".total: Input should be greater than or equal to 1"),
        ({"total": 2, "hits": 3}, ": Value error, 3 hits of 2"),
        ({"hits": -1}, ".hits: Input should be greater than or equal to 0"),
        ({"low": float("nan")}, ".low: Input should be a finite number"),
        ({"high": float("inf")}, ".high: Input should be a finite number"),
    ],
)
def test_a_share_that_is_none(copied: Path, changes: dict[str, float], message: str):
    share = {"hits": 1, "total": 2, "low": 0.1, "high": 0.9} | changes
    path = edit_manifest(copied, lambda raw: raw["targets"]["onnx"].update(accuracy=share))
    assert damage(copied) == f"{path} is not a valid manifest: targets.onnx.accuracy{message}."


def test_a_manifest_with_another_preprocessing_step_in_it(copied: Path):
    path = edit_manifest(copied, lambda raw: raw["preprocess"].update(gamma=2.2))
    assert damage(copied) == (
        f"{path} is not a valid manifest: preprocessing: gamma is not an option; allowed: mean, std, scale, "
        "layout, dtype, size, color."
    )


def test_a_manifest_that_is_no_json(copied: Path):
    path = copied / "manifest.json"
    path.write_text('{"schema_version": }')
    assert damage(copied) == (
        f"{path} is not valid JSON (Expecting value: line 1 column 20 (char 19)); the bundle is damaged."
    )


def test_a_manifest_too_large_to_be_one(copied: Path):
    path = copied / "manifest.json"
    os.truncate(path, 2**24 + 1)
    assert damage(copied) == f"{path} is larger than 16777216 bytes, so it is not a valid manifest."


def test_a_folder_that_is_no_bundle(tmp_path: Path):
    assert damage(tmp_path) == (
        f"{tmp_path} is not a bundle (no manifest.json); give a folder that fxedge compile wrote."
    )
