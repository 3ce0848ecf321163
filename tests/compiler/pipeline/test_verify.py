import json
import shutil
from pathlib import Path

import pytest
from fxedge.compiler.ir.errors import BundleError, InputError
from fxedge.compiler.pipeline import verify
from fxedge.compiler.pipeline.bundle import file_entry
from fxedge.compiler.pipeline.driver import CompileReport
from fxedge.compiler.pipeline.verify import verify_bundle
from safetensors.torch import load_file, save_file
from small_compile import patch_missing


@pytest.fixture
def copied(compiled: tuple[Path, CompileReport], tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled[0], tmp_path / "bundle"))


def rehash(folder: Path, name: str) -> None:
    """Make the manifest agree with a file that was changed: a forged bundle, whole by its hashes."""
    path = folder / "manifest.json"
    raw = json.loads(path.read_text())
    raw["files"][name] = file_entry(folder / name).model_dump()
    path.write_text(json.dumps(raw))


def test_a_good_bundle_passes(compiled: tuple[Path, CompileReport]):
    report = verify_bundle(compiled[0])
    assert report.passed
    assert {name: verdict.message for name, verdict in report.verdicts.items()} == {
        "onnx": "output is 0 LSB from the golden outputs (allowed 0)"
    }


def test_other_golden_outputs_fail(copied: Path):
    golden = copied / "golden" / "onnx.safetensors"
    tensors = load_file(golden)
    scale = json.loads((copied / "manifest.json").read_text())["targets"]["onnx"]["outputs"][0]["scale"]
    tensors["output"][1, 2] += 2 * scale
    save_file(tensors, golden)
    rehash(copied, "golden/onnx.safetensors")
    report = verify_bundle(copied)
    assert not report.passed
    assert report.verdicts["onnx"].message == "output is 2 LSB from the golden outputs (allowed 0)"


def test_what_fails_on_another_instruction_set_says_so(copied: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verify, "native_isa", lambda: "avx2")
    golden, manifest = copied / "golden" / "onnx.safetensors", copied / "manifest.json"
    save_file({"output": load_file(golden)["output"] + 1}, golden)
    rehash(copied, "golden/onnx.safetensors")
    raw = json.loads(manifest.read_text())
    raw["targets"]["onnx"]["saturation"]["isa"] = "vnni"
    manifest.write_text(json.dumps(raw))
    message = verify_bundle(copied).verdicts["onnx"].message
    assert message.endswith(
        "; it was compiled for vnni, and here (avx2) sums may saturate that do not saturate there"
    )


def test_golden_outputs_of_another_shape_fail(copied: Path):
    golden = copied / "golden" / "onnx.safetensors"
    save_file({"output": load_file(golden)["output"][:1].contiguous()}, golden)
    rehash(copied, "golden/onnx.safetensors")
    assert verify_bundle(copied).verdicts["onnx"].message == "output has shape [4, 3], not [1, 3]"


def test_golden_outputs_of_another_name(copied: Path):
    golden = copied / "golden" / "onnx.safetensors"
    save_file({"logits": load_file(golden)["output"]}, golden)
    rehash(copied, "golden/onnx.safetensors")
    with pytest.raises(BundleError) as caught:
        verify_bundle(copied)
    assert str(caught.value) == f"The golden files of {copied} have no tensor 'output'; the bundle is damaged."


def test_an_artifact_that_does_not_load_fails(copied: Path):
    (copied / "onnx" / "model.onnx").write_bytes(b"no model")
    rehash(copied, "onnx/model.onnx")
    verdict = verify_bundle(copied).verdicts["onnx"]
    assert not verdict.passed
    assert verdict.message.startswith("The onnx runtime could not load: ")


def test_a_manifest_of_other_outputs_fails(copied: Path):
    path = copied / "manifest.json"
    raw = json.loads(path.read_text())
    raw["targets"]["onnx"]["outputs"] = []
    path.write_text(json.dumps(raw))
    verdict = verify_bundle(copied).verdicts["onnx"]
    assert (verdict.passed, verdict.message) == (False, "it gives 1 output(s), not the manifest's 0")


def test_a_manifest_whose_scale_is_zero_is_refused(copied: Path):
    path = copied / "manifest.json"
    raw = json.loads(path.read_text())
    raw["targets"]["onnx"]["outputs"][0]["scale"] = 0.0
    path.write_text(json.dumps(raw))
    with pytest.raises(BundleError) as caught:
        verify_bundle(copied)
    assert str(caught.value) == (
        f"{path} is not a valid manifest: targets.onnx.outputs.0.scale: Input should be greater than 0."
    )


def test_a_runtime_that_is_not_here_is_skipped(
    compiled: tuple[Path, CompileReport], monkeypatch: pytest.MonkeyPatch
):
    patch_missing(monkeypatch, "onnx", "run: pip install onnxruntime")
    report = verify_bundle(compiled[0])
    assert not report.passed
    assert report.verdicts["onnx"].skipped
    assert report.verdicts["onnx"].message == "Target onnx cannot be used here: run: pip install onnxruntime"


def test_a_target_that_the_bundle_does_not_have(compiled: tuple[Path, CompileReport]):
    with pytest.raises(InputError) as caught:
        verify_bundle(compiled[0], targets=("x86",))
    assert str(caught.value) == f"{compiled[0]} has no target 'x86'; it has onnx."
