"""The Swift package's structure; no Swift is compiled here, and the command says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

RUNNERS = {"onnx": ("OnnxruntimeRunner", "model.onnx"), "executorch": ("ExecutorchRunner", "model.pte")}
PRODUCTS = {
    "onnx": ['.product(name: "onnxruntime", package: "onnxruntime-swift-package-manager"),'],
    "executorch": [
        f'.product(name: "{name}", package: "executorch"),'
        for name in ("executorch", "backend_xnnpack", "kernels_optimized", "kernels_quantized")
    ],
}


@pytest.fixture
def named(digits_bundle: Path, changed: Callable) -> Callable[[str], Path]:
    """The digits bundle with its artifact under the name of another target."""

    def bundle(target: str) -> Path:
        def rename(manifest: dict, folder: Path) -> None:
            manifest["targets"] = {target: next(iter(manifest["targets"].values()))}

        return changed(digits_bundle, rename)

    return bundle


@pytest.mark.parametrize("target", RUNNERS)
def test_the_package(named: Callable, fxedge: Callable, tmp_path: Path, target: str):
    status, out, err = fxedge("package", named(target), "--as", "ios", "-o", tmp_path / "p")
    assert (status, err) == (0, "")
    assert (
        out.splitlines()[-1] == "note  No Swift was compiled: run the package's tests in Xcode before it is used."
    )
    runner, model = RUNNERS[target]
    files = [path.relative_to(tmp_path / "p").as_posix() for path in (tmp_path / "p").rglob("*") if path.is_file()]
    assert sorted(files) == sorted(
        [
            *("LICENSES.md", "Package.swift", "README.md", "SHA256SUMS", "manifest.json"),
            *(f"Sources/DigitsModel/{name}.swift" for name in ("Deploy", "Model", "Pixels", runner)),
            *(f"Sources/DigitsModel/ModelFiles/{name}" for name in ("deploy.json", model)),
            "Tests/DigitsModelTests/GoldenTests.swift",
            "Tests/DigitsModelTests/ModelFiles/golden/input_0.bin",
            "Tests/DigitsModelTests/ModelFiles/golden/output_0.bin",
        ]
    )
    text = (tmp_path / "p" / "Package.swift").read_text()
    assert [line.strip() for line in text.splitlines() if ".product(" in line] == PRODUCTS[target]
    assert text.count('resources: [.copy("ModelFiles")]') == 2
    assert ("-all_load" in text) == (target == "executorch")
    assert f"runner = try {runner}(path:" in (tmp_path / "p/Sources/DigitsModel/Model.swift").read_text()
    assert (
        "@testable import DigitsModel\n" in (tmp_path / "p/Tests/DigitsModelTests/GoldenTests.swift").read_text()
    )


def test_what_swift_reads_of_deploy_json_is_there(named: Callable, fxedge: Callable, tmp_path: Path):
    """Every property of Deploy.swift, as its decoder spells it."""
    assert fxedge("package", named("onnx"), "--as", "ios", "-o", tmp_path / "p")[0] == 0
    deploy = json.loads((tmp_path / "p/Sources/DigitsModel/ModelFiles/deploy.json").read_text())
    source = (tmp_path / "p/Sources/DigitsModel/Deploy.swift").read_text()
    names = [line.split()[1].rstrip(":") for line in source.splitlines() if line.startswith("    let ")]
    keys = ["".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name) for name in names]
    assert len(keys) == 12
    assert [key for key in keys if key not in deploy] == []


def test_tflite_cannot_be_carried(named: Callable, fxedge: Callable, tmp_path: Path):
    bundle = named("tflite")
    assert fxedge("package", bundle, "--as", "ios", "-o", tmp_path / "p") == (
        2,
        "",
        f"error: {bundle} has tflite: no target that a package for ios can carry. It can carry onnx (ONNX "
        "Runtime), executorch (ExecuTorch). Compile with --target onnx.\n",
    )
