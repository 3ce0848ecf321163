import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fxedge.compiler.pipeline.bundle import read_bundle
from fxedge.compiler.pipeline.manifest import PassEntry
from fxedge.compiler.tools.inspecting import print_manifest
from fxedge.compiler.tools.tables import make_console


def test_graph_and_passes(fxedge: Callable, net: str):
    status, out, err = fxedge("inspect", f"{net}:make", "--calib", f"{net}:batches", "--recipe", "fast")
    assert (status, err) == (
        0,
        "note: net.py:make is Python code and is run.\nnote: net.py:batches is Python code and is run.\n",
    )
    *lines, folded, fused = out.splitlines()
    assert lines == [
        "%0 = input x",
        "%1 = conv2d.default(%0, @0.weight, @0.bias, [1, 1], [1, 1], [1, 1], 1)",
        "%2 = relu.default(%1)",
        "%3 = flatten.using_ints(%2, 1)",
        "%4 = linear.default(%3, @4.weight, @4.bias)",
        "return %4",
        "",
        "pass canonicalize: 1 change, same outputs",
    ]
    moved = r"outputs moved by [\d.]+e-\d\d of their magnitude \(allowed 0.0001\)"
    assert re.fullmatch(f"pass fold-batch-norm: 1 change, {moved}", folded)
    assert fused == "pass fuse-activation: 0 changes"


def test_what_passes_note_of_their_changes(fxedge: Callable):
    lines = fxedge("inspect", "digits", "--limit", "8", "-q")[1].splitlines()
    (at,) = [index for index, line in enumerate(lines) if line.startswith("pass equalize-layers: 10 changes, ")]
    assert re.fullmatch(
        r"  note x: the noise expected of quantization falls to 0\.\d+ of what it was", lines[at + 1]
    )


def test_the_first_notes_of_a_bundle(bundle: Path, capsys: pytest.CaptureFixture[str]):
    entry = PassEntry(name="a", changes=4, notes=tuple(f"n{index}: why" for index in range(4)))
    manifest = read_bundle(bundle).model_copy(update={"passes": (entry,), "targets": {}})
    print_manifest(make_console(), manifest)
    assert capsys.readouterr().out.splitlines()[-5:] == [
        "pass a: 4 changes",
        "  note n0: why",
        "  note n1: why",
        "  note n2: why",
        "  and 1 note more in manifest.json",
    ]


def test_plan_and_ranges(fxedge: Callable, net: str):
    out = fxedge("inspect", f"{net}:make", "--calib", f"{net}:batches", "--target", "onnx", "-q")[1]
    assert "plan for onnx: 3 integer ops, 0 float" in out
    assert "ranges for onnx, noise over 12 samples" in out
    (row,) = [line for line in out.splitlines() if line.startswith("relu ")]
    assert row.split()[1:2] == ["0"]
    assert row.endswith("flatten")


def test_a_plan_needs_no_data(fxedge: Callable):
    status, out, _ = fxedge("inspect", "residual", "--target", "onnx", "--keep-float", "*")
    assert status == 0
    assert "plan for onnx: 0 integer ops" in out
    assert "kept float by '*'" in out
    assert "ranges for" not in out


def test_as_json(fxedge: Callable):
    arguments = ["digits", "--target", "onnx", "--limit", "8", "--recipe", "fast", "--json"]
    found = json.loads(fxedge("inspect", *arguments)[1])
    assert found["graph"][0] == "%0 = input x"
    assert [entry["name"] for entry in found["passes"]] == ["canonicalize", "fold-batch-norm", "fuse-activation"]
    plan = found["plans"]["onnx"]
    assert plan["integer_ops"][0]["inputs"] == ["x"]
    assert plan["groups"][0]["values"] == ["x"]
    assert (plan["groups"][0]["low"], plan["groups"][0]["high"]) == (0.0, 1.0)


def test_a_model_without_example_inputs(fxedge: Callable, net: str):
    assert fxedge("inspect", f"{net}:make", "-q") == (
        2,
        "",
        "error: net.py:make brings no example inputs, so it cannot be captured: give --calib with data (two "
        "samples are enough)\n",
    )


def test_a_bundle(fxedge: Callable, bundle: Path):
    status, out, err = fxedge("inspect", bundle)
    assert (status, err) == (0, "")
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert lines["input x"].endswith("float32 [any, 1, 6, 6]")
    assert lines["calibration"].endswith("noise, 12 samples")
    assert "4/4 exact" in lines["onnx"]
    assert lines["pass canonicalize: 1 change, same outputs"]
    assert any(line.startswith("pass fold-batch-norm: 1 change, outputs moved by ") for line in lines)
    assert lines["onnx pass insert-qdq: 3 changes"]
    assert json.loads(fxedge("inspect", bundle, "--json")[1])["schema_version"] == 1
