import dataclasses
from pathlib import Path

import pytest
from fxedge.backends import registry
from fxedge.compiler.ir.passes import PassReport, PassResult, Skip
from fxedge.compiler.pipeline.accuracy import Share
from fxedge.compiler.pipeline.driver import CompileReport
from fxedge.compiler.pipeline.entries import (
    input_entries,
    pass_entries,
    saturation_entry,
    share_entry,
    target_entry,
)
from fxedge.compiler.pipeline.lower import Lowered, prepare
from fxedge.compiler.pipeline.manifest import PassEntry
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.quant.saturation import SaturationProof
from small_compile import small_images, small_model


def test_shares_keep_their_interval():
    entry = share_entry(Share(395, 500))
    assert entry is not None
    assert entry.model_dump() == {"hits": 395, "total": 500, "low": 0.752155, "high": 0.823423}
    assert share_entry(None) is None


def test_passes_keep_what_they_left_alone_and_why_and_what_they_note():
    skipped, notes = (Skip("conv (a.b)", "its weight is shared"),), (Skip("relu", "8 samples stay below 6"),)
    result = PassResult(2, skipped, "promised exact", notes)
    report = PassReport({"fold": result}, {"fold": 0.5})
    assert pass_entries(report) == (
        PassEntry(
            name="fold",
            changes=2,
            skipped=("conv (a.b): its weight is shared",),
            notes=("relu: 8 samples stay below 6",),
            max_error=0.5,
            rolled_back="promised exact",
        ),
    )


def test_what_was_proven_and_repaired():
    proof = SaturationProof("avx2", 32, 33000, {"conv2d": 3})
    passes = PassReport({"fix-saturation": PassResult(7), "fix-saturation#2": PassResult(2)})
    lowered = Lowered(None, None, passes, proof)  # type: ignore[arg-type]
    entry = saturation_entry(lowered)
    assert entry is not None
    assert entry.model_dump() == {
        "isa": "avx2",
        "channels": 32,
        "proven": 29,
        "repaired": 7,
        "largest": 33000,
        "unsafe": {"conv2d": 3},
    }
    assert saturation_entry(dataclasses.replace(lowered, saturation=None)) is None


@pytest.mark.parametrize(("axes", "batch"), [((0,), None), ((), 2)])
def test_fixed_and_free_sizes_of_inputs(axes: tuple[int, ...], batch: int | None):
    model = prepare(small_model(), (small_images(2),), CompileOptions(dynamic_axes=axes))
    (entry,) = input_entries(model)
    assert (entry.name, entry.dtype, entry.shape) == ("x", "float32", (batch, 1, 6, 6))


def test_a_target_that_is_exact_is_held_to_it(compiled: tuple[Path, CompileReport]):
    result = compiled[1].results["onnx"]
    entry = target_entry(registry.get("onnx"), result.lowered, result.checked, CompileOptions())
    assert (entry.artifact, entry.float_artifact) == ("onnx/model.onnx", "onnx/float_model.onnx")
    assert (entry.parity.exact, entry.tolerance_lsb, entry.tolerance_float) == (True, 0, 1e-5)
    assert (entry.integer_ops, entry.float_ops) == (3, ())
    assert entry.saturation is not None
    assert (entry.saturation.isa, entry.saturation.unsafe) == ("avx2", {})
    assert 0 < entry.saturation.proven == entry.saturation.channels
    without = target_entry(
        registry.get("onnx"), result.lowered, result.checked, CompileOptions(float_artifact=False)
    )
    assert without.float_artifact is None
