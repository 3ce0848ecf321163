"""Artifacts on an emulated arm64 give the integers that the simulator has for it.

Runs where FXEDGE_ARM64 names the folder that `setup_arm64.sh` made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fxedge.compiler.pipeline.data import from_arrays
from fxedge.compiler.pipeline.driver import compile_model
from fxedge.compiler.pipeline.options import CompileOptions
from torch import Tensor, nn
from torch.nn import functional as F

CHECK = Path(__file__).with_name("check.py")


class Sums(nn.Module):
    """Convolutions, residuals, gates, an average and a product of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.first(x))
        for _ in range(4):
            x = x + F.silu(self.depthwise(x))
        gate = F.hardsigmoid(F.adaptive_avg_pool2d(x, 1))
        return x * gate


@pytest.mark.timeout(300)
def test_an_emulated_arm64_gives_the_simulated_integers(tmp_path: Path) -> None:
    arm64 = os.environ.get("FXEDGE_ARM64")
    if arm64 is None:
        pytest.skip(
            "needs an arm64 Python: make one by tests/emulated/setup_arm64.sh DEST and set FXEDGE_ARM64=DEST"
        )
    torch.manual_seed(0)
    out, options = tmp_path / "bundle", CompileOptions(timed_runs=0, recipe="fast")
    data = from_arrays(torch.randn(8, 1, 48, 48), input_names=("x",), batch_size=4)
    compile_model(Sums(), data, ("onnx", "tflite"), out, options=options)
    kernels = json.loads((out / "manifest.json").read_text())["targets"]["onnx"]["kernels"]
    assert kernels["neon"]["differing"] > 0  # else nothing is shown
    command = [sys.executable, str(CHECK), str(out), "--arm64", arm64]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "120"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("│") for line in done.stdout.splitlines() if "arm64" in line]
    assert [row[4].strip() for row in rows] == ["0 LSB", "0 LSB"], done.stdout
