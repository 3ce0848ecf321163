import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_compile import compile_small

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("emulated") / "bundle"
    compile_small(out, ("onnx", "fbgemm"), recipe="fast")
    return out


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def replayed(bundle: Path, *targets: str) -> list[dict]:
    return [json.loads(line) for line in run("replay.py", str(bundle), *targets).stdout.splitlines()]


def test_every_artifact_gives_the_golden_integers(bundle: Path):
    found = replayed(bundle)
    assert [said["target"] for said in found] == ["fbgemm", "onnx"]
    assert [said["outputs"] for said in found] == [[{"worst_lsb": 0, "differing": 0, "total": 12}]] * 2
    done = run("check.py", str(bundle), "--target", "onnx")
    assert done.returncode == 0, done.stderr
    assert "0 LSB" in done.stdout


def test_an_edited_artifact_is_not_loaded(bundle: Path):
    path = bundle / "onnx" / "model.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    try:
        (said,) = replayed(bundle, "onnx")
        assert said["error"] == "ValueError: onnx/model.onnx is not the file that the manifest names"
        assert run("check.py", str(bundle), "--target", "onnx").returncode == 1
    finally:
        path.write_bytes(whole)


def test_a_difference_fails_the_check(bundle: Path):
    script = (
        "import sys, numpy as np; sys.path.insert(0, sys.argv[1]); from replay import compare\n"
        "print(compare({'scale': 0.5}, np.array([1.0, 2.0]), np.array([1.0, 3.5])))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(FOLDER)], capture_output=True, text=True, check=True)
    assert done.stdout == "{'worst_lsb': 3, 'differing': 1, 'total': 2}\n"


def test_a_missing_arm64_python_says_what_makes_it(bundle: Path, tmp_path: Path):
    done = run("check.py", str(bundle), "--arm64", str(tmp_path))
    assert (done.returncode, done.stderr) == (
        1,
        f"{tmp_path}/arm64-python is not there; tests/emulated/setup_arm64.sh {tmp_path} makes it\n",
    )
