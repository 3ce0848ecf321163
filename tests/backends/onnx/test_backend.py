"""What the onnx backend says of its runtime."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fxedge.backends.onnx import backend


def test_a_runtime_that_is_not_there_or_damaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("raise ImportError('libgomp.so.1: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    assert backend.missing() == (
        "onnxruntime is damaged (libgomp.so.1: no such file); run: pip install --force-reinstall onnxruntime"
    )
    monkeypatch.setattr(sys.modules[type(backend).__module__], "find_spec", lambda name: None)
    assert backend.missing() == "onnxruntime is not installed; run: pip install onnxruntime"
