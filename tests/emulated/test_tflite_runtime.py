"""The emitted flatbuffers in tflite-runtime 2.14: no operator version that it does not know.

Runs where FXEDGE_TFLITE_RUNTIME names a Python that has it (with numpy below 2 and safetensors).
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from fxedge.compiler.pipeline.data import from_arrays
from fxedge.compiler.pipeline.driver import compile_model
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.models.digits import digits, digits_data, preprocess

REPLAY = Path(__file__).with_name("replay.py")


def test_tflite_runtime_takes_every_operator(tmp_path: Path) -> None:
    python = os.environ.get("FXEDGE_TFLITE_RUNTIME")
    if python is None:
        pytest.skip("needs a Python with tflite-runtime 2.14, numpy < 2 and safetensors as FXEDGE_TFLITE_RUNTIME")
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    out = tmp_path / "bundle"
    data = from_arrays(preprocess(digits_data().calib_images[:32]), input_names=("x",), batch_size=8)
    options = CompileOptions(timed_runs=0, recipe="fast", float_artifact=False)
    compile_model(digits(), data, ("tflite",), out, options=options)
    command = [python, str(REPLAY), str(out), "tflite"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (said,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert "error" not in said
    assert max(output["worst_lsb"] for output in said["outputs"]) <= 2
