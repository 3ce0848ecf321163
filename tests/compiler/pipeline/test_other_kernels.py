"""Golden outputs by kernels other than the target's own: written, told of, and what `verify` goes by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from fxedge.compiler.pipeline import verify
from fxedge.compiler.pipeline.bundle import file_entry
from fxedge.compiler.pipeline.data import from_arrays
from fxedge.compiler.pipeline.driver import CompileReport, compile_model
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.pipeline.verify import verify_bundle
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

EXACT = "output is 0 LSB from the golden outputs (allowed 0)"


class Residual(nn.Module):
    """Wide enough that some sums lie next to a rounding boundary."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        for _ in range(3):
            x = x + self.second(x)
        return x


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompileReport]:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("kernels") / "bundle"
    data = from_arrays(torch.randn(4, 1, 32, 32), input_names=("x",), batch_size=4)
    options = CompileOptions(timed_runs=0, recipe="fast", float_artifact=False)
    return out, compile_model(Residual(), data, ("onnx", "tflite"), out, options=options)


def forge(bundle: Path, name: str) -> None:
    """Move one golden output by ten LSB, hashes made to agree."""
    tensors = load_file(bundle / name)
    tensors["output"][0, 0, 0, 0] += 10 * (tensors["output"].max() - tensors["output"].min()) / 255
    save_file(tensors, bundle / name)
    path = bundle / "manifest.json"
    raw = json.loads(path.read_text())
    raw["files"][name] = file_entry(bundle / name).model_dump()
    path.write_text(json.dumps(raw))


def test_the_bundle_says_how_far_they_are_apart(both: tuple[Path, CompileReport]) -> None:
    out, report = both
    assert report.manifest is not None
    for target, kernels, checked, how in (
        ("onnx", "neon", False, "simulated"),
        ("tflite", "builtin", True, "simulated and run here"),
    ):
        entry = report.manifest.targets[target]
        other = entry.kernels[kernels]
        own, theirs = (load_file(out / name)["output"] for name in (entry.golden, other.golden))
        assert other.golden == f"golden/{target}.{kernels}.safetensors"
        assert (other.checked, other.total, other.samples) == (checked, own.numel(), len(own))
        assert other.differing == int((own != theirs).sum()) > 0
        assert entry.notes[-1] == (
            f"By the {kernels} kernels ({how}) the golden outputs differ by up to {other.worst_lsb} LSB in "
            f"{other.differing} of {other.total} values, 0 of 4 top-1 predictions."
        )


def test_the_runtime_gives_their_integers_too(both: tuple[Path, CompileReport]) -> None:
    own = both[1].results["tflite"].others["builtin"]
    assert own.worst is not None
    assert own.worst.worst_lsb == 0
    assert {node.worst for node in own.nodes} == {0}


def test_verify_runs_the_kernels_that_can_be_chosen(both: tuple[Path, CompileReport], tmp_path: Path) -> None:
    assert {name: each.message for name, each in verify_bundle(both[0]).verdicts.items()} == {
        "onnx": EXACT,
        "tflite": EXACT,
    }
    copied = Path(shutil.copytree(both[0], tmp_path / "bundle"))
    forge(copied, "golden/tflite.builtin.safetensors")
    verdict = verify_bundle(copied, targets=("tflite",)).verdicts["tflite"]
    assert not verdict.passed
    assert verdict.message == "by the builtin kernels: output is 10 LSB from the golden outputs (allowed 1)"


def test_verify_goes_by_the_kernels_of_the_machine(
    both: tuple[Path, CompileReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = Path(shutil.copytree(both[0], tmp_path / "bundle"))
    forge(copied, "golden/onnx.neon.safetensors")
    assert verify_bundle(copied, targets=("onnx",)).passed
    monkeypatch.setattr(verify, "native_kernels", lambda: "neon")
    assert not verify_bundle(copied, targets=("onnx",)).passed
