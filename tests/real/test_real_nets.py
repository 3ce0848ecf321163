"""The compiler on real networks and real images: the figures that issue and README promise.

Nothing is tuned on the test images: calibration and options are the defaults. The smallest network is compiled for
every target, the others for what differs most (`tests/bench` has the tables with all of them). The arithmetic of
the fbgemm, x86 and onednn engines was confirmed on CPUs with VNNI; without it these tests skip.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from fxedge import CompileOptions
from fxedge.compiler.pipeline.driver import CompileReport, TargetResult
from real.compiling import TARGETS, compile_real

# Minutes of simulation on a calm machine; a shared one may take several times as long.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(autouse=True)
def _vnni() -> None:
    cpu = Path("/proc/cpuinfo")
    if not (cpu.is_file() and "avx512_vnni" in cpu.read_text()):
        pytest.skip("needs a CPU with AVX-512 VNNI: the arithmetic is confirmed there")


def _report(name: str, tmp_path: Path, parity_samples: int, targets: Sequence[str] = TARGETS) -> CompileReport:
    options = CompileOptions(parity_samples=parity_samples, timed_runs=0, threads=2)
    report = compile_real(name, tmp_path / "bundle", targets, options)
    assert report.failures == {}
    assert tuple(report.results) == tuple(targets)
    return report


def _drop(report: CompileReport, result: TargetResult) -> float:
    """Points of top-1 that the artifact loses against float."""
    assert report.reference is not None
    assert report.reference.accuracy is not None
    assert result.checked.accuracy is not None
    return 100 * (report.reference.accuracy.value - result.checked.accuracy.value)


def _agreement(result: TargetResult) -> float:
    assert result.checked.agreement is not None
    return 100 * result.checked.agreement.value


def _assert_parity(result: TargetResult) -> None:
    """Every integer node gave the simulator's integers, and so did the whole network."""
    assert [node for node in result.checked.nodes if node.worst] == []
    end = result.checked.end_to_end
    assert (end.worst_lsb, end.differing, end.flips) == (0, 0, 0)


def test_mobilenet_v2(shared_data: Path, tmp_path: Path) -> None:
    report = _report("mobilenet_v2", tmp_path, parity_samples=20, targets=("fbgemm", "qnnpack", "onnx"))
    for name, result in report.results.items():
        assert _drop(report, result) <= 1.0 + 1e-9, name
        assert _agreement(result) >= (92.0 if name == "fbgemm" else 95.0), name
        assert result.lowered.plan.floats == (), name
        _assert_parity(result)


def test_cifar10_resnet20(shared_data: Path, tmp_path: Path) -> None:
    report = _report("cifar10_resnet20", tmp_path, parity_samples=500)
    for name, result in report.results.items():
        assert _drop(report, result) <= 0.5, name
        assert result.checked.end_to_end.samples == 500
        _assert_parity(result)


def test_mobilenet_v3_small(shared_data: Path, tmp_path: Path) -> None:
    """It spends the float budget: behind float ops, whose last bits differ, a quantize step may be off by one."""
    report = _report("mobilenet_v3_small", tmp_path, parity_samples=20, targets=("x86", "onnx"))
    for name, result in report.results.items():
        assert _drop(report, result) <= 2.0 + 1e-9, name
        assert 0 < len(result.lowered.plan.floats) < 40, name
        off = [node for node in result.checked.nodes if node.worst]
        assert all(node.worst == node.allowed == 1 and node.differing < 10 for node in off), name
