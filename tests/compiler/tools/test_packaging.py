"""`fxedge package` as a command: what it refuses and leaves alone; the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_compile import leftovers

KIND = ("--as", "python")


def hashes(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture
def refuse(fxedge: Callable, tmp_path: Path) -> Callable:
    """`refuse(arguments)`: the message of a package that is not made and of which nothing is left."""

    def refused(*arguments: object) -> str:
        out = () if "-o" in arguments else ("-o", tmp_path / "out")
        status, stdout, err = fxedge("package", *arguments, *out)
        assert (status, stdout) == (2, "")
        assert leftovers(tmp_path) == []
        assert "-o" in arguments or not (tmp_path / "out").exists()
        return err.removeprefix("error: ").rstrip("\n")

    return refused


def test_sizes_are_printed(fxedge: Callable, bundle: Path, tmp_path: Path):
    status, out, err = fxedge("package", bundle, *KIND, "-o", tmp_path / "p")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{tmp_path}/p: python package of onnx for onnxruntime"
    assert lines[1].split() == ["part", "files", "size"]
    assert {line[:16].strip(): line[16:].split()[0] for line in lines[2:]} == {
        "model": "1",
        "golden vectors": "2",
        "program": "1",
        "records": "6",
        "total": "10",
    }


def test_as_json(fxedge: Callable, bundle: Path, tmp_path: Path):
    status, out, err = fxedge("package", bundle, *KIND, "-o", tmp_path / "p", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert {key: found[key] for key in ("package", "kind", "target", "runtime", "notes")} == {
        "package": f"{tmp_path}/p",
        "kind": "python",
        "target": "onnx",
        "runtime": "onnxruntime",
        "notes": [],
    }
    sizes = {path.relative_to(tmp_path / "p").as_posix(): path.stat().st_size for path in files(tmp_path / "p")}
    assert found["files"] == sizes
    assert found["total"] == sum(sizes.values()) == sum(part["bytes"] for part in found["sizes"].values())


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_same_bytes_and_true_sums(fxedge: Callable, bundle: Path, tmp_path: Path):
    for name in ("a", "b"):
        assert fxedge("package", bundle, *KIND, "-o", tmp_path / name)[0] == 0
    found = hashes(tmp_path / "a")
    assert found == hashes(tmp_path / "b")
    lines = (tmp_path / "a" / "SHA256SUMS").read_text().splitlines()
    assert {name: digest for digest, name in (line.split("  ") for line in lines)} == {
        name: digest for name, digest in found.items() if name != "SHA256SUMS"
    }
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (bundle / "manifest.json").read_bytes()


def test_where_it_goes_by_default(fxedge: Callable, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert fxedge("package", bundle, *KIND)[0] == 0
    assert (tmp_path / "bundle-python" / "runner.py").is_file()


def test_a_package_is_replaced_only_with_force(fxedge: Callable, refuse: Callable, bundle: Path, tmp_path: Path):
    out = tmp_path / "p"
    assert fxedge("package", bundle, *KIND, "-o", out)[0] == 0
    (out / "mine").touch()
    advice = "choose another -o or give --force to replace the package there"
    assert refuse(bundle, *KIND, "-o", out) == f"{out} exists already; {advice}."
    assert (out / "mine").exists()
    assert fxedge("package", bundle, *KIND, "-o", out, "--force")[0] == 0
    assert not (out / "mine").exists()


def test_what_is_no_package_is_never_replaced(
    refuse: Callable, fxedge: Callable, bundle: Path, changed: Callable, tmp_path: Path
):
    other = changed(bundle)
    assert refuse(bundle, *KIND, "-o", other, "--force") == (
        f"{other} exists and is not a package (no SHA256SUMS), so --force does not replace it."
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "mine").touch()
    assert refuse(bundle, *KIND, "-o", folder, "--force") == (
        f"{folder} exists and is not a package (no manifest.json), so --force does not replace it."
    )
    assert refuse(bundle, *KIND, "-o", tmp_path / "no" / "p") == (
        f"The folder {tmp_path}/no does not exist; create it or choose another -o."
    )


@pytest.mark.parametrize("inside", [".", "p", "onnx/p", ".."])
def test_a_bundle_is_not_written_into(refuse: Callable, bundle: Path, inside: str):
    before, out = hashes(bundle), bundle / inside
    assert refuse(bundle, *KIND, "-o", out, "--force") == (
        f"The package {out} and the bundle {bundle} would lie in each other; choose another -o."
    )
    assert hashes(bundle) == before


def test_wrong_usage(refuse: Callable, bundle: Path, tmp_path: Path):
    assert refuse(bundle, "--as", "windows") == (
        "Unknown kind of package 'windows'; allowed: android, ios, web, python."
    )
    assert refuse(bundle) == "Missing option '--as'. See fxedge --help."
    assert refuse(tmp_path, *KIND, "-o", tmp_path.parent / "x") == (
        f"{tmp_path} is not a bundle (no manifest.json); give a folder that fxedge compile wrote."
    )


def test_targets_that_it_cannot_carry(refuse: Callable, bundle: Path, changed: Callable):
    assert refuse(bundle, *KIND, "--target", "tflite") == f"{bundle} has no target 'tflite'; it has onnx."

    def rename(manifest: dict, folder: Path) -> None:
        manifest["targets"] = {"fbgemm": manifest["targets"]["onnx"]}

    other = changed(bundle, rename)
    assert refuse(other, *KIND) == (
        f"{other} has fbgemm: no target that a package for python can carry. It can carry onnx (onnxruntime), "
        "tflite (LiteRT). Compile with --target onnx."
    )


def test_a_target_for_another_kind(refuse: Callable, bundle: Path, changed: Callable):
    def add(manifest: dict, folder: Path) -> None:
        manifest["targets"]["qnnpack"] = manifest["targets"]["onnx"]

    other = changed(bundle, add)
    assert refuse(other, *KIND, "--target", "qnnpack") == (
        f"{other} has onnx, qnnpack: qnnpack, which no package for python can carry. It can carry onnx "
        "(onnxruntime), tflite (LiteRT). Here --target onnx works."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\n", "{} has 2 labels, but the model has 3 classes; give one a line."),
        (b"a\n\nc\n", "Line 2 of {} is ''; give a label of printable characters."),
        (b"a\nb\x07\nc", "Line 2 of {} is 'b\\x07'; give a label of printable characters."),
        (b"a\n\xff\nc", "The labels {} are not UTF-8 text: invalid start byte at byte 2."),
        (b"x" * (2**20 + 1), "The labels {} are larger than 1048576 bytes; give one short label a line."),
        (None, "The labels {} do not exist; give a text file with one label a line."),
    ],
)
def test_labels_that_do_not_fit(
    refuse: Callable, bundle: Path, tmp_path: Path, content: bytes | None, message: str
):
    path = tmp_path / "labels"
    if content is not None:
        path.write_bytes(content)
    assert refuse(bundle, *KIND, "--labels", path) == message.format(path)


def test_damaged_bundles(refuse: Callable, bundle: Path, changed: Callable):
    def escape(manifest: dict, folder: Path) -> None:
        manifest["targets"]["onnx"]["artifact"] = "../model.onnx"

    other = changed(bundle, escape)
    assert refuse(other, *KIND) == f"The manifest of {other} names '../model.onnx' but gives no hash of it."

    def no_tensor(manifest: dict, folder: Path) -> None:
        save_file({"other": np.zeros(3, np.float32)}, folder / manifest["golden_inputs"])

    other = changed(bundle, no_tensor)
    assert refuse(other, *KIND) == f"The golden files of {other} have no tensor 'x'; the bundle is damaged."

    def wrong_shape(manifest: dict, folder: Path) -> None:
        save_file({"x": np.zeros((4, 1, 5, 5), np.float32)}, folder / manifest["golden_inputs"])

    other = changed(bundle, wrong_shape)
    assert refuse(other, *KIND) == (
        f"The golden input x of {other} is float32 [4, 1, 5, 5], which is not the manifest's float32 "
        "[None, 1, 6, 6]; the bundle is damaged."
    )

    def no_safetensors(manifest: dict, folder: Path) -> None:
        (folder / manifest["golden_inputs"]).write_bytes(b"no tensors")

    other = changed(bundle, no_safetensors)
    assert refuse(other, *KIND).startswith(f"{other}/golden/inputs.safetensors is no safetensors file (")
    (other / "onnx" / "model.onnx").write_bytes(b"")
    assert refuse(other, *KIND).startswith(f"{other}/onnx/model.onnx has 0 bytes, not the ")


def test_names_of_a_manifest_stay_names(fxedge: Callable, bundle: Path, changed: Callable, tmp_path: Path):
    """What a bundle calls itself is text: it neither leaves the README's line nor becomes markup."""

    def rename(manifest: dict, folder: Path) -> None:
        manifest["model"] = "a\n# b`<script>[x](y)" + "z" * 99

    assert fxedge("package", changed(bundle, rename), *KIND, "-o", tmp_path / "p")[0] == 0
    title = (tmp_path / "p" / "README.md").read_text().splitlines()[0]
    assert title == "# a# bscriptx(y)" + "z" * 66 + " in Python"
