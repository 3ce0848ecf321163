import dataclasses

import pytest
import torch
from fxedge.compiler.quant.calibrate import calibrate
from fxedge.compiler.quant.collectors import CollectorMethod
from fxedge.compiler.quant.output_ranges import clipped, tune_ranges
from fxedge.compiler.quant.plan import plan_quantization
from fxedge.compiler.quant.qparams import QSpec, choose_qparams, dequantize, quantize
from support import Calls, inputs
from torch import nn
from toy_target import TOY, captured

X = inputs((16, 4, 6, 6))[0]


def tuned(model, x, spec=TOY):
    gm = captured(model.eval(), x[:2])
    plan = plan_quantization(gm, spec)
    stats = calibrate(gm, [plan], [(x,)], CollectorMethod("minmax"))
    batches = [(part,) for part in x.split(4)]
    return gm, plan, stats, tune_ranges(gm, [plan], stats, batches)


def test_an_outlier_that_no_output_hears_of_is_clipped_and_one_that_matters_is_not():
    layer = nn.Conv2d(4, 4, 1, bias=False)
    for gain, kept in ((0.0, False), (1.0, True)):
        with torch.no_grad():
            layer.weight.copy_(torch.diag(torch.tensor([gain, 1.0, 1.0, 1.0])).reshape(4, 4, 1, 1))
        x = X.clone()
        x[:, 0] *= 20
        _, plan, before, after = tuned(layer, x)
        group = plan.groups[0]
        low, high = before.range_of(group)
        share = max(-after.range_of(group)[0], after.range_of(group)[1]) / max(-low, high)
        assert share > 0.5 if kept else share == 0.2


def test_the_clip_is_about_the_best_of_all_for_the_outputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3)).eval()
    spec = dataclasses.replace(TOY, activation=QSpec(0, 15, torch.uint8))
    gm, plan, before, after = tuned(model, X, spec)
    group = plan.groups[0]

    def error(limits):
        qp = choose_qparams(*limits, group.spec)
        with torch.no_grad():
            return (gm(dequantize(quantize(X, qp), qp)) - gm(X)).square().sum().item()

    limits = before.range_of(group)
    errors = [error(clipped(limits, clip)) for clip in (1.0, 0.85, 0.7, 0.6, 0.5, 0.42, 0.35, 0.3, 0.25, 0.2)]
    assert error(after.range_of(group)) < min(1.05 * min(errors), errors[0])
    assert max(errors) > 3 * min(errors)
    assert tuned(model, X, spec)[3] == after
    assert after.method == "minmax, tuned"
    assert after.samples == 16


def test_what_no_gradient_reaches_keeps_its_range():
    model = Calls(lambda m, x: m.a(x).relu().argmax(1), a=nn.Conv2d(4, 4, 1))
    _, plan, before, after = tuned(model, X)
    assert after.ranges == before.ranges
    assert len(plan.groups) == 2


def test_samples_are_the_first_ones():
    model = nn.Conv2d(4, 4, 1)
    rest = torch.full((16, 4, 6, 6), float("nan"))
    gm = captured(model.eval(), X[:2])
    plan = plan_quantization(gm, TOY)
    stats = calibrate(gm, [plan], [(X,)], CollectorMethod("minmax"))
    wanted = tune_ranges(gm, [plan], stats, [(X[:6],)])
    assert tune_ranges(gm, [plan], stats, [(torch.cat([X[:6], rest]),)], samples=6) == wanted
    assert dataclasses.replace(wanted, ranges=stats.ranges) == dataclasses.replace(stats, method="minmax, tuned")


@pytest.mark.parametrize(
    ("limits", "clip", "wanted"), [((-4.0, 2.0), 0.25, (-1.0, 1.0)), ((-0.5, 2.0), 0.5, (-0.5, 1.0))]
)
def test_the_shorter_tail_may_lie_within(limits, clip, wanted):
    assert clipped(limits, clip) == wanted
