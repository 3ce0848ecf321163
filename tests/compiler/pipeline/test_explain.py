import math
from dataclasses import replace

import pytest
import torch
from fxedge.backends import registry
from fxedge.compiler.ir.passes import evaluate
from fxedge.compiler.pipeline.ablation import PassEffect
from fxedge.compiler.pipeline.accuracy import Share
from fxedge.compiler.pipeline.calibration import collect
from fxedge.compiler.pipeline.explain import Culprit, Explanation, LayerError, explain
from fxedge.compiler.pipeline.loss import ErrorSums, Loss
from fxedge.compiler.pipeline.lower import FloatModel, lower, plan_targets, prepare
from fxedge.compiler.pipeline.options import CompileOptions
from fxedge.compiler.quant.layer_options import LayerOptions
from fxedge.compiler.quant.program import IntegerStep, Program
from fxedge.compiler.quant.qparams import dequantize
from fxedge.compiler.quant.simulate import simulate
from small_compile import small_images, small_model
from torch import Tensor, nn


def lowered(model: nn.Module, images: Tensor, **options: object) -> tuple[FloatModel, Program]:
    chosen = CompileOptions(recipe="fast", **options)
    prepared, spec = prepare(model, (images[:2],), chosen), registry.get("onnx").spec
    plan = plan_targets(prepared, [spec], chosen)["onnx"]
    stats = collect(prepared, {"onnx": plan}, [(images,)], chosen)
    return prepared, lower(prepared, spec, plan, stats, chosen).program


def test_accumulated_and_own_error_of_each_value():
    images = small_images(8)
    model, program = lowered(small_model(), images)
    found = explain(model, program, [(images[:5],), (images[5:],)])
    assert (found.target, found.samples) == ("onnx", 8)
    assert [(layer.node, layer.module, layer.op) for layer in found.layers] == [
        ("x", "", "placeholder"),
        ("conv2d", "0", "conv2d"),
        ("flatten", "3", "flatten"),
        ("linear", "4", "linear"),
    ]
    source, conv, view, linear = found.layers
    assert (source.sqnr, source.cosine) == (source.own_sqnr, source.own_cosine)
    assert conv.sqnr == conv.own_sqnr
    assert view.sqnr == conv.sqnr
    alone, lone_program = lowered(small_model(), images, keep_float=("conv2d", "relu"))
    last = explain(alone, lone_program, [(images,)]).layers[-1]
    assert last.node == "linear"
    assert (linear.own_sqnr, linear.own_cosine) == pytest.approx((last.sqnr, last.cosine), rel=1e-4)
    assert linear.sqnr != linear.own_sqnr
    output = evaluate(model.gm, [images])[0]
    sums = ErrorSums()
    sums.add(simulate(program, (images,)).outputs["output"], output)
    assert (linear.sqnr, linear.cosine) == pytest.approx((sums.sqnr, sums.cosine))
    assert found.loss.sqnr == pytest.approx(sums.sqnr)


def test_the_weights_own_error():
    images = small_images(8)
    model, program = lowered(small_model(), images, weight_bits=4)
    layers = {layer.node: layer for layer in explain(model, program, [(images,)]).layers}
    (step,) = (s for s in program.steps if isinstance(s, IntegerStep) and s.anchor.name == "linear")
    weight = small_model()[4].weight.detach()
    noise = (dequantize(step.weight, step.weight_qparams) - weight).double().square().sum()
    assert layers["linear"].weight_sqnr == pytest.approx(-10 * math.log10(noise / weight.double().square().sum()))
    assert layers["flatten"].weight_sqnr is None


class Chain(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        convs = (nn.Conv2d(1 if at == 0 else 6, 6, 3, padding=1) for at in range(3))
        super().__init__(*(part for conv in convs for part in (conv, nn.ReLU())), nn.Flatten(), nn.Linear(216, 4))


@pytest.mark.parametrize("node", ["conv2d", "conv2d_1", "conv2d_2", "linear"])
def test_the_bisect_finds_the_layer_that_was_spoilt(node: str):
    images = small_images(8)
    model, program = lowered(Chain(), images, layers={node: LayerOptions(weight_bits=2)})
    culprit = explain(model, program, [(images,)]).culprit
    assert culprit is not None
    assert culprit.node == node
    assert culprit.before < 0.5 <= culprit.share


def test_nothing_is_lost_where_nothing_is_quantized():
    images = small_images(4)
    model, program = lowered(small_model(), images, keep_float=("*",))
    found = explain(model, program, [(images,)])
    assert found.layers == ()
    assert found.culprit is None
    assert found.loss == Loss(math.inf, Share(0, 4))


def _effect(name: str, sqnr: float | None) -> PassEffect:
    return PassEffect(name, "float", 1, None if sqnr is None else Loss(sqnr, None))


def _explanation(*passes: PassEffect) -> Explanation:
    return Explanation("onnx", 4, passes, (), Loss(20.0, None), None)


def test_the_worst_pass_is_the_one_after_which_most_is_lost():
    fine = _explanation(_effect("capture", 20), _effect("a", 25), _effect("b", 24.5), _effect("c", 24.5))
    assert fine.worst_pass() is None
    bad = _explanation(
        _effect("capture", None), _effect("a", 25), _effect("b", 22), _effect("c", 30), _effect("d", 29)
    )
    worst = bad.worst_pass()
    assert worst is not None
    assert (worst[0].name, worst[1]) == ("b", 3)


def test_as_plain_data():
    layer = LayerError("q", "conv2d", "stem", "conv2d", 30.12345, 0.999, math.inf, None, 41.0)
    effect = PassEffect("a", "float", 2, Loss(25.0, Share(1, 8)), 1e-7, None, ("relu: fine",))
    culprit = Culprit("conv2d", "stem", 0.25, 0.75)
    found = replace(_explanation(_effect("capture", 30.0), effect), layers=(layer,), culprit=culprit)
    assert found.to_json() == {
        "schema_version": 1,
        "target": "onnx",
        "samples": 4,
        "unseen": False,
        "loss": {"sqnr_db": 20.0, "changed": None},
        "passes": [
            {
                "name": "capture",
                "stage": "float",
                "changes": 1,
                "max_error": None,
                "rolled_back": None,
                "notes": [],
                "loss": {"sqnr_db": 30.0, "changed": None},
            },
            {
                "name": "a",
                "stage": "float",
                "changes": 2,
                "max_error": 1e-7,
                "rolled_back": None,
                "notes": ["relu: fine"],
                "loss": {"sqnr_db": 25.0, "changed": {"hits": 1, "total": 8}},
            },
        ],
        "layers": [
            {
                "node": "conv2d",
                "module": "stem",
                "op": "conv2d",
                "sqnr_db": 30.123,
                "cosine": 0.999,
                "own_sqnr_db": None,
                "own_cosine": None,
                "weight_sqnr_db": 41.0,
            }
        ],
        "worst_pass": {"name": "a", "fall_db": 5.0},
        "culprit": {"node": "conv2d", "module": "stem", "before": 0.25, "share": 0.75},
    }
