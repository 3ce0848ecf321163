import os
import signal
from pathlib import Path

import numpy as np
import pytest
from fxedge.backends.base import InputFact
from fxedge.compiler.ir.errors import VerificationError
from fxedge.compiler.pipeline.driver import CompileReport
from fxedge.compiler.pipeline.runtime import RemoteRuntime
from small_compile import small_images


@pytest.fixture
def model(compiled: tuple[Path, CompileReport]) -> Path:
    return compiled[0] / "onnx" / "model.onnx"


def test_runs_and_times_an_artifact(model: Path):
    x = small_images(2).numpy()
    with RemoteRuntime("onnx", {"int8": model}) as runtime:
        (first,), (second,) = runtime.run("int8", [x]), runtime.run("int8", [x])
        seconds = runtime.time(["int8"], [x], repeats=2, warmup=0)
    assert (first.shape, first.dtype) == ((2, 3), np.float32)
    np.testing.assert_array_equal(first, second)
    assert len(seconds["int8"]) == 2


def test_holds_inputs_and_tells_what_it_took(model: Path):
    with RemoteRuntime("onnx", {}) as runtime:
        assert runtime.load("int8", model) > 0
        assert runtime.inputs("int8") == (InputFact("x", [None, 1, 6, 6], "float32"),)
        runtime.hold([small_images(2).numpy()])
        assert len(runtime.time(["int8"], repeats=3, warmup=0)["int8"]) == 3
        before, peak = runtime.memory()
    assert before is None or (peak is not None and 0 < before < peak)


def test_an_artifact_that_does_not_load(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(VerificationError, match=r"^The onnx runtime could not load: \w+: .*model\.onnx"):
        RemoteRuntime("onnx", {"int8": tmp_path / "model.onnx"})


def test_a_runtime_that_dies(model: Path):
    with RemoteRuntime("onnx", {"int8": model}) as runtime:
        os.kill(runtime._process.pid, signal.SIGKILL)
        with pytest.raises(VerificationError) as caught:
            runtime.run("int8", [small_images(2).numpy()])
    assert str(caught.value) == (
        "The process of the onnx runtime ended with status -9 when asked to run; it said: nothing"
    )


def test_the_process_ends_with_the_block(model: Path):
    with RemoteRuntime("onnx", {"int8": model}) as runtime:
        process = runtime._process
    assert process.returncode == 0


def test_the_process_is_killed_after_an_interruption(model: Path):
    processes = []

    def interrupted() -> None:
        with RemoteRuntime("onnx", {"int8": model}) as runtime:
            processes.append(runtime._process)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert processes[0].returncode == -signal.SIGKILL


def test_the_current_folder_shadows_no_library(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('a bundle brought this')")
    monkeypatch.chdir(tmp_path)
    with RemoteRuntime("onnx", {"int8": model}) as runtime:
        assert len(runtime.run("int8", [small_images(1).numpy()])) == 1
