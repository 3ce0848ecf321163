"""Graphs that come quantized: parameters kept, nothing calibrated, all that a target cannot take named at once."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import pytest
import torch
from fxedge.backends import registry
from fxedge.compiler.ir.errors import InputError, UnsupportedOpsError
from fxedge.compiler.ir.qops import DQ, is_dequantize, is_quantize
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.driver import CompileReport, compile_model
from fxedge.compiler.pipeline.foreign import NOTE, lower_quantized
from fxedge.compiler.pipeline.lower import lower, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.quant.simulate import simulate
from fxedge.compiler.quant.target import TargetSpec
from quantized_ops import unsaturated_graph as unsaturated
from small_compile import small_data, small_images, small_model
from torch import fx
from toy_target import TOY

X = small_images(4)
FAST = CompileOptions(recipe="fast", timed_runs=0)


def quantized(spec: TargetSpec = TOY) -> fx.GraphModule:
    """The small model, quantized for `spec`; as little a float model as if another tool had made it."""
    model = prepare(small_model().eval(), (X,), FAST)
    plans = plan_targets(model, [spec], FAST)
    stats = collect(model, plans, [(X,)], FAST)
    return lower(model, spec, plans[spec.name], stats, FAST).program.gm


def as_int8(gm: fx.GraphModule) -> fx.GraphModule:
    """Its activations with integers 128 lower."""
    for node in gm.graph.nodes:
        if node.target in (DQ,) or is_quantize(node):
            source, scale, zero_point, _, _, dtype = node.args
            if dtype is torch.uint8:
                node.args = (source, scale, zero_point - 128, -128, 127, torch.int8)
    gm.recompile()
    return gm


def as_uint8(gm: fx.GraphModule) -> fx.GraphModule:
    """Its activations with integers 128 higher."""
    for node in gm.graph.nodes:
        if node.target is DQ or is_quantize(node):
            source, scale, zero_point, _, _, dtype = node.args
            if dtype is torch.int8:
                node.args = (source, scale, zero_point + 128, 0, 255, torch.uint8)
    gm.recompile()
    return gm


def compiled(gm: fx.GraphModule, out: Path, *targets: str, **options: object) -> CompileReport:
    chosen = dataclasses.replace(FAST, **options)  # type: ignore[arg-type]
    return compile_model(gm, small_data(), targets, out, options=chosen)


@pytest.mark.parametrize("shifted", [False, True])
def test_it_lowers_to_the_same_integers(shifted: bool, tmp_path: Path) -> None:
    gm = unsaturated(quantized())
    with torch.no_grad():
        expected = gm(X)
    gm = as_int8(gm) if shifted else gm
    report = compiled(gm, tmp_path / "bundle", "fbgemm", "qnnpack", "onnx")
    assert report.failures == {}
    assert report.manifest is not None
    assert report.manifest.calibration.method == "as it came"
    for name, entry in report.manifest.targets.items():
        assert (entry.integer_ops, entry.float_ops, entry.parity.nodes_worst_lsb) == (3, (), 0), name
        assert NOTE in entry.notes
        (output,) = simulate(report.results[name].lowered.program, (X,)).outputs.values()
        assert (output - expected).abs().max() <= 1.001 * entry.outputs[0].scale


def test_what_the_graph_leaves_float_stays_float_with_its_reason() -> None:
    gm = quantized()
    last = next(node for node in reversed(gm.graph.nodes) if is_dequantize(node))
    linear = last.args[0].args[0]
    last.replace_all_uses_with(linear)
    gm.graph.erase_node(last)
    gm.recompile()
    model = prepare(gm, (X,), FAST)
    lowered = lower_quantized(model, TOY, FAST)
    assert list(lowered.plan.ops) == ["conv2d"]
    assert "4 (linear): the graph does not quantize its result" in map(str, lowered.plan.floats)
    with torch.no_grad():
        (output,) = simulate(lowered.program, (X,)).outputs.values()
        torch.testing.assert_close(output, gm(X), rtol=1e-4, atol=1e-4)


def test_the_float_model_is_the_graph_without_its_quantize_nodes() -> None:
    gm = quantized()
    model = prepare(gm, (X,), FAST)
    assert model.quantized is not None
    assert not any(is_quantize(node) or is_dequantize(node) for node in model.gm.graph.nodes)
    with torch.no_grad():
        difference = (model.gm(X) - small_model().eval()(X)).abs().max()
    assert 0 < difference < 0.05
    assert list(model.passes) == ["strip-qdq"]


def test_all_that_a_target_cannot_take_is_named_at_once(tmp_path: Path) -> None:
    gm = quantized()
    for node in gm.graph.nodes:
        if is_quantize(node) or node.target is DQ:
            source, scale, zero_point, _, _, dtype = node.args
            node.args = (source, scale, min(zero_point, 127), 0, 127, dtype)
    weight = next(node for node in gm.graph.nodes if is_dequantize(node) and node.target is not DQ)
    zero_points = gm.get_buffer(weight.args[2].target)
    zero_points += 1
    gm.recompile()
    with pytest.raises(UnsupportedOpsError) as caught:
        compiled(gm, tmp_path / "bundle", "fbgemm")
    narrow = "its activations are uint8 in [0, 127]; the target takes uint8 in [0, 255]"
    lines = str(caught.value).splitlines()
    assert lines[0] == "5 op(s) cannot be lowered to fbgemm:"
    quantize = "quantized_decomposed.quantize_per_tensor.default"
    assert lines.count(f"  quantize_per_tensor {quantize}: {narrow}") == 1
    dequantize = "quantized_decomposed.dequantize_per_channel.default"
    assert [line for line in lines if narrow not in line][1:] == [
        f"  0 (dequantize_per_channel) {dequantize}: its weight has a zero point; the target takes 0"
    ]
    assert not (tmp_path / "bundle").exists()


def test_one_target_may_take_what_another_does_not(tmp_path: Path) -> None:
    only_symmetric = dataclasses.replace(TOY.activation, qmin=-127, qmax=127, dtype=torch.int8, symmetric=True)
    model = prepare(quantized(), (X,), FAST)
    lower_quantized(model, TOY, FAST)
    with pytest.raises(
        UnsupportedOpsError, match=r"int8 in \[-128, 127\]; the target takes int8 in \[-127, 127\]"
    ):
        lower_quantized(model, dataclasses.replace(TOY, activation=only_symmetric), FAST)


def test_options_that_say_how_to_quantize_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        compiled(quantized(), tmp_path / "bundle", "fbgemm", keep_float=("conv2d",), weight_bits=4)
    assert str(caught.value) == (
        "The graph is quantized already, so keep_float, weight_bits cannot be chosen; leave that out, or give the "
        "float model."
    )


def test_the_recipe_best_tries_nothing(tmp_path: Path) -> None:
    assert compiled(unsaturated(quantized()), tmp_path / "bundle", "fbgemm", recipe="best").attempts == ()


def test_a_graph_of_torchao(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e", reason="needs torchao")
        quantizer = pytest.importorskip("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
        exported = torch.export.export(small_model().eval(), (X,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        config = quantizer.get_default_x86_inductor_quantization_config()
        chosen = quantizer.X86InductorQuantizer().set_global(config)
        observed = flow.prepare_pt2e(exported.module(), chosen)
        observed(X)
        gm = unsaturated(flow.convert_pt2e(observed))
        with torch.no_grad():
            expected = gm(X)
    report = compiled(gm, tmp_path / "bundle", "fbgemm", "qnnpack", "onnx")
    assert report.failures == {}
    for name, result in report.results.items():
        assert "conv2d" in result.lowered.plan.ops, name
        assert all(node.worst <= node.allowed for node in result.checked.nodes)
        (output,) = simulate(result.lowered.program, (X,)).outputs.values()
        torch.testing.assert_close(output, expected, rtol=0.02, atol=0.02)


def test_a_symmetric_target_takes_the_middle_of_uint8_as_zero(tmp_path: Path) -> None:
    """What is quantized for it and shifted comes back as it was."""
    spec = registry.get("tensorrt").spec
    gm = as_uint8(quantized(spec))
    lowered = lower_quantized(prepare(gm, (X,), FAST), spec, FAST)
    assert len(lowered.plan.ops) == 2
    with torch.no_grad():
        (output,) = simulate(lowered.program, (X,)).outputs.values()
        torch.testing.assert_close(output, quantized(spec)(X), rtol=1e-4, atol=1e-4)


def test_a_symmetric_target_names_every_zero_point() -> None:
    model = prepare(quantized(), (X,), FAST)
    with pytest.raises(UnsupportedOpsError) as caught:
        lower_quantized(model, registry.get("tensorrt").spec, FAST)
    quantize = "quantized_decomposed.quantize_per_tensor.default"
    assert str(caught.value).splitlines() == [
        "4 op(s) cannot be lowered to tensorrt:",
        f"  quantize_per_tensor {quantize}: its zero point is 16; the target takes 0",
        f"  2 (quantize_per_tensor_1) {quantize}: its zero point is -128; the target takes 0",
        f"  3 (quantize_per_tensor_2) {quantize}: its zero point is -128; the target takes 0",
        f"  4 (quantize_per_tensor_3) {quantize}: its zero point is 44; the target takes 0",
    ]
