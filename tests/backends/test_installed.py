"""Which runtimes are here, and what is said of those that are not."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
from fxedge.backends import installed, registry
from fxedge.backends.installed import installed_version, why_missing


@pytest.mark.parametrize(
    ("target", "library", "install"),
    [
        ("onnx", "onnxruntime", "onnxruntime"),
        ("tensorrt", "onnxruntime", "onnxruntime"),
        ("openvino", "openvino", "'fxedge[openvino]'"),
        ("tflite", "ai-edge-litert", "'fxedge[tflite]'"),
        ("executorch", "executorch", "'fxedge[executorch]'"),
    ],
)
def test_each_target_says_what_to_install(
    target: str, library: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    assert registry.get(target).missing() == f"{library} is not installed; run: pip install {install}"


def test_versions() -> None:
    assert installed_version("numpy") == version("numpy")
    assert installed_version("no-such-runtime") == "not installed"


def test_what_is_there_is_not_missing() -> None:
    assert why_missing("numpy", "numpy") is None
    assert why_missing("numpy", "numpy", "numpy.linalg") is None


def test_what_is_not_there_says_what_to_install() -> None:
    assert why_missing("no-such-runtime", "'fxedge[none]'", "no_such_runtime.interpreter") == (
        "no-such-runtime is not installed; run: pip install 'fxedge[none]'"
    )


def test_what_cannot_be_imported_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_a_runtime.py").write_text("raise ImportError('libhalf.so is not there')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert why_missing("half-a-runtime", "half", "half_a_runtime") == (
        "half-a-runtime is damaged (libhalf.so is not there); run: pip install --force-reinstall half-a-runtime"
    )
