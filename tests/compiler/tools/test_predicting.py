"""`fxedge predict`: what it prints, and that what was measured has the last word."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fxedge.compiler.pipeline.predict import Runs
from fxedge.compiler.tools.predicting import Measured


@pytest.fixture
def given(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The small model, on a machine without kernel costs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return ["predict", f"{net}:make", "--calib", f"{net}:batches", "-q"]


@pytest.mark.parametrize(
    ("int8", "floats", "verdict"),
    [
        ([1.0] * 8, [2.0] * 8, "faster"),
        ([2.0] * 8, [1.0] * 8, "slower"),
        ([1.0] * 8, [1.01] * 8, "about the same"),
        ([1.0] * 8, [0.5, 2.0] * 4, "about the same"),
        ([1.0] * 5, [2.0] * 5, "about the same"),  # too few for an interval
    ],
)
def test_a_verdict_needs_the_whole_interval(int8: list[float], floats: list[float], verdict: str) -> None:
    assert Measured.of(Runs(tuple(int8), tuple(floats))).verdict == verdict


def test_without_costs_it_tells_where_to_get_them(fxedge: Callable, given: list[str]) -> None:
    status, out, err = fxedge(*given, "--target", "onnx", "--no-measure")
    head, row, _, floats, speed = out.splitlines()
    assert (status, err, head.split()[-3:]) == (0, "", ["int8", "will", "be"])
    assert row.split() == ["onnx", "3", "0", "0", "-", "-"]
    assert floats == "onnx runs 0 ops in float"
    assert speed == (
        "  no prediction of speed: This machine has no kernel costs for onnx in its present version with 1 "
        "thread(s); run fxedge bench --calibrate-machine --target onnx --threads 1."
    )


def test_measured_instead(fxedge: Callable, given: list[str]) -> None:
    status, out, err = fxedge(*given, "--target", "onnx,tensorrt")
    head, measured, not_here, *rest = out.splitlines()
    assert (status, err) == (0, "")
    assert head.split()[-6:] == ["float", "→", "int8", "int8", "will", "be"]
    assert "measured float → int8" in head
    assert measured.split()[4] == "-"
    assert measured.split()[9].endswith("×")
    assert measured.endswith(("faster", "slower", "about the same"))
    assert not_here.split()[4:] == ["-", "-", "-"]
    assert "  no prediction of speed: what runs it here only stands in for its runtime" in rest
    assert not any("no kernel costs" in line for line in rest)
    assert rest[-2:] == [
        "",
        "note: which kernels gain and which lose is told after fxedge bench --calibrate-machine --target onnx "
        "--threads 1",
    ]
    warned = "  warning: int8 will not be faster on onnx; that was measured" in rest
    assert warned == (not measured.endswith("faster"))


def test_as_json(fxedge: Callable, given: list[str]) -> None:
    targets = json.loads(fxedge(*given, "--target", "onnx,tensorrt", "--json")[1])["targets"]
    found = targets["onnx"]["measured"]
    assert found.keys() == {"int8_seconds", "float_seconds", "pairs", "ratio", "low", "high", "verdict"}
    assert found["low"] <= found["ratio"] <= found["high"]
    assert 6 <= found["pairs"] <= 200
    assert targets["tensorrt"]["measured"] is None
