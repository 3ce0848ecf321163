"""The code that the report offers is run as it stands, and gives the golden outputs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fxedge.backends import registry
from fxedge.compiler.pipeline.bundle import read_bundle
from fxedge.compiler.pipeline.manifest import Manifest
from fxedge.compiler.pipeline.preprocess import Preprocess
from fxedge.compiler.tools.cli import run
from fxedge.compiler.tools.report.deploy import TEMPLATES, deploy_snippet, preprocess_code
from fxedge.compiler.tools.report.page import make_page
from report_parts import snippets
from safetensors.numpy import load_file

_SAVE = "\nimport sys, numpy\nnumpy.savez(sys.argv[1], *outputs)\n"


def test_every_target_has_one() -> None:
    assert set(TEMPLATES) == set(registry.names())


def _run_snippet(bundle: Path, manifest: Manifest, target: str, code: str, saved: Path) -> None:
    """In a process of its own in the bundle's folder, as a reader would; then compare with the golden outputs."""
    before = sorted(bundle.rglob("*"))
    command = [sys.executable, "-c", code + _SAVE, str(saved)]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(bundle.rglob("*")) == before
    entry = manifest.targets[target]
    golden, found = load_file(bundle / entry.golden), np.load(saved)
    for output, name in zip(entry.outputs, found.files, strict=True):
        wanted = golden[output.name][: len(found[name])]
        assert found[name].shape == wanted.shape
        allowed = entry.tolerance_float * np.abs(wanted).max() if output.scale is None else output.scale * 1.01
        assert np.abs(found[name] - wanted).max() <= allowed


@pytest.mark.parametrize("target", ["onnx", "x86"])
def test_the_code_of_the_page_runs(explained: Path, tmp_path: Path, target: str) -> None:
    manifest = read_bundle(explained)
    code = snippets(make_page(explained, manifest))[target]
    _run_snippet(explained, manifest, target, code, tmp_path / "outputs.npz")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded example for every target that runs here, by the command line."""
    out = tmp_path_factory.mktemp("digits") / "bundle"
    arguments = ["--recipe", "fast", "--timed-runs", "0", "--parity-samples", "4", "--eval-limit", "32", "-q"]
    assert run(["compile", "digits", *arguments, "-o", str(out)]) == 0
    return out


@pytest.mark.slow
def test_the_code_for_digits_runs_on_every_runtime(digits: Path, tmp_path: Path) -> None:
    manifest = read_bundle(digits)
    page = (digits / "report.html").read_text(encoding="utf-8")
    assert len(page) < 1e6
    codes = snippets(page)
    assert set(codes) == {*manifest.targets, "preprocess"}
    for target in manifest.targets:
        if TEMPLATES[target][0].endswith(".py.txt"):
            _run_snippet(digits, manifest, target, codes[target], tmp_path / f"{target}.npz")
    if "tensorrt" in codes:
        _check_tensorrt(digits, codes["tensorrt"], tmp_path)


def _check_tensorrt(bundle: Path, code: str, folder: Path) -> None:
    """No engine can be built without TensorRT: the files are there, and the script knows the flags."""
    lines = [line.partition("#")[0].split() for line in code.splitlines()]
    copy, build, trtexec = (line for line in lines if line)
    assert copy == ["cp", "-r", "tensorrt", "engine"]
    assert (bundle / "tensorrt" / Path(build[1]).name).is_file()
    assert (bundle / "tensorrt" / Path(trtexec[1]).name).is_file()
    script = bundle / "tensorrt" / "build_engine.py"
    usage = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, cwd=folder)
    assert usage.returncode == 0
    assert build[2] in usage.stdout


@pytest.mark.parametrize("name", ['"]; import os #', "'\n\\", "x"])
def test_names_stay_strings(explained: Path, name: str) -> None:
    manifest = read_bundle(explained)
    tensor = manifest.inputs[0].model_copy(update={"name": name})
    entry = manifest.targets["onnx"].model_copy(update={"artifact": name})
    targets = {"onnx": entry, "tensorrt": entry.model_copy(update={"artifact": f"{name}/m"})}
    changed = manifest.model_copy(update={"inputs": (tensor,), "targets": targets})
    found = deploy_snippet(changed, "onnx")
    assert found is not None
    nodes = list(ast.walk(ast.parse(found.code)))
    assert [node.value for node in nodes if isinstance(node, ast.Constant)].count(name) == 2
    assert [node.names[0].name for node in nodes if isinstance(node, ast.Import)] == ["onnxruntime"]
    shell = deploy_snippet(changed, "tensorrt")
    assert shell is not None
    said = subprocess.run(
        ["sh", "-c", f'cp() {{ printf %s "$2"; exit; }}\n{shell.code}'], capture_output=True, text=True, check=True
    )
    assert said.stdout == name


@pytest.mark.parametrize(
    "steps",
    [
        Preprocess(scale="1/255", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), layout="NHWC"),
        Preprocess(mean=(3.0,), layout="NCHW"),
        Preprocess(scale=0.1, std=(2.0,)),
    ],
)
def test_preprocessing_is_that_of_the_compiler(steps: Preprocess) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    raw = raw.transpose(0, 3, 1, 2) if steps.layout == "NCHW" else raw
    code = preprocess_code(steps)
    assert code is not None
    names: dict[str, object] = {}
    exec(compile(code, "report", "exec"), names)
    found = names["preprocess"](raw)  # type: ignore[operator]
    assert found.dtype == np.float32
    assert np.array_equal(found, steps.apply(raw).numpy())


def test_nothing_to_preprocess() -> None:
    assert preprocess_code(Preprocess()) is None
