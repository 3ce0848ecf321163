import copy

import pytest
import torch
from fxedge.compiler.ir.passes import Skip
from fxedge.compiler.quant.channel_stats import ChannelStat, ChannelStats
from fxedge.compiler.quant.program import IntegerStep
from fxedge.compiler.quant.qparams import dequantize
from fxedge.passes._expected_error import ExpectedErrors
from support import Calls, inputs
from torch import Tensor, nn
from torch.nn import functional as F
from toy_target import Lowered, lower

X = inputs((2, 3, 8, 8))[0]
MEAN, STD = torch.tensor([0.5, -0.5, 1.0, 0.0]), torch.tensor([1.0, 0.5, 0.2, 2.0])
STATS = ChannelStats({"a.weight": ChannelStat(MEAN, STD)})
FIRST = nn.Conv2d(3, 4, 1)


def steps(lowered: Lowered) -> dict[str, IntegerStep]:
    found = [step for step in lowered.program.steps if isinstance(step, IntegerStep)]
    return {step.anchor.name: step for step in found if step.weight is not None}


def lost(layer: nn.Module, step: IntegerStep) -> Tensor:
    return (layer.weight - dequantize(step.weight, step.weight_qparams)).detach()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, stride=2, groups=4),
        nn.ConvTranspose2d(4, 6, 2, stride=2, padding=1),
    ],
    ids=["grouped", "depthwise", "transposed"],
)
def test_what_rounding_the_weight_costs_on_average_over_many_samples(layer):
    """Borders included: around a padded image the weight meets zeros."""
    lowered = lower(Calls(lambda m, x: m.b(m.a(x).relu()), a=FIRST, b=layer), X, weight_bits=4)
    step = list(steps(lowered).values())[1]
    found = ExpectedErrors(lowered.float_gm, STATS).bias_for(step)
    noise = torch.randn(4000, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    many = (MEAN.view(4, 1, 1) + STD.view(4, 1, 1) * noise).relu()
    bias, rounding = layer.bias.detach(), copy.deepcopy(layer)
    rounding.weight, rounding.bias = nn.Parameter(lost(layer, step)), None
    with torch.no_grad():
        error = rounding(many).mean((0, 2, 3)).double()
    assert float(error.abs().max()) > 5e-3
    torch.testing.assert_close(found - bias, error, rtol=0.02, atol=2e-4)


def test_a_linear_over_the_mean_of_an_image():
    line = nn.Linear(4, 5)
    lowered = lower(Calls(lambda m, x: m.b(m.a(x).mean((2, 3))), a=FIRST, b=line), X, weight_bits=4)
    step = steps(lowered)["linear"]
    found = ExpectedErrors(lowered.float_gm, STATS).bias_for(step)
    torch.testing.assert_close(found.float(), F.linear(MEAN, lost(line, step), line.bias.detach()))


def test_layers_whose_input_is_not_known_are_skipped():
    second, third = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    model = Calls(lambda m, x: m.c(F.max_pool2d(m.b(m.a(x)), 2)), a=FIRST, b=second, c=third)
    lowered = lower(model, X)
    errors = ExpectedErrors(lowered.float_gm, STATS)
    first, _, last = (errors.bias_for(step) for step in steps(lowered).values())
    assert first == Skip("conv2d", "the mean of its input is not known: nothing is known of the input x")
    reason = "the mean of its input is not known: what max_pool2d.default gives at max_pool2d is not known"
    assert last == Skip("conv2d_2", reason)
