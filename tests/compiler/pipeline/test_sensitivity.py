"""Against the road by the program itself: all layers but one kept float, simulated from end to end."""

import contextlib
import dataclasses
import math

import pytest
import torch
from fxedge.backends import registry
from fxedge.compiler.ir.errors import InputError
from fxedge.compiler.ir.passes import evaluate
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.lower import FloatModel, lower, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.pipeline.sensitivity import LayerLoss, Sensitivity, measure_sensitivity
from fxedge.compiler.quant.collectors import CollectorMethod
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.compiler.quant.simulate import simulate
from fxedge.models.registry import get
from small_compile import small_images, small_model
from torch import Tensor, nn

MINMAX = CompileOptions(recipe="fast", isa="vnni", calibration=CollectorMethod("minmax"))


def measured(
    model: nn.Module, images: Tensor, target: str, options: CompileOptions, **given: object
) -> Sensitivity:
    prepared, spec = prepare(model, (images[:2],), options), registry.get(target).spec
    plans = plan_targets(prepared, [spec], options)
    stats = collect(prepared, plans, [(images,)], options)
    batches = [(image,) for image in images.split(1)]
    return measure_sensitivity(prepared, spec, stats, batches, options, **given)


def alone(model: FloatModel, images: Tensor, target: str, node: str, **weights: object) -> Tensor:
    """The outputs with every node but one kept float."""
    spec = registry.get(target).spec
    names = [other.name for other in model.gm.graph.nodes if other.op == "call_function"]
    activation = {"conv2d": "relu"}.get(node)
    kept = tuple(name for name in names if name not in (node, activation))
    options = dataclasses.replace(MINMAX, keep_float=kept, **weights)
    plans = plan_targets(model, [spec], options)
    assert list(plans[target].ops) == [node]
    stats = collect(model, plans, [(images,)], options)
    return simulate(lower(model, spec, plans[target], stats, options).program, (images,)).outputs["output"]


@pytest.mark.parametrize("target", ["onnx", "fbgemm"])
@pytest.mark.parametrize("per_tensor", [False, True])
def test_each_loss_is_that_of_the_program_with_this_layer_alone(target: str, per_tensor: bool):
    options = dataclasses.replace(MINMAX, per_tensor_weights=per_tensor)
    images = small_images(6)
    found = measured(small_model(), images, target, options, bits=(8, 4), samples=6)
    model = prepare(small_model(), (images[:2],), options)
    expected = evaluate(model.gm, [images])[0]
    assert (found.target, found.samples, found.bits) == (target, 6, (8, 4))
    assert {layer.node for layer in found.layers} == {"conv2d", "linear"}
    for layer in found.layers:
        for bits, loss in layer.losses.items():
            weights = {"weight_bits": bits, "per_tensor_weights": per_tensor}
            output = alone(model, images, target, layer.node, **weights)
            noise = (output - expected).double().square().sum() / expected.double().square().sum()
            assert loss.sqnr == pytest.approx(-10 * math.log10(noise), abs=0.01)
            assert loss.changed is not None
            assert loss.changed.hits == int((output.argmax(1) != expected.argmax(1)).sum())
            assert loss.changed.total == 6


def test_ranked_by_the_first_width():
    for bits in ((8, 4), (4, 8)):
        found = measured(get("residual").factory(), torch.randn(4, 3, 16, 16), "onnx", MINMAX, bits=bits)
        levels = [layer.losses[bits[0]].sqnr for layer in found.layers]
        assert levels == sorted(levels)
        assert len(levels) > 2


def test_fewer_bits_lose_more_and_an_op_without_weights_the_same():
    found = measured(get("residual").factory(), torch.randn(4, 3, 16, 16), "onnx", MINMAX, bits=(8, 6, 3))
    ops = {layer.op: layer for layer in found.layers}
    assert ops["add"].weights == 0
    assert ops["add"].losses[8] == ops["add"].losses[6] == ops["add"].losses[3]
    for layer in found.layers:
        if layer.weights:
            assert layer.losses[8].sqnr > layer.losses[6].sqnr > layer.losses[3].sqnr
    assert not {"flatten", "view", "max_pool2d"} & ops.keys()


def test_options_of_single_layers_do_not_change_the_widths_measured():
    plain = measured(small_model(), small_images(4), "onnx", MINMAX, bits=(8, 4))
    chosen = CompileOptions(
        calibration=MINMAX.calibration, weight_bits=3, layers={"conv2d": LayerOptions(weight_bits=5)}
    )
    assert measured(small_model(), small_images(4), "onnx", chosen, bits=(8, 4)) == plain


def test_layers_kept_float_are_not_measured():
    options = CompileOptions(calibration=MINMAX.calibration, keep_float=("linear",))
    found = measured(small_model(), small_images(4), "onnx", options)
    assert [layer.node for layer in found.layers] == ["conv2d"]
    assert found.layers[0] == LayerLoss("conv2d", "0", "conv2d", 36, found.layers[0].losses)


def test_what_cannot_be_measured():
    with pytest.raises(InputError) as caught:
        measured(small_model(), small_images(4), "onnx", MINMAX, bits=(9, 8))
    assert str(caught.value) == "The widths to measure are 9, 8; allowed: one or more of 2 to 8 bits."
    everything = CompileOptions(calibration=MINMAX.calibration, keep_float=("*",))
    with pytest.raises(InputError) as caught:
        measured(small_model(), small_images(4), "onnx", everything)
    assert str(caught.value) == "No layer of the model runs on integers on onnx: there is nothing to measure."


def test_progress_counts_samples_and_variants():
    ticks: list[int] = []

    class Recorder:
        def track(self, label: str, total: int | None = None):
            assert (label, total) == ("measure layers", 16)
            return contextlib.nullcontext(ticks.append)

    measured(small_model(), small_images(4), "onnx", MINMAX, bits=(8, 4), samples=4, progress=Recorder())
    assert ticks == list(range(1, 17))
