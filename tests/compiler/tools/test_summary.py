import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from fxedge.compiler.ir.errors import UnsupportedOpsError
from fxedge.compiler.pipeline.check import Latency
from fxedge.compiler.quant.isa import native_isa
from fxedge.compiler.quant.saturation import SaturationProof
from fxedge.compiler.tools import summary
from rich.console import Console
from small_compile import patch_backend, patch_missing

ARGUMENTS = ("--calib", "net.py:batches", "--target", "onnx", "-o", "out", "-q")


def test_the_report_of_a_compilation(fxedge: Callable, net: str):
    status, out, err = fxedge("compile", f"{net}:make", *ARGUMENTS, "--timed-runs", "3")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split("   ")[0] == "target"
    assert "4/4 exact" in lines[1]
    assert "0 LSB" in lines[1]
    assert " kB → " in lines[1]
    assert " ms (" in lines[1]
    words = [line[:20].strip() for line in lines[3:]]
    assert words[:4] == ["float accuracy", "module to artifact", "verification", "bundle"]
    assert lines[6].endswith(" out")


def test_targets_on_which_int8_is_not_faster_are_named():
    def result(ratio: float | None) -> SimpleNamespace:
        return SimpleNamespace(checked=SimpleNamespace(latency=Latency(1.0, ratio, ratio)))

    results = {"slower": result(0.5), "even": result(1.0), "faster": result(2.0), "no float": result(None)}
    assert summary._not_faster(results) == ["slower", "even"]


def test_ops_left_float_are_grouped_by_reason(fxedge: Callable, net: str):
    out = fxedge("compile", f"{net}:make", *ARGUMENTS, "--timed-runs", "0", "--no-float", "--keep-float", "4")[1]
    assert out.splitlines()[-2:] == ["onnx runs 1 op in float:", "  1 × kept float by '4': 4 (linear)"]
    assert "→" not in out


def test_layers_that_can_saturate_are_named(capsys: pytest.CaptureFixture[str]):
    console = Console(width=200)
    summary._print_saturation(console, "x86", SaturationProof("avx2", 40, 33000, {"a": 2, "b": 1}))
    summary._print_saturation(console, "onnx", SaturationProof("avx2", 40, 32640))
    summary._print_saturation(console, "qnnpack", None)
    assert capsys.readouterr().out == "x86 can saturate on avx2 in 3 of 40 channels: a, b\n"


def test_the_instruction_set_that_was_asked_for(fxedge: Callable, net: str):
    out = fxedge("compile", f"{net}:make", *ARGUMENTS, "--timed-runs", "0", "--json", "--isa", "native")[1]
    found = json.loads(out)["targets"]["onnx"]["saturation"]
    assert (found["isa"], found["proven"]) == (native_isa(), found["channels"])
    assert (found["largest"] is None) == (native_isa() == "vnni")


def test_as_json(fxedge: Callable, net: str):
    status, out, err = fxedge("compile", f"{net}:make", *ARGUMENTS, "--timed-runs", "2", "--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert list(found) == [
        "fxedge",
        "bundle",
        "model",
        "float_accuracy",
        "seconds",
        "targets",
        "explanations",
        "failures",
        "skipped",
    ]
    target = found["targets"]["onnx"]
    assert target["accuracy"]["total"] == 12
    assert target["parity"]["nodes_exact"] == target["parity"]["nodes"] == 4
    assert target["parity"]["end_to_end"]["worst_lsb"] == 0
    assert min(target["size"], target["float_size"]) > 1000
    assert target["latency"]["int8"] > 0
    assert (found["bundle"], found["model"], target["float_ops"]) == ("out", "net.py:make", [])


def test_failed_and_skipped_targets_are_told(fxedge: Callable, net: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(*given: object) -> None:
        raise UnsupportedOpsError("fbgemm", [("conv", "conv2d.default", "too wide")])

    patch_backend(monkeypatch, "fbgemm", "emit", refuse)
    patch_missing(monkeypatch, "x86", "no engine x86")
    patch_missing(monkeypatch, "onednn", "no engine onednn")
    given = [*ARGUMENTS[:2], *ARGUMENTS[4:], "--timed-runs", "0"]
    status, out, _ = fxedge("compile", f"{net}:make", *given)
    assert status == 3
    assert out.splitlines()[-4:] == [
        "skipped x86: no engine x86",
        "skipped onednn: no engine onednn",
        "failed fbgemm: 1 op(s) cannot be lowered to fbgemm:",
        "  conv conv2d.default: too wide",
    ]


def test_explain_and_max_drop_are_told(fxedge: Callable, net: str):
    given = ("--timed-runs", "0", "--explain", "--max-drop", "100", "--weight-bits", "2")
    out = fxedge("compile", f"{net}:make", *ARGUMENTS, *given)[1]
    assert "\nonnx: loses " in out
    assert " on 6 held-out samples; no layer had to be relieved.\n" in out
    assert (
        "\nonnx: what each pass bought, judged on calibration samples, which passes may have been tuned on" in out
    )
    assert out.splitlines()[-1].startswith("The loss ")
    found = json.loads(fxedge("compile", f"{net}:make", *ARGUMENTS, *given, "--json", "--force")[1])
    assert found["explanations"]["onnx"] == json.loads(Path("out/explain/onnx.json").read_text())
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert found["targets"]["onnx"]["max_drop"] == manifest["targets"]["onnx"]["max_drop"]
    assert found["targets"]["onnx"]["max_drop"]["unit"] == "points of top-1 accuracy"
