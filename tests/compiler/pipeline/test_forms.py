"""A target whose artifact is stored in two forms: TorchScript for torch, and for its lite interpreter."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from fxedge.backends.fbgemm import backend as fbgemm
from fxedge.compiler.ir.errors import BundleError, VerificationError
from fxedge.compiler.pipeline.bundle import file_entry
from fxedge.compiler.pipeline.driver import compile_model
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.pipeline.verify import verify_bundle
from fxedge.compiler.quant.program import IntegerStep, Program, Step
from small_compile import compile_small, patch_backend, small_data, small_model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("forms") / "bundle"
    compile_small(out, ("fbgemm", "qnnpack"), recipe="fast", float_artifact=False)
    return out


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def test_the_bundle_has_both_forms_and_verify_runs_them(bundle: Path) -> None:
    targets = json.loads((bundle / "manifest.json").read_text())["targets"]
    assert {name: (entry["artifact"], entry["also"]) for name, entry in targets.items()} == {
        "fbgemm": ("fbgemm/model.pt", ["fbgemm/model.ptl"]),
        "qnnpack": ("qnnpack/model.ptl", []),
    }
    assert verify_bundle(bundle).passed


@pytest.mark.parametrize("name", ["fbgemm/model.ptl", "qnnpack/model.ptl"])
def test_an_edited_form_is_refused_before_it_is_loaded(name: str, copied: Path) -> None:
    path = copied / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        verify_bundle(copied)
    assert str(caught.value) == f"{path} was changed: its sha256 is not the one in the manifest."


def test_a_form_that_the_manifest_gives_no_hash_of(copied: Path) -> None:
    path = copied / "manifest.json"
    raw = json.loads(path.read_text())
    raw["targets"]["fbgemm"]["also"] = ["../model.ptl"]
    path.write_text(json.dumps(raw))
    with pytest.raises(BundleError) as caught:
        verify_bundle(copied)
    assert str(caught.value) == f"The manifest of {copied} names '../model.ptl' but gives no hash of it."


def test_another_network_in_one_form_fails(copied: Path, tmp_path: Path) -> None:
    other = small_model()
    other[4].bias.data.add_(0.5)
    options = CompileOptions(recipe="fast", float_artifact=False, timed_runs=0)
    compile_model(other, small_data(), ["fbgemm"], tmp_path / "other", options=options)
    form = "fbgemm/model.ptl"
    shutil.copy(tmp_path / "other" / form, copied / form)
    path = copied / "manifest.json"
    raw = json.loads(path.read_text())
    raw["files"][form] = file_entry(copied / form).model_dump()
    path.write_text(json.dumps(raw))
    verdicts = verify_bundle(copied).verdicts
    assert (verdicts["fbgemm"].passed, verdicts["qnnpack"].passed) == (False, True)
    assert verdicts["fbgemm"].message.startswith("model.ptl: output is ")


def test_forms_that_disagree_are_no_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    emit = type(fbgemm).emit

    def emit_moved_bias(program: Program, path: Path, expose: tuple[str, ...] = ()) -> None:
        if path.suffix == ".ptl":
            program = dataclasses.replace(program, steps=tuple(map(moved, program.steps)))
        emit(fbgemm, program, path, expose)

    def moved(step: Step) -> Step:
        has_bias = isinstance(step, IntegerStep) and step.bias is not None
        return dataclasses.replace(step, bias=step.bias + 0.5) if has_bias else step

    patch_backend(monkeypatch, "fbgemm", "emit", emit_moved_bias)
    with pytest.raises(VerificationError) as caught:
        compile_small(tmp_path / "bundle", ("fbgemm",), recipe="fast", float_artifact=False)
    assert str(caught.value) == "fbgemm: model.ptl gives other outputs than the artifact itself."
    assert not (tmp_path / "bundle").exists()
