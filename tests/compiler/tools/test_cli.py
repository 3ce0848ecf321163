"""Whole command lines: what goes wrong is one paragraph on stderr, a status, and nothing half-written."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from fxedge import __version__
from fxedge.backends import registry
from fxedge.compiler.tools.cli import app
from PIL import Image
from small_compile import leftovers, patch_backend, patch_missing, small_images, small_model

ALLOWED = ", ".join(registry.names())


@pytest.fixture
def refuse(fxedge: Callable, net: str, tmp_path: Path) -> Callable:
    """`refuse(arguments)`: the message of a compilation for onnx that gives status 2 and leaves nothing."""

    def refused(*arguments: object, status: int = 2) -> str:
        before = sorted(tmp_path.rglob("*"))
        given = arguments if "--target" in arguments else (*arguments, "--target", "onnx")
        found, out, err = fxedge("compile", *given, "-o", "out", "--timed-runs", "0", "-q")
        assert (found, out) == (status, "")
        after = [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in path.parts]
        assert after == [path for path in before if "__pycache__" not in path.parts]
        assert err.startswith("error: ")
        return err.removeprefix("error: ").rstrip("\n")

    return refused


def test_help_version_and_nothing(fxedge: Callable):
    assert fxedge("--version") == (0, f"fxedge {__version__}\n", "")
    status, out, err = fxedge("--help")
    assert (status, err) == (0, "")
    assert fxedge() == (2, out, "")
    for command in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        assert f"  {command} " in out
        assert fxedge(command, "--help")[0] == 0


def test_wrong_usage(fxedge: Callable):
    status, out, err = fxedge("compil")
    assert (status, out) == (2, "")
    assert err.startswith("error: No such command 'compil'")
    status, out, err = fxedge("compile", "--limit", "many")
    assert (status, out) == (2, "")
    assert err.startswith("error: Invalid value for '--limit': ")
    assert err.endswith(". See fxedge --help.\n")
    assert fxedge("verify") == (2, "", "error: Missing argument 'BUNDLE'. See fxedge --help.\n")


def test_digits_need_no_other_argument(fxedge: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in registry.names():
        if name != "onnx":
            patch_missing(monkeypatch, name, "left out to be quick")
    status, out, err = fxedge("compile", "digits", "--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert found["bundle"] == "digits-bundle"
    assert found["targets"]["onnx"]["accuracy"]["total"] == 500
    assert found["targets"]["onnx"]["accuracy"]["hits"] >= 490
    assert set(found["skipped"]) == set(registry.names()) - {"onnx"}
    assert fxedge("verify", "digits-bundle")[0] == 0


def test_a_configuration_file_and_flags(fxedge: Callable, net: str, tmp_path: Path):
    (tmp_path / "fxedge.toml").write_text(
        'model = "net.py:make"\ncalib = "net.py:batches"\ntarget = "x86"\ntimed_runs = 0\nquiet = true\n'
        'calibration = "percentile:99.5"\noutput = "from-file"\n[layers."4"]\nquantize = false\n'
    )
    status, _, err = fxedge("compile", "--config", "fxedge.toml", "--target", "onnx")
    assert (status, err) == (0, "")
    manifest = json.loads((tmp_path / "from-file" / "manifest.json").read_text())
    assert list(manifest["targets"]) == ["onnx"]
    assert manifest["calibration"]["method"] == "percentile:99.5"
    assert manifest["targets"]["onnx"]["float_ops"] == ["4 (linear): kept float by '4'"]


def test_missing_files(refuse: Callable):
    forms = "give a folder of images, a .npy, .npz, .safetensors file, or file.py:loader"
    assert refuse("net.py:make", "--calib", "absent") == f"the data absent do not exist: {forms}"
    assert refuse("net.py:make", "--calib", "net.py:batches", "--eval", "absent.npz") == (
        f"the data absent.npz do not exist: {forms}"
    )
    assert refuse("absent.py:make", "--calib", "net.py:batches") == (
        "the Python file absent.py (of 'absent.py:make') does not exist: check the path"
    )
    assert refuse("absent.pt2", "--calib", "net.py:batches") == (
        "absent.pt2 does not exist; give the path of a .pt2 file made by torch.export.save."
    )
    assert refuse("net.py:make", "--calib", "net.py:batches", "--weights", "absent.pt") == (
        "checkpoint absent.pt: no such file"
    )
    assert refuse("--config", "absent.toml") == "the configuration absent.toml does not exist: check --config"


def test_wrong_input_shapes(refuse: Callable, tmp_path: Path):
    message = refuse("net.py:make", "--calib", "net.py:wrong_shape")
    assert message.startswith("Net could not be captured with tracer='export' in module 4 at net.py:")
    assert "(example inputs: (2, 1, 5, 5) float32)" in message
    program = torch.export.export(
        small_model().eval(), (small_images(2),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    torch.export.save(program, tmp_path / "net.pt2")
    wrong = "has float32 [{}, 1, 5, 5] as input x, but the model takes float32 [any, 1, 6, 6]: check the data and "
    advice = wrong + "the preprocessing (layout, size, dtype)"
    assert refuse("net.pt2", "--calib", "net.py:wrong_shape") == f"net.py:wrong_shape {advice.format(2)}"
    assert refuse("net.py:make", "--calib", "net.py:batches", "--eval", "net.py:wrong_shape") == (
        f"net.py:wrong_shape, samples from 0, {advice.format(4)}"
    )


def test_nan_in_weights_and_data(refuse: Callable, tmp_path: Path):
    assert refuse("net.py:nan_weight", "--calib", "net.py:batches") == (
        "The weight 0.weight holds nan at index [1, 0, 2, 2]; weights must be finite. "
        "Check the checkpoint that they come from."
    )
    state = small_model().state_dict()
    state["4.bias"][0] = torch.inf
    torch.save(state, tmp_path / "bad.pt")
    assert refuse("net.py:make", "--calib", "net.py:batches", "--weights", "bad.pt") == (
        "checkpoint bad.pt has NaN or infinity in 1 tensor(s) (4.bias)"
    )
    assert refuse("net.py:make", "--calib", "net.py:with_nan") == (
        "input 'x' of net.py:with_nan is nan at index [1, 0, 2, 3], and 1 value(s) of its batch are not finite in "
        "float32: all must be; take the samples out or repair them"
    )


def test_empty_folders_and_corrupt_images(refuse: Callable, tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    flags = ("--color", "gray", "--size", "6")
    assert refuse("net.py:make", "--calib", "images", *flags).startswith("the folder images holds no images")
    Image.fromarray(np.zeros((6, 6), dtype=np.uint8)).save(folder / "a.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:40])
    assert "images/b.png" in refuse("net.py:make", "--calib", "images", *flags)


def test_pickled_arrays_are_not_loaded(refuse: Callable, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "x.npy" in refuse("net.py:make", "--calib", "x.npy")


def test_unknown_names(refuse: Callable):
    assert refuse("digits", "--target", "onx") == (
        f"Unknown target 'onx'; allowed: {ALLOWED}, all. Did you mean 'onnx'?"
    )
    assert refuse("digitz") == "no reference model is called 'digitz'; close: digits"
    assert refuse("digits", "--recipe", "bset") == (
        "Unknown recipe 'bset'; allowed: fast, default, best, data-free."
    )
    assert refuse("digits", "--calibration", "best").startswith("there is no calibration method 'best'; allowed: ")
    assert (
        refuse("digits", "--tracer", "jit")
        == "the options: tracer is 'jit': input should be 'export' or 'symbolic'."
    )
    assert refuse("digits", "--scale", "1/0").startswith("preprocessing: scale is '1/0': ")


def test_a_runtime_that_is_not_installed(refuse: Callable, monkeypatch: pytest.MonkeyPatch):
    patch_missing(monkeypatch, "onnx", "onnxruntime is not installed; run: pip install onnxruntime")
    assert refuse("net.py:make", "--calib", "net.py:batches") == (
        "Target onnx cannot be used here: onnxruntime is not installed; run: pip install onnxruntime"
    )


def test_a_named_runtime_that_is_missing_beside_one_that_is_here(
    fxedge: Callable, net: str, monkeypatch: pytest.MonkeyPatch
):
    patch_missing(monkeypatch, "x86", "this torch has no engine x86")
    given = ["net.py:make", "--calib", "net.py:batches", "--target", "onnx,x86", "--timed-runs", "0", "-o", "out"]
    status, out, _ = fxedge("compile", *given)
    assert status == 3
    assert out.splitlines()[-1] == "failed x86: Target x86 cannot be used here: this torch has no engine x86"
    assert fxedge("verify", "out")[0] == 0


def test_a_failed_check_has_a_status_of_its_own(refuse: Callable, monkeypatch: pytest.MonkeyPatch):
    patch_backend(monkeypatch, "onnx", "unfused", lambda program, path: ("conv2d",))
    assert refuse("net.py:make", "--calib", "net.py:batches", status=1) == (
        "onnx: 1 op(s) planned as int8 run in float after the runtime's own optimizer: conv2d."
    )


def test_a_folder_that_exists(fxedge: Callable, net: str, bundle: Path, tmp_path: Path):
    shutil.copytree(bundle, tmp_path / "out")
    given = [
        "net.py:make",
        "--calib",
        "net.py:batches",
        "--target",
        "onnx",
        "--timed-runs",
        "0",
        "-o",
        "out",
        "-q",
    ]
    assert fxedge("compile", *given) == (
        2,
        "",
        "error: out exists already; choose another -o or give --force to replace the bundle there.\n",
    )
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    failing = ["net.py:nan_weight", *given[1:], "--force"]
    assert fxedge("compile", *failing)[0] == 2
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    assert fxedge("compile", *given, "--force", "--calibration", "mse")[0] == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["calibration"]["method"] == "mse"
    assert leftovers(tmp_path) == []


def test_a_place_that_cannot_be(refuse: Callable, fxedge: Callable, tmp_path: Path):
    given = ["net.py:make", "--calib", "net.py:batches", "--target", "onnx", "-q", "-o"]
    assert fxedge("compile", *given, "no/out") == (
        2,
        "",
        "error: The folder no does not exist; create it or choose another -o.\n",
    )


def test_a_full_disk(refuse: Callable, monkeypatch: pytest.MonkeyPatch):
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch_backend(monkeypatch, "onnx", "emit", full)
    assert refuse("net.py:make", "--calib", "net.py:batches") == (
        "The disk that holds . is full; nothing was kept of the unfinished bundle. Free some space or choose "
        "another -o."
    )


def test_a_file_that_may_not_be_read(refuse: Callable, monkeypatch: pytest.MonkeyPatch):
    def denied(self: Path, **named: object) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "read_text", denied)
    assert refuse("--config", "fxedge.toml") == "fxedge.toml: Permission denied. Check its permissions."
