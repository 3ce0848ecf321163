"""Real networks through LiteRT, delegate on and off: every integer node is the simulator's, and so is the whole
network."""

from __future__ import annotations

from pathlib import Path

import pytest
from fxedge import CompileOptions
from fxedge.backends.tflite.inspect import operators
from real.compiling import compile_real

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.mark.parametrize("name", ["cifar10_resnet20", "mobilenet_v2", "mobilenet_v3_small"])
def test_parity_is_exact(name: str, shared_data: Path, tmp_path: Path) -> None:
    options = CompileOptions(recipe="fast", parity_samples=20, timed_runs=0)
    report = compile_real(name, tmp_path / "bundle", ["tflite"], options)
    assert report.failures == {}
    checked = report.results["tflite"].checked
    assert [node for node in checked.nodes if node.worst] == []
    assert (checked.end_to_end.worst_lsb, checked.end_to_end.flips) == (0, 0)
    own = report.results["tflite"].others["builtin"]
    assert [node for node in own.nodes if node.worst > node.allowed] == []
    assert own.worst is not None
    assert own.worst.flips == 0
    if name != "mobilenet_v3_small":  # a hard-sigmoid holds a sum, which is known to 1 LSB there
        assert own.worst.worst_lsb == 0
    assert report.results["tflite"].lowered.plan.floats == ()
    codes = [op.code for op in operators(tmp_path / "bundle" / "tflite" / "model.tflite")]
    assert codes.count("TRANSPOSE") == 1
