import math
from dataclasses import replace

import pytest
import torch
from fxedge.compiler.quant.arithmetic import unchanged
from fxedge.compiler.quant.calibrate import CalibrationStats, calibrate
from fxedge.compiler.quant.collectors import CollectorMethod
from fxedge.compiler.quant.plan import Plan, plan_quantization
from fxedge.compiler.quant.qparams import choose_qparams
from fxedge.compiler.quant.target import OpRule
from fxedge.compiler.quant.value_noise import noise_together, rounding_parameters, value_noise
from support import Calls, inputs
from torch import Tensor, fx, nn
from torch.nn import functional as F
from toy_target import TOY, TOY_SHARED_CAT, Rounding, captured


class Small(nn.Module):
    """Two layers whose values differ much in range from channel to channel, and a concat."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(16, 5)
        self.first.weight.data[0] *= 100

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.head(torch.cat([self.second(x).mean((2, 3)), x.mean((2, 3))], 1))


X = inputs((64, 3, 8, 8))[0]


def planned(model: nn.Module, x: Tensor, spec=TOY) -> tuple[fx.GraphModule, Plan, CalibrationStats]:
    gm = captured(model.eval(), x)
    plan = plan_quantization(gm, spec)
    return gm, plan, calibrate(gm, [plan], [(x,)], CollectorMethod("minmax"))


def measured(gm: fx.GraphModule, plan: Plan, stats: CalibrationStats) -> dict[str, float]:
    """Noise over signal at the output with one value rounded at a time."""
    found = {}
    with torch.no_grad():
        wanted = gm(X)
        signal = (wanted - wanted.mean(0)).square().sum() * len(X) / (len(X) - 1)
        for group in plan.groups:
            qp = choose_qparams(*stats.range_of(group), group.spec)
            noise = (Rounding(gm, group.members, qp).run(X) - wanted).square().sum()
            found[group.members[0]] = float(noise / signal)
    return found


@pytest.mark.parametrize("spec", [TOY, TOY_SHARED_CAT], ids=lambda spec: spec.name)
def test_each_group_brings_the_noise_that_rounding_it_alone_makes(spec):
    gm, plan, stats = planned(Small(), X, spec)
    found = value_noise(gm, plan, stats, [(X,)])
    assert {group.members[0]: noise for group, noise in found.items()} == pytest.approx(measured(gm, plan, stats))


def test_all_together_bring_about_their_sum():
    gm, plan, stats = planned(Small(), X)
    alone = value_noise(gm, plan, stats, [(X,)])
    together = noise_together(gm, rounding_parameters(gm, plan, stats), [(X,)])
    assert together == pytest.approx(sum(alone.values()), rel=0.1)
    assert noise_together(gm, {}, [(X,)]) == 0.0


def test_one_group_together_is_that_group_alone():
    gm, plan, stats = planned(Small(), X)
    parameters = rounding_parameters(gm, plan, stats)
    for group, noise in value_noise(gm, plan, stats, [(X,)]).items():
        own = {name: parameters[name] for name in group.members if name in parameters}
        assert noise_together(gm, own, [(X,)]) == noise


def test_what_reads_a_rounded_value_and_is_rounded_with_it_runs_on_it():
    """Two members of a group, one after the other: both are rounded, the second one on what the first gives (means
    of nine, so that none is a tie)."""
    model = Calls(lambda self, x: self.head(F.avg_pool2d(self.layer(x), 3).flatten(1)))
    model.layer, model.head = nn.Conv2d(3, 4, 3), nn.Linear(16, 5)
    pool = OpRule(unchanged, shared=True)
    spec = replace(TOY, ops={**TOY.ops, torch.ops.aten.avg_pool2d.default: pool})
    gm, plan, stats = planned(model, X, spec)
    (group,) = (group for group in plan.groups if "avg_pool2d" in group.members)
    assert group.observed == ("conv2d",)
    qp = choose_qparams(*stats.range_of(group), group.spec)
    with torch.no_grad():
        exact = gm(X)
        error = (Rounding(gm, ("conv2d", "avg_pool2d"), qp).run(X) - exact).square().sum()
        signal = (exact - exact.mean(0)).square().sum() * len(X) / (len(X) - 1)
    assert value_noise(gm, plan, stats, [(X,)])[group] == pytest.approx(float(error / signal))


def test_the_number_of_samples_does_not_scale():
    gm, plan, stats = planned(Small(), X)
    once, thrice = (value_noise(gm, plan, stats, [(X,)] * count) for count in (1, 3))
    assert thrice == pytest.approx(once)


def test_progress_counts_samples():
    gm, plan, stats = planned(Small(), X)
    seen = []
    value_noise(gm, plan, stats, [(X[:4],), (X[4:6],)], advance=seen.append)
    assert seen == [4, 6]


def test_one_sample_is_enough_for_a_figure():
    gm, plan, stats = planned(Small(), X)
    found = value_noise(gm, plan, stats, [(X[:1],)])
    assert all(math.isfinite(noise) and noise > 0 for noise in found.values())


def test_values_behind_integer_inputs_count():
    x = torch.arange(8).reshape(2, 4)
    gm, plan, stats = planned(nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 3)), x)
    assert sum(value_noise(gm, plan, stats, [(x,)]).values()) > 0


def test_a_constant_counts():
    model = Calls(
        lambda self, x: self.layer(self.layer(x) + self.shift), layer=nn.Linear(4, 4), shift=torch.rand(4)
    )
    gm, plan, stats = planned(model, X.flatten(1)[:, :4])
    found = value_noise(gm, plan, stats, [(X.flatten(1)[:, :4],)])
    names = {node.name for node in gm.graph.nodes if node.op == "get_attr"}
    constants = [group for group in found if not names.isdisjoint(group.members)]
    assert constants
    assert all(found[group] > 0 for group in constants)


def test_outputs_that_are_no_floats_say_nothing():
    model = Calls(lambda self, x: self.layer(x).argmax(1), layer=nn.Conv2d(3, 2, 1))
    gm, plan, stats = planned(model, X)
    assert set(value_noise(gm, plan, stats, [(X,)]).values()) == {0.0}
