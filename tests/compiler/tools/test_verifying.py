import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_compile import patch_missing


def test_a_good_bundle(fxedge: Callable, bundle: Path):
    assert fxedge("verify", bundle) == (
        0,
        f"{bundle}: 7 files, all hashes as in the manifest\n"
        "target   verdict\n"
        "onnx     passed    output is 0 LSB from the golden outputs (allowed 0)\n",
        "",
    )


def test_as_json(fxedge: Callable, bundle: Path):
    status, out, err = fxedge("verify", bundle, "--json", "--target", "onnx")
    assert (status, err) == (0, "")
    assert json.loads(out) == {
        "passed": True,
        "targets": {
            "onnx": {"verdict": "passed", "message": "output is 0 LSB from the golden outputs (allowed 0)"}
        },
    }


def test_a_damaged_bundle_is_a_failed_check(fxedge: Callable, bundle: Path, tmp_path: Path):
    copied = Path(shutil.copytree(bundle, tmp_path / "b"))
    (copied / "onnx" / "model.onnx").unlink()
    assert fxedge("verify", copied) == (
        1,
        "",
        f"error: {copied}/onnx/model.onnx is missing or is a link; the bundle is damaged.\n",
    )


def test_no_bundle_is_wrong_input(fxedge: Callable, tmp_path: Path):
    assert fxedge("verify", tmp_path) == (
        2,
        "",
        f"error: {tmp_path} is not a bundle (no manifest.json); give a folder that fxedge compile wrote.\n",
    )


def test_a_target_that_the_bundle_does_not_have(fxedge: Callable, bundle: Path):
    assert fxedge("verify", bundle, "--target", "x86") == (
        2,
        "",
        f"error: {bundle} has no target 'x86'; it has onnx.\n",
    )


def test_no_runtime_of_the_bundle_is_here(fxedge: Callable, bundle: Path, monkeypatch: pytest.MonkeyPatch):
    patch_missing(monkeypatch, "onnx", "run: pip install onnxruntime")
    assert fxedge("verify", bundle) == (
        2,
        "",
        f"error: No artifact of {bundle} can be run here. Target onnx cannot be used here: run: pip install "
        "onnxruntime\n",
    )
