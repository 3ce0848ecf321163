from pathlib import Path

import pytest
from fxedge.backends import registry
from fxedge.compiler.ir.passes import PassReport, PassResult, Skip
from fxedge.compiler.pipeline.accuracy import Share
from fxedge.compiler.pipeline.driver import CompileReport
from fxedge.compiler.pipeline.entries import input_entries, pass_entries, share_entry, target_entry
from fxedge.compiler.pipeline.lower import prepare
from fxedge.compiler.pipeline.manifest import PassEntry
from fxedge.compiler.pipeline.options import CompileOptions
from small_compile import small_images, small_model


def test_shares_keep_their_interval():
    entry = share_entry(Share(395, 500))
    assert entry is not None
    assert entry.model_dump() == {"hits": 395, "total": 500, "low": 0.752155, "high": 0.823423}
    assert share_entry(None) is None


def test_passes_keep_what_they_left_alone_and_why():
    result = PassResult(2, (Skip("conv (a.b)", "its weight is shared"),), "promised exact")
    report = PassReport({"fold": result}, {"fold": 0.5})
    assert pass_entries(report) == (
        PassEntry(
            name="fold",
            changes=2,
            skipped=("conv (a.b): its weight is shared",),
            max_error=0.5,
            rolled_back="promised exact",
        ),
    )


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
    without = target_entry(
        registry.get("onnx"), result.lowered, result.checked, CompileOptions(float_artifact=False)
    )
    assert without.float_artifact is None
