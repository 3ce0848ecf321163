"""The table of reference models: one model as measured, and how what was found is told."""

from __future__ import annotations

from pathlib import Path

from bench.zoo_table import Found, as_table, found


def test_a_model_is_compiled_and_kept(tmp_path: Path) -> None:
    cells = found(tmp_path, "conv_bn_relu", ("onnx",), "fast")
    assert cells == {"onnx": Found(nodes=6, worst=0, end="0 LSB")}
    (kept,) = tmp_path.iterdir()
    kept.write_text(kept.read_text().replace("0 LSB", "3 LSB"))
    assert found(tmp_path, "conv_bn_relu", ("onnx",), "fast")["onnx"].end == "3 LSB"


def test_what_a_cell_says() -> None:
    assert Found(6, 0, "0 LSB").format() == "6 nodes; 0 LSB"
    assert Found(6, 1, "0 LSB", floats=2).format() == "6 nodes within 1, 2 float; 0 LSB"
    assert Found(end="the same", floats=3).format() == "float alone (3); the same"
    assert Found(error="no kernel").format() == "**refused**: no kernel"


def test_a_line_for_each_model() -> None:
    rows = {"a": {"onnx": Found(1, 0, "0 LSB"), "x86": Found(error="no")}}
    assert as_table(rows) == "| model | onnx | x86 |\n|---|---|---|\n| a | 1 nodes; 0 LSB | **refused**: no |"
