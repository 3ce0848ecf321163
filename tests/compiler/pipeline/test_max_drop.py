import dataclasses
import math

import pytest
import torch
from fxedge.backends import registry
from fxedge.compiler.ir.errors import InputError, VerificationError
from fxedge.compiler.pipeline import calibration, max_drop
from fxedge.compiler.pipeline.data import Dataset, from_arrays
from fxedge.compiler.pipeline.holdout import split_samples
from fxedge.compiler.pipeline.lower import FloatModel, plan_targets, prepare
from fxedge.compiler.pipeline.max_drop import MaxDrop, Relief, fewest_layers, within_drop
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.models import digits
from hypothesis import given
from hypothesis import strategies as st
from small_compile import small_data, small_images, small_model
from torch import nn

SPEC = registry.get("onnx").spec
COARSE = CompileOptions(recipe="fast", weight_bits=2)


def small(options: CompileOptions = COARSE) -> FloatModel:
    return prepare(small_model(), (small_images(2),), options)


def unlabelled(count: int = 24) -> Dataset:
    return from_arrays(small_images(count), input_names=("x",), batch_size=4)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 20))
def test_the_shortest_prefix_by_bisection(wide: int, kept: int, needed: int):
    wider, floats = [f"w{at}" for at in range(wide)], [f"f{at}" for at in range(kept)]
    calls = []

    def evaluate(relief: Relief) -> float:
        calls.append(relief)
        return float(max(0, needed - len(relief.wider) - len(relief.floats)))

    found = fewest_layers(wider, floats, evaluate, 0.0)
    if needed > wide + kept:
        assert found is None
        return
    assert found == Relief(tuple(wider[:needed]), tuple(floats[: max(0, needed - wide)]))
    assert len(calls) <= 2 + math.ceil(math.log2(max(1, wide + kept)))


def test_relief_stands_above_what_the_options_say():
    options = CompileOptions(
        layers={"conv2d": LayerOptions(weight_bits=3, per_tensor=True), "*": LayerOptions(weight_bits=4)}
    )
    found = Relief(("conv2d",), ("linear",)).applied(options)
    assert list(found.layers) == ["*", "conv2d", "linear"]
    assert found.layers["conv2d"] == LayerOptions(weight_bits=8, per_tensor=True)
    plan = plan_targets(small(), [SPEC], found)["onnx"]
    assert {name: op.weight.qmax for name, op in plan.ops.items() if op.weight} == {"conv2d": 127}
    assert [skip.node for skip in plan.floats] == ["4 (linear)"]


def test_nothing_is_relieved_where_the_loss_is_small_enough():
    found = within_drop(small(), SPEC, CompileOptions(recipe="fast"), unlabelled(), 100)
    assert found == MaxDrop(Relief(), found.drop, found.drop, "points of top-1 agreement", 12)


def test_weights_get_8_bits_before_layers_stay_float():
    images = digits.preprocess(digits.digits_data().calib_images[:64])
    model = prepare(digits.digits(), (images[:2],), COARSE)
    found = within_drop(model, SPEC, COARSE, from_arrays(images.numpy(), input_names=("x",)), 10)
    layers = [node.name for node in model.gm.graph.nodes if node.name.startswith(("conv2d", "linear"))]
    assert 0 < len(found.relief.wider) < len(layers)
    assert set(found.relief.wider) < set(layers)
    assert found.relief.floats == ()
    assert found.drop <= 10 < found.without
    assert (found.unit, found.samples) == ("points of top-1 agreement", 32)


def test_the_loss_of_what_is_no_classifier_is_the_outputs_error():
    model = prepare(nn.Sequential(nn.Conv2d(1, 3, 3)), (small_images(2),), CompileOptions(recipe="fast"))
    found = within_drop(model, SPEC, CompileOptions(recipe="fast"), unlabelled(), 0.1)
    assert found.relief == Relief((), ("conv2d",))
    assert found.drop <= 0.1 < found.without < 20
    assert found.unit == "% of the outputs' magnitude"


def test_labels_make_it_accuracy():
    data = small_data(24)
    found = within_drop(small(), SPEC, COARSE, data, 100)
    assert found.unit == "points of top-1 accuracy"
    assert found.drop == pytest.approx(100 * round(found.drop * 12 / 100) / 12)


def test_the_samples_to_judge_on_are_not_tuned_on(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def collected(model: object, plans: object, batches: object, *rest: object) -> object:
        held = list(batches)  # type: ignore[call-overload]
        seen.append(torch.cat([inputs[0] for inputs in held]))
        return original(model, plans, held, *rest)

    original = calibration.collect
    monkeypatch.setattr(calibration, "collect", collected)
    within_drop(small(), SPEC, COARSE, unlabelled(), 9)
    tuning = torch.cat([batch.inputs[0] for batch in split_samples(unlabelled(), 0.5)[0]])
    assert seen
    assert all(torch.equal(images, tuning) for images in seen)


def test_out_of_reach(monkeypatch: pytest.MonkeyPatch):
    model = small()
    worse = dataclasses.replace(COARSE, keep_float=("linear",))
    monkeypatch.setattr(max_drop._Trial, "_count", lambda self, program, advance: 4.38)
    with pytest.raises(VerificationError) as caught:
        within_drop(model, SPEC, worse, unlabelled(), 1)
    assert str(caught.value) == (
        "onnx: even with every layer in float the loss on 0 held-out samples is 4.38 points, and --max-drop "
        "allows 1: the passes of recipe 'fast' on the float graph lose that much; --explain shows which."
    )


@pytest.mark.parametrize("allowed", [-1.0, math.nan, math.inf])
def test_a_bound_that_is_none(allowed: float):
    with pytest.raises(InputError) as caught:
        within_drop(small(), SPEC, COARSE, unlabelled(), allowed)
    assert str(caught.value) == f"--max-drop is {allowed}: give a number of points (or percent), 0 or more"
