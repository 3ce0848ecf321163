"""A bundle for TensorRT: what is in it, what it says of itself, and that it verifies."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from fxedge.backends.tensorrt import backend, build_engine
from fxedge.backends.tensorrt.engine import can_build
from fxedge.compiler.pipeline.driver import CompileReport, compile_model
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.pipeline.verify import verify_bundle
from small_compile import compile_small, small_data, small_model


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompileReport]:
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    return out, compile_small(out, ("tensorrt",))


def test_the_recipe_of_the_engine_lies_beside_the_model(compiled: tuple[Path, CompileReport]) -> None:
    folder, report = compiled
    names = sorted(path.name for path in (folder / "tensorrt").iterdir())
    assert names == ["build_engine.py", "calibration.cache", "float_model.onnx", "model.onnx", "trtexec.sh"]
    script = (folder / "tensorrt" / "build_engine.py").read_bytes()
    assert script == Path(build_engine.__file__).read_bytes()
    assert report.manifest is not None
    assert {"tensorrt/build_engine.py", "tensorrt/trtexec.sh"} <= set(report.manifest.files)


def test_the_trtexec_line(compiled: tuple[Path, CompileReport]) -> None:
    path = compiled[0] / "tensorrt" / "trtexec.sh"
    assert path.read_text() == (
        "#!/bin/sh\n"
        "# Builds the engine as build_engine.py does. Not run by fxedge: no TensorRT was at hand.\n"
        "# TensorRT 10 must be told that the network is strongly typed; in 11 every network is.\n"
        'cd "$(dirname "$0")" || exit 1\n'
        "strong=\n"
        "trtexec --help 2>&1 | grep -q -- --stronglyTyped && strong=--stronglyTyped\n"
        "exec trtexec \\\n"
        "    --onnx=model.onnx \\\n"
        "    --saveEngine=model.plan \\\n"
        "    --timingCacheFile=timing.cache \\\n"
        "    --noTF32 \\\n"
        "    --minShapes=x:1x1x6x6 \\\n"
        "    --optShapes=x:8x1x6x6 \\\n"
        "    --maxShapes=x:32x1x6x6 \\\n"
        "    $strong\n"
    )
    subprocess.run(["sh", "-n", path], check=True)


@pytest.mark.parametrize(("lists", "flag"), [("--stronglyTyped  Create", ["--stronglyTyped"]), ("--onnx", [])])
def test_the_shell_script_asks_trtexec_what_it_knows(
    lists: str, flag: list[str], compiled: tuple[Path, CompileReport], tmp_path: Path
) -> None:
    stand_in = tmp_path / "trtexec"
    stand_in.write_text(f'#!/bin/sh\nif [ "$1" = --help ]; then echo "{lists}"; else echo "$@"; fi\n')
    stand_in.chmod(0o755)
    path = compiled[0] / "tensorrt" / "trtexec.sh"
    run = subprocess.run(
        ["sh", path], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert run.stdout.split()[-1:] == (flag or ["--maxShapes=x:32x1x6x6"])


def test_the_manifest_says_that_no_engine_was_built(compiled: tuple[Path, CompileReport]) -> None:
    manifest = compiled[1].manifest
    assert manifest is not None
    entry = manifest.targets["tensorrt"]
    assert entry.notes[0].startswith("No TensorRT engine was built: the model ran in onnxruntime")
    assert entry.runtime["engine"] == "none was built"
    assert entry.runtime["onnxruntime"].endswith(", optimizer off")
    assert entry.tolerance_float >= 0.1
    assert entry.outputs[0].scale is None


def test_no_time_is_taken_in_a_runtime_that_stands_in(tmp_path: Path) -> None:
    options = CompileOptions(timed_runs=2)
    report = compile_model(small_model(), small_data(), ("onnx", "tensorrt"), tmp_path / "bundle", options=options)
    assert report.results["onnx"].checked.latency is not None
    assert report.results["tensorrt"].checked.latency is None


def test_the_bundle_verifies(compiled: tuple[Path, CompileReport]) -> None:
    if can_build():
        pytest.skip("this machine has TensorRT, for which the loader was never run")
    verdict = verify_bundle(compiled[0]).verdicts["tensorrt"]
    assert verdict.passed
    assert re.fullmatch(
        r"output is \S+ of its magnitude from the golden outputs \(allowed 0\.1\)", verdict.message
    )


def test_what_is_needed_is_onnxruntime() -> None:
    assert backend.missing() is None
    assert backend.spec.own_runtime is False
