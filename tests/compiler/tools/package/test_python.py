"""The Python package as its user has it: a process in which neither torch nor fxedge can be imported."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fxedge.compiler.pipeline.preprocess import Preprocess
from fxedge.models.digits import digits_data
from PIL import Image

ALONE = """
import runpy, sys
sys.modules["torch"] = sys.modules["fxedge"] = None
sys.argv = ["runner.py", *sys.argv[1:]]
runpy.run_path("runner.py", run_name="__main__")
"""
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def alone(folder: Path, *arguments: object) -> tuple[int, str, str]:
    """Status, stdout and stderr of runner.py without torch and fxedge."""
    command = [sys.executable, "-c", ALONE, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(params=["onnx", "tflite"])
def package(request: pytest.FixtureRequest, bundle_of: Callable, fxedge: Callable, tmp_path: Path) -> Path:
    labels = tmp_path / "names.txt"
    labels.write_text("".join(f"{label}\n" for label in LABELS))
    given = ("--as", "python", "--target", request.param, "--labels", labels, "-o", tmp_path / "p")
    assert fxedge("package", bundle_of(request.param), *given)[0] == 0
    return tmp_path / "p"


def test_self_test(package: Path):
    status, out, _ = alone(package, "--self-test")
    assert status == 0
    lines = out.splitlines()
    assert lines[:3] == [
        "ok      4 files have their sha256",
        "ok      preprocessing is the compiler's, bit for bit",
        "ok      output is 0 LSB from the golden outputs (allowed 0)",
    ]
    assert lines[3].startswith("passed on ")


def test_the_classes_of_images(package: Path, tmp_path: Path):
    """Real scanned digits as images: the label comes first, with its name."""
    data = digits_data()
    names = [f"{at}.png" for at in range(8)]
    for name, image in zip(names, data.test_images, strict=False):
        Image.fromarray(image[:, :, 0]).save(package / name)
    status, out, _ = alone(package, *names, "--top", "1", "--runs", "1")
    assert status == 0
    lines = out.splitlines()
    assert lines[::3] == names
    assert [line.split()[1] for line in lines[1::3]] == [LABELS[label] for label in data.test_labels[:8]]
    assert all(" ms, median of 1 runs on 1 thread(s), " in line for line in lines[2::3])


def test_arrays(package: Path):
    raw = digits_data().test_images[:2]
    np.save(package / "x.npy", raw)
    status, out, _ = alone(package, "x.npy", "--top", "1")
    assert status == 0
    assert [line.split()[1] for line in out.splitlines()[1:4:2]] == [
        LABELS[label] for label in digits_data().test_labels[:2]
    ]


def test_a_changed_model_is_not_loaded(package: Path):
    name = json.loads((package / "deploy.json").read_text())["model_file"]
    content = bytearray((package / name).read_bytes())
    content[-1] ^= 1
    (package / name).write_bytes(content)
    message = f"error: {name} was changed: its sha256 is not the one in deploy.json.\n"
    for arguments in (["--self-test"], ["x.png"]):
        assert alone(package, *arguments) == (2, "", message)


@pytest.mark.parametrize("package", ["onnx"], indirect=True)
def test_golden_outputs_that_differ_fail(package: Path):
    """One integer off in one output, hashes made to fit: status 1, and by how much."""
    deploy = json.loads((package / "deploy.json").read_text())
    outputs = np.fromfile(package / "golden" / "output_0.bin", "<f4")
    outputs[3] += 2 * deploy["outputs"][0]["scale"]
    outputs.tofile(package / "golden" / "output_0.bin")
    digest = hashlib.sha256((package / "golden" / "output_0.bin").read_bytes()).hexdigest()
    deploy["files"]["golden/output_0.bin"]["sha256"] = digest
    deploy["preprocess"]["scale"] *= 2
    (package / "deploy.json").write_text(json.dumps(deploy))
    status, out, err = alone(package, "--self-test")
    assert (status, err) == (1, "")
    assert out.splitlines()[1:3] == [
        "FAILED  preprocessing is the compiler's no longer: other bits come out",
        "FAILED  output is 2 LSB from the golden outputs (allowed 0)",
    ]


@pytest.mark.parametrize("package", ["onnx"], indirect=True)
def test_wrong_input(package: Path):
    (package / "no.png").write_text("this is no image")
    np.save(package / "flat.npy", np.zeros(3, np.uint8))
    message = (
        "no.png cannot be decoded (cannot identify image file 'no.png'); give a JPEG, PNG, BMP or WebP image."
    )
    assert alone(package, "no.png") == (2, "", f"error: {message}\n")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(package / "deep.png")
    message = "deep.png has pixels of type 'I;16'; convert it to 8 bits a channel."
    assert alone(package, "deep.png") == (2, "", f"error: {message}\n")
    assert alone(package, "flat.npy") == (2, "", "error: flat.npy has 1 axes, but layout NHWC of x has 4.\n")
    assert alone(package, "a.npy", "b.npy") == (
        2,
        "",
        "error: 2 .npy files were given, but the model takes 1: x.\n",
    )
    status, out, err = alone(package)
    assert (status, out) == (2, "")
    assert err.endswith("error: give images, .npy files or --self-test; numbers must be at least 1\n")


@pytest.mark.parametrize("package", ["onnx"], indirect=True)
def test_preprocessing_has_the_bits_of_the_compiler(package: Path, monkeypatch: pytest.MonkeyPatch):
    spec = importlib.util.spec_from_file_location("runner", package / "runner.py")
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "runner", runner)
    spec.loader.exec_module(runner)
    raw = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    for steps in (
        Preprocess(layout="NHWC", scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        Preprocess(layout="NHWC", mean=(127.5,), std=(127.5,)),
        Preprocess(layout="NCHW", scale=1 / 127.5),
        Preprocess(mean=(3.0,)),
        Preprocess(),
    ):
        given = raw if steps.layout != "NCHW" else raw.transpose(0, 3, 1, 2)
        made = runner.preprocess(given, steps.model_dump(mode="json"), steps.layout)
        expected = steps.apply(given).numpy()
        assert (made.dtype, made.tobytes()) == (expected.dtype, expected.tobytes())


def test_a_model_that_takes_no_images(bundle: Path, fxedge: Callable, tmp_path: Path):
    """The small net's data are float arrays of no layout."""
    assert fxedge("package", bundle, "--as", "python", "-o", tmp_path / "p")[0] == 0
    status, out, _ = alone(tmp_path / "p", "--self-test")
    assert (status, out.splitlines()[1]) == (0, "ok      output is 0 LSB from the golden outputs (allowed 0)")
    reason = "the bundle declares no image layout (compile with --layout NHWC)"
    message = f"This model takes no images: {reason}. Give its inputs as .npy files."
    assert alone(tmp_path / "p", "a.png") == (2, "", f"error: {message}\n")
    np.save(tmp_path / "p" / "x.npy", np.zeros((1, 1, 6, 6), np.float32))
    assert alone(tmp_path / "p", "x.npy")[0] == 0
