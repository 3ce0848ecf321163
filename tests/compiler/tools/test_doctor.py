import json
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fxedge.backends import registry
from fxedge.compiler.tools.doctor import examine
from small_compile import patch_missing

X86 = """processor\t: 0
model name\t: Some CPU @ 2.80GHz
flags\t\t: fpu avx2 avx512bw avx512_vnni

processor\t: 1
model name\t: Other CPU
"""


def test_reads_the_first_processor(tmp_path: Path):
    (tmp_path / "cpuinfo").write_text(X86)
    found = examine(tmp_path / "cpuinfo")
    assert found.processor == "Some CPU @ 2.80GHz"
    assert found.features == ("avx2", "avx512", "vnni")


def test_arm_says_features(tmp_path: Path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nFeatures : fp asimd asimddp i8mm\n")
    assert examine(tmp_path / "cpuinfo").features == ("dotprod", "i8mm")


def test_without_cpuinfo(tmp_path: Path):
    found = examine(tmp_path / "none")
    assert found.features == ()
    assert found.processor


def test_what_is_installed(fxedge: Callable, monkeypatch: pytest.MonkeyPatch):
    patch_missing(monkeypatch, "onnx", "run: pip install onnxruntime")
    status, out, err = fxedge("doctor", "--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert found["python"] == platform.python_version()
    assert found["libraries"]["torch"] == torch.__version__
    assert found["targets"]["onnx"] == {"usable": False, "missing": "run: pip install onnxruntime"}
    assert found["targets"]["x86"]["usable"] is (registry.get("x86").missing() is None)
    lines = fxedge("doctor")[1].splitlines()
    assert ["onnx", "no", "run:", "pip", "install", "onnxruntime"] in [line.split() for line in lines]
    assert any(line.startswith("torch quantized engines") for line in lines)
