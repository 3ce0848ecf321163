"""When a prediction counts as right."""

from __future__ import annotations

import pytest
from bench.predictions import Case
from fxedge.compiler.pipeline.predict import Speed
from fxedge.compiler.tools.bench.figures import Ratio
from fxedge.compiler.tools.predicting import Measured


@pytest.mark.parametrize(
    ("predicted", "low", "high", "clear", "right"),
    [
        (2.0, 1.2, 2.5, "faster", True),
        (0.5, 1.2, 2.5, "faster", False),
        (1.0, 1.2, 2.5, "faster", False),
        (0.5, 0.6, 0.8, "slower", True),
        (2.0, 0.6, 0.8, "slower", False),
        (0.5, 1.05, 2.5, None, True),
        (2.0, None, None, None, True),
    ],
)
def test_verdicts(predicted: float, low: float, high: float, clear: str | None, right: bool) -> None:
    case = Case("net", "onnx", Speed(1.0, predicted, (), ()), None, Ratio(1.5, low, high))
    assert (case.clear, case.wrong) == (clear, [] if right else ["kernel costs"])


def test_both_ways_are_judged() -> None:
    runs = Measured(1.0, 0.8, Ratio(0.8, 0.7, 0.9), 60)
    case = Case("net", "onnx", Speed(1.0, 2.0, (), ()), runs, Ratio(0.7, 0.6, 0.8))
    assert case.wrong == ["kernel costs"]
    assert case.line() == (
        "| net | onnx | 2.00× faster | 0.80× slower | 0.70× [0.60, 0.80] | **wrong: kernel costs** |"
    )
