import json
from pathlib import Path

import pytest
from fxedge.compiler.pipeline.driver import CompileReport
from fxedge.compiler.pipeline.manifest import SCHEMA_VERSION, FileEntry, Manifest
from pydantic import ValidationError


def test_the_manifest_of_a_bundle_reads_back_the_same(compiled: tuple[Path, CompileReport]):
    folder, report = compiled
    raw = json.loads((folder / "manifest.json").read_text())
    assert raw["schema_version"] == SCHEMA_VERSION
    assert Manifest.model_validate(raw) == report.manifest


def test_it_says_what_the_deployed_user_needs(compiled: tuple[Path, CompileReport]):
    manifest = compiled[1].manifest
    assert manifest is not None
    (tensor,) = manifest.inputs
    assert (tensor.name, tensor.dtype, tensor.shape) == ("x", "float32", (None, 1, 6, 6))
    assert manifest.preprocess.dtype == "float32"
    assert (manifest.calibration.method, manifest.calibration.samples) == ("noise", 12)
    assert [entry.name for entry in manifest.passes] == [
        "canonicalize",
        "fold-batch-norm",
        "fuse-activation",
        "fold-dead-channels",
        "smooth-activations",
        "equalize-layers",
        "equalize-activations",
        "split-ranges",
        "split-outliers",
    ]
    (output,) = manifest.targets["onnx"].outputs
    assert output.scale is not None


def test_no_latency_is_stored(compiled: tuple[Path, CompileReport]):
    assert "latency" not in (compiled[0] / "manifest.json").read_text()


def test_unknown_keys_are_refused():
    with pytest.raises(ValidationError, match="extra_forbidden"):
        FileEntry.model_validate({"sha256": "0", "size": 1, "mode": 7})
