"""The examples, run as a reader would run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def _run(name: str, *arguments: object, folder: Path) -> str:
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_are_tested_and_described() -> None:
    tested = {"compile_and_deploy.py", "mobile_packaging.py", "hardware_benchmark.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(name in text for name in tested)


def test_compile_and_deploy(tmp_path: Path) -> None:
    out = _run("compile_and_deploy.py", "--recipe", "fast", folder=tmp_path)
    first, second = out.splitlines()
    assert first.startswith("int8 accuracy 9")
    assert first.endswith("; 0 LSB from the simulation")
    assert second.startswith("served 500 images with onnxruntime alone: 9")


@pytest.mark.slow
def test_mobile_packaging(tmp_path: Path) -> None:
    _run("mobile_packaging.py", folder=tmp_path)
    packages = tmp_path / "digits-packages"
    for kind in ("android", "ios", "web", "python"):
        assert (packages / kind / "manifest.json").is_file()
        assert (packages / kind / "README.md").is_file()


@pytest.mark.slow
def test_hardware_benchmark(tmp_path: Path) -> None:
    first = _run("hardware_benchmark.py", "--runs", 8, folder=tmp_path)
    assert "is slower than it was" not in first
    second = _run("hardware_benchmark.py", "--runs", 8, folder=tmp_path)
    assert "is slower than it was" in second
    record = json.loads((tmp_path / "digits-benchmark" / "now.json").read_text())
    assert {result["contestant"] for result in record["results"]} == {"int8", "float"}
