"""Passes with what they bought."""

from __future__ import annotations

from pathlib import Path

import pytest
from fxedge.compiler.pipeline.bundle import read_bundle
from fxedge.compiler.tools.report.explained import read_explanation
from fxedge.compiler.tools.report.pass_log import group_skips, log_passes


def test_in_order_with_what_each_bought(explained: Path) -> None:
    manifest, explanation = read_bundle(explained), read_explanation(explained, "onnx")
    log = log_passes(manifest, "onnx", explanation)
    wanted = [entry.name for entry in (*manifest.passes, *manifest.targets["onnx"].passes)]
    assert [entry.name for entry in log] == ["capture", *wanted]
    assert log[0].changes is None
    assert log[0].bought is None
    known = [entry for entry in log if entry.sqnr is not None]
    first, last = known[0].sqnr, known[-1].sqnr
    assert first is not None
    assert last is not None
    assert sum(entry.bought or 0 for entry in log) == pytest.approx(last - first)
    folded = next(entry for entry in log if entry.name == "fold-batch-norm")
    assert (folded.stage, folded.changes) == ("float", 1)
    assert folded.promise.startswith("outputs moved by ")


def test_without_an_explanation(explained: Path) -> None:
    log = log_passes(read_bundle(explained), "onnx", None)
    assert log[0].name == read_bundle(explained).passes[0].name
    assert all(entry.sqnr is None and not entry.explained for entry in log)


def test_skips_by_reason() -> None:
    lines = ("a: is shared", "b: is shared", "c: of odd size: 3", "no reason")
    assert group_skips(lines) == {"is shared": ["a", "b"], "of odd size: 3": ["c"], "": ["no reason"]}
