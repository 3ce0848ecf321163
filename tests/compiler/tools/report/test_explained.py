"""Explanations as the report reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fxedge.compiler.ir.errors import BundleError
from fxedge.compiler.tools.report.explained import read_explanation


def test_what_the_compiler_wrote(explained: Path) -> None:
    found = read_explanation(explained, "onnx")
    assert found is not None
    assert found.passes[0].name == "capture"
    assert found.passes[-1].loss is not None
    assert found.culprit is not None
    assert 0 <= found.culprit.before < found.culprit.share


def test_none_is_none(tmp_path: Path) -> None:
    assert read_explanation(tmp_path, "onnx") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 7}, "has schema 7; this fxedge reads schema 1 of an explanation."),
        ({"passes": 3}, "is not an explanation: passes: Input should be a valid tuple."),
    ],
)
def test_another_file(explained: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    raw = json.loads((explained / "explain" / "onnx.json").read_text()) | change
    (tmp_path / "explain").mkdir()
    path = tmp_path / "explain" / "onnx.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(BundleError) as caught:
        read_explanation(tmp_path, "onnx")
    assert str(caught.value) == f"{path} {message}"
