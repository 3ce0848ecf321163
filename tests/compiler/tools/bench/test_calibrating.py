import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from fxedge.backends import registry
from fxedge.compiler.ir.errors import BackendUnavailableError
from fxedge.compiler.ir.progress import Silent
from fxedge.compiler.pipeline.kernel_costs import KernelTables
from fxedge.compiler.tools.bench import command
from fxedge.compiler.tools.bench.calibrating import calibrate_machine
from fxedge.compiler.tools.bench.kernels import KERNELS
from small_compile import patch_missing

FEW = [next(one for one in KERNELS if one.kind == kind) for kind in ("conv1x1", "gelu", "add")]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command measures three small kernels, and has a cache of its own in `cache`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(command, "calibrate_machine", functools.partial(calibrate_machine, kernels=FEW))


def test_float_and_int8_of_small_kernels(fxedge: Callable, few: None, tmp_path: Path):
    path = tmp_path / "costs.json"
    given = ("--calibrate-machine", "--target", "onnx", "--runs", 7, "--json", path)
    status, out, err = fxedge("bench", *given)
    (kept,) = (tmp_path / "cache" / "fxedge" / "kernels").iterdir()
    assert (status, err) == (0, f"note: costs kept in {kept}\n")
    assert kept.read_text() == path.read_text()
    assert [line.split()[2] for line in out.splitlines()[1:]] == [kernel.kind for kernel in FEW]
    (found,) = KernelTables.model_validate_json(path.read_text()).tables
    assert (found.target, found.threads) == ("onnx", 1)
    for kernel in FEW:
        for form in ("float", "int8"):
            costs = found.costs(kernel.kind, form)
            assert costs is not None
            assert costs.reason is None
            (point,) = costs.points
            assert (point.work, point.elements) == (kernel.work, kernel.elements)
            assert point.seconds >= 0
            assert (point.rest is None) == kernel.anchored


def test_a_cache_that_cannot_be_written(fxedge: Callable, few: None, tmp_path: Path):
    (tmp_path / "cache").touch()
    status, out, err = fxedge("bench", "--calibrate-machine", "--target", "onnx", "--runs", 1)
    assert status == 2
    assert len(out.splitlines()) == 1 + len(FEW)
    assert err == (
        f"error: The costs could not be kept in {tmp_path}/cache/fxedge/kernels, where predictions look for them: "
        "Not a directory. Make it writable, or name another place by XDG_CACHE_HOME.\n"
    )


def test_a_kernel_that_a_target_has_in_float_alone():
    """onnxruntime has no integer kernel for layer_norm."""
    kernels = [next(one for one in KERNELS if one.kind == "layer_norm")]
    tables = calibrate_machine(["onnx"], threads=[1], runs=1, progress=Silent(), kernels=kernels)
    floats, integers = tables.tables[0].kernels
    assert len(floats.points) == 1
    assert (integers.points, integers.reason) == ((), "onnx has no integer kernel for layer_norm.default")


def test_no_target_is_here(fxedge: Callable, monkeypatch: pytest.MonkeyPatch):
    patch_missing(monkeypatch, "onnx", "run: pip install onnxruntime")
    assert fxedge("bench", "--calibrate-machine", "--target", "onnx") == (
        2,
        "",
        "error: No target can be calibrated here. Target onnx cannot be used here: run: pip install onnxruntime\n",
    )


def test_a_runtime_that_only_stands_in_for_the_targets_own():
    if registry.get("tensorrt").missing() is not None:
        pytest.skip("tensorrt has nothing to stand in for it here")
    with pytest.raises(BackendUnavailableError) as caught:
        calibrate_machine(["tensorrt"], threads=[1], runs=1, progress=Silent())
    assert str(caught.value) == (
        "No target can be calibrated here. What runs them here only stands in for their runtimes."
    )
